"""Which runs each figure and table needs. The same run may stand in several: it is trained once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .worlds import FIGURE_SEEDS, WORLDS, Run, run


class Scale(NamedTuple):
    """How much is trained. seeds: of headline comparisons; few: of the others; length: share of
    the steps."""

    name: str
    seeds: tuple[int, ...]
    few: tuple[int, ...]
    length: float


FULL = Scale("full", FIGURE_SEEDS, FIGURE_SEEDS[:3], 1.0)
QUICK = Scale("quick", FIGURE_SEEDS[:1], FIGURE_SEEDS[:1], 0.2)

HEADLINE = (
    *("on-policy", "on-policy small", "none", "kl", "tis", "tis+kl", "tis+ppo+kl"),
    *("jackpot", "jackpot expected"),
)
PAIRS = ("chain small", "chain", "chain near")  # from a small actor to one near the policy
FEWER = ("on-policy", "none", "tis+kl", "tis+ppo+kl", "jackpot", "jackpot expected")
FORMS = "chain forms"  # 2,048 ids
STALE = ("clipped", "no clip", "capped", "tis new", "jackpot new", "jackpot expected new")
STALENESS = (16, 64, 128)
STALE_UPDATES = 384
DIGITS = (4, 6, 8, 10)  # held-out sets of Table 1
LONG_STEPS = 900


def group(scale: Scale, world: str, methods: Sequence[str], few: bool, **extra: Any) -> list[Run]:
    """Every method with every seed, shortened where the scale says so."""
    steps = extra.pop("run__steps", WORLDS[world]["run.steps"])
    if scale.length < 1:
        steps = max(2, round(steps * scale.length))
        extra["run__eval_every"] = max(1, steps // 6)
    if steps != WORLDS[world]["run.steps"]:
        extra["run__steps"] = steps
    seeds = scale.few if few else scale.seeds
    return [run(world, m, s, **extra) for m in methods for s in seeds]


def fig1(scale: Scale) -> list[Run]:
    return group(scale, "chain", HEADLINE, few=False)


def fig4(scale: Scale) -> dict[str, list[Run]]:
    """By world: three pairs of models, and a task with 2,048 ids."""
    found = {w: group(scale, w, FEWER, few=w != "chain") for w in PAIRS}
    return found | {FORMS: group(scale, FORMS, FEWER, few=True)}


def fig5(scale: Scale) -> dict[int, list[Run]]:
    """By staleness: updates per rollout. The same number of updates everywhere."""
    found = {}
    for updates in STALENESS:
        size = WORLDS["chain"]["rollout.prompts_per_step"]
        extra = {
            "rollout.prompts_per_step": size * updates,
            "loss.updates_per_rollout": updates,
            "run.steps": max(1, round(STALE_UPDATES * scale.length / updates)),
            "run.eval_every": 1,
            "run.checkpoint_every": 1,
        }
        if updates > 16:
            extra["run.eval_updates"] = 16
        found[updates] = [
            Run("chain", m, s, tuple(sorted(extra.items()))) for m in STALE for s in scale.few
        ]
    return found
