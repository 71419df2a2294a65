"""OBRS against other ways to find the optimum (docs/theory.md, A1, A2): duality, and solvers.

C_b is the set of distributions that some rule with mean acceptance b leaves: 0 <= x <= q / b,
sum x = 1. Competitors sampled at random (`obrs`) can miss an optimum; the bounds here hold for all
of C_b at once. A solver's floating-point answer is turned into rationals and repaired until it lies
in C_b exactly, so it is compared with OBRS without any tolerance.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction as F
from functools import partial

import numpy as np
from scipy.optimize import linprog, minimize

from sim.oracle import exact, intervals, rules

from .obrs import GAMMAS
from .registry import agree, at_most, certainly_at_most, certainly_below, claim, equal

Row = tuple[F, ...]
TINY = 1e-12  # the smallest probability a solver may try: below it, derivatives overflow


def problem(draw, **support) -> tuple:
    """p, q, a budget b, OBRS's distribution at b, and the caps q / b of C_b."""
    p, q = draw.pair(**support)
    budget = draw.fraction("budget", high=exact.reach(p, q))
    lam = exact.lam_for_budget(p, q, budget)
    caps = tuple(x / budget for x in q)
    return p, q, budget, tuple(exact.post_rejection(p, q, lam)), caps


@claim("A1-dual", "docs/theory.md, A1")
def the_least_hockey_stick_at_a_budget(draw):
    """Every distribution x <= q/b that sums to 1 has E_g(p||x) = sum max(p - g x, 0) >= max(1 - g,
    sum max(p - g q/b, 0)), and OBRS's distribution attains it for every g > 0 at once; every
    f-divergence is a mixture of these, so this proves the optimality for all of them."""
    p, q, budget, best, caps = problem(draw)
    yield equal(exact.acceptance_rate(p, q, exact.lam_for_budget(p, q, budget)), budget)
    for g in (*GAMMAS, draw.fraction("g", high=9)):
        least = max(1 - g, exact.hockey_stick(p, caps, g))
        yield equal(exact.hockey_stick(p, best, g), least, g=g)


# the derivative of each divergence of (p, x) with respect to x, where p > 0 and x > 0
SLOPES = {
    "kl_p_q": lambda p, x: -p / x,
    "chi2_p_q": lambda p, x: -((p / x) ** 2),
    "chi2_q_p": lambda p, x: 2 * x / p,
}


def cheapest(slopes: Row, caps: Row) -> F:
    """The least of sum slopes * x over C_b: fill the tokens of smallest slope to their caps."""
    left, total = F(1), F(0)
    for slope, cap in sorted(zip(slopes, caps, strict=True)):
        take = min(left, cap)
        left, total = left - take, total + slope * take
    return total


@claim("A1-first-order", "docs/theory.md, A1")
def no_direction_improves_on_obrs(draw):
    """For p, q > 0 the derivatives of KL(p||x), chi2(p||x) and chi2(x||p) at x = q~ satisfy
    sum D' (y - q~) >= 0 for every y in C_b, exactly: with convexity, no rule of mean acceptance b
    is better."""
    p, _, _, best, caps = problem(draw, p_zero=False, q_zero=False)
    for name, slope in SLOPES.items():
        slopes = tuple(slope(a, x) for a, x in zip(p, best, strict=True))
        yield equal(cheapest(slopes, caps), rules.mean(best, slopes), divergence=name)


def repaired(solution, caps: Row) -> Row:
    """A distribution in C_b, exactly, next to a solver's floating-point answer."""
    x = [min(max(F(float(a)), F(0)), cap) for a, cap in zip(solution, caps, strict=True)]
    total = sum(x, F(0))
    if total >= 1:
        return tuple(a / total for a in x)
    room = [cap - a for a, cap in zip(x, caps, strict=True)]
    share = (1 - total) / sum(room, F(0))
    return tuple(a + share * r for a, r in zip(x, room, strict=True))


def linear_program(p: Row, caps: Row, g: F) -> tuple[Row, list[F], F]:
    """HiGHS on min sum s, s >= p - g x, x in C_b: x, and the multipliers of both constraints."""
    v = len(p)
    rows = np.hstack([-float(g) * np.eye(v), -np.eye(v)])
    solved = linprog(
        np.r_[np.zeros(v), np.ones(v)],
        A_ub=rows,
        b_ub=-np.array(p, dtype=float),
        A_eq=np.r_[np.ones(v), np.zeros(v)][None],
        b_eq=[1.0],
        bounds=[(0, float(cap)) for cap in caps] + [(0, None)] * v,
        method="highs",
    )
    if solved.status != 0:
        raise RuntimeError(f"the linear program was not solved: {solved.message}")
    y = [min(max(F(-float(m)), F(0)), F(1)) for m in solved.ineqlin.marginals]
    return repaired(solved.x[:v], caps), y, F(float(solved.eqlin.marginals[0]))


def dual_bound(p: Row, caps: Row, g: F, y: list[F], mu: F) -> F:
    """sum y p - sum max(0, mu + g y) caps + mu <= E_g(p||x) for all x in C_b, 0 <= y <= 1, mu."""
    over = [max(F(0), mu + g * a) for a in y]
    return rules.mean(p, y) - rules.mean(caps, over) + mu


@claim("A1-linprog", "docs/theory.md, A1", share=0.3)
def obrs_solves_the_linear_program(draw):
    """TV and hockey sticks E_g(p||.) over C_b by a linear-programming solver (HiGHS): OBRS is never
    above the solver's point, nor below the bound that the solver's multipliers prove, both in
    rational arithmetic; the two are at most 1e-9 apart."""
    p, _, _, best, caps = problem(draw)
    for g in (F(1), GAMMAS[int(draw.rng.integers(len(GAMMAS)))]):
        point, y, mu = linear_program(p, caps, g)
        value = exact.hockey_stick(p, best, g)
        above, under = exact.hockey_stick(p, point, g), dual_bound(p, caps, g, y, mu)
        yield at_most(value, above, g=g, what="the solver's point")
        yield at_most(under, value, g=g, what="the solver's bound")
        yield at_most(above - under, F(1, 10**9), g=g, what="bracket")


def _kl(a, b):
    return float(np.sum(a * np.log(a / b)))


# value and derivative in x, for the solver only: floating point
OBJECTIVES = {
    "kl_p_q": (lambda p, x: _kl(p, x), lambda p, x: -p / x),
    "kl_q_p": (lambda p, x: _kl(x, p), lambda p, x: np.log(x / p) + 1),
    "js": (
        lambda p, x: (_kl(p, (p + x) / 2) + _kl(x, (p + x) / 2)) / 2,
        lambda p, x: np.log(2 * x / (p + x)) / 2,
    ),
    "hellinger2": (
        lambda p, x: 1 - float(np.sum(np.sqrt(p * x))),
        lambda p, x: -np.sqrt(p / x) / 2,
    ),
    "chi2_p_q": (lambda p, x: float(np.sum((p - x) ** 2 / x)), lambda p, x: 1 - (p / x) ** 2),
    "chi2_q_p": (lambda p, x: float(np.sum((p - x) ** 2 / p)), lambda p, x: 2 * (x / p - 1)),
}


def convex_program(name: str, p: Row, q: Row, caps: Row) -> Row:
    """SLSQP's minimiser of one divergence over C_b, from x = q, made exactly feasible."""
    value, slope = OBJECTIVES[name]
    target = np.array(p, dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps outside the bounds are clipped, and said
        solved = minimize(
            lambda x: value(target, np.maximum(x, TINY)),
            np.array(q, dtype=float),
            jac=lambda x: slope(target, np.maximum(x, TINY)),
            bounds=[(TINY, float(cap)) for cap in caps],
            constraints={
                "type": "eq",
                "fun": lambda x: np.sum(x) - 1,
                "jac": lambda x: np.ones_like(x),
            },
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 300},
        )
    return repaired(solved.x, caps)


@claim("A1-slsqp", "docs/theory.md, A1, A2", share=0.2)
def obrs_solves_the_convex_program(draw):
    """KL both ways, chi2 both ways, JS and Hellinger over C_b by a general convex solver (SLSQP; p,
    q > 0): OBRS is certainly below the solver's point unless they are the same distribution, by at
    most 1e-5; for KL(p||.) it is not below the bound that the derivative at the solver's point
    proves."""
    p, q, _, best, caps = problem(draw, p_zero=False, q_zero=False)
    for name in OBJECTIVES:
        point = convex_program(name, p, q, caps)
        if point == best:
            continue
        divergence = getattr(exact if name.startswith("chi2") else intervals, name)
        value, other = partial(divergence, p, best), partial(divergence, p, point)
        yield certainly_below(value, other, divergence=name)
        yield certainly_at_most(lambda v=value, o=other: o() - v(), lambda: F(1, 10**5), what=name)
        if name == "kl_p_q" and all(point):
            slopes = tuple(-a / x for a, x in zip(p, point, strict=True))
            gap = rules.mean(point, slopes) - cheapest(slopes, caps)
            yield certainly_at_most(lambda o=other, g=gap: o() - intervals.interval(g), value)


@claim("A2-tv-set", "docs/theory.md, A2")
def all_minimisers_of_tv(draw):
    """A distribution x in C_b has the least TV(p, .) if and only if x = q/b wherever p > q/b and
    x >= p elsewhere."""
    p, _, budget, best, caps = problem(draw)
    _, rivals = rules.contest(draw, p, draw.case["q"], budget=budget)
    floor = tuple(min(a, cap) for a, cap in zip(p, caps, strict=True))
    room = [cap - a for a, cap in zip(floor, caps, strict=True)]
    weight = [r * int(x) for r, x in zip(room, draw.rng.integers(1, 6, len(room)), strict=True)]
    spread = (1 - sum(floor)) / sum(weight) if sum(weight) else F(0)
    other = tuple(a + spread * w for a, w in zip(floor, weight, strict=True))
    if all(a <= cap for a, cap in zip(other, caps, strict=True)):
        yield equal(sum(other), 1)
        yield equal(exact.tv(p, other), exact.tv(p, best), rival=other)
    for x in rivals:
        described = all(
            c == cap if a > cap else c >= a for a, c, cap in zip(p, x, caps, strict=True)
        )
        yield agree(exact.tv(p, x) == exact.tv(p, best), described, rival=x)


@claim("A2-rule", "docs/theory.md, A2, A3")
def how_much_more_can_be_accepted_with_the_same_distribution(draw):
    """The rules that leave OBRS's distribution at budget b are the multiples of its rule, and the
    largest accepts max(b, P / max r), P = p(supp q): only for b < P / max r can the same
    distribution be had for less rejection."""
    p, q, budget, best, _ = problem(draw)
    lam = exact.lam_for_budget(p, q, budget)
    rule = exact.accept_prob(p, q, lam)
    largest = 1 / max(a for a, b in zip(rule, q, strict=True) if b)
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    yield equal(largest * budget, max(budget, reached / rules.largest_ratio(p, q)))
    scaled = [min(F(1), largest * a) for a in rule]
    z = rules.mean(q, scaled)
    yield agree(tuple(a * b / z for a, b in zip(scaled, q, strict=True)) == best, True)


def nucleus(draw) -> tuple:
    """p, a full distribution, and q: some distribution cut to its top-p nucleus, at least one token
    short of all."""
    p, full = draw.pair(p_zero=False, q_zero=False)
    keep = int(draw.rng.integers(1, len(p)))
    order = sorted(range(len(p)), key=lambda i: (-full[i], i))[:keep]
    mass = sum((full[i] for i in order), F(0))
    q = tuple(full[i] / mass if i in order else F(0) for i in range(len(p)))
    return p, draw.keep("q", q)


@claim("A7-top-p", "docs/theory.md, A7")
def rollouts_sampled_with_top_p(draw):
    """q cut to a nucleus that holds P < 1 of p (p > 0): KL(p||q~) is infinite for every lam; TV and
    chi2(.||p) still fall, but TV(p, q~) >= 1 - P and chi2(q~||p) >= 1/P - 1, both attained at
    q~ = p(.|nucleus), from lam = max r on; and lam Z <= P."""
    p, q = nucleus(draw)
    lam = draw.lam(p, q)
    after = tuple(exact.post_rejection(p, q, lam))
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    yield agree(intervals.kl_p_q(p, after) == math.inf, True)
    for d, least in ((exact.tv, 1 - reached), (exact.chi2_q_p, 1 / reached - 1)):
        yield at_most(d(p, after), d(p, q), divergence=d.__name__)
        yield at_most(least, d(p, after), divergence=d.__name__)
        if lam >= rules.largest_ratio(p, q):
            yield equal(d(p, after), least, divergence=d.__name__)
    yield at_most(lam * exact.acceptance_rate(p, q, lam), reached)


@claim("A7-same-model", "docs/theory.md, A7")
def top_p_rejects_even_where_the_models_are_equal(draw):
    """If policy and actor are one model and only the rollout is cut to a nucleus of mass P, then
    r = P on all of it: lam > P rejects the share 1 - P / lam and changes nothing, q~ = q; at
    lam = 1, Z = P."""
    p, q = nucleus(draw)
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    cut = tuple(a / reached if b else F(0) for a, b in zip(p, q, strict=True))
    draw.case["q"] = cut
    for lam in (draw.lam(p, cut), F(1)):
        yield equal(exact.acceptance_rate(p, cut, lam), min(F(1), reached / lam))
        yield agree(tuple(exact.post_rejection(p, cut, lam)) == cut, True)
