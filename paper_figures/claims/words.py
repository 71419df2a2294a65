"""The words for what intervals say of a claim: one rule for the registry and for the families."""

from __future__ import annotations

from collections.abc import Sequence

from paper_figures.analysis.run_statistics import SEEDS_MIN, Interval

REPRODUCED = "reproduced"
CONTRADICTED = "contradicted"
NOT_SETTLED = "not settled"
CANNOT = "cannot be tested here"
WORDS = (REPRODUCED, CONTRADICTED, NOT_SETTLED, CANNOT)
LEVEL = 0.05  # of a family


def word(
    intervals: Sequence[Interval], region: tuple[float, float], seeds: int, adjusted: float = 0.0
) -> str:
    """What the intervals of one effect say of the claim that it lies inside `region`.

    REPRODUCED if every interval lies wholly inside, CONTRADICTED if every one lies wholly on one
    side of the region, and else NOT_SETTLED. An end on an end of the region is neither inside nor
    beyond it, and NaN is nowhere. Without an interval, with fewer than SEEDS_MIN seeds, or with an
    adjusted p-value of LEVEL or more, nothing is settled.

    Args:
        intervals: of the same effect, each by a method of its own.
        region: (low, high), open; an end may be infinite.
        seeds: independent values that each interval is of.
        adjusted: p-value after the adjustment for a family; 0 where there is none.
    """
    low, high = region
    if not intervals or seeds < SEEDS_MIN or not adjusted < LEVEL:
        return NOT_SETTLED
    if all(low < i.low and i.high < high for i in intervals):
        return REPRODUCED
    if all(i.high < low for i in intervals) or all(i.low > high for i in intervals):
        return CONTRADICTED
    return NOT_SETTLED
