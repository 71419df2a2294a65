"""Acceptance rules in rational arithmetic: ratios, means, and rivals for OBRS."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as F

from . import exact

Row = tuple[F, ...]


def ratios(p: Row, q: Row) -> list[F]:
    """p / q of every token with q > 0."""
    return [a / b for a, b in zip(p, q, strict=True) if b]


def positive_ratios(p: Row, q: Row) -> list[F]:
    """p / q of every token that both have."""
    return [r for r in ratios(p, q) if r]


def largest_ratio(p: Row, q: Row) -> F:
    """M = max p / q over supp q."""
    return max(ratios(p, q))


def mean(distribution: Sequence[F], *factors: Sequence[F]) -> F:
    """sum of the distribution times the factors, token by token."""
    total = F(0)
    for row in zip(distribution, *factors, strict=True):
        term = F(1)
        for x in row:
            term *= x
        total += term
    return total


def contest(
    draw, p: Row, q: Row, rivals: int = 4, budget: F | None = None
) -> tuple[Row, list[Row]]:
    """OBRS's distribution at a random reachable budget, and other distributions accepted from q at
    that same rate.

    Rivals are random rules brought to the budget, and OBRS's own rule with some acceptance moved
    from one token to another. A rival equal to OBRS's distribution is left out. All are
    sub-probabilities q a / budget, which sum to 1 exactly if the rule spends the budget: claims
    check it of OBRS's.
    """
    if budget is None:
        budget = draw.fraction("budget", high=exact.reach(p, q))
    lam = exact.lam_for_budget(p, q, budget)
    rule = exact.accept_prob(p, q, lam)
    best = tuple(a * b / budget for a, b in zip(rule, q, strict=True))
    distributions = []
    for i in range(rivals):
        other = _moved(draw.rng, rule, q) if i % 2 else _random_rule(draw.rng, q, budget)
        distribution = tuple(a * b / budget for a, b in zip(other, q, strict=True))
        if distribution != best:
            distributions.append(distribution)
    return best, distributions


def _random_rule(rng, q: Row, budget: F) -> list[F]:
    """Random acceptance probabilities, scaled (or their complements scaled) to the budget."""
    a = [F(int(x), 8) for x in rng.integers(0, 9, len(q))]
    z = mean(q, a)
    if z >= budget and z:
        return [x * budget / z for x in a]
    return [1 - (1 - x) * (1 - budget) / (1 - z) for x in a]


def _moved(rng, rule: Sequence[F], q: Row) -> list[F]:
    """The rule with a random share of the possible mass moved from one token to another."""
    i, j = rng.permutation(len(q))[:2]
    room = min(q[i] * rule[i], q[j] * (1 - rule[j]))
    moved = list(rule)
    if room:
        step = room * F(int(rng.integers(1, 9)), int(rng.choice([8, 800])))
        moved[i] -= step / q[i]
        moved[j] += step / q[j]
    return moved
