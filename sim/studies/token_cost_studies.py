"""The studies of `python -m sim estimators` in which tokens cost money (docs, C5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

import jackpot
from sim.worlds.trees import Array, Tree, World, path_prob, state_distribution

from . import subsampling
from .estimator_studies import BASIC, CAPS, JACKPOT, KL_SHOWN, Row, world_with_targets
from .gradient_estimators import Estimator, advantage, moments, score_square

LAMS = (0.05, *np.geomspace(0.25, 16.0, 10))
COST_RATIOS = np.geomspace(0.01, 100.0, 9)  # c_g / c_b: proposing a token / training on it


def equal_money(
    tree: Tree, seeds: Iterable[int], kls=(0.1, 0.3, 1.0), n_paths: int = 256
) -> list[Row]:
    """Jackpot's error over TIS's when both spend the same: rejected tokens save their update.

    The money is what TIS needs for `n_paths`; each side takes its best cap, Jackpot its best lam.
    Errors are those after the best step.
    """
    rows = []
    for kl, seed in [(kl, seed) for kl in kls for seed in seeds]:
        case = world_with_targets(tree, seed, kl=kl)
        tis = [moments(case.world, replace(BASIC[2], cap=c)) for c in CAPS[::2]]
        tried = {
            e.z: [moments(case.world, replace(e, c1=c, lam=lam)) for c in CAPS[::2] for lam in LAMS]
            for e in (JACKPOT[0], JACKPOT[2])
        }
        for c in COST_RATIOS:
            row: Row = {"kl": kl, "seed": seed, "cost_ratio": float(c)}
            for which, target in (("true", case.true), ("token", case.token)):
                base = min(m.mse_best_step(target, n_paths) for m in tis)
                for z, ms in tried.items():
                    more = [n_paths * (c + 1) / (c + m.acceptance) for m in ms]
                    errors = [m.mse_best_step(target, n) for m, n in zip(ms, more, strict=True)]
                    row[f"{z}_{which}"] = min(errors) / base
                    row[f"{z}_{which}_accepted"] = ms[int(np.argmin(errors))].acceptance
            rows.append(row)
    return rows


def cost(tree: Tree, seeds: Iterable[int], kls=(0.03, 0.3, 1.0)) -> list[Row]:
    """Cost-optimal lam, against brute force and against the real gradient's own best lam."""
    rows = []
    for kl, seed in [(kl, seed) for kl in kls for seed in seeds]:
        world = world_with_targets(tree, seed, kl=kl).world
        mass, ratio = token_population(world)
        grid = np.geomspace(0.01, 1.05 * float(ratio.max()), 1500)
        real = _gradient_noise(world, grid[::25])
        for c in COST_RATIOS:
            best = subsampling.cost_optimal_lam(mass, ratio, c)
            prices = [subsampling.price(mass, ratio, lam, c) for lam in grid]
            keep_all = (c + 1) * float((mass * ratio) @ ratio)
            (bill,) = [(c + z) * noise for z, noise in _gradient_noise(world, [best]).values()]
            bills = [(c + z) * noise for z, noise in real.values()]
            row: Row = {"kl": kl, "seed": seed, "cost_ratio": float(c), "lam": best}
            row["lam_brute"] = float(grid[np.argmin(prices)])
            row["accepted"] = subsampling.accepted_share(mass, ratio, best)
            row["saving"] = 1 - subsampling.price(mass, ratio, best, c) / keep_all
            row["gradient_saving"] = 1 - bill / ((c + 1) * moments(world, BASIC[1]).noise)
            row["gradient_excess"] = bill / min(bills) - 1
            rows.append(row)
    return rows


def magnitude(tree: Tree, seeds: Iterable[int], kl=KL_SHOWN, n_random=40) -> list[Row]:
    """Second moment of kept-and-reweighted tokens at equal budget, over that of keeping all."""
    rows = []
    for seed in seeds:
        world = world_with_targets(tree, seed, kl=kl).world
        mass, ratio, size = path_population(world)
        whole = subsampling.second_moment(mass, ratio, size, np.ones_like(mass))
        rng = np.random.default_rng(seed)
        for budget in (0.1, 0.25, 0.5, 0.75):
            rules = {
                "uniform": np.full(mass.size, budget),
                "obrs": subsampling.magnitude_rule(mass, ratio, np.ones_like(size), budget),
                "magnitude": subsampling.magnitude_rule(mass, ratio, size, budget),
            }
            row: Row = {"kl": kl, "seed": seed, "budget": budget}
            for name, a in rules.items():
                row[name] = subsampling.second_moment(mass, ratio, size, a) / whole
            tries = (subsampling.random_rule(mass, budget, rng) for _ in range(n_random))
            row["best_random"] = min(
                subsampling.second_moment(mass, ratio, size, a) / whole for a in tries
            )
            rows.append(row)
    return rows


def token_population(world: World) -> tuple[Array, Array]:
    """The actor's tokens as a population: mass d(s) q(x|s) and ratio p / q, both (s v,)."""
    mass = state_distribution(world.tree, world.log_q)[:, None] * np.exp(world.log_q)
    return mass.ravel(), jackpot.importance((world.log_p - world.log_q).ravel())


def path_population(world: World) -> tuple[Array, Array, Array]:
    """The tokens of the actor's paths: mass, ratio and gradient length |A| |grad log p|, (n h,)."""
    tree = world.tree
    mass = np.repeat(path_prob(tree, world.log_q) / tree.horizon, tree.horizon)
    ratio = jackpot.importance(tree.at_paths(world.log_p - world.log_q))
    size = np.abs(advantage(world))[:, None] * np.sqrt(score_square(world))
    return mass, ratio.ravel(), size.ravel()


def _gradient_noise(world: World, lams: Iterable[float]) -> dict[float, tuple[float, float]]:
    """lam: (acceptance, noise) of the unbiased rule: accept with a, weigh by max(lam, r)."""
    base = Estimator("", "jackpot", z="batch")
    by_lam = {lam: moments(world, replace(base, lam=float(lam))) for lam in lams}
    return {lam: (m.acceptance, m.noise) for lam, m in by_lam.items()}
