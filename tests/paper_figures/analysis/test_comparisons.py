"""Student's p-values and Holm's adjustment, against numbers by hand and by integration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paper_figures.analysis import run_statistics
from paper_figures.analysis.comparisons import (
    WIDER,
    detectable,
    detectable_of,
    holm,
    p_value,
    student_of_bootstrap,
)


def test_holm_by_hand():
    """.01 x 4, .02 x 3 = .06, .03 x 2 = .06, .04 x 1 -> no less than the one before."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.04]) == [0.04]


def test_the_p_value_is_twice_the_tail_of_students_density():
    """By Simpson's rule on the density with 4 degrees of freedom, from t to 400."""
    x = [0.1, 0.2, -0.05, 0.15, 0.3]
    mean = sum(x) / 5
    t = mean / math.sqrt(sum((v - mean) ** 2 for v in x) / 4 / 5)

    def density(u):
        return 0.375 * (1 + u * u / 4) ** -2.5

    n, top = 200_000, 400.0
    h = (top - t) / n
    odd = sum(density(t + (2 * i + 1) * h) for i in range(n // 2))
    even = sum(density(t + 2 * i * h) for i in range(1, n // 2))
    tail = h / 3 * (density(t) + 4 * odd + 2 * even + density(top))
    assert p_value(x) == pytest.approx(2 * tail, rel=1e-4)


def test_where_nothing_can_be_tested_p_is_1():
    assert p_value([0.1]) == p_value([]) == p_value([0.2, 0.2, 0.2]) == 1.0


def test_what_can_be_shown_follows_from_students_interval_too():
    """Its half width is t times the standard error, so it holds the spread."""
    x = [0.1, 0.2, -0.05, 0.15, 0.3]
    assert detectable_of(run_statistics.student(x), 5, 0.01) == pytest.approx(detectable(x, 0.01))
    assert detectable_of(run_statistics.student(x), 2, 0.01) == math.inf


@pytest.mark.parametrize("seeds", sorted(WIDER))
def test_students_interval_from_the_bootstraps_is_seldom_too_narrow(seeds):
    """Of 40 samples of normal values it is at least as wide in most, and never twice as wide."""
    rng = np.random.default_rng(seeds)
    shares = []
    for _ in range(40):
        x = rng.standard_normal(seeds)
        about = student_of_bootstrap(run_statistics.mean(x), seeds)
        exact = run_statistics.student(x)
        shares.append((about.high - about.low) / (exact.high - exact.low))
    assert sum(s >= 1 for s in shares) >= 35
    assert max(shares) < 1.5
