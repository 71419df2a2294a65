"""The studies behind `python -m sim estimators`: each returns rows, one dictionary per number set.

Every row carries the seed of its world; spreads over seeds are taken by whoever reports them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sim.worlds.trees import Array, Tree, World, gradient, random_world

from .gradient_estimators import Estimator, jackpot_grid, moments, sample_estimates, terms

Row = dict[str, Any]  # numbers, and the estimator's name

KL_GRID = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)  # nats per token
KL_SHOWN = 0.3
LAM, C1, C2, TIS_CAP, ICEPOP = 1.0, 3.0, 3.0, 2.0, (0.5, 5.0)
CAPS = (*np.geomspace(0.25, 256.0, 21), math.inf)
N_PATHS = (16, 64, 256, 1024, 4096, 16384)

BASIC = (
    Estimator("none", "none"),
    Estimator("importance", "importance", target="ref"),
    Estimator("TIS", "tis", cap=TIS_CAP, target="ref"),
    Estimator("IcePop", "icepop", low=ICEPOP[0], high=ICEPOP[1], target="ref"),
    Estimator("sequence importance", "sequence"),
)
_JACKPOT = Estimator("Jackpot (coin)", "jackpot", lam=LAM, c1=C1)
JACKPOT = (
    _JACKPOT,
    replace(_JACKPOT, name="Jackpot (expected)", mask="expected"),
    replace(_JACKPOT, name="Jackpot (coin, batch Z)", z="batch"),
    replace(_JACKPOT, name="Jackpot (expected, batch Z)", mask="expected", z="batch"),
    replace(_JACKPOT, name="Jackpot (coin, per accepted)", per="accepted"),
    replace(_JACKPOT, name="Jackpot on prefixes", mask="expected", scope="prefix"),
    replace(_JACKPOT, name="Jackpot on prefixes (coin)", scope="prefix"),
    replace(_JACKPOT, name="Algorithm 1 as printed", mask="all"),
)


@dataclass(frozen=True)
class WorldWithTargets:
    """A world with its two targets."""

    seed: int
    world: World
    true: Array  # the policy gradient of the expected reward
    token: Array  # what token weights can reach: states and future from the actor


def world_with_targets(tree: Tree, seed: int, **options: float) -> WorldWithTargets:
    """A seeded world (options of `sim.worlds.trees.random_world`) and its targets."""
    world = random_world(tree, seed, **options)
    true = gradient(world, world.log_p, world.log_p)
    return WorldWithTargets(seed, world, true, gradient(world, world.log_q, world.log_q))


def describe(case: WorldWithTargets, est: Estimator) -> Row:
    """Bias, direction, noise and errors of one estimator in one world."""
    m = moments(case.world, est)
    row: Row = {
        "seed": case.seed,
        "estimator": est.name,
        "accepted": m.acceptance,
        "bias_true": m.bias(case.true),
        "cos_true": m.cosine(case.true),
        "bias_token": m.bias(case.token),
        "cos_token": m.cosine(case.token),
        "noise": m.noise,
    }
    for n in (64, 1024):
        row[f"mse_true_{n}"] = m.mse(case.true, n)
        row[f"mse_best_step_true_{n}"] = m.mse_best_step(case.true, n)
        row[f"mse_best_step_token_{n}"] = m.mse_best_step(case.token, n)
    return row


def by_mismatch(tree: Tree, seeds: Iterable[int], kls=KL_GRID) -> list[Row]:
    """Every estimator at every mismatch, and the floor all token weights share."""
    ests = BASIC + JACKPOT + tuple(jackpot_grid(LAM, C1, C2))
    rows = []
    for kl in kls:
        for seed in seeds:
            case = world_with_targets(tree, seed, kl=kl)
            rows += [{"kl": kl, **describe(case, e)} for e in ests]
            floor = float(np.sum(case.true * case.token))
            floor /= float(np.linalg.norm(case.true) * np.linalg.norm(case.token))
            rows.append({"kl": kl, "seed": seed, "estimator": "token target", "cos_true": floor})
    return rows


def off_support(tree: Tree, seeds: Iterable[int], kl=KL_SHOWN, dead=0.2) -> list[Row]:
    """The same where the actor also visits states the policy never reaches."""
    cases = [world_with_targets(tree, seed, kl=kl, dead=dead) for seed in seeds]
    return [{"dead": dead, "kl": kl, **describe(c, e)} for c in cases for e in BASIC + JACKPOT]


def stale(tree: Tree, seeds: Iterable[int], kl=0.1, staleness=0.5) -> list[Row]:
    """p away from p_ref: which target, what c2 does, and the largest multiplier of a token."""
    new = JACKPOT[0]
    ests = (
        *BASIC[:4],
        replace(BASIC[2], name="TIS, target new", target="new"),
        replace(new, name="Jackpot, target new, c2=inf"),
        replace(new, name=f"Jackpot, target new, c2={C2:g}", c2=C2),
        replace(new, name="Jackpot, target new, c2=1", c2=1.0),
        replace(new, name="Jackpot, target ref", target="ref"),
    )
    rows = []
    for seed in seeds:
        case = world_with_targets(tree, seed, kl=kl, staleness=staleness)
        for e in ests:
            t = terms(case.world, e)
            top = float(np.max(t.keep * t.weight))
            rows.append({"kl": kl, **describe(case, e), "largest_multiplier": top})
    return rows


def cap_sweep(tree: Tree, seeds: Iterable[int], kl=KL_SHOWN, caps=CAPS) -> list[Row]:
    """Bias against noise as the cap moves: C for TIS, c1 for Jackpot."""
    rows = []
    for seed in seeds:
        case = world_with_targets(tree, seed, kl=kl)
        for est, field in _tunable():
            for cap in caps:
                row = describe(case, replace(est, **{field: cap}))
                rows.append({"kl": kl, "cap": cap, **row})
    return rows


def equal_tuning(tree: Tree, seeds: Iterable[int], kls=(0.03, 0.3, 1.0)) -> list[Row]:
    """Each family at its own best cap: error over that of TIS, by N and by spread of the mismatch.

    Errors are those after the best step, so neither a constant factor nor a lucky cap counts.
    """
    rows = []
    options = [(kl, spread, seed) for kl in kls for spread in (0.0, 1.0) for seed in seeds]
    for kl, spread, seed in options:
        case = world_with_targets(tree, seed, kl=kl, spread=spread)
        tried = {
            e.name: [moments(case.world, replace(e, **{field: c})) for c in CAPS]
            for e, field in _tunable()
        }
        for n in N_PATHS:
            row: Row = {"kl": kl, "spread": spread, "seed": seed, "n_paths": n}
            for which, target in (("true", case.true), ("token", case.token)):
                best = {k: min(m.mse_best_step(target, n) for m in ms) for k, ms in tried.items()}
                row[f"TIS_{which}"] = best["TIS"]
                for name in list(best)[1:]:
                    row[f"{name}_{which}"] = best[name] / best["TIS"]
            rows.append(row)
    return rows


def by_paths(tree: Tree, seeds: Iterable[int], kl=KL_SHOWN) -> list[Row]:
    """Error against the number of paths, fixed caps."""
    rows = []
    for seed in seeds:
        case = world_with_targets(tree, seed, kl=kl)
        for e in BASIC + JACKPOT:
            m = moments(case.world, e)
            for n in np.geomspace(4, 65536, 15):
                row: Row = {"kl": kl, "seed": seed, "estimator": e.name, "n_paths": float(n)}
                row["mse_true"] = m.mse(case.true, n)
                row["mse_best_step_true"] = m.mse_best_step(case.true, n)
                row["mse_best_step_token"] = m.mse_best_step(case.token, n)
                rows.append(row)
    return rows


def lam_sweep(tree: Tree, seeds: Iterable[int], kl=KL_SHOWN, lams=None) -> list[Row]:
    """Noise and acceptance against lam, coin and expected mask, without and with c1."""
    lams = np.geomspace(0.25, 8.0, 11) if lams is None else lams
    rows = []
    for seed in seeds:
        case = world_with_targets(tree, seed, kl=kl)
        for est in JACKPOT[:4]:
            for c1 in (math.inf, C1):
                for lam in lams:
                    row = describe(case, replace(est, lam=lam, c1=c1))
                    rows.append({"kl": kl, "lam": float(lam), "c1": c1, **row})
    return rows


def ratio_check(tree: Tree, seed: int, kl=KL_SHOWN, repeats=4000) -> list[Row]:
    """The delta method for the accepted denominator, against Monte Carlo."""
    case = world_with_targets(tree, seed, kl=kl)
    rows = []
    for est in (JACKPOT[4], replace(JACKPOT[4], name="without c1", c1=math.inf, z="batch")):
        m = moments(case.world, est)
        for n in (8, 32, 128):
            draws = sample_estimates(case.world, est, n, repeats, seed=seed)
            error = np.sum((draws - case.true) ** 2, axis=(1, 2)) / np.sum(case.true**2)
            row: Row = {"kl": kl, "seed": seed, "estimator": est.name, "n_paths": n}
            row["mse_delta"] = m.mse(case.true, n)
            row["mse_sampled"] = float(error.mean())
            row["standard_error"] = float(error.std(ddof=1) / math.sqrt(repeats))
            rows.append(row)
    return rows


def _tunable() -> list[tuple[Estimator, str]]:
    return [(BASIC[2], "cap")] + [(e, "c1") for e in JACKPOT[:4]]
