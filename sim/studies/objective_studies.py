"""Corrections, objectives, selections and allocations in one table: exact direction, bias, noise
and error on small trees.

Two studies: over the mismatch on trees of one shape, and over the horizon at one mismatch. In both
the policy has moved away from p_ref, so that ratios to p_ref are not 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from sim.worlds.trees import Tree, gradient, make_tree, random_world

from .estimator_studies import BASIC, JACKPOT, KL_GRID, Row
from .gradient_estimators import Estimator
from .group_estimators import (
    ALLOCATIONS,
    SELECTIONS,
    AllocationEstimator,
    GroupEstimator,
    allocation_moments,
    by_reward,
    prompts_of,
    selection_moments,
    true_gradient,
)
from .objective_estimators import ObjectiveEstimator as Obj
from .objective_estimators import moments_of

WORLDS = 50
STALENESS = 0.2  # sd of the noise between the logits of p and p_ref: about .013 nats
HORIZONS = (3, 4, 5, 6, 7, 8)
HORIZON_VOCAB = 3
HORIZON_KL = 0.1  # nats per token
COLUMNS = ("cosine", "bias", "noise", "error_64", "error_1024")

_TO_REF = tuple(replace(e, target="ref") for e in JACKPOT if e.per == "proposed")
CORRECTIONS: tuple[Estimator, ...] = BASIC + _TO_REF
TIS, COIN = BASIC[2], _TO_REF[0]
_TO_NEW = replace(COIN, target="new")

PPO = {"low": 0.8, "high": 1.2}
CISPO = {"low": 0.0, "high": 5.0}
GSPO = {"low": 1 - 3e-4, "high": 1 + 4e-4}
NO_CLIP = {"low": 0.0, "high": math.inf}
TV, KL = {"delta": 0.15, "cap": 20.0}, {"delta": 0.05, "cap": 20.0}
OPSM_DELTA = 1e-4


def objective_estimators(k: int) -> tuple[Obj, ...]:
    """Every objective at its papers' or frameworks' defaults; `k` likeliest tokens for top_k."""

    def dppo(kind: str, bounds: dict[str, float], name: str = "", **more: Any) -> Obj:
        settings = {"divergence": kind, "k": k, **bounds}
        return Obj(name or f"dppo {kind}", "dppo", **{"ratio": "inf", "settings": settings} | more)

    return (
        Obj("ppo", "ppo", settings=PPO),
        Obj("ppo, TIS", "ppo", correction=TIS, settings=PPO),
        Obj("ppo, Jackpot (coin)", "ppo", correction=COIN, settings=PPO),
        Obj("ppo, opsm", "ppo", settings=PPO, opsm_delta=OPSM_DELTA),
        Obj("cispo", "cispo", settings=CISPO),
        Obj("cispo, TIS", "cispo", correction=TIS, settings=CISPO),
        Obj("gspo", "gspo", settings=GSPO),
        Obj("gspo, TIS", "gspo", correction=TIS, settings=GSPO),
        Obj("bapo", "bapo"),
        Obj("bapo, TIS", "bapo", correction=TIS),
        Obj("cispo (inf)", "cispo", "inf", settings=CISPO),
        Obj("gspo (inf)", "gspo", "inf", settings=GSPO),
        Obj("gspo (inf), no clip", "gspo", "inf", settings=NO_CLIP),
        Obj("bapo (inf)", "bapo", "inf"),
        Obj("ppo (inf), opsm", "ppo", "inf", settings=PPO, opsm_delta=OPSM_DELTA),
        dppo("binary_tv", TV),
        dppo("binary_kl", KL),
        dppo("top_k_tv", TV),
        dppo("top_k_kl", KL),
        dppo("binary_tv", TV, "dppo binary_tv, Jackpot", ratio="ref", correction=_TO_NEW),
        Obj("minpro", "minpro", "inf", settings={"low": 0.8, "high": 1.28}),
        Obj("minpro, no clip", "minpro", "inf", settings=NO_CLIP),
        Obj("m2po", "m2po", "inf", settings={"tau": 0.04}),
        Obj("a_star_po", "a_star_po", settings={"beta_1": 0.5, "beta_2": 1e-3}),
        Obj("dmpo, no baseline", "dmpo", settings={"baseline": "none"}),
        Obj("dmpo, neg", "dmpo", settings={"baseline": "neg"}),
        Obj("dmpo, mean", "dmpo", settings={"baseline": "mean"}),
        Obj("dmpo, self", "dmpo", settings={"baseline": "self"}),
        Obj("alpha_dpo", "alpha_dpo"),
    )


AnyEstimator = Estimator | Obj | GroupEstimator | AllocationEstimator


def all_estimators(vocab: int) -> tuple[AnyEstimator, ...]:
    """Corrections, objectives with their corrections, selections and allocations; top_k takes half
    of the vocabulary."""
    objectives = objective_estimators(max(1, vocab // 2))
    return CORRECTIONS + objectives + SELECTIONS + ALLOCATIONS


def group_of(est: AnyEstimator) -> str:
    """Which block of the table an estimator stands in."""
    if isinstance(est, Estimator):
        return "corrections"
    if isinstance(est, GroupEstimator):
        return "selections"
    if isinstance(est, AllocationEstimator):
        return "allocations"
    if est.objective in ("a_star_po", "dmpo", "alpha_dpo"):
        return "whole completions"
    near_actor = est.ratio == "inf" or est.objective == "dppo"
    return "around the actor, p_inf" if near_actor else "around p_ref"


def by_mismatch(tree: Tree, seeds: Iterable[int], kls: Iterable[float] = KL_GRID) -> list[Row]:
    """Every estimator in every world at each mismatch."""
    return [row for kl in kls for row in _rows(tree, seeds, kl)]


def by_horizon(seeds: Iterable[int], horizons: Iterable[int] = HORIZONS) -> list[Row]:
    """The same at one mismatch per token on trees of 3 tokens, longer and longer."""
    trees = (make_tree(HORIZON_VOCAB, horizon) for horizon in horizons)
    return [row for tree in trees for row in _rows(tree, seeds, HORIZON_KL)]


def _rows(tree: Tree, seeds: Iterable[int], kl: float) -> Iterator[Row]:
    estimators = all_estimators(tree.vocab)
    for seed in seeds:
        world = random_world(tree, seed, kl=kl, staleness=STALENESS)
        prompts = prompts_of(world, seed)
        of_one, of_all = gradient(world, world.log_p, world.log_p), true_gradient(prompts)
        paths, paths_of_all = by_reward(world), [by_reward(w) for w in prompts]
        for est in estimators:
            if isinstance(est, AllocationEstimator):
                true, m = of_all, allocation_moments(paths_of_all, est)
            elif isinstance(est, GroupEstimator):
                true, m = of_one, selection_moments(paths, est)
            else:
                true, m = of_one, moments_of(world, est)
            yield {
                "vocab": tree.vocab,
                "horizon": tree.horizon,
                "kl": kl,
                "seed": seed,
                "group": group_of(est),
                "estimator": est.name,
                "cosine": m.cosine(true),
                "bias": m.bias(true),
                "noise": m.noise,
                "error_64": m.mse_best_step(true, 64),
                "error_1024": m.mse_best_step(true, 1024),
            }


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean over worlds and half of its 95% interval (1.96 standard errors); nan for one world."""
    x = np.array(list(values), dtype=float)
    half = 1.96 * float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return float(x.mean()), half


def summary(rows: list[Row]) -> list[Row]:
    """One row per tree, mismatch and estimator: mean and half-interval of every column.

    Noise is summarised by its median and quartiles: it has no useful mean where weights explode.
    """
    keys = ("vocab", "horizon", "kl", "group", "estimator")
    cells: dict[tuple, list[Row]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in keys), []).append(row)
    lines = []
    for cell, own in cells.items():
        line: Row = dict(zip(keys, cell, strict=True)) | {"worlds": len(own)}
        for column in COLUMNS:
            values = [row[column] for row in own]
            if column == "noise":
                # values that occurred: inf, of a mean of 0, allows no interpolation
                low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
                line |= {"noise_median": middle, "noise_low": low, "noise_high": high}
            else:
                line[column], line[f"{column}_half"] = interval(values)
        lines.append(line)
    return lines
