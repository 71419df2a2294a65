"""Objectives on a tree: special cases that other estimators compute, and slopes of the losses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from rational_world import some_world, world_of
from scipy.special import log_softmax

from sim.studies.gradient_estimators import Estimator, moments
from sim.studies.objective_estimators import ObjectiveEstimator as Obj
from sim.studies.objective_estimators import moments_of
from sim.worlds.trees import path_prob

FREE = {"low": 0.0, "high": math.inf}
TIS = Estimator("", "tis", cap=1.25, target="ref")
COIN = Estimator("", "jackpot", lam=1.5, c1=1.125, c2=1.25, target="ref")
WIDE = {"divergence": "binary_kl", "delta": math.inf}
SAME = [  # an objective without bounds, and the estimator that it then is
    (Obj("", "ppo", settings=FREE), Estimator("", "none")),
    (Obj("", "ppo", correction=TIS, settings=FREE), TIS),
    (Obj("", "ppo", correction=COIN, settings=FREE), COIN),
    (Obj("", "cispo", correction=COIN, settings=FREE), COIN),
    (Obj("", "ppo", "inf", settings=FREE), Estimator("", "importance")),
    (Obj("", "cispo", "inf", settings={"low": 0.0, "high": 1.25}), replace(TIS, target="new")),
    (Obj("", "dppo", "inf", settings=WIDE | {"cap": 1.25}), replace(TIS, target="new")),
    (
        Obj("", "dppo", correction=replace(COIN, target="new"), settings=WIDE | {"cap": math.inf}),
        replace(COIN, target="new"),
    ),
    (Obj("", "m2po", "inf", settings={"tau": math.inf}), Estimator("", "importance")),
]


@pytest.mark.parametrize(("objective", "estimator"), SAME)
def test_without_bounds_an_objective_is_its_correction(objective, estimator):
    """Mean, variance and acceptance, also where p has moved from p_ref."""
    for world in (world_of(), some_world(0, staleness=0.4)):
        found, wanted = moments_of(world, objective), moments(world, estimator)
        np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-10, atol=1e-14)
        assert found.variance == pytest.approx(wanted.variance, rel=1e-10)
        assert found.acceptance == pytest.approx(wanted.acceptance)


def slope_of(world, loss) -> np.ndarray:
    """Central differences of a function of log p (s, v) by the logits of every state."""
    table = np.empty(world.log_p.shape)
    for cell in np.ndindex(*table.shape):
        sides = []
        for step in (1e-5, -1e-5):
            logits = world.log_p.copy()
            logits[cell] += step
            sides.append(loss(log_softmax(logits, axis=1)))
        table[cell] = (sides[0] - sides[1]) / 2e-5
    return table


def of_paths(world, log_pi) -> np.ndarray:
    return world.tree.at_paths(log_pi).sum(axis=1)


def test_dmpos_mean_is_the_slope_of_its_kls():
    """-(KL(p* || p) - s KL(p_- || p)), p* and p_- by hand from p_pre = p_ref."""
    world = world_of()
    pre = path_prob(world.tree, world.log_ref)
    tilted = [pre * np.exp(sign * world.reward / 0.5) for sign in (1, -1)]
    best, worst = (x / x.sum() for x in tilted)

    def loss(log_pi) -> float:
        return -float((best - 0.3 * worst) @ of_paths(world, log_pi))

    est = Obj("", "dmpo", settings={"alpha": 0.5, "baseline": "neg", "scale": 0.3})
    np.testing.assert_allclose(
        moments_of(world, est).mean, -slope_of(world, loss), rtol=1e-6, atol=1e-9
    )


def test_of_dmpos_baselines_self_adds_nothing_and_mean_nothing_on_policy():
    """E_q[grad log p] is 0 for q = p alone; E_p[grad log p] always."""

    def mean_of(world, baseline: str) -> np.ndarray:
        settings = {"alpha": 0.5, "baseline": baseline}
        return moments_of(world, Obj("", "dmpo", settings=settings)).mean

    away = world_of()
    on_policy = replace(away, log_q=away.log_p)
    for world, baseline in ((away, "self"), (on_policy, "self"), (on_policy, "mean")):
        np.testing.assert_allclose(mean_of(world, baseline), mean_of(world, "none"), atol=1e-14)
    assert np.abs(mean_of(away, "mean") - mean_of(away, "none")).max() > 0.05


def test_a_star_pos_mean_is_the_slope_of_its_expected_loss():
    """Under paths of q, whatever q is."""
    world = world_of()
    pre, prob = path_prob(world.tree, world.log_ref), path_prob(world.tree, world.log_q)
    value = 0.4 * math.log(pre @ np.exp(world.reward / 0.4))

    def loss(log_pi) -> float:
        apart = of_paths(world, log_pi) - of_paths(world, world.log_ref)
        return float(prob @ (0.2 * apart + value - world.reward) ** 2)

    est = Obj("", "a_star_po", settings={"beta_1": 0.4, "beta_2": 0.2})
    np.testing.assert_allclose(
        moments_of(world, est).mean, -slope_of(world, loss), rtol=1e-6, atol=1e-9
    )


def test_alpha_dpos_mean_is_the_slope_of_its_mean_over_pairs():
    """alpha 0: no z. Right and wrong paths drawn from q, each pair by its probability."""
    world = world_of()
    prob, right = path_prob(world.tree, world.log_q), world.reward > 0
    good, bad = (prob * side / prob[side].sum() for side in (right, ~right))

    def loss(log_pi) -> float:
        mean = of_paths(world, log_pi) / world.tree.horizon
        margin = 2.5 * (mean[:, None] - mean - 0.6)
        return float(good @ np.log1p(np.exp(-margin)) @ bad)

    est = Obj("", "alpha_dpo", settings={"alpha": 0.0})
    np.testing.assert_allclose(
        moments_of(world, est).mean, -slope_of(world, loss), rtol=1e-6, atol=1e-9
    )


def test_bounds_of_the_batch_are_those_of_the_distribution():
    """BAPO with no step to make is PPO at its first bounds; M2PO at tau 0 masks all it may."""
    world = some_world(1, staleness=0.4)
    still = Obj("", "bapo", settings={"share": 0.0})
    same = Obj("", "ppo", settings={"low": 0.6, "high": 1.2})
    assert (moments_of(world, still).mean == moments_of(world, same).mean).all()
    wide = Obj("", "bapo", settings={"share": 1.0})
    assert (moments_of(world, wide).mean != moments_of(world, same).mean).any()
    none = Obj("", "m2po", "inf", settings={"tau": 0.0})
    delta = {"divergence": "binary_tv", "delta": 0.0, "cap": math.inf}
    tight = Obj("", "dppo", "inf", settings=delta)
    np.testing.assert_allclose(moments_of(world, none).mean, moments_of(world, tight).mean)


def test_a_mask_of_whole_paths_drops_what_drifted():
    """opsm at delta inf is nothing, and at 0 it changes the mean and lowers E|G|^2."""
    world = some_world(2, staleness=0.4)
    plain, off, on = (
        moments_of(world, Obj("", "ppo", "inf", settings=FREE, opsm_delta=d))
        for d in (math.inf, math.inf, 0.0)
    )
    assert (plain.mean == off.mean).all() and (on.mean != plain.mean).any()
    second = [m.variance + float((m.mean**2).sum()) for m in (on, plain)]
    assert second[0] < second[1]


def test_gspo_with_a_coin_is_refused():
    """A rejected token is in no sequence's ratio, so the factor would depend on the coins."""
    with pytest.raises(ValueError, match="without a coin only"):
        moments_of(world_of(), Obj("", "gspo", correction=COIN, settings=FREE))
