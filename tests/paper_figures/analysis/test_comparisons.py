"""Student's p-values and Holm's adjustment, against numbers by hand and by integration."""

from __future__ import annotations

import math

import pytest

from paper_figures.analysis.comparisons import holm, p_value


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
