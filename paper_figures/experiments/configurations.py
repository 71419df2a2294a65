"""What is trained for the figures: worlds (task and models), methods, and one run of a method.

A world is a dict of settings of `python -m llm train`, a method a dict on top of it. Everything not
named here has the trainer's default; `runs.resolved` gives the whole.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

Settings = dict[str, Any]

WARMUPS = "runs/paper/warmup"  # warmed-up models, shared by all runs with the same recipe
FIGURE_SEEDS = (100, 101, 102, 103, 104)  # of everything that is drawn or judged
TUNING_SEEDS = (0, 1)  # of the choice of learning rates and caps; never drawn


class Run(NamedTuple):
    """One training run. extra: settings on top of world and method, as sorted pairs."""

    world: str
    method: str
    seed: int
    extra: tuple[tuple[str, Any], ...] = ()

    def text(self) -> str:
        more = "".join(f" {k.split('.')[-1]}={v}" for k, v in self.extra)
        return f"{self.world} {self.method}{more} seed {self.seed}"


def run(world: str, method: str, seed: int, **extra: Any) -> Run:
    """`run("chain", "tis", 100, optim__policy_lr=1e-4)`: two underscores stand for the dot."""
    pairs = sorted((k.replace("__", "."), v) for k, v in extra.items())
    return Run(world, method, seed, tuple(pairs))


# The running sums of eight digits; both models warmed up on noisy demonstrations. The pairs of the
# paper differ by 1.5B:3B, 1.7B:4B and 1.7B:8B; ours by 13:88 thousand weights and the like.
_CHAIN: Settings = {
    "task.name": "chain",
    "task.digits_min": 8,
    "task.digits_max": 8,
    "policy.layers": 2,
    "policy.width": 64,
    "actor.layers": 1,
    "actor.width": 32,
    "warmup.folder": WARMUPS,
    "warmup.batch_size": 64,
    "warmup.policy_steps": 400,
    "warmup.actor_steps": 600,
    "warmup.actor_error": 0.25,
    "rollout.prompts_per_step": 8,
    "rollout.rollouts_per_prompt": 8,
    "rollout.max_new_tokens": 9,
    "optim.policy_lr": 4e-4,  # by `tune`: best for all but the uncorrected one
    "optim.actor_lr": 1.2e-3,
    "run.steps": 130,
    "run.eval_every": 10,
    "run.eval_prompts": 96,
    "run.checkpoint_every": 100,
    "run.checkpoints_kept": 1,
    "run.keep_best": False,
    "run.samples_kept": 0,
}
WORLDS: dict[str, Settings] = {
    "chain": _CHAIN,
    "chain weak": _CHAIN | {"warmup.actor_error": 0.35},
    "chain small": _CHAIN | {"actor.width": 16},
    "chain near": _CHAIN | {"actor.layers": 2, "actor.width": 48},
    # 2,048 ids, so that q's top 20 are not all of it
    "chain forms": _CHAIN | {"task.forms": 201, "warmup.actor_steps": 500},
    # several difficulties at once: the longer, the harder
    "chain lengths": _CHAIN
    | {
        **{"task.digits_min": 4, "task.slots": 8, "warmup.actor_error": 0.35},
    },
}

# Decoding dominates: twice the tokens, few sequences, and a policy four times as deep. Rates by
# `tune long`: best for every method.
WORLDS["chain long"] = _CHAIN | {
    "task.digits_min": 16,
    "task.digits_max": 16,
    "policy.layers": 8,
    "warmup.policy_steps": 300,
    "warmup.policy_error": 0.08,
    "warmup.actor_error": 0.12,
    "rollout.prompts_per_step": 4,
    "rollout.max_new_tokens": 17,
    "optim.policy_lr": 2e-4,
    "optim.actor_lr": 6e-4,
    "run.steps": 70,
}

SMOLLM2 = "smollm2"  # a real model, and its int8 copy for an actor


def _smollm2() -> Settings:
    """The settings of its configuration, less its folder; fewer steps."""
    file = Path(__file__).resolve().parents[2] / "llm" / "configs" / "smollm2_cpu.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    flat = {f"{s}.{k}": v for s, values in table.items() for k, v in values.items()}
    own = {"run.steps": 8, "run.eval_every": 4, "run.checkpoint_every": 8}
    return {k: v for k, v in flat.items() if k != "run.folder"} | own


WORLDS[SMOLLM2] = _smollm2()

# settings without effect where the actor is made from the policy
_ACTOR = ("actor.layers", "actor.width", "warmup.actor_", "optim.actor_lr")
_NO_ACTOR_LOSSES: Settings = {"loss.actor_ppo": False, "loss.distill_coef": 0.0}
_FROZEN: Settings = {"actor.kind": "frozen", **_NO_ACTOR_LOSSES}
_SELF: Settings = {"actor.kind": "self", **_NO_ACTOR_LOSSES}
_INT8: Settings = {"actor.kind": "quantized", "actor.bits": 8, **_NO_ACTOR_LOSSES}
_NO_CLIP: Settings = {"loss.clip_low": float("inf"), "loss.clip_high": float("inf")}
_JACKPOT: Settings = {"correction.name": "jackpot"}
_EXPECTED: Settings = {**_JACKPOT, "correction.mask": "expected"}
_PREFIXES: Settings = {**_EXPECTED, "correction.scope": "prefix", "loss.actor_ppo": False}

METHODS: dict[str, Settings] = {
    "on-policy": {**_SELF, "correction.name": "none"},
    "on-policy small": {**_SELF, "correction.name": "none"},
    "none": {**_FROZEN, "correction.name": "none"},
    "none+ppo+kl": {"correction.name": "none"},
    "kl": {"correction.name": "none", "loss.actor_ppo": False},
    "tis": {**_FROZEN, "correction.name": "tis"},
    "tis+kl": {"correction.name": "tis", "loss.actor_ppo": False},
    "tis+ppo+kl": {"correction.name": "tis"},
    "tis+ppo": {"correction.name": "tis", "loss.distill_coef": 0.0},
    "areal+ppo+kl": {"correction.name": "importance"},
    "icepop+ppo+kl": {"correction.name": "icepop"},
    "jackpot": _JACKPOT,
    "jackpot expected": _EXPECTED,
    # ours; and TIS in its place, min(r, C) for min(Z r, c1)
    "jackpot prefixes": _PREFIXES,
    "tis prefixes": {**_PREFIXES, "correction.z": "none", "correction.c1": 2.0},
    "jackpot frozen": {**_FROZEN, **_JACKPOT},
    "jackpot+ppo": {**_JACKPOT, "loss.distill_coef": 0.0},
    # stale: the policy samples itself, updates_per_rollout comes from the run
    "clipped": {**_SELF, "correction.name": "none"},
    "no clip": {**_SELF, **_NO_CLIP, "correction.name": "none"},
    "capped": {
        **_SELF, **_NO_CLIP, "correction.name": "tis", "correction.target": "new",
        "correction.tis_cap": 3.0, "correction.c2": float("inf"),
    },
    "tis new": {
        **_SELF, **_NO_CLIP, "correction.name": "tis", "correction.target": "new",
        "correction.tis_cap": 2.0,
    },
    "jackpot new": {**_SELF, **_NO_CLIP, **_JACKPOT, "correction.target": "new"},
    "jackpot expected new": {**_SELF, **_NO_CLIP, **_EXPECTED, "correction.target": "new"},
    "jackpot clipped": {**_SELF, **_JACKPOT, "correction.target": "new"},
    # the policy's own copy in 8 bits samples: reduced precision alone
    "int8": {**_INT8, "correction.name": "none"},
    "int8 tis": {**_INT8, "correction.name": "tis"},
    "int8 jackpot": {**_INT8, **_JACKPOT},
}  # fmt: skip


def settings(run: Run) -> Settings:
    """Those that differ from the trainer's defaults, `extra` last.

    Raises:
        KeyError: an unknown world or method.
    """
    world = dict(WORLDS[run.world])
    if run.method == "on-policy small":  # the actor's model in the policy's place
        for key in ("layers", "width"):
            world[f"policy.{key}"] = world[f"actor.{key}"]
        for key in ("steps", "error"):
            world[f"warmup.policy_{key}"] = world[f"warmup.actor_{key}"]
    method = METHODS[run.method]
    kind = (method | dict(run.extra)).get("actor.kind", world.get("actor.kind", "separate"))
    if kind not in ("separate", "frozen"):
        world = {k: v for k, v in world.items() if not k.startswith(_ACTOR)}
    if kind == "frozen":
        world.pop("optim.actor_lr", None)
    return world | method | dict(run.extra) | {"run.seed": run.seed}
