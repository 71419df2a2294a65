"""The paper's statements: each as printed, and as it can be proved.

The statements of our own theory are in the modules of this folder; `core` holds the core
against rational arithmetic.
"""

from __future__ import annotations

import math
from fractions import Fraction as F
from functools import partial

from sim.oracle import exact, intervals, rules

from .registry import (
    CORRECTED,
    FAILS,
    agree,
    at_most,
    below,
    certainly_at_most,
    certainly_below,
    claim,
    equal,
)

HALVES = (F(1, 2), F(1, 2))


def closer(p, q, lam):
    """The check KL(p || q~) < KL(p || q); equality is settled in rational arithmetic."""
    after = tuple(exact.post_rejection(p, q, lam))
    if after == tuple(q):
        return below(0, 0)
    return certainly_below(lambda: intervals.kl_p_q(p, after), lambda: intervals.kl_p_q(p, q))


@claim(
    "Thm3.3-if",
    "paper, Theorem 3.3",
    FAILS,
    example={"p": HALVES, "q": (F(1, 3), F(2, 3)), "lam": F(1, 2)},
)
def strictly_closer_below_the_largest_ratio(draw):
    """As printed: with p > 0 and q > 0, if lam < max p/q then KL(p||q~) < KL(p||q)."""
    p, q = draw.pair(p_zero=False, q_zero=False)
    lam = draw.lam(p, q)
    if lam < rules.largest_ratio(p, q):
        yield closer(p, q, lam)


@claim(
    "Thm3.3-only-if",
    "paper, Theorem 3.3 (converse)",
    FAILS,
    example={"p": HALVES, "q": (F(1, 3), F(2, 3)), "lam": F(2)},
)
def no_closer_from_the_largest_ratio_on(draw):
    """Read as a criterion: with p > 0 and q > 0, if lam >= max p/q then q~ is not closer to p
    than q is, KL(p||q~) >= KL(p||q)."""
    p, q = draw.pair(p_zero=False, q_zero=False)
    lam = draw.lam(p, q)
    after = tuple(exact.post_rejection(p, q, lam))
    if lam >= rules.largest_ratio(p, q) and after != q:
        yield certainly_at_most(lambda: intervals.kl_p_q(p, q), lambda: intervals.kl_p_q(p, after))


@claim("A5-strict", "paper, Theorem 3.3; docs/theory.md, A5", CORRECTED, corrects="Thm3.3-if")
def strictly_closer_iff_lam_exceeds_the_smallest_ratio(draw):
    """As corrected: with supp p in supp q, KL(p||q~) <= KL(p||q) for every lam > 0; for p != q the
    inequality is strict if and only if lam > min p/q over supp q; q~ = p from lam = max p/q on."""
    p, q = draw.pair(q_zero=False)
    lam = draw.lam(p, q)
    after = tuple(exact.post_rejection(p, q, lam))
    strict = lam > min(rules.ratios(p, q)) and p != q
    yield agree(after != q, strict)
    if strict:
        yield closer(p, q, lam)
    if lam >= rules.largest_ratio(p, q):
        yield agree(after == p, True)


@claim(
    "Thm3.4-exists",
    "paper, Theorem 3.4",
    FAILS,
    example={"p": (F(1), F(0)), "q": HALVES, "budget": F(3, 4)},
)
def every_budget_has_a_lam(draw):
    """As printed: for every budget in (0, 1] some lam > 0 has Z(lam) >= budget (Z is continuous and
    tends to 0, so equality would follow)."""
    p, q = draw.pair()
    budget = draw.fraction("budget")
    yield at_most(budget, max(exact.acceptance_rate(p, q, r) for r in rules.positive_ratios(p, q)))


@claim(
    "Thm3.4-unique",
    "paper, Theorem 3.4",
    FAILS,
    example={"p": HALVES, "q": (F(1, 3), F(2, 3)), "budget": F(1)},
)
def every_budget_has_one_lam(draw):
    """Read with a unique threshold: for every reachable budget only one lam > 0 has
    Z(lam) = budget."""
    p, q = draw.pair()
    budget = draw.keep("budget", exact.reach(p, q) * F(int(draw.rng.integers(1, 9)), 8))
    lam = exact.lam_for_budget(p, q, budget)
    for other in (lam / 2, lam * 2):
        differs = exact.acceptance_rate(p, q, other) != budget
        yield agree(differs, True, lam=lam, other=other)


@claim(
    "A3-lam",
    "paper, Theorem 3.4; docs/theory.md, A3",
    CORRECTED,
    corrects="Thm3.4-exists",
)
def reachable_budgets_have_one_lam(draw):
    """As corrected: every budget in (0, q(supp p)) has exactly one lam (P / budget if budget <=
    P / max r, with P = p(supp q)); budget q(supp p) has all lam in (0, min r over supp p and
    supp q] and no other; a larger budget has none."""
    p, q = draw.pair()
    reach, least = exact.reach(p, q), min(rules.positive_ratios(p, q))
    z = partial(exact.acceptance_rate, p, q)
    budget = draw.fraction("budget", high=reach)
    lam = exact.lam_for_budget(p, q, budget)
    step = 1 + draw.fraction("step")
    yield equal(z(lam), budget)
    yield below(budget, z(lam / step))
    yield below(z(lam * step), budget)
    reached = sum((a for a, b in zip(p, q, strict=True) if b), F(0))
    if budget <= reached / rules.largest_ratio(p, q):
        yield equal(lam, reached / budget)
    yield equal(z(least), reach)
    yield equal(z(least / step), reach)
    yield below(z(least * step), reach)


@claim("Thm3.4-optimal", "paper, Theorem 3.4", share=0.5)
def obrs_minimises_forward_kl(draw):
    """As printed, for reachable budgets and supp p in supp q: among all acceptance rules a in
    [0, 1]^V with mean acceptance equal to the budget, OBRS gives the least KL(p||q~), and any rule
    with another q~ gives more."""
    p, q = draw.pair(q_zero=False)
    best, rivals = rules.contest(draw, p, q)
    yield equal(sum(best), 1)
    for rival in rivals:
        after, other = (partial(intervals.kl_p_q, p, x) for x in (best, rival))
        yield certainly_below(after, other, rival=rival)


@claim(
    "Fig2-tenfold",
    "paper, Sec. 3 and Figure 2",
    FAILS,
    share=0.25,
    example={"p": (F(9, 10), F(1, 10)), "q": HALVES},
)
def tenfold_smaller_kl_at_95_percent_acceptance(draw):
    """As the text suggests: at 95% acceptance OBRS brings KL(p||q~) to a tenth of KL(p||q) or
    less, however large KL(p||q) is (p > 0, q > 0)."""
    p, q = draw.pair(p_zero=False, q_zero=False)
    after = exact.post_rejection(p, q, exact.lam_for_budget(p, q, F(19, 20)))
    if p != q:
        yield certainly_at_most(
            lambda: intervals.kl_p_q(p, after), lambda: intervals.kl_p_q(p, q) / 10
        )


@claim("A6-tenfold", "docs/theory.md, A6", CORRECTED, corrects="Fig2-tenfold", share=0.25)
def tenfold_needs_a_small_kl(draw):
    """As corrected: no acceptance rule with mean acceptance b brings KL(p||.) below a tenth unless
    b <= exp(-0.9 KL(p||q)); at b = 0.95 that needs KL(p||q) <= 0.057 nats (supp p in supp q)."""
    p, q = draw.pair(q_zero=False)
    best, rivals = rules.contest(draw, p, q, rivals=2)
    budget = draw.case["budget"]
    if p == q:
        return
    before = partial(intervals.kl_p_q, p, q)
    too_dear = intervals.excess(lambda: -before() * 9 / 10, lambda: intervals.log(budget))
    if too_dear < 0:  # budget > exp(-0.9 KL before)
        for distribution in (best, *rivals):
            yield certainly_below(lambda: before() / 10, partial(intervals.kl_p_q, p, distribution))
    else:
        yield agree(math.isnan(too_dear), False)


@claim(
    "Alg1-no-mask",
    "paper, Algorithm 1, lines 23-26",
    FAILS,
    example={"p": HALVES, "q": (F(1, 4), F(3, 4)), "lam": F(1), "f": (F(0), F(1))},
)
def algorithm_1_without_the_mask(draw):
    """As printed, where no Mask(x) is drawn: the weight w = Z max(lam, r) on every sampled token
    has the mean of Eq. 5, E_q[w f] = E_q[a w f] for every f."""
    _, q, w, a, f = _weights(draw)
    yield equal(rules.mean(q, w, f), rules.mean(q, a, w, f))


@claim(
    "Alg1-mask",
    "paper, Eq. 5; docs/theory.md, C1",
    CORRECTED,
    corrects="Alg1-no-mask",
)
def algorithm_1_with_the_mask(draw):
    """As corrected: with the mask, E_q[a w f] = Z E_p[f 1(q > 0)]; without it the weight is larger
    by exactly q Z (lam - r) on every token with r < lam."""
    p, q, w, a, f = _weights(draw)
    lam = draw.case["lam"]
    z = exact.acceptance_rate(p, q, lam)
    reached = tuple(F(b > 0) for b in q)
    yield equal(rules.mean(q, a, w, f), z * rules.mean(p, reached, f))
    short = tuple(max(lam * b - c, F(0)) for c, b in zip(p, q, strict=True))
    extra = z * rules.mean(short, reached, f)
    yield equal(rules.mean(q, w, f), rules.mean(q, a, w, f) + extra)


def _weights(draw):
    """A case of Algorithm 1: p, q, w, a and a test function f, per token."""
    p, q = draw.pair()
    lam = draw.lam(p, q)
    f = draw.vector("f", len(p), low=-9)
    z = exact.acceptance_rate(p, q, lam)
    w = tuple(exact.obrs_weight(c / b, lam, z) if b else F(0) for c, b in zip(p, q, strict=True))
    return p, q, w, exact.accept_prob(p, q, lam), f
