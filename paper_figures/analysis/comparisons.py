"""Paired differences of several methods from one: Student's t, and Holm's adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from .run_statistics import SEEDS_MIN


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
