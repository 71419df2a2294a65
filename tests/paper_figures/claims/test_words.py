"""The rule for verdicts, where two intervals, the number of seeds or a family disagree."""

from __future__ import annotations

import math

import pytest

from paper_figures.analysis.run_statistics import Interval
from paper_figures.claims.words import CONTRADICTED, LEVEL, NOT_SETTLED, REPRODUCED, word

ABOVE = (0.2, math.inf)


def interval(low, high):
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.21, 0.3), (0.201, 0.4), REPRODUCED),
        ((0.21, 0.3), (0.2, 0.4), NOT_SETTLED),
        ((0.0, 0.1), (-0.1, 0.199), CONTRADICTED),
        ((0.0, 0.1), (-0.1, 0.2), NOT_SETTLED),
        ((0.0, 0.1), (0.21, 0.3), NOT_SETTLED),
        ((0.21, 0.3), (math.nan, math.nan), NOT_SETTLED),
    ],
)
def test_both_intervals_must_say_the_same(first, second, expected):
    both = interval(*first), interval(*second)
    assert word(both, ABOVE, 5) == expected
    assert word(both[::-1], ABOVE, 5) == expected


def test_intervals_on_two_sides_of_a_region_contradict_nothing():
    both = interval(-0.5, -0.3), interval(0.3, 0.5)
    assert word(both, (-0.2, 0.2), 5) == NOT_SETTLED
    assert word(both[:1], (-0.2, 0.2), 5) == word(both[1:], (-0.2, 0.2), 5) == CONTRADICTED


@pytest.mark.parametrize(("seeds", "expected"), [(2, NOT_SETTLED), (3, REPRODUCED)])
def test_fewer_than_three_seeds_settle_nothing(seeds, expected):
    assert word([interval(0.3, 0.4)], ABOVE, seeds) == expected


@pytest.mark.parametrize(
    ("adjusted", "expected"),
    [(math.nextafter(LEVEL, 0), REPRODUCED), (LEVEL, NOT_SETTLED), (math.nan, NOT_SETTLED)],
)
def test_a_family_settles_what_its_adjusted_p_value_is_below_the_level_of(adjusted, expected):
    assert word([interval(0.3, 0.4)], ABOVE, 5, adjusted) == expected


def test_no_interval_settles_nothing():
    assert word([], ABOVE, 5) == NOT_SETTLED
