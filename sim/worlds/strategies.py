"""Hypothesis strategies: distributions, budgets and thresholds as rationals. For tests only.

Integer weights 0 to 40 give zeros, ties, disjoint supports and small counterexamples for free.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

from hypothesis import strategies as st

MAX_WEIGHT = 40


@st.composite
def distributions(draw, v: int, *, full: bool = False) -> list[Fraction]:
    """Probabilities of v tokens that sum to 1; `full` leaves no zeros."""
    drawn = draw(_weights(v, int(full)))
    return [Fraction(w, sum(drawn)) for w in drawn]


@functools.cache  # Hypothesis checks every strategy object anew, at the cost of a draw
def _weights(v: int, least: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(least, MAX_WEIGHT), min_size=v, max_size=v).filter(any)


@functools.cache
def _sizes(largest: int) -> st.SearchStrategy[int]:
    return st.integers(1, largest)


@functools.cache
def _rows(v: int, full: bool) -> st.SearchStrategy[list[Fraction]]:
    return distributions(v, full=full)


def _pair(draw, v: int, covered: bool, overlap: bool) -> tuple:
    q, p = draw(_rows(v, covered)), draw(_rows(v, False))
    if overlap and not any(pi and qi for pi, qi in zip(p, q, strict=True)):
        p = [(pi + qi) / 2 for pi, qi in zip(p, q, strict=True)]
    return p, q


@st.composite
def pairs(draw, max_v: int = 6, *, covered: bool = False, overlap: bool = False) -> tuple:
    """(p, q) over 1 to max_v tokens; `covered`: q > 0 everywhere; `overlap`: some common token."""
    return _pair(draw, draw(_sizes(max_v)), covered, overlap)


@st.composite
def batches(draw, max_rows: int = 3, *, covered: bool = False, overlap: bool = False) -> tuple:
    """(ps, qs): 1 to max_rows such pairs over one vocabulary of 1 to 5 tokens."""
    v, n = draw(_sizes(5)), draw(_sizes(max_rows))
    rows = [_pair(draw, v, covered, overlap) for _ in range(n)]
    return [p for p, _ in rows], [q for _, q in rows]


@functools.cache
def budgets() -> st.SearchStrategy[Fraction]:
    """Acceptance rates in (0, 1], with 1 and some small ones."""
    hundredths = st.integers(1, 100).map(lambda n: Fraction(n, 100))
    return hundredths | st.integers(0, 6).map(lambda k: Fraction(1, 10**k))


@functools.cache
def lams() -> st.SearchStrategy[Fraction]:
    """Thresholds: quotients of small integers, and powers of ten."""
    whole = st.integers(1, MAX_WEIGHT)
    return st.builds(Fraction, whole, whole) | st.integers(-6, 6).map(lambda k: Fraction(10) ** k)


@functools.cache
def ratios() -> st.SearchStrategy[Fraction]:
    """r = p / q of a sampled token, 0 included."""
    return st.builds(Fraction, st.integers(0, MAX_WEIGHT), st.integers(1, MAX_WEIGHT))


@functools.cache
def state_weights(n: int) -> st.SearchStrategy[list[Fraction]]:
    """Frequencies of n states, not normalised, some of them 0."""
    whole = st.integers(0, 9).map(Fraction)
    return st.lists(whole, min_size=n, max_size=n).filter(any)


@functools.cache
def extreme_logs() -> st.SearchStrategy[float]:
    """Logs of ordinary, subnormal and underflowing probabilities, and of 0; exact in float32."""
    return st.sampled_from(
        [0.0, -0.5, -1.0, -20.0, -87.0, -103.0, -700.0, -745.0, -2000.0, -math.inf]
    )


@st.composite
def extreme_log_pairs(draw, max_v: int = 4) -> tuple[list[float], list[float]]:
    """(log p, log q), not normalised, with ratios up to e^+-2000."""
    drawn = draw(_rows_of_logs(max_v))
    return [x for x, _ in drawn], [y for _, y in drawn]


@functools.cache
def _rows_of_logs(max_v: int) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(extreme_logs(), extreme_logs()), min_size=1, max_size=max_v)
