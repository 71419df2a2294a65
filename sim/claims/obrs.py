"""Our statements on OBRS (docs/theory.md, A0-A2): elementary facts, and what it is optimal for."""

from __future__ import annotations

import math
from fractions import Fraction as F
from functools import partial

from sim.oracle import exact, intervals, rules

from .registry import FAILS, agree, at_most, below, certainly_below, claim, equal

RATIONAL = (exact.tv, exact.chi2_p_q, exact.chi2_q_p)
LOGARITHMIC = (intervals.kl_p_q, intervals.kl_q_p, intervals.js, intervals.hellinger2)
GAMMAS = (F(1, 5), F(1, 2), F(4, 5), F(1), F(5, 4), F(2), F(5))


def rational_divergences(p, q) -> dict:
    """TV, both chi2 and a grid of hockey sticks, exactly."""
    values = {d.__name__: d(p, q) for d in RATIONAL}
    return values | {f"hockey_stick({g})": exact.hockey_stick(p, q, g) for g in GAMMAS}


def case(draw, **support) -> tuple:
    """p, q, lam, Z and q~ of one draw."""
    p, q = draw.pair(**support)
    lam = draw.lam(p, q)
    after = tuple(exact.post_rejection(p, q, lam))
    return p, q, lam, exact.acceptance_rate(p, q, lam), after


@claim("A0-budget", "docs/theory.md, A0(i)")
def lam_z_is_at_most_one(draw):
    """lam Z <= P = p(supp q) <= 1 for every lam > 0, with lam Z = P if and only if
    lam >= max p/q."""
    p, q, lam, z, _ = case(draw)
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    yield at_most(lam * z, reached)
    yield agree(lam * z == reached, lam >= rules.largest_ratio(p, q))


@claim("A0-ratio", "docs/theory.md, A0(ii)")
def the_largest_ratio_after_rejection(draw):
    """max q~/p over supp p is 1 / (lam Z) for lam >= min r over supp p and supp q, and smaller
    below that lam."""
    p, q, lam, z, after = case(draw)
    largest = max(b / a for a, b in zip(p, after, strict=True) if a)
    yield at_most(largest, 1 / (lam * z))
    yield agree(largest == 1 / (lam * z), lam >= min(rules.positive_ratios(p, q)))


@claim("A0-conditional", "docs/theory.md, A0(iii)")
def only_the_reachable_part_of_p_counts(draw):
    """q~ for (p, lam) equals q~ for (p(.|supp q), lam / p(supp q))."""
    p, q, lam, _, after = case(draw)
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    conditional = [a / reached if b else F(0) for a, b in zip(p, q, strict=True)]
    yield agree(tuple(exact.post_rejection(conditional, q, lam / reached)) == after, True)


@claim("A0-tv", "docs/theory.md, A0(iv)")
def acceptance_at_lam_1_is_one_minus_tv(draw):
    """Z(1) = 1 - TV(p, q)."""
    p, q = draw.pair()
    yield equal(exact.acceptance_rate(p, q, F(1)), 1 - exact.tv(p, q))


@claim("A0-concave", "docs/theory.md, A0(v)")
def acceptance_is_concave_in_one_over_lam(draw):
    """u -> Z(1/u) is concave on (0, inf), increasing strictly up to u = 1 / min r over the common
    support, and equal to q(supp p) beyond."""
    p, q = draw.pair()
    u, w = sorted((1 / draw.lam(p, q), 1 / draw.lam(p, q, "lam2")))
    share = draw.fraction("share")
    z = {x: exact.acceptance_rate(p, q, 1 / x) for x in (u, w, share * u + (1 - share) * w)}
    yield at_most(share * z[u] + (1 - share) * z[w], z[share * u + (1 - share) * w])
    end = 1 / min(rules.positive_ratios(p, q))
    yield agree(z[u] < z[w], u < w and u < end)
    yield agree(z[w] == exact.reach(p, q), w >= end)


@claim("A0-elasticity", "docs/theory.md, A0(v), (vi)")
def acceptance_falls_no_faster_than_lam_rises(draw):
    """dZ/dlam = -P(r <= lam) / lam^2 from the right: Z(lam) - Z(lam') =
    P(r <= lam) (1/lam - 1/lam') for lam' up to the next ratio; and -dlogZ/dlog lam =
    P(r <= lam) / (lam Z) = q~(r <= lam), which lies in [0, 1]."""
    p, q, lam, z, after = case(draw)
    low = tuple(F(bool(b) and a <= lam * b) for a, b in zip(p, q, strict=True))
    higher = [r for r in rules.ratios(p, q) if r > lam]
    upper = lam + draw.fraction("step") * ((min(higher) if higher else 2 * lam) - lam)
    slope = rules.mean(p, low)
    yield equal(z - exact.acceptance_rate(p, q, upper), slope * (1 / lam - 1 / upper))
    yield equal(slope / (lam * z), rules.mean(after, low))
    yield at_most(rules.mean(after, low), 1)


@claim("A1-rational", "docs/theory.md, A1")
def obrs_minimises_rational_divergences(draw):
    """Among all rules with mean acceptance equal to a budget in (0, q(supp p)), OBRS's q~
    minimises TV, chi2 both ways and hockey sticks E_g(p||.) for g from 1/5 to 5, with any zeros in
    p and q; where chi2 is finite every other distribution is strictly worse in it."""
    p, q = draw.pair()
    best, rivals = rules.contest(draw, p, q)
    yield equal(sum(best), 1)
    least = rational_divergences(p, best)
    for rival in rivals:
        for name, value in rational_divergences(p, rival).items():
            strict = name.startswith("chi2") and least[name] < math.inf
            compare = below if strict else at_most
            yield compare(least[name], value, divergence=name, rival=rival)


@claim("A1-certified", "docs/theory.md, A1, A2", share=0.15)
def obrs_minimises_logarithmic_divergences(draw):
    """Among all rules with mean acceptance equal to a budget in (0, q(supp p)), OBRS's q~ is
    the only minimiser of KL(p||.), KL(.||p), JS and Hellinger wherever their minimum is finite."""
    p, q = draw.pair()
    best, rivals = rules.contest(draw, p, q)
    yield equal(sum(best), 1)
    for divergence in LOGARITHMIC:
        if divergence is intervals.kl_p_q and any(a and not b for a, b in zip(p, q, strict=True)):
            continue  # infinite for every rule
        for rival in rivals:
            sides = (partial(divergence, p, x) for x in (best, rival))
            yield certainly_below(*sides, divergence=divergence.__name__, rival=rival)


@claim("A1-tv-value", "docs/theory.md, A1")
def the_least_tv(draw):
    """The least TV at acceptance Z is TV(p, q~) = E_{1/Z}(p||q) = sum max(p - q/Z, 0)."""
    p, q, _, z, after = case(draw)
    yield equal(exact.tv(p, after), exact.hockey_stick(p, q, 1 / z))


@claim(
    "A2-tv-unique",
    "docs/theory.md, A2 (refuted there)",
    FAILS,
    example={
        "p": (F(1, 2), F(1, 4), F(1, 4)),
        "q": (F(1, 4), F(3, 8), F(3, 8)),
        "budget": F(3, 4),
        "rival": (F(1, 3), F(1, 4), F(5, 12)),
    },
)
def the_tv_minimiser_is_unique(draw):
    """Expected, and false: every rule with the same mean acceptance as OBRS and another
    distribution has a larger TV(p, .)."""
    p, q = draw.pair()
    best, rivals = rules.contest(draw, p, q)
    rival = draw.keep("rival", rivals[0] if rivals else best)
    if rival != best:
        yield below(exact.tv(p, best), exact.tv(p, rival))


@claim("A2-at-least", "docs/theory.md, A1, A4")
def accepting_more_than_the_budget_does_not_help(draw):
    """A rule that accepts at least the budget is nowhere closer to p than OBRS at the budget: TV,
    chi2 both ways, hockey sticks."""
    p, q = draw.pair()
    _, rivals = rules.contest(draw, p, q)
    budget = draw.fraction("smaller_budget", high=draw.case["budget"])
    best = exact.post_rejection(p, q, exact.lam_for_budget(p, q, budget))
    least = rational_divergences(p, best)
    for rival in rivals:
        for name, value in rational_divergences(p, rival).items():
            yield at_most(least[name], value, divergence=name, rival=rival)
