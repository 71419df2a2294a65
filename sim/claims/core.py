"""The core, `jackpot` on float64, against arithmetic that shares no line with it.

Rational results are compared with `sim.oracle.exact`; divergences with logarithms are compared with
60-digit arithmetic on the very floats that the core was given. Families of large vocabularies,
where no exact value is at hand, are held to what the theorems say of them.
"""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
from mpmath import mp, mpf

import jackpot
from sim.oracle import exact, rules
from sim.worlds import pairs

from .registry import agree, at_most, claim, close, equal


def float_case(draw) -> tuple:
    """p, q, lam as rationals, and log p, log q as float64 rows (v,)."""
    p, q = draw.pair()
    return p, q, draw.lam(p, q), *pairs.log_probs([p, q])


@claim("core-distribution", "jackpot.accept_prob, acceptance_rate, post_rejection")
def the_core_rejects_as_defined(draw):
    """a, Z and q~ agree with rational arithmetic to 1e-12, zeros exactly."""
    p, q, lam, log_p, log_q = float_case(draw)
    args = log_p, log_q, float(lam)
    yield close(jackpot.accept_prob(*args), exact.accept_prob(p, q, lam), what="a")
    yield close(jackpot.acceptance_rate(*args), exact.acceptance_rate(p, q, lam), what="Z")
    after = exact.post_rejection(p, q, lam)
    yield close(np.exp(jackpot.post_rejection(*args)), after, what="q~")


@claim("core-lam", "jackpot.lam_for_budget")
def the_core_finds_the_lam(draw):
    """lam_for_budget agrees with rational arithmetic to 1e-12, at budget q(supp p) with the largest
    lam that fits; a budget above q(supp p) is refused."""
    p, q, _, log_p, log_q = float_case(draw)
    reach = exact.reach(p, q)
    for budget in (draw.fraction("budget", high=reach), reach):
        lam = jackpot.lam_for_budget(log_p, log_q, float(budget))
        yield close(lam, exact.lam_for_budget(p, q, budget), what="lam", at=budget)
        yield close(jackpot.acceptance_rate(log_p, log_q, float(lam)), budget, what="Z")
    if reach < 1:
        yield agree(_refuses(log_p, log_q, float((1 + reach) / 2)), True)


@claim("core-common-lam", "jackpot.common_lam_for_budget, lam_from_samples")
def the_core_finds_one_lam_for_many(draw):
    """common_lam_for_budget over 3 states with weights, and lam_from_samples over 12 ratios, agree
    with rational arithmetic to 1e-12."""
    v = int(draw.rng.integers(2, 6))
    ps, qs = zip(*(pairs.integer_weights(draw.rng, v) for _ in range(3)), strict=True)
    ps, qs = draw.keep("p", ps), draw.keep("q", qs)
    d = tuple(F(int(x)) for x in draw.rng.integers(1, 7, 3))
    reach = rules.mean(d, [exact.reach(p, q) for p, q in zip(ps, qs, strict=True)]) / sum(d)
    budget = draw.fraction("budget", high=reach)
    lam = jackpot.common_lam_for_budget(
        pairs.log_probs(ps), pairs.log_probs(qs), float(budget), np.array(d, dtype=float)
    )
    yield close(lam, exact.common_lam_for_budget(ps, qs, budget, d), what="common")
    ratios = draw.vector("ratios", 12, low=1)
    lam = jackpot.lam_from_samples(np.log(np.array(ratios, dtype=float)), float(budget))
    yield close(lam, exact.lam_from_ratios(ratios, budget), what="samples")


@claim("core-weights", "jackpot.obrs_weight, expected_weight, importance, tis, icepop")
def the_core_weighs_as_defined(draw):
    """Every weight of a sampled token agrees with rational arithmetic to 1e-12, capped or not."""
    p, q, lam, log_p, log_q = float_case(draw)
    z, c1 = exact.acceptance_rate(p, q, lam), draw.fraction("c1", high=3)
    low, high = draw.fraction("low"), 1 + draw.fraction("high")
    proposed = [i for i, b in enumerate(q) if b]
    log_r, r = (log_p - np.where(log_q > -np.inf, log_q, 0))[proposed], rules.ratios(p, q)
    args = float(lam), float(z)
    w = [exact.obrs_weight(x, lam, z) for x in r]
    yield close(jackpot.obrs_weight(log_r, *args), w, what="w")
    for cap in (c1, None):
        weight = jackpot.expected_weight(log_r, *args, np.inf if cap is None else float(cap))
        expected = [exact.expected_weight(x, lam, z, cap) for x in r]
        yield close(weight, expected, what="expected", cap=cap)
    yield close(jackpot.importance(log_r), r, what="importance")
    yield close(jackpot.tis(log_r, float(c1)), [exact.tis(x, c1) for x in r], what="tis")
    band = [exact.icepop(x, low, high) for x in r]
    if low not in r and high not in r:  # at its rounded ends the band is not rational
        yield close(jackpot.icepop(log_r, float(low), float(high)), band, what="icepop")


@claim("core-topk", "jackpot.z_topk, kappa")
def the_core_bounds_z_from_top_k(draw):
    """z_topk and kappa agree with rational arithmetic to 1e-12, and lower <= Z <= upper exactly in
    the latter, for any split of the vocabulary into known tokens and a tail."""
    p, q, lam, log_p, log_q = float_case(draw)
    k = draw.keep("k", int(draw.rng.integers(1, len(p))))
    tails = sum(p[k:], F(0)), sum(q[k:], F(0))
    lower, upper = exact.z_topk(p[:k], q[:k], lam, *tails)
    z = exact.acceptance_rate(p, q, lam)
    yield at_most(lower, z)
    yield at_most(z, upper)
    log_p_tail, log_q_tail = pairs.log_probs([tails])[0][:, None]
    args = log_p[None, :k], log_q[None, :k], float(lam), log_p_tail, log_q_tail
    yield close(np.ravel(jackpot.z_topk(*args)), [lower, upper], what="z_topk")
    kept, rates = draw.rng.random(5) < 0.7, [F(int(x), 20) for x in draw.rng.integers(1, 21, 5)]
    expected = exact.kappa([F(bool(x)) for x in kept], rates)
    yield close(jackpot.kappa(kept, np.array(rates, dtype=float)), expected, what="kappa")


@claim("core-rational-divergences", "jackpot.tv, chi2_p_q, chi2_q_p")
def the_core_measures_rational_divergences(draw):
    """For p != q with small integer weights, TV and chi2 both ways agree with rational arithmetic
    to 1e-12, infinities included."""
    p, q, _, log_p, log_q = float_case(draw)
    if p == q:
        return
    for name in ("tv", "chi2_p_q", "chi2_q_p"):
        measured = getattr(jackpot, name)(log_p, log_q)
        yield close(measured, getattr(exact, name)(p, q), what=name)


@claim("core-log-divergences", "jackpot.kl_p_q, kl_q_p, js, hellinger2", share=0.2)
def the_core_measures_logarithmic_divergences(draw):
    """KL both ways, JS and Hellinger agree with 60-digit arithmetic on the same floats to 1e-12,
    also for pairs that differ by factors 1 + 1e-9 only (generalised KL where a row's sum is not
    1)."""
    *_, log_p, log_q = float_case(draw)
    near = log_p + 1e-9 * draw.rng.standard_normal(log_p.shape)
    for name, other in (("given", log_q), ("nearly equal", near)):
        other = np.minimum(other, 0.0)
        if np.array_equal(log_p, other):
            continue
        for divergence, value in _sixty_digits(log_p, other).items():
            measured = getattr(jackpot, divergence)(log_p, other)
            yield close(measured, value, what=divergence, pair=name)


FAMILIES = {
    "dirichlet": lambda rng: pairs.dirichlet(rng, 4, 1000),
    "noisy proposal": lambda rng: pairs.noisy_proposal(rng, 4, 1000, 0.2),
    "noisy target": lambda rng: pairs.noisy_target(rng, 4, 1000, 0.2),
    "gaussian logits": lambda rng: pairs.gaussian_logits(rng, 4, 1000, 1.0),
    "heavy logits": lambda rng: pairs.heavy_logits(rng, 4, 1000, 1.0),
    "zipf": lambda rng: pairs.zipf(rng, 2, 20_000, 0.7),
    "temperature": lambda rng: pairs.temperature(rng, 4, 1000, 0.6),
    "missing support": lambda rng: pairs.missing_support(rng, 4, 200),
}


@claim("core-families", "jackpot on seeded families", share=0.1)
def the_core_obeys_the_theorems_at_large_vocabularies(draw):
    """On every family of sim.worlds.pairs, up to 20,000 tokens: Z(lam_for_budget(b)) = b and
    sum q~ = 1 to 1e-12; lam Z <= 1, TV(p, q~) = sum max(p - q/b, 0) and KL(p||q~) between
    KL(p||q) - log(1/b) and KL(p||q), all up to rounding of 1e-12."""
    family = draw.keep("family", list(FAMILIES)[int(draw.rng.integers(len(FAMILIES)))])
    log_p, log_q = FAMILIES[family](draw.rng)
    reach = np.sum(np.exp(np.where(log_p > -np.inf, log_q, -np.inf)), axis=-1)
    budget = 0.98 * reach * draw.rng.random(len(log_p))
    lam = jackpot.lam_for_budget(log_p, log_q, budget)
    z, after = jackpot.acceptance_rate(log_p, log_q, lam), jackpot.post_rejection(log_p, log_q, lam)
    yield at_most(float(np.max(np.abs(z / budget - 1))), 1e-12, what="Z")
    yield at_most(float(np.max(np.abs(np.exp(after).sum(-1) - 1))), 1e-12, what="sum q~")
    yield at_most(float(np.max(lam * z)), 1 + 1e-12, what="lam Z")
    least = np.maximum(np.exp(log_p) - np.exp(log_q) / budget[:, None], 0).sum(-1)
    yield at_most(float(np.max(np.abs(jackpot.tv(log_p, after) - least))), 1e-12, what="TV")
    before, late = jackpot.kl_p_q(log_p, log_q), jackpot.kl_p_q(log_p, after)
    finite = np.isfinite(before)
    yield equal(bool(np.array_equal(finite, np.isfinite(late))), True, what="KL finite")
    if finite.any():
        gain = (before - late)[finite]
        yield at_most(float(np.max(-gain)), 1e-12, what="KL")
        yield at_most(float(np.max(gain + np.log(budget[finite]))), 1e-12, what="floor")


def _refuses(log_p, log_q, budget: float) -> bool:
    try:
        jackpot.lam_for_budget(log_p, log_q, budget)
    except ValueError:
        return True
    return False


def _sixty_digits(log_p, log_q) -> dict:
    """Divergences of exp(log_p) and exp(log_q) as the table of jackpot.divergence defines them."""
    with mp.workdps(60):
        rows = [
            (mp.exp(mpf(float(a))), mp.exp(mpf(float(b))))
            for a, b in zip(log_p, log_q, strict=True)
        ]

        def kl(pairs_of):
            if any(a and not b for a, b in pairs_of):
                return float("inf")
            return sum((a * mp.log(a / b) - a + b if a else b for a, b in pairs_of), mpf(0))

        means = [(a + b) / 2 for a, b in rows]
        to_mean = [kl([(x[i], m) for x, m in zip(rows, means, strict=True)]) for i in (0, 1)]
        return {
            "kl_p_q": kl(rows),
            "kl_q_p": kl([(b, a) for a, b in rows]),
            "js": sum(to_mean) / 2,
            "hellinger2": sum((mp.sqrt(a) - mp.sqrt(b)) ** 2 for a, b in rows) / 2,
        }
