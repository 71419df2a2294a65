"""Paired differences of several methods from one: Student's t, bootstrap, power, Holm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from .run_statistics import SEEDS_MIN, Interval

POWER = 0.8  # chance to show a difference of the detectable size


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p of Student's t test that the mean of paired differences is 0.

    1 where there is nothing to test: fewer than SEEDS_MIN pairs, or all of them equal.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < SEEDS_MIN or np.ptp(x) == 0:
        return 1.0
    return float(stats.ttest_1samp(x, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): those below a level are rejected, and the chance of any false
    rejection among them all is at most that level.

    The i-th smallest of n is multiplied by n - i + 1. It is at least the one before, at most 1.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for i, at in enumerate(order):
        largest = max(largest, (len(p_values) - i) * p_values[at])
        adjusted[at] = min(1.0, largest)
    return adjusted


def detectable(differences: Sequence[float], level: float) -> float:
    """The smallest true difference that Student's paired test at this level shows with a chance of
    about POWER, if the spread of the differences is the one that was seen.

    (t at 1 - level / 2, plus t at POWER) times the standard error: the usual approximation.
    Infinite where there are fewer than SEEDS_MIN pairs.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < SEEDS_MIN:
        return float("inf")
    return _detectable(float(x.std(ddof=1) / np.sqrt(len(x))), len(x), level)


def detectable_of(student: Interval, seeds: int, level: float) -> float:
    """The same from Student's 95 % interval of so many seeds, which holds the spread."""
    if seeds < SEEDS_MIN:
        return float("inf")
    half = (student.high - student.low) / 2
    return _detectable(half / float(stats.t.ppf(0.975, seeds - 1)), seeds, level)


def _detectable(error: float, seeds: int, level: float) -> float:
    """error: the standard error of the mean."""
    return float(stats.t.ppf([1 - level / 2, POWER], seeds - 1).sum() * error)


# The factor by which Student's interval of so many normal values is wider than BCa's: 95 of 100
# samples have a smaller one (simulated; their medians are 2.8 and 1.6).
WIDER = {3: 2.95, 5: 1.68}


def student_of_bootstrap(effect: Interval, seeds: int) -> Interval:
    """About Student's interval, where only the bootstrap's is known: rather too wide than too
    narrow, and around the estimate.

    Raises:
        KeyError: nothing was simulated for so many seeds.
    """
    half = WIDER[seeds] * (effect.high - effect.low) / 2
    return Interval(effect.value, effect.value - half, effect.value + half)


def bootstrap(differences: Sequence[float], draws: int = 10_000) -> Interval | None:
    """Mean and percentile bootstrap's 95 % interval; None where fewer than SEEDS_MIN pairs.

    Beside Student's: it assumes no normal distribution, and is too narrow for few pairs. The seed
    is fixed, so the same differences give the same interval.
    """
    x = np.asarray(differences, dtype=float)
    if len(x) < SEEDS_MIN:
        return None
    rows = np.random.default_rng(0).integers(len(x), size=(draws, len(x)))
    low, high = np.percentile(x[rows].mean(axis=1), [2.5, 97.5])
    return Interval(float(x.mean()), float(low), float(high))
