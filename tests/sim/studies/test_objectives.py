"""Factors of the objectives: values by hand, and what the papers' formulas imply.

tests/jackpot/torch/test_objectives_against_lab.py compares them with the trainer's functions.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from sim.studies import objectives as lab

INF = math.inf
ANY = 0.0, INF
SEEDS = range(5)


def paths(seed: int, n: int = 200, h: int = 5):
    """log p / q at the tokens of n paths, and an advantage of each, a quarter of them 0."""
    rng = np.random.default_rng(seed)
    return 0.5 * rng.normal(size=(n, h)), rng.choice([-1.0, 0.0, 0.5, 2.0], (n, 1))


def test_the_example_of_docs_methods_by_hand():
    """p_inf = (.5, .4), p_ref = (.4, .5), p_new = (.6, .45), A = 1."""
    log_r, log_rho = np.log([[1.5, 0.9]]), np.log([[1.2, 1.125]])
    one = np.ones((1, 1))
    assert lab.ppo(log_r, one, 0.8, 1.2) == pytest.approx(np.array([[0, 0.9]]))
    assert lab.cispo(log_r, 0, 1.4) == pytest.approx(np.array([[1.4, 0.9]]))
    assert lab.gspo(log_r, one, 0.8, 1.2) == pytest.approx(np.full((1, 2), math.sqrt(1.35)))
    assert lab.minpro(log_rho, 0.8, 1.28) == pytest.approx(np.array([[1.2, 1.28]]))
    distance = np.array([[0.1, 0.05]])
    found = lab.dppo(log_rho, log_rho, one, distance, 0.08, 20.0)
    assert found == pytest.approx(np.array([[0, 1.125]]))
    threshold = lab.m2po_threshold(log_rho, one, one, 0.02)
    assert threshold == pytest.approx(math.log(1.2) ** 2)
    assert lab.m2po(log_rho, one, threshold) == pytest.approx(np.array([[0, 1.125]]))
    log_r = np.log([[0.75, 0.9]])
    assert not lab.opsm(-log_r, -one, 0.1).any() and lab.opsm(-log_r, one, 0.1).all()
    a = np.array([[1.0, -1.0]])
    bounds = lab.bapo_bounds(np.array([[1.5, 0.9]]), a, np.array([[0.5, 0.4]]), share=0.65)
    assert bounds == pytest.approx((0.6, 1.35))


def test_divergences_by_hand():
    """q = (.5, .4, .1), p = (.6, .1, .3), k = 1: the sampled token, q's likeliest, the others."""
    log_q, log_p = np.log([[0.5, 0.4, 0.1]]), np.log([[0.6, 0.1, 0.3]])

    def of(kind: lab.Divergence, k: int = 1):
        return lab.divergence(log_p, log_q, kind, k)[0]

    assert of("binary_tv") == pytest.approx([0.1, 0.3, 0.2])
    assert of("top_k_tv") == pytest.approx([0.1, 0.3, 0.3])
    kl = sum(q * math.log(q / p) for q, p in ((0.5, 0.6), (0.4, 0.1), (0.1, 0.3)))
    first = 0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.4)
    assert of("top_k_kl") == pytest.approx([first, kl, kl])
    assert of("binary_kl")[0] == pytest.approx(first)
    assert of("top_k_kl", 3) == pytest.approx([kl] * 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_on_policy_every_factor_is_one(seed):
    """p = p_ref = q."""
    zero, a = np.zeros((50, 4)), paths(seed, 50)[1]
    found = (
        lab.ppo(zero, a, 0.8, 1.2), lab.cispo(zero, 0.8, 1.2), lab.gspo(zero, a, 0.9997, 1.0004),
        lab.dppo(zero, zero, a, zero, 0.0, 20.0), lab.minpro(zero, 0.8, 1.2),
        lab.m2po(zero, a, lab.m2po_threshold(zero, a, np.ones((50, 1)), 0.0)),
        lab.opsm(zero, a, 0.0),
    )  # fmt: skip
    for factor in found:
        assert (factor == 1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_without_bounds_the_factor_is_the_ratio(seed):
    log_rho, a = paths(seed)
    rho = np.exp(log_rho)
    for factor in (
        lab.ppo(log_rho, a, *ANY),
        lab.cispo(log_rho, *ANY),
        lab.dppo(log_rho, log_rho, a, rho, INF, INF),
        lab.m2po(log_rho, a, lab.m2po_threshold(log_rho, a, np.ones((200, 1)), INF)),
    ):
        np.testing.assert_allclose(factor, rho, rtol=1e-14)
    assert lab.opsm(-log_rho, a, INF).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_of_one_position_gspo_is_ppo_and_minpro_is_cispo(seed):
    log_rho, a = (x[:, :1] for x in paths(seed))
    bounds = 0.9, 1.1
    np.testing.assert_allclose(lab.gspo(log_rho, a, *bounds), lab.ppo(log_rho, a, *bounds))
    np.testing.assert_allclose(lab.minpro(log_rho, *bounds), lab.cispo(log_rho, *bounds))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bounds_of_each_objective_hold(seed):
    """GSPO is equal along a path; CISPO and MinPRO never vanish; OPSM leaves A >= 0 alone."""
    log_rho, a = paths(seed)
    assert (np.ptp(lab.gspo(log_rho, a, 0.9, 1.1), axis=1) == 0).all()
    for factor in (lab.cispo(log_rho, 0.8, 1.28), lab.minpro(log_rho, 0.8, 1.28)):
        assert factor.min() >= 0.8 and factor.max() <= 1.28
    assert lab.opsm(-log_rho, a, 0.0)[a[:, 0] >= 0].all()
    assert not lab.opsm(-log_rho, a, 0.0).all()
    # DPPO at delta 0 keeps exactly what moves towards q or carries nothing
    kept = lab.dppo(log_rho, log_rho, a, np.abs(log_rho), 0.0, 20.0) > 0
    np.testing.assert_array_equal(kept, a * log_rho <= 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_second_moment_that_is_kept_is_at_most_tau(seed):
    """Under any masses, and with one more value kept it would be above."""
    log_rho, a = paths(seed)
    mass = np.random.default_rng(seed).uniform(0.1, 2, log_rho.shape)
    threshold = lab.m2po_threshold(log_rho, a, mass, 0.1)
    pushed, square = a * log_rho > 0, log_rho**2
    below, with_it = pushed & (square < threshold), pushed & (square <= threshold)
    assert np.average(square[below], weights=mass[below]) <= 0.1
    assert np.average(square[with_it], weights=mass[with_it]) > 0.1


@pytest.mark.parametrize("accounting", ["value", "grad", "literal"])
def test_bapos_walk_ends_where_it_must(accounting):
    """share 0 and advantages of one sign above 0: the first bounds; all below 0: the last."""
    ratio, mass = np.exp(paths(0)[0]), np.full((200, 5), 0.1)
    one = np.ones((200, 1))
    assert lab.bapo_bounds(ratio, -one, mass, 0.0, accounting) == (0.6, 1.2)
    assert lab.bapo_bounds(ratio, one, mass, 1.0, accounting) == (0.6, 1.2)
    assert lab.bapo_bounds(ratio, -one, mass, 0.4, accounting) == pytest.approx((0.9, 3.0))


def distributions(seed: int, n: int = 9):
    """log p, p_pre and q of n completions, and rewards."""
    rows = np.random.default_rng(seed).normal(size=(3, n))
    rows -= np.logaddexp.reduce(rows, axis=1, keepdims=True)
    return *rows, np.random.default_rng(seed).choice([0.0, 0.25, 1.0], n)


@pytest.mark.parametrize("seed", SEEDS)
def test_dmpos_limits(seed):
    """alpha -> inf, p_pre = q: every weight 1. alpha -> 0: all weight on the best, by p_pre."""
    new, pre, inf, reward = distributions(seed)
    assert lab.dmpo(new, inf, inf, reward, 1e12, "none") == pytest.approx(np.ones(9))
    found = lab.dmpo(new, pre, inf, reward, 1e-3, "none") * np.exp(inf)
    best = np.where(reward == reward.max(), np.exp(pre), 0)
    assert found == pytest.approx(best / best.sum(), abs=1e-12)
    for baseline in ("mean", "neg", "self"):  # each has mean 1 under q, so none is 0
        parts = (lab.dmpo(new, pre, inf, reward, 0.5, b) for b in ("none", baseline))
        base = np.subtract(*parts)
        assert (base * np.exp(inf)).sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_star_pos_value_lies_between_the_mean_and_the_largest_reward(seed):
    """It rises as beta falls; binary rewards: beta log(1 + share (exp(1 / beta) - 1))."""
    _, pre, _, reward = distributions(seed)
    values = [lab.optimal_value(pre, reward, beta) for beta in (1e6, 1.0, 0.1, 1e-3)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(np.exp(pre) @ reward, rel=1e-5)
    assert values[-1] == pytest.approx(reward.max(), abs=0.02)
    share = float(np.exp(pre)[reward == 1].sum())
    binary = lab.optimal_value(pre, (reward == 1).astype(float), 0.3)
    assert binary == pytest.approx(0.3 * math.log1p(share * math.expm1(1 / 0.3)))


@pytest.mark.parametrize("seed", SEEDS)
def test_alpha_dpos_coefficients_are_the_slope_of_its_loss(seed):
    """Central differences of the mean over pairs, by loops; z and its statistics held fixed."""
    new, pre, inf, reward = distributions(seed)
    prob, right = np.exp(inf), reward == 1.0
    if not right.any() or right.all():
        right = np.arange(9) < 4
    settings = {"beta": 2.0, "gamma_beta_ratio": 0.3, "alpha": 0.4}
    wins, losses = np.flatnonzero(right).tolist(), np.flatnonzero(~right).tolist()
    share = {i: prob[i] / prob[right if right[i] else ~right].sum() for i in range(9)}
    pairs = [(w, b, share[w] * share[b]) for w in wins for b in losses]
    apart = {(w, b): ((new - pre)[w] - (new - pre)[b]) / 3 for w, b, _ in pairs}
    mean = sum(m * apart[w, b] for w, b, m in pairs)
    spread = math.sqrt(sum(m * (apart[w, b] - mean) ** 2 for w, b, m in pairs))

    def loss(x) -> float:
        total = 0.0
        for w, b, m in pairs:
            margin = (x[w] - x[b]) / 3 - 0.4 * (apart[w, b] - mean) / spread - 0.3
            total += m * math.log1p(math.exp(-2.0 * margin))
        return total

    found = lab.alpha_dpo(new, pre, prob, right, 3, **settings) * prob
    for i, step in enumerate(1e-6 * np.eye(9)):
        slope = (loss(new + step) - loss(new - step)) / 2e-6
        assert found[i] == pytest.approx(-slope, rel=1e-5, abs=1e-9)
