"""Our statements on lam and the budget (docs/theory.md, A4-A7): monotonicity, floors, supports."""

from __future__ import annotations

import math
from fractions import Fraction as F
from functools import partial

import numpy as np

import jackpot
from sim.oracle import exact, intervals, rules
from sim.worlds import pairs

from .obrs import LOGARITHMIC, case, rational_divergences
from .registry import agree, at_most, below, certainly_at_most, certainly_below, claim, to_40_digits


def two_lams(draw, **support) -> tuple:
    """p, q, lam_1 <= lam_2 and the distributions after rejection at both."""
    p, q = draw.pair(**support)
    lams = sorted((draw.lam(p, q), draw.lam(p, q, "lam2")))
    return p, q, *lams, *(tuple(exact.post_rejection(p, q, lam)) for lam in lams)


@claim("A4-after", "docs/theory.md, A4")
def divergences_to_p_fall_with_lam(draw):
    """For lam_1 <= lam_2, D(p||q~_2) <= D(p||q~_1) <= D(p||q) in TV, chi2 both ways and hockey
    sticks; finite chi2 falls strictly between min r (common support) and max r, TV strictly while
    Z(lam_1) max r > 1; below min r q~ is q(.|supp p), above max r it is p(.|supp q)."""
    p, q, lam1, lam2, after1, after2 = two_lams(draw)
    before, mid, late = (rational_divergences(p, x) for x in (q, after1, after2))
    least, most = min(rules.positive_ratios(p, q)), rules.largest_ratio(p, q)
    inside = least <= lam1 < lam2 <= most
    for name in before:
        yield at_most(mid[name], before[name], divergence=name)
        strict = inside and name.startswith("chi2") and mid[name] < math.inf
        if name == "tv":
            strict = inside and exact.acceptance_rate(p, q, lam1) * most > 1
        yield (below if strict else at_most)(late[name], mid[name], divergence=name)
    if lam2 <= least or lam1 >= most:
        yield agree(after1 == after2, True)


@claim("A4-certified", "docs/theory.md, A4", share=0.15)
def logarithmic_divergences_to_p_fall_with_lam(draw):
    """For lam_1 < lam_2 with different q~, D(p||q~_2) < D(p||q~_1) in KL(p||.), KL(.||p), JS and
    Hellinger (p and q on the same tokens)."""
    p, *_, after1, after2 = two_lams(draw, p_zero=False, q_zero=False)
    if after1 != after2:
        for d in LOGARITHMIC:
            sides = (partial(d, p, x) for x in (after2, after1))
            yield certainly_below(*sides, divergence=d.__name__)


@claim("A4-before", "docs/theory.md, A4 (converse)")
def divergences_from_q_grow_with_lam(draw):
    """For lam_1 <= lam_2, D(q~_1||q) <= D(q~_2||q) in TV, chi2 both ways and hockey sticks."""
    _, q, _, _, after1, after2 = two_lams(draw)
    near, far = (rational_divergences(x, q) for x in (after1, after2))
    for name in near:
        yield at_most(near[name], far[name], divergence=name)


@claim("A5-formula", "docs/theory.md, A5", share=0.3)
def kl_after_rejection_in_closed_form(draw):
    """With supp p in supp q, KL(p||q~) = log Z + E_p log max(r, lam), and KL(q~||p) = -log Z -
    E_q~ log max(r, lam), to 40 digits."""
    p, q, lam, z, after = case(draw, q_zero=False)
    weights = [max(a / b, lam) for a, b in zip(p, q, strict=True)]

    def mean_log(distribution):
        terms = (
            intervals.interval(a) * intervals.log(w)
            for a, w in zip(distribution, weights, strict=True)
        )
        return sum(terms, intervals.interval(F(0)))

    yield to_40_digits(lambda: intervals.kl_p_q(p, after), lambda: intervals.log(z) + mean_log(p))
    yield to_40_digits(
        lambda: intervals.kl_q_p(p, after), lambda: -intervals.log(z) - mean_log(after)
    )


@claim("A5-limit", "docs/theory.md, A5", share=0.3)
def kl_at_the_smallest_lam(draw):
    """With supp p in supp q and lam <= min r over supp p, KL(p||q~) = KL(p||q) + log q(supp p), to
    40 digits."""
    p, q = draw.pair(q_zero=False)
    least = min(rules.positive_ratios(p, q))
    for lam in (least, least * draw.fraction("share")):
        yield to_40_digits(
            partial(intervals.kl_p_q, p, exact.post_rejection(p, q, lam)),
            lambda: intervals.kl_p_q(p, q) + intervals.log(exact.reach(p, q)),
        )


@claim("A6-floor-kl", "docs/theory.md, A6", share=0.3)
def what_a_budget_can_buy_in_kl(draw):
    """With supp p in supp q, every rule with mean acceptance b has KL(p||.) >= KL(p||q) -
    log(1/b); for OBRS the two sides differ by E_p max(0, log(lam / r)), to 40 digits."""
    p, q = draw.pair(q_zero=False)
    best, rivals = rules.contest(draw, p, q)
    budget = draw.case["budget"]
    lam = exact.lam_for_budget(p, q, budget)

    def floor():
        return intervals.kl_p_q(p, q) + intervals.log(budget)

    def slack():
        rejected = [(a, lam * b / a) for a, b in zip(p, q, strict=True) if a and a < lam * b]
        return sum(
            (intervals.interval(a) * intervals.log(x) for a, x in rejected),
            intervals.interval(F(0)),
        )

    yield to_40_digits(partial(intervals.kl_p_q, p, best), lambda: floor() + slack())
    for rival in rivals:
        if any(a * budget != b for a, b, c in zip(rival, q, p, strict=True) if c):
            yield certainly_at_most(floor, partial(intervals.kl_p_q, p, rival), rival=rival)


@claim("A6-floor-tv", "docs/theory.md, A6")
def what_a_budget_can_buy_in_tv(draw):
    """Every rule with mean acceptance b has TV(p, .) >= TV(p, q) - (1/b - 1) q(p > q)."""
    p, q = draw.pair()
    best, rivals = rules.contest(draw, p, q)
    over = sum((b for a, b in zip(p, q, strict=True) if a > b), F(0))
    floor = exact.tv(p, q) - (1 / draw.case["budget"] - 1) * over
    for distribution in (best, *rivals):
        yield at_most(floor, exact.tv(p, distribution))


@claim("A6-small", "docs/theory.md, A6 (small mismatch)", share=0.1)
def what_lam_1_buys_at_a_small_mismatch(draw):
    """For p proportional to q exp(eps h) and lam = 1 + c eps, eps -> 0: KL(p||q~) / KL(p||q) ->
    Var max(h, c) / Var h and (1 - Z) / eps -> E max(0, c - h), under q, with E_q h = 0 (checked in
    float64 at eps = 1e-3 and 1e-4, |h| <= 2, within 8 eps; the ratio is 0.341 for Gaussian h at
    c = 0)."""
    log_q = pairs.gaussian_logits(draw.rng, 1, 40, 1.0, 5.0)[1]
    q = np.exp(log_q)
    h = draw.rng.uniform(-1, 1, q.shape)
    h -= np.sum(q * h)
    c = draw.keep("c", float(draw.rng.uniform(-0.5, 0.5)))
    high, low = np.maximum(h, c), np.maximum(c - h, 0)
    limit = (np.sum(q * high**2) - np.sum(q * high) ** 2) / np.sum(q * h**2)
    for eps in (1e-3, 1e-4):
        log_p = log_q + eps * h - np.log(np.sum(q * np.exp(eps * h)))
        lam = 1 + c * eps
        after = jackpot.post_rejection(log_p, log_q, lam)
        ratio = jackpot.kl_p_q(log_p, after)[0] / jackpot.kl_p_q(log_p, log_q)[0]
        loss = (1 - jackpot.acceptance_rate(log_p, log_q, lam)[0]) / eps
        yield at_most(abs(float(ratio - limit)), 8 * eps, eps=eps)
        yield at_most(abs(float(loss - np.sum(q * low))), 8 * eps, eps=eps)


@claim("A7-reach", "docs/theory.md, A7", share=0.5)
def support_mismatch(draw):
    """For any zeros: tokens with p = 0 < q are always rejected, so KL(q~||p) is finite and at least
    -log p(supp q); where q = 0 < p, KL(p||.) is infinite before and after; with p' = p(.|supp q),
    KL(p'||q~) <= KL(p'||q)."""
    p, q, _, _, after = case(draw)
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    cut = tuple(a / reached if b else F(0) for a, b in zip(p, q, strict=True))
    yield agree(any(x and not a for a, x in zip(p, after, strict=True)), False)
    yield agree(intervals.kl_p_q(p, after) == math.inf, reached < 1)
    yield agree(intervals.kl_p_q(p, q) == math.inf, reached < 1)
    if after != cut:
        yield certainly_at_most(lambda: -intervals.log(reached), lambda: intervals.kl_q_p(p, after))
    if after != q:
        sides = (partial(intervals.kl_p_q, cut, x) for x in (after, q))
        yield certainly_at_most(*sides)
