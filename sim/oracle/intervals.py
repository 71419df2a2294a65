"""Inequalities between logarithms of rationals, certified by interval arithmetic (mpmath.iv).

A divergence of rational distributions is evaluated as an interval that surely contains it. Two of
them are compared at rising precision until the intervals part; equality can never be certified this
way, so callers settle it in rational arithmetic first. Infinite values are `math.inf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from mpmath import iv

Row = Sequence[Fraction]
PRECISIONS = (60, 200, 1000)  # bits


def interval(x: Fraction):
    """The rational as an interval."""
    return iv.mpf(x.numerator) / x.denominator


def log(x: Fraction):
    """log x of a rational x > 0."""
    return iv.log(interval(x))


def kl_p_q(p: Row, q: Row):
    """KL(p || q), nats."""
    if any(a and not b for a, b in zip(p, q, strict=True)):
        return math.inf
    pairs = zip(p, q, strict=True)
    return sum((interval(a) * log(a / b) for a, b in pairs if a and a != b), iv.mpf(0))


def kl_q_p(p: Row, q: Row):
    """KL(q || p), nats."""
    return kl_p_q(q, p)


def js(p: Row, q: Row):
    """Jensen-Shannon divergence, nats."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl_p_q(p, m) + kl_p_q(q, m)) / 2


def hellinger2(p: Row, q: Row):
    """1 - sum sqrt(p q); the two distributions sum to 1."""
    root = sum((iv.sqrt(interval(a * b)) for a, b in zip(p, q, strict=True) if a * b), iv.mpf(0))
    return 1 - root


def excess(lhs: Callable, rhs: Callable) -> float:
    """lhs - rhs with a certified sign; nan if undecided at the highest precision.

    Args:
        lhs, rhs: functions of no arguments that return an interval, `math.inf` or a rational.
    """
    for bits in PRECISIONS:
        iv.prec = bits
        left, right = lhs(), rhs()
        if _infinite(left) or _infinite(right):
            return _infinite_gap(_infinite(left), _infinite(right))
        gap = _as_interval(left) - _as_interval(right)
        if gap.a > 0 or gap.b < 0:
            return float(gap.mid)
    return math.nan


def differ(lhs: Callable, rhs: Callable, digits: int = 40) -> tuple[bool, float]:
    """Whether lhs - rhs is certainly not 0, or not known to `digits` decimals; and its size."""
    iv.prec = PRECISIONS[1]
    left, right = lhs(), rhs()
    if _infinite(left) or _infinite(right):
        same = _infinite(left) and _infinite(right)
        return not same, 0.0 if same else math.inf
    gap = _as_interval(left) - _as_interval(right)
    size = float(max(abs(gap.a), abs(gap.b)).mid)
    return not (gap.a <= 0 <= gap.b and size < 10.0**-digits), size


def _infinite_gap(left: bool, right: bool) -> float:
    return 0.0 if left and right else math.inf if left else -math.inf


def _infinite(x) -> bool:
    return isinstance(x, float) and x == math.inf


def _as_interval(x):
    return interval(x) if isinstance(x, Fraction) else iv.mpf(x)
