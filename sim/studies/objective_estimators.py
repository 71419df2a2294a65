"""Objectives on a tree: the expected gradient, noise and error of one path, exactly.

One path gives G = sum_t keep_t weight_t factor_t A grad log p(x_t | s_t). The correction gives keep
and weight (`gradient_estimators`, without the PPO term's own ratio), the objective the factor
(`objectives`). An objective of whole completions gives a coefficient in place of weight, factor and
A. What depends on the batch is at its limit for infinitely many paths: BAPO's bounds, M2PO's
threshold, DMPO's weights, alpha-DPO's partners and z. So is the variance: it is that of one path
with these numbers known.

p_pre, the frozen policy of the completions' objectives, is p_ref here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sim.worlds.trees import Array, World, path_prob

from . import objectives
from .gradient_estimators import (
    Estimator,
    Moments,
    Terms,
    advantage,
    average_moments,
    log_ratio,
    moments,
    terms,
)


@dataclass(frozen=True)
class ObjectiveEstimator:
    """An objective, the denominator of its ratio, the correction it goes with, and its settings.

    `settings` are those of the objective's function in `objectives`, bounds as `low` and `high`;
    dppo: divergence, k, delta, cap; m2po: tau; bapo: those of `bapo_bounds`; a_star_po: beta_1 and
    beta_2. `opsm_delta` adds the mask of whole paths. `correction` None is a weight of 1.
    """

    name: str
    objective: Literal[
        "ppo", "cispo", "gspo", "dppo", "minpro", "bapo", "m2po", "a_star_po", "dmpo", "alpha_dpo"
    ]
    ratio: Literal["ref", "inf"] = "ref"
    correction: Estimator | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    opsm_delta: float = math.inf


def moments_of(world: World, est: Estimator | ObjectiveEstimator) -> Moments:
    """Exact moments of a correction or of an objective."""
    if isinstance(est, Estimator):
        return moments(world, est)
    if est.objective in ("a_star_po", "dmpo", "alpha_dpo"):
        ones = np.ones(world.tree.states.shape)
        coef = path_coefficients(world, est)[:, None] * ones
        return average_moments(world, Terms(ones, ones, ones), coef)
    correction = est.correction or Estimator("", "none")
    corrected = terms(world, correction)
    if est.objective == "gspo" and np.any((corrected.keep > 0) & (corrected.keep < 1)):
        raise ValueError(
            "gspo's ratio depends on which tokens of the path were accepted; "
            "its moments are known for corrections without a coin only"
        )
    coef = token_coefficients(world, est, corrected) * advantage(world)[:, None]
    return average_moments(world, corrected, coef)


def token_coefficients(world: World, est: ObjectiveEstimator, corrected: Terms) -> Array:
    """Weight of the correction times factor of the objective, at the tokens of every path, (n, h).

    `corrected` holds the unclipped PPO term's ratio p / p_ref, which the factor replaces.
    """
    ratio = np.exp(log_ratio(world, world.log_p, world.log_ref))
    zero = np.zeros_like(ratio)
    weight = np.divide(corrected.weight, ratio, out=zero, where=ratio > 0)
    return weight * factors(world, est, weight)


def factors(world: World, est: ObjectiveEstimator, weight: Array) -> Array:
    """The objective's factor at the tokens of every path, (n, h)."""
    s, a = dict(est.settings), advantage(world)[:, None]
    log_old = world.log_q if est.ratio == "inf" else world.log_ref
    log_r = log_ratio(world, world.log_p, log_old)
    log_rho = log_ratio(world, world.log_p, world.log_q)
    prob = path_prob(world.tree, world.log_q)[:, None]
    if est.objective == "ppo":
        factor = objectives.ppo(log_r, a, **s)
    elif est.objective == "cispo":
        factor = objectives.cispo(log_r, **s)
    elif est.objective == "gspo":
        factor = objectives.gspo(log_r, a, **s)
    elif est.objective == "dppo":
        kind, k = s.pop("divergence"), s.pop("k", 1)
        distance = objectives.divergence(world.log_p, world.log_q, kind, k)
        factor = objectives.dppo(log_r, log_rho, a, world.tree.at_paths(distance), **s)
    elif est.objective == "minpro":
        factor = objectives.minpro(log_rho, **s)
    elif est.objective == "bapo":
        mass = prob * np.exp(world.tree.at_paths(world.log_q)) * weight
        low, high = objectives.bapo_bounds(np.exp(log_r), a, mass, **s)
        factor = objectives.ppo(log_r, a, low, high)
    elif est.objective == "m2po":
        factor = objectives.m2po(log_rho, a, objectives.m2po_threshold(log_rho, a, prob, **s))
    else:
        raise ValueError(f"{est.objective} has no factor of single tokens")
    return factor * objectives.opsm(-log_r, a, est.opsm_delta)


def path_coefficients(world: World, est: ObjectiveEstimator) -> Array:
    """The coefficient of grad log p(y) of every path under an objective of whole completions."""
    s = dict(est.settings)
    tree, reward = world.tree, world.reward
    new, pre, inf = (
        tree.at_paths(x).sum(axis=1) for x in (world.log_p, world.log_ref, world.log_q)
    )
    if est.objective == "a_star_po":
        value = objectives.optimal_value(pre, reward, s["beta_1"])
        return objectives.a_star_po(new, pre, reward, value, s["beta_2"])
    if est.objective == "dmpo":
        return objectives.dmpo(new, pre, inf, reward, **s)
    prob = path_prob(tree, world.log_q)
    return objectives.alpha_dpo(new, pre, prob, reward > 0, tree.horizon, **s)
