"""Intervals are rigorous where float64 is not."""

import math
from fractions import Fraction as F

import pytest

from sim.oracle import intervals


def test_intervals_know_a_sign_that_float64_does_not():
    """log(1 + 1e-30) > 0, and two equal logarithms stay undecided."""
    assert intervals.excess(lambda: intervals.log(1 + F(1, 10**30)), lambda: F(0)) > 0
    assert intervals.excess(lambda: F(0), lambda: intervals.log(1 + F(1, 10**30))) < 0
    assert math.isnan(
        intervals.excess(lambda: intervals.log(F(4)), lambda: 2 * intervals.log(F(2)))
    )
    broken, _ = intervals.differ(lambda: intervals.log(F(4)), lambda: 2 * intervals.log(F(2)))
    assert not broken
    broken, size = intervals.differ(lambda: intervals.log(F(4)), lambda: intervals.log(F(5)))
    assert broken and size == pytest.approx(math.log(5 / 4))
