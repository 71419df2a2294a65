"""Our statements on whole trajectories (docs/theory.md, E4), on trajectories of two tokens.

P and Q are the distributions of trajectories under target and proposal. Three ways to reject:
resample each position until a token is accepted; mask rejected tokens and go on (Jackpot); reject
trajectories.
"""

from __future__ import annotations

from fractions import Fraction as F
from functools import partial
from itertools import pairwise

from sim.oracle import exact, intervals, rules
from sim.worlds import pairs

from .obrs import rational_divergences
from .registry import (
    CORRECTED,
    FAILS,
    at_most,
    certainly_at_most,
    certainly_below,
    claim,
    equal,
    to_40_digits,
)
from .weights import joint, states

Row = tuple[F, ...]
HALVES = (F(1, 2), F(1, 2))


def tree(draw, **support) -> tuple:
    """Distributions of a first token, p1 and q1, and of a second one after each first: p2 and
    q2."""
    v = int(draw.rng.integers(2, 4))
    p1, q1 = pairs.integer_weights(draw.rng, v, **support)
    rows = [pairs.integer_weights(draw.rng, v, **support) for _ in range(v)]
    p2, q2 = zip(*rows, strict=True)
    names = {"p1": p1, "q1": q1, "p2": p2, "q2": q2}
    return tuple(draw.keep(name, value) for name, value in names.items())


def threshold(draw, name: str = "lam") -> F:
    return draw.keep(name, F(int(draw.rng.integers(1, 25)), int(draw.rng.integers(4, 25))))


def resampled(p1: Row, q1: Row, p2, q2, lam: F) -> Row:
    """The distribution of trajectories if each position is resampled until a token is accepted."""
    first = exact.post_rejection(p1, q1, lam)
    second = [exact.post_rejection(p, q, lam) for p, q in zip(p2, q2, strict=True)]
    return joint(first, second)


def resampled_case(draw) -> tuple:
    """P, Q and the distribution after resampling; every state accepts something."""
    p1, q1, p2, q2 = tree(draw)
    lam = threshold(draw)
    return joint(p1, p2), joint(q1, q2), resampled(p1, q1, p2, q2, lam)


@claim(
    "E4-resample-tv",
    "docs/theory.md, E4 (refuted there)",
    FAILS,
    example={
        "p1": (F(3, 4), F(1, 4)),
        "q1": (F(9, 20), F(11, 20)),
        "p2": (HALVES, HALVES),
        "q2": ((F(9, 10), F(1, 10)), (F(1, 5), F(4, 5))),
        "lam": F(1, 2),
    },
)
def resampling_brings_tv_of_trajectories_down(draw):
    """Expected, and false: resampling each position until a token is accepted never increases the
    TV between the distributions of trajectories."""
    target, before, after = resampled_case(draw)
    yield at_most(exact.tv(target, after), exact.tv(target, before))


@claim(
    "E4-resample-chi2",
    "docs/theory.md, E4 (refuted there)",
    FAILS,
    example={
        "p1": (F(1, 10), F(9, 10)),
        "q1": (F(1, 4), F(3, 4)),
        "p2": (HALVES, HALVES),
        "q2": ((F(99, 100), F(1, 100)), HALVES),
        "lam": F(1, 2),
    },
)
def resampling_brings_chi2_of_trajectories_down(draw):
    """Expected, and false: the same of chi2(P||.), the variance of sequence weights."""
    target, before, after = resampled_case(draw)
    yield at_most(exact.chi2_p_q(target, after), exact.chi2_p_q(target, before))


REVERSE_EXAMPLE = {
    "p1": (F(3, 10), F(7, 10)),
    "q1": (F(1, 10), F(9, 10)),
    "p2": ((F(9, 10), F(1, 10)), HALVES),
    "q2": ((F(1, 100), F(99, 100)), HALVES),
    "lam": F(5, 2),
}


@claim(
    "E4-resample-reverse",
    "docs/theory.md, E4 (refuted there)",
    FAILS,
    share=0.3,
    example=REVERSE_EXAMPLE,
)
def resampling_brings_the_reverse_divergences_down(draw):
    """Expected, and false: the same of KL(.||P) and of chi2(.||P)."""
    target, before, after = resampled_case(draw)
    yield at_most(exact.chi2_q_p(target, after), exact.chi2_q_p(target, before))
    if after != before:
        sides = (partial(intervals.kl_q_p, target, x) for x in (after, before))
        yield certainly_at_most(*sides)


@claim(
    "E4-resample-hellinger",
    "docs/theory.md, E4 (refuted there)",
    FAILS,
    share=0.3,
    example={
        "p1": HALVES,
        "q1": (F(3, 4), F(1, 4)),
        "p2": (HALVES, (F(1, 100), F(99, 100))),
        "q2": (HALVES, (F(1), F(0))),
        "lam": F(1),
    },
)
def resampling_brings_hellinger_and_js_down(draw):
    """Expected, and false: the same of the Hellinger distance and of JS."""
    target, before, after = resampled_case(draw)
    if after != before:
        for d in (intervals.hellinger2, intervals.js):
            sides = (partial(d, target, x) for x in (after, before))
            yield certainly_at_most(*sides, divergence=d.__name__)


@claim("E4-resample", "docs/theory.md, E4(i)", CORRECTED, corrects="E4-resample-tv", share=0.5)
def resampling_brings_forward_kl_of_trajectories_down(draw):
    """As corrected: if each position is resampled until a token is accepted, with supp p in supp q
    in every state, KL(P||Q~) of trajectories does not increase with lam and is at most KL(P||Q);
    a change of Q~ on a trajectory that P can write makes it smaller."""
    p1, q1, p2, q2 = tree(draw, q_zero=False)
    lams = sorted((threshold(draw), threshold(draw, "lam2")))
    target = joint(p1, p2)
    distributions = [joint(q1, q2), *(resampled(p1, q1, p2, q2, lam) for lam in lams)]
    for far, near in pairwise(distributions):
        if any(a != b for a, b, c in zip(near, far, target, strict=True) if c):
            sides = (partial(intervals.kl_p_q, target, x) for x in (near, far))
            yield certainly_below(*sides)


def log_sum(terms) -> object:
    """sum of x log y over (x, y), as an interval."""
    total = intervals.interval(F(0))
    for x, y in terms:
        total += intervals.interval(x) * intervals.log(y)
    return total


@claim("E4-resample-gain", "docs/theory.md, E4(i)", share=0.5)
def what_resampling_gains_and_costs(draw):
    """KL(P||Q~) = KL(P||Q) - E_P sum_t [log(1/Z_t) - E_p max(0, log(lam / r))] (supp p in supp q),
    to 40 digits: at most E_P sum_t log(1/Z_t) is gained, at 1/Z_t proposals per token."""
    p1, q1, p2, q2 = tree(draw, q_zero=False)
    lam = threshold(draw)
    rows = [(F(1), p1, q1), *zip(p1, p2, q2, strict=True)]
    rates = [(d, exact.acceptance_rate(p, q, lam)) for d, p, q in rows]
    rejected = [
        (d * a, lam * b / a)
        for d, p, q in rows
        for a, b in zip(p, q, strict=True)
        if a and a < lam * b
    ]
    target, after = joint(p1, p2), resampled(p1, q1, p2, q2, lam)
    yield to_40_digits(
        partial(intervals.kl_p_q, target, after),
        lambda: intervals.kl_p_q(target, joint(q1, q2)) + log_sum(rates) + log_sum(rejected),
    )


def masked_case(draw, same: bool = False) -> tuple:
    """d_p p and d_q q of (state, token) pairs, the distribution of accepted pairs, lam, Zbar."""
    ps, qs, d_q = states(draw)
    d_p = d_q
    if not same:
        counts = [int(x) for x in draw.rng.integers(1, 30, len(d_q))]
        d_p = draw.keep("d_p", tuple(F(x, sum(counts)) for x in counts))
    lam = threshold(draw)
    target, before = joint(d_p, ps), joint(d_q, qs)
    kept = joint(
        d_q,
        [
            [a * b for a, b in zip(exact.accept_prob(p, q, lam), q, strict=True)]
            for p, q in zip(ps, qs, strict=True)
        ],
    )
    zbar = sum(kept, F(0))
    return target, before, tuple(x / zbar for x in kept), lam, zbar, joint(d_p, qs)


@claim(
    "E4-mask-kl",
    "docs/theory.md, E4(ii) (refuted there)",
    FAILS,
    example={
        "p": (HALVES, HALVES),
        "q": (HALVES, (F(9, 10), F(1, 10))),
        "d": (F(99, 100), F(1, 100)),
        "d_p": (F(1, 100), F(99, 100)),
        "lam": F(1),
    },
)
def masking_brings_accepted_pairs_closer(draw):
    """Expected, and false: with a mask and no resampling, accepted (state, token) pairs are no
    farther from d_p p, the policy's own, than proposed pairs d_q q are: KL does not increase."""
    target, before, after, *_ = masked_case(draw)
    if all(before) and after != before:
        sides = (partial(intervals.kl_p_q, target, x) for x in (after, before))
        yield certainly_at_most(*sides)


@claim("E4-mask", "docs/theory.md, E4(ii)", CORRECTED, corrects="E4-mask-kl", share=0.5)
def what_masking_changes(draw):
    """As corrected (supp p in supp q): KL(d_p p || accepted) - KL(d_p p || d_q q) = log Zbar +
    E_{d_p} E_p max(0, log(lam / r)), to 40 digits; if d_p = d_q the change is negative unless the
    distribution stays the same."""
    target, before, after, lam, zbar, crossed = masked_case(draw)
    if not all(before):
        return
    rejected = [(a, lam * b / a) for a, b in zip(target, crossed, strict=True) if a and a < lam * b]
    yield to_40_digits(
        partial(intervals.kl_p_q, target, after),
        lambda: intervals.kl_p_q(target, before) + intervals.log(zbar) + log_sum(rejected),
    )
    target, before, after, *_ = masked_case(draw, same=True)
    if all(before) and after != before:
        sides = (partial(intervals.kl_p_q, target, x) for x in (after, before))
        yield certainly_below(*sides)


@claim("E4-sequence", "docs/theory.md, E4(iii)", share=0.25)
def rejecting_whole_trajectories(draw):
    """With R the ratio of whole trajectories and A = min(1, R / Lam): at equal acceptance no rule
    leaves a distribution closer to P (TV, chi2 both ways, hockey sticks), not the rule that keeps a
    trajectory if each of its tokens is accepted either; and E_Q[A max(Lam, R) f] = E_P[f 1(Q > 0)]
    for every f."""
    p1, q1, p2, q2 = tree(draw)
    target, before = joint(p1, p2), joint(q1, q2)
    lam = threshold(draw)
    first = exact.accept_prob(p1, q1, lam)
    second = [exact.accept_prob(p, q, lam) for p, q in zip(p2, q2, strict=True)]
    by_token = joint(tuple(first), second)
    budget = rules.mean(before, by_token)
    best, rivals = rules.contest(draw, target, before, rivals=2, budget=budget)
    rivals.append(tuple(a * b / budget for a, b in zip(by_token, before, strict=True)))
    least = rational_divergences(target, best)
    for rival in rivals:
        for name, value in rational_divergences(target, rival).items():
            yield at_most(least[name], value, divergence=name)
    f = draw.vector("f", len(target), low=-9)
    big = exact.lam_for_budget(target, before, budget)
    weight = tuple(max(big, a / b) if b else F(0) for a, b in zip(target, before, strict=True))
    accept = tuple(exact.accept_prob(target, before, big))
    yield equal(
        rules.mean(before, accept, weight, f),
        rules.mean(target, tuple(F(b > 0) for b in before), f),
    )


@claim("E4-length", "docs/theory.md, E4(iii)", share=0.3)
def the_price_of_length(draw):
    """With T independent positions of one (p, q), supp p in supp q, E_Q R^2 = (1 + chi2(p||q))^T,
    and the share of trajectories accepted at a fixed Lam does not grow with T."""
    p, q = draw.pair(v=int(draw.rng.integers(2, 4)), q_zero=False)
    lam = draw.lam(p, q)
    target, before, shares = (F(1),), (F(1),), []
    for t in (1, 2, 3):
        target, before = (
            joint(distribution, [row] * len(distribution))
            for distribution, row in ((target, p), (before, q))
        )
        squared = rules.mean(before, rules.ratios(target, before), rules.ratios(target, before))
        yield equal(squared, (1 + exact.chi2_p_q(p, q)) ** t, t=t)
        shares.append(exact.acceptance_rate(target, before, lam))
    for shorter, longer in pairwise(shares):
        yield at_most(longer, shorter)
