"""Our statements on budgets of many states (docs/theory.md, E1-E3): a common lam, and its rivals.

K_s(z) is KL(p_s||q~_s) at acceptance z. `weights` compares the common lam with random
rules and equal budgets; here it meets every split of the budget on a grid.
"""

from __future__ import annotations

import math
from fractions import Fraction as F
from functools import partial

import numpy as np

import jackpot
from sim.oracle import exact, intervals, rules

from .obrs import rational_divergences
from .registry import (
    CORRECTED,
    FAILS,
    agree,
    at_most,
    below,
    certainly_at_most,
    certainly_below,
    claim,
    close,
    equal,
    to_40_digits,
)
from .weights import accepted, joint, states

HALVES = (F(1, 2), F(1, 2))
STEPS = 12  # of the grid over one state's acceptance


def splits(draw) -> tuple:
    """2 states, a mean budget, the common lam's rates, and other rates with that mean."""
    ps, qs, d = states(draw)
    ps, qs = ps[:2], qs[:2]
    d = tuple(x / sum(d[:2]) for x in d[:2])
    draw.case |= {"p": ps, "q": qs, "d": d}
    reach = [exact.reach(p, q) for p, q in zip(ps, qs, strict=True)]
    budget = draw.fraction("budget", high=rules.mean(d, reach))
    common = exact.common_lam_for_budget(ps, qs, budget, d)
    best = [exact.acceptance_rate(p, q, common) for p, q in zip(ps, qs, strict=True)]
    grid = []
    for i in range(1, STEPS + 1):
        first = reach[0] * F(i, STEPS)
        second = (budget - d[0] * first) / d[1]
        if 0 < second <= reach[1]:
            grid.append((first, second))
    return ps, qs, d, budget, best, grid


def lams(ps, qs, rates) -> list[F]:
    """The threshold of each state that spends its rate."""
    rows = zip(ps, qs, rates, strict=True)
    return [exact.lam_for_budget(p, q, z) for p, q, z in rows]


@claim("E1-grid", "docs/theory.md, E1", share=0.2)
def no_split_of_the_budget_beats_a_common_lam(draw):
    """Two states with acceptances z_1, z_2 of mean b, on a grid of all splits: the common lam has
    the least divergence between d x p and the accepted pairs (TV, chi2 both ways, hockey sticks)
    and the least mean second moment E_p max(lam_s, r) of the unbiased weight r / a."""
    ps, qs, d, budget, best, grid = splits(draw)
    yield equal(rules.mean(d, best), budget)
    target = joint(d, ps)
    least = rational_divergences(target, accepted(d, ps, qs, lams(ps, qs, best), budget))
    cheapest = moment(d, ps, qs, lams(ps, qs, best))
    for rates in grid:
        each = lams(ps, qs, rates)
        other = rational_divergences(target, accepted(d, ps, qs, each, budget))
        for name, value in other.items():
            yield at_most(least[name], value, divergence=name, rates=rates)
        yield at_most(cheapest, moment(d, ps, qs, each), rates=rates)


def moment(d, ps, qs, thresholds) -> F:
    """sum_s d_s E_p[max(lam_s, r) 1(q > 0)]."""
    total = F(0)
    for ds, p, q, lam in zip(d, ps, qs, thresholds, strict=True):
        total += ds * sum((a * max(lam, a / b) for a, b in zip(p, q, strict=True) if b), F(0))
    return total


@claim("E1-grid-kl", "docs/theory.md, E1", share=0.2)
def no_split_of_the_budget_beats_a_common_lam_in_kl(draw):
    """The same in KL (full support), and KL of pairs = log b + E_d E_p log max(r, lam_s) for any
    thresholds lam_s of mean acceptance b, to 40 digits."""
    ps, qs, d, budget, best, grid = splits(draw)
    if any(not x for q in qs for x in q):
        return
    target = joint(d, ps)
    distribution = accepted(d, ps, qs, lams(ps, qs, best), budget)
    for rates in grid:
        each = lams(ps, qs, rates)
        other = accepted(d, ps, qs, each, budget)
        if other != distribution:
            sides = (partial(intervals.kl_p_q, target, x) for x in (distribution, other))
            yield certainly_below(*sides, rates=rates)
        terms = [
            (ds * a, max(a / b, lam))
            for ds, p, q, lam in zip(d, ps, qs, each, strict=True)
            for a, b in zip(p, q, strict=True)
        ]
        yield to_40_digits(
            partial(intervals.kl_p_q, target, other), partial(_joint_kl, budget, terms)
        )


def _joint_kl(budget: F, terms):
    total = intervals.log(budget)
    for x, y in terms:
        total += intervals.interval(x) * intervals.log(y)
    return total


def mean_kl(d, ps, qs, rates):
    """sum_s d_s K_s(z_s), as an interval."""
    total = intervals.interval(F(0))
    for ds, p, q, lam in zip(d, ps, qs, lams(ps, qs, rates), strict=True):
        total += intervals.interval(ds) * intervals.kl_p_q(p, exact.post_rejection(p, q, lam))
    return total


def kl_slope(p, q, z: F) -> F:
    """dK/dz = 1/z - lam(z), for supp p in supp q and z < q(supp p)."""
    return 1 / z - exact.lam_for_budget(p, q, z)


@claim(
    "E2-common",
    "docs/theory.md, E2 (refuted there)",
    FAILS,
    share=0.25,
    example={
        "p": (HALVES, HALVES),
        "q": (HALVES, (F(1, 4), F(3, 4))),
        "d": HALVES,
        "budget": F(11, 16),
    },
)
def a_common_lam_minimises_the_mean_kl(draw):
    """Expected, and false: at mean acceptance b the common lam minimises sum_s d_s KL(p_s||q~_s),
    over the splits of the budget on a grid (supp p in supp q)."""
    ps, qs, d, _, best, grid = splits(draw)
    if any(not x for q in qs for x in q):
        return
    others = [rates for rates in grid if list(rates) != best]
    for rates in others:
        if not _same_distributions(ps, qs, best, rates):
            sides = (partial(mean_kl, d, ps, qs, x) for x in (best, rates))
            yield certainly_at_most(*sides, rates=rates)


def _same_distributions(ps, qs, rates, others) -> bool:
    rows = zip(ps, qs, lams(ps, qs, rates), lams(ps, qs, others), strict=True)
    return all(
        exact.post_rejection(p, q, a) == exact.post_rejection(p, q, b) for p, q, a, b in rows
    )


@claim("E2-slope", "docs/theory.md, A5, E2", share=0.3)
def the_slope_of_kl_in_the_acceptance(draw):
    """With supp p in supp q, K'(z) = 1/z - lam(z) on (0, q(supp p)): for z < y, K(y) - K(z) lies
    between log(y/z) - lam(z) (y - z) and log(y/z) - lam(y) (y - z); and K' >= 0, 0 only where
    z <= 1 / max r."""
    p, q = draw.pair(q_zero=False)
    reach = exact.reach(p, q)
    z, y = sorted((draw.fraction("z", high=reach), draw.fraction("y", high=reach)))
    yield at_most(0, kl_slope(p, q, z))
    yield agree(kl_slope(p, q, z) == 0, z * rules.largest_ratio(p, q) <= 1)
    upper, lower = (exact.lam_for_budget(p, q, x) for x in (z, y))
    if upper == lower:
        return

    def rise():
        distributions = (exact.post_rejection(p, q, lam) for lam in (lower, upper))
        late, early = (intervals.kl_p_q(p, distribution) for distribution in distributions)
        return late - early

    def bound(lam: F):
        return intervals.log(y / z) - intervals.interval(lam * (y - z))

    yield certainly_below(partial(bound, upper), rise)
    yield certainly_below(rise, partial(bound, lower))


@claim(
    "E2-convex",
    "docs/theory.md, E2 (refuted there)",
    FAILS,
    example={"p": HALVES, "q": (F(1, 4), F(3, 4)), "z": F(9, 10), "y": F(99, 100)},
)
def kl_is_convex_in_the_acceptance(draw):
    """Expected, and false: K is convex, i.e. 1/z - lam(z) does not fall with z; then equal slopes
    would be enough for a minimum."""
    p, q = draw.pair(q_zero=False)
    reach = exact.reach(p, q)
    z, y = sorted((draw.fraction("z", high=reach), draw.fraction("y", high=reach)))
    yield at_most(kl_slope(p, q, z), kl_slope(p, q, y))


@claim("E2-stationary", "docs/theory.md, E2", CORRECTED, corrects="E2-common", share=0.25)
def the_condition_for_the_least_mean_kl(draw):
    """As corrected: rates z_s inside (0, q_s(supp p_s)) can be least only if 1/z_s - lam_s is the
    same in all states (supp p in supp q): otherwise some small acceptance moved from the state
    where it is larger to one where it is smaller lowers the mean KL. A common lam has it
    only where all Z_s are equal."""
    ps, qs, d, _, best, grid = splits(draw)
    if any(not x for q in qs for x in q):
        return
    inside = [
        rates
        for rates in (tuple(best), *grid[::4])
        if all(z < exact.reach(p, q) for p, q, z in zip(ps, qs, rates, strict=True))
    ]
    for rates in inside:
        slopes = [kl_slope(p, q, z) for p, q, z in zip(ps, qs, rates, strict=True)]
        if rates == tuple(best):
            yield agree(slopes[0] == slopes[1], rates[0] == rates[1])
        if slopes[0] != slopes[1]:
            dear = 0 if slopes[0] > slopes[1] else 1
            yield agree(_some_move_helps(d, ps, qs, rates, dear), True, rates=rates)


def _some_move_helps(d, ps, qs, rates, dear: int) -> bool:
    """Whether some acceptance taken from state `dear` lowers the mean KL, for certain."""
    before = partial(mean_kl, d, ps, qs, rates)
    cheap = 1 - dear
    room = min(rates[dear] * d[dear], (exact.reach(ps[cheap], qs[cheap]) - rates[cheap]) * d[cheap])
    for power in (2, 6, 12, 20, 30):
        moved = list(rates)
        moved[dear] -= room / 2**power / d[dear]
        moved[cheap] += room / 2**power / d[cheap]
        if intervals.excess(partial(mean_kl, d, ps, qs, moved), before) < 0:
            return True
    return False


@claim("E3-sample", "docs/theory.md, E3")
def the_budget_is_met_on_the_sample_itself(draw):
    """The lam of n sampled ratios has mean min(1, r / lam) equal to the budget, exactly in rational
    arithmetic and to 1e-12 in jackpot.lam_from_samples; it exists if and only if the budget is at
    most the share of tokens with p > 0."""
    n = draw.keep("n", int(draw.rng.integers(1, 20)))
    ratios = draw.vector("ratios", n)
    budget = draw.fraction("budget")
    reach = F(sum(r > 0 for r in ratios), n)
    logs = np.array([math.log(r) if r else -math.inf for r in ratios])
    try:
        solved = jackpot.lam_from_samples(logs, float(budget))
    except ValueError:
        yield below(reach, budget, what="refused")
        return
    yield at_most(budget, reach, what="accepted")
    if budget > reach:
        return
    lam = exact.lam_from_ratios(ratios, budget)
    yield equal(_accepted_share(ratios, lam), budget)
    yield close(float(_accepted_share(ratios, F(solved))), budget, what="jackpot")


def _accepted_share(ratios, lam: F) -> F:
    return sum((min(F(1), r / lam) for r in ratios), F(0)) / len(ratios)


@claim("E3-forgiving", "docs/theory.md, A0(vi), E3")
def a_wrong_lam_costs_no_more_than_its_factor(draw):
    """For c >= 1, Z(lam) / c <= Z(c lam) <= Z(lam), in one state and for a common lam alike: the
    realised acceptance misses the budget by at most the factor by which lam is wrong."""
    ps, qs, d = states(draw)
    lam, c = draw.fraction("lam", high=4), 1 + draw.fraction("c", high=5)
    for rows in (ps[:1], qs[:1], d[:1]), (ps, qs, d):
        right, wrong = (
            sum(x * exact.acceptance_rate(p, q, y) for p, q, x in zip(*rows, strict=True))
            for y in (lam, c * lam)
        )
        yield at_most(right / c, wrong)
        yield at_most(wrong, right)


@claim("E3-track", "docs/theory.md, E3; jackpot.track_lam")
def a_tracked_lam(draw):
    """log lam_t = decay log lam_{t-1} + (1 - decay) log lam of step t's tokens, the first step's
    own to begin with: on a sample that stays the same, a start wrong by a factor c is wrong by
    c^(decay^t) after t steps (to 1e-9), and a budget above the step's reach is refused."""
    ratios = draw.vector("ratios", 8, low=1)
    budget, decay = draw.fraction("budget"), float(draw.fraction("decay"))
    logs = np.log(np.array(ratios, dtype=float))
    goal = float(np.log(float(exact.lam_from_ratios(ratios, budget))))
    tracked = jackpot.track_lam(None, logs, float(budget), decay)
    yield at_most(abs(tracked - goal), 1e-9, what="first step")
    wrong = float(draw.rng.normal())
    tracked = goal + wrong
    for _ in range(5):
        tracked = jackpot.track_lam(tracked, logs, float(budget), decay)
    yield at_most(abs(tracked - goal - wrong * decay**5), 1e-9, what="after 5 steps")
    logs[: int(draw.rng.integers(1, 8))] = -np.inf
    reach = float(np.mean(logs > -np.inf))
    try:
        jackpot.track_lam(tracked, logs, (1 + reach) / 2, decay)
        yield agree(True, False, what="refused", reach=reach)
    except ValueError as error:
        yield agree(f"reachable maximum {reach:.12g}" in str(error), True, reach=reach)


@claim("E3-fresh", "docs/theory.md, E3", share=0.05)
def the_error_on_fresh_tokens(draw):
    """On fresh tokens the acceptance under the lam of n = 1000 sampled ratios misses the budget
    with standard deviation sd(a) / sqrt(n), a = min(1, r / lam) (Gaussian log-ratios; within 25%,
    measured on 200 samples)."""
    scale, budget = float(draw.rng.uniform(0.2, 1.5)), float(draw.rng.uniform(0.4, 0.95))
    scale, budget = draw.keep("scale", scale), draw.keep("budget", budget)
    bank = scale * draw.rng.standard_normal(20_000) - scale**2 / 2
    lam = jackpot.lam_from_samples(bank, budget)
    spread = float(np.std(np.minimum(1, np.exp(bank) / lam)))
    misses = []
    for _ in range(200):
        solved = jackpot.lam_from_samples(draw.rng.choice(bank, 1000), budget)
        misses.append(float(np.mean(np.minimum(1, np.exp(bank) / solved))) - budget)
    ratio = float(np.sqrt(np.mean(np.square(misses)))) / (spread / math.sqrt(1000))
    yield at_most(abs(math.log(ratio)), math.log(1.25), ratio=ratio)
