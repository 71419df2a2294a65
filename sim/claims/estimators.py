"""Our statements on estimators (docs/theory.md, C3-C5): normalisers, caps, what to pay for.

Proofs of the same statements, for readers, are in docs/theory_estimators.md.
"""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np

from sim.oracle import exact, rules
from sim.studies import subsampling

from .registry import CORRECTED, FAILS, agree, at_most, below, claim, equal
from .weights import joint, states, token_case

Row = tuple[F, ...]
HALVES = (F(1, 2), F(1, 2))
# state 1 is matched, state 2 has Z = 3/4 at lam = 1; only state 1 contributes (f = 1 there)
ONE_STATE_MATCHED = {
    "p": (HALVES, HALVES),
    "q": (HALVES, (F(1, 4), F(3, 4))),
    "d": HALVES,
    "lam": F(1),
    "f": (F(1), F(1), F(0), F(0)),
}


def many_states(draw) -> tuple:
    """d, ps, qs, lam, Z of every state, and a test function f of (state, token) pairs."""
    ps, qs, d = states(draw)
    lam = draw.keep("lam", F(int(draw.rng.integers(1, 25)), int(draw.rng.integers(4, 25))))
    f = draw.vector("f", len(d) * len(ps[0]), low=-9)
    z = [exact.acceptance_rate(p, q, lam) for p, q in zip(ps, qs, strict=True)]
    return d, ps, qs, lam, z, f


def weighted_mean(d, ps, qs, lam: F, scale, f: Row) -> F:
    """E over states, tokens and coins of mask * scale_s * max(lam, r) * f."""
    total, flat = F(0), iter(f)
    for ds, p, q, c in zip(d, ps, qs, scale, strict=True):
        for a, b, accept in zip(p, q, exact.accept_prob(p, q, lam), strict=True):
            x = next(flat)
            for mask, chance in ((1, accept), (0, 1 - accept)):
                total += ds * b * chance * mask * c * max(lam, a / b if b else F(0)) * x
    return total


def state_means(ps, qs, f: Row) -> list[F]:
    """mu_s = E_p[f 1(q > 0)] of every state."""
    v = len(ps[0])
    rows = [f[i * v : (i + 1) * v] for i in range(len(ps))]
    return [
        rules.mean(p, tuple(F(b > 0) for b in q), x) for p, q, x in zip(ps, qs, rows, strict=True)
    ]


@claim("Eq5-objective", "paper, Eq. 5", FAILS, example=ONE_STATE_MATCHED)
def equation_5_is_the_ppo_objective(draw):
    """As printed, with F = id: the mean of Eq. 5 is a multiple of the PPO objective under p at the
    actor's states, E_d[mu_s], with one factor for the whole batch (f = 1 shows it to be Zbar)."""
    d, ps, qs, lam, z, f = many_states(draw)
    objective = weighted_mean(d, ps, qs, lam, z, f)
    yield equal(objective, rules.mean(d, z) * rules.mean(d, state_means(ps, qs, f)))


@claim(
    "C3-limits", "paper, Eq. 5; docs/theory.md, C3", CORRECTED, corrects="Eq5-objective", share=0.4
)
def the_limits_of_the_normalisers(draw):
    """As corrected, for many tokens: with w = Z_s max(lam, r) the sum over proposed tokens tends to
    E_d[Z_s mu_s], over accepted ones to E_d[Z_s mu_s] / Zbar; with max(lam, r) they tend to
    E_d[mu_s] and E_d[mu_s] / Zbar; with Zbar max(lam, r) per accepted token to E_d[mu_s]. Here
    mu_s = E_p[f 1(q > 0)] and Zbar = E_d Z_s."""
    d, ps, qs, lam, z, f = many_states(draw)
    mu, zbar = state_means(ps, qs, f), rules.mean(d, z)
    one = [F(1)] * len(d)
    accepted = sum(
        ds * b * a
        for ds, p, q in zip(d, ps, qs, strict=True)
        for a, b in zip(exact.accept_prob(p, q, lam), q, strict=True)
    )
    yield equal(accepted, zbar)
    yield equal(weighted_mean(d, ps, qs, lam, z, f), rules.mean(d, z, mu))
    yield equal(weighted_mean(d, ps, qs, lam, z, f) / accepted, rules.mean(d, z, mu) / zbar)
    yield equal(weighted_mean(d, ps, qs, lam, one, f), rules.mean(d, mu))
    yield equal(weighted_mean(d, ps, qs, lam, one, f) / accepted, rules.mean(d, mu) / zbar)
    of_batch = weighted_mean(d, ps, qs, lam, [zbar] * len(d), f)
    yield equal(of_batch / accepted, rules.mean(d, mu))


@claim("C3-weight", "docs/theory.md, C3")
def the_exact_weight_of_an_accepted_pair(draw):
    """Accepted (state, token) pairs follow d(s) Z_s q~_s(x) / Zbar, and d(s) p_s(x) over it is
    Zbar max(lam, r): the Z of the batch in every state; it is Z_s max(lam, r) in all states only if
    all Z_s are equal."""
    d, ps, qs, lam, z, _ = many_states(draw)
    zbar = rules.mean(d, z)
    after = [
        exact.post_rejection(p, q, lam) if rate else [F(0)] * len(p)
        for p, q, rate in zip(ps, qs, z, strict=True)
    ]
    tilted = tuple(a * b / zbar for a, b in zip(d, z, strict=True))
    wrong = False
    for i, (target, accepted, p, q) in enumerate(
        zip(joint(d, ps), joint(tilted, after), joint(one_each(d), ps), joint(one_each(d), qs),
            strict=True)
    ):  # fmt: skip
        if accepted:
            yield equal(target / accepted, zbar * max(lam, p / q))
            wrong = wrong or target / accepted != z[i // len(ps[0])] * max(lam, p / q)
    yield agree(wrong, any(x != zbar for x in z if x))


def one_each(d: Row) -> Row:
    return (F(1),) * len(d)


def stale_case(draw) -> tuple:
    """Per token: r = p_new / q, r_theta = p_new / p_ref, and lam, Z, caps c1 and c2."""
    p, q, lam, z, _, r = token_case(draw)
    ref = tuple(F(int(x), 8) for x in draw.rng.integers(1, 33, len(p)))
    ref = draw.keep("p_ref", tuple(x / sum(ref) for x in ref))
    theta = tuple(a / b for a, b in zip(p, ref, strict=True))
    return q, ref, r, theta, lam, z, draw.fraction("c1", high=3), draw.fraction("c2", high=3)


@claim("C4-multiplier", "docs/theory.md, C4")
def the_multiplier_of_a_token_in_jackpot(draw):
    """With target p_new, an unclipped term moves log p_new by A times r_theta mask min(w, c1)
    min(p_ref / p_new, c2); averaged over the coin this is min(Z p_new / q, c1 a) min(1,
    c2 r_theta) <= c1, whatever r_theta = p_new / p_ref; for c1 >= lam Z the first factor is
    min(Z p_new / q, c1)."""
    q, _, r, theta, lam, z, c1, c2 = stale_case(draw)
    for i in (i for i, b in enumerate(q) if b and r[i]):
        a = min(F(1), r[i] / lam)
        second = min(1 / theta[i], c2)
        multiplier = theta[i] * exact.expected_weight(r[i], lam, z, c1) * second
        yield equal(multiplier, min(z * r[i], c1 * a) * min(F(1), c2 * theta[i]), token=i)
        yield at_most(multiplier, c1, token=i)
        if c1 >= lam * z:
            yield equal(multiplier, min(z * r[i], c1) * min(F(1), c2 * theta[i]), token=i)


@claim(
    "C4-tis-bound",
    "paper, Table 3; docs/theory.md, C4 (refuted there)",
    FAILS,
    example={
        "p": (F(9, 10), F(1, 10)),
        "q": (F(1, 10), F(9, 10)),
        "p_ref": (F(1, 10), F(9, 10)),
        "cap": F(2),
    },
)
def the_multiplier_of_a_token_in_tis(draw):
    """Expected in a comparison without the PPO clip: TIS, min(p_ref / q, C) r_theta, moves no
    log p_new by more than its cap C either."""
    q, ref, _, theta, *_ = stale_case(draw)
    cap = draw.fraction("cap", high=3)
    for i, b in enumerate(q):
        if b:
            yield at_most(exact.tis(ref[i] / b, cap) * theta[i], cap, token=i)


def second_moment(q: Row, size: Row, accept) -> F | float:
    """E_q[(r |f|)^2 / a], from size = r |f|; inf if a token that carries something gets a = 0."""
    if any(b and x and not a for b, x, a in zip(q, size, accept, strict=True)):
        return math.inf
    terms = ((b, x, a) for b, x, a in zip(q, size, accept, strict=True) if b and x)
    return sum((b * x * x / a for b, x, a in terms), F(0))


@claim("C5-neyman", "docs/theory.md, C5")
def what_to_pay_for(draw):
    """Among rules of mean acceptance b, a = min(1, r |f| / lam) has the least second moment
    E_q[r^2 f^2 / a] of the unbiased weight r / a; for |f| of one size this is OBRS. The minimum is
    E_q[r |f|]^2 / b if no a is cut at 1, and more otherwise."""
    p, q = draw.pair()
    f = draw.vector("f", len(p), low=1) if draw.rng.random() < 0.5 else (F(1),) * len(p)
    size = tuple(a * x / b if b else F(0) for a, b, x in zip(p, q, f, strict=True))
    total = rules.mean(q, size)
    target = tuple(b * x / total for b, x in zip(q, size, strict=True))
    best, rivals = rules.contest(draw, target, q)
    budget = draw.case["budget"]
    distributions = (best, *rivals)
    least, *others = (
        second_moment(
            q, size, [x * budget / b if b else F(0) for x, b in zip(distribution, q, strict=True)]
        )
        for distribution in distributions
    )
    for other in others:
        yield below(least, other)
    yield at_most(total**2 / budget, least)
    yield agree(least == total**2 / budget, best == target)


def price(p: Row, q: Row, lam: F, cost: F) -> F:
    """(c_g / c_b + Z) E_p[max(lam, r) 1(q > 0)]."""
    pairs_of = [(a, a / b) for a, b in zip(p, q, strict=True) if b]
    second = sum((a * max(lam, r) for a, r in pairs_of), F(0))
    return (cost + exact.acceptance_rate(p, q, lam)) * second


def slope(p: Row, q: Row, lam: F, cost: F) -> F:
    """lam^2 (c_g / c_b + Z) - E_p max(lam, r), the sign of the price's derivative."""
    second = sum((a * max(lam, a / b) for a, b in zip(p, q, strict=True) if b), F(0))
    return lam**2 * (cost + exact.acceptance_rate(p, q, lam)) - second


@claim("C5-cost", "docs/theory.md, C5")
def the_lam_that_is_worth_its_price(draw):
    """For |f| of one size and c_g > 0, the price (c_g / c_b + Z) E_p max(lam, r) does not rise
    with lam while lam^2 (c_g / c_b + Z) < E_p max(lam, r) and does not fall after; the difference
    of the two sides increases strictly, so it has one root, and no lam is cheaper than that root;
    sim.studies.subsampling finds it to 1e-9."""
    p, q = draw.pair()
    cost = draw.fraction("cost_ratio", high=5)
    low, high = sorted((draw.lam(p, q), draw.lam(p, q, "lam2")))
    if low < high:
        yield below(slope(p, q, low, cost), slope(p, q, high, cost))
        if slope(p, q, high, cost) <= 0:
            yield at_most(price(p, q, high, cost), price(p, q, low, cost))
        if slope(p, q, low, cost) >= 0:
            yield at_most(price(p, q, low, cost), price(p, q, high, cost))
    mass = np.array(q, dtype=float)
    ratio = np.array([a / b if b else 0 for a, b in zip(p, q, strict=True)], dtype=float)
    lam = F(subsampling.cost_optimal_lam(mass, ratio, float(cost)))
    yield below(slope(p, q, lam * (1 - F(1, 10**9)), cost), 0)
    yield below(0, slope(p, q, lam * (1 + F(1, 10**9)), cost))
