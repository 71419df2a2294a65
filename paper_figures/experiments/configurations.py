"""What is trained for the figures: worlds (task and models), methods, and one run of a method.

A world is a dict of settings of `python -m llm train`, a method a dict on top of it. Everything not
named here has the trainer's default; `run_store.resolved` gives the whole.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

Settings = dict[str, Any]

PRETRAINED = "runs/paper/pretrained"  # models shared by all runs with the same recipe
FIGURE_SEEDS = (100, 101, 102, 103, 104)  # of everything that is drawn or judged
TUNING_SEEDS = (0, 1)  # of the choice of learning rates and caps; never drawn


class RunSpec(NamedTuple):
    """One training run. extra: settings on top of world and method, as sorted pairs."""

    world: str
    method: str
    seed: int
    extra: tuple[tuple[str, Any], ...] = ()

    def text(self) -> str:
        more = "".join(f" {k.partition('.')[2]}={v}" for k, v in self.extra)
        return f"{self.world} {self.method}{more} seed {self.seed}"


def run(world: str, method: str, seed: int, **extra: Any) -> RunSpec:
    """`run("chain", "tis", 100, optim__policy_lr=1e-4)`: two underscores stand for the dot."""
    pairs = sorted((k.replace("__", "."), v) for k, v in extra.items())
    return RunSpec(world, method, seed, tuple(pairs))


# The running sums of eight digits; both models pretrained on noisy demonstrations. The pairs of the
# paper differ by 1.5B:3B, 1.7B:4B and 1.7B:8B; ours by 13:88 thousand weights and the like.
_CHAIN: Settings = {
    "task.type": "chain",
    "task.digits_min": 8,
    "task.digits_max": 8,
    "policy.layers": 2,
    "policy.width": 64,
    "actor.layers": 1,
    "actor.width": 32,
    "pretrain.folder": PRETRAINED,
    "pretrain.batch_size": 64,
    "pretrain.policy_steps": 400,
    "pretrain.actor_steps": 600,
    "pretrain.actor_error": 0.25,
    "rollout.prompts_per_step": 8,
    "rollout.rollouts_per_prompt": 8,
    "rollout.max_new_tokens": 9,
    "optim.policy_lr": 4e-4,  # by `tune`: best for all but the uncorrected one
    "actor.lr": 1.2e-3,
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
    "chain weak": _CHAIN | {"pretrain.actor_error": 0.35},
    "chain small": _CHAIN | {"actor.width": 16},
    "chain near": _CHAIN | {"actor.layers": 2, "actor.width": 48},
    # 2,048 ids, so that q's top 20 are not all of it
    "chain forms": _CHAIN | {"task.digit_synonyms": 201, "pretrain.actor_steps": 500},
    # several difficulties at once: the longer, the harder
    "chain lengths": _CHAIN
    | {
        **{"task.digits_min": 4, "task.pad_prompt_to": 8, "pretrain.actor_error": 0.35},
    },
}

# Decoding dominates: twice the tokens, few sequences, and a policy four times as deep. Rates by
# `tune long`: best for every method.
WORLDS["chain long"] = _CHAIN | {
    "task.digits_min": 16,
    "task.digits_max": 16,
    "policy.layers": 8,
    "pretrain.policy_steps": 300,
    "pretrain.policy_error": 0.08,
    "pretrain.actor_error": 0.12,
    "rollout.prompts_per_step": 4,
    "rollout.max_new_tokens": 17,
    "optim.policy_lr": 2e-4,
    "actor.lr": 6e-4,
    "run.steps": 70,
}

# 49 tokens a completion, and 1.5 to 2 nats of KL between the models in each: differences show
WORLDS["chain 48"] = _CHAIN | {
    "task.digits_min": 48,
    "task.digits_max": 48,
    "pretrain.policy_steps": 500,
    "pretrain.policy_error": 0.02,
    "pretrain.actor_steps": 700,
    "pretrain.actor_error": 0.06,
    "rollout.max_new_tokens": 49,
    "run.steps": 70,
}


def _sums(digits: int) -> Settings:
    """Another length. Errors go as 1 / digits, so the pass rate before the training and the KL of a
    completion are about those of "chain 48"."""
    return WORLDS["chain 48"] | {
        "task.digits_min": digits,
        "task.digits_max": digits,
        "pretrain.policy_error": 0.96 / digits,
        "pretrain.actor_error": 2.88 / digits,
        "rollout.max_new_tokens": digits + 1,
    }


LENGTHS = (8, 24, 48, 96)  # digits
WORLDS |= {f"{digits} sums": _sums(digits) for digits in LENGTHS}

# 16 prompts a step and a falling rate, with which on-policy training rises to .9
_FALLING: Settings = {
    "rollout.prompts_per_step": 16,
    "optim.schedule": "linear",
    "optim.policy_lr": 8e-4,
    "actor.lr": 2.4e-3,
}
WORLDS["chain 48 falling"] = WORLDS["chain 48"] | _FALLING | {"run.steps": 100}

# Other pairs: a smaller actor, and one near the policy in size
WORLDS["chain 48 small"] = WORLDS["chain 48 falling"] | {"actor.width": 16}
WORLDS["chain 48 near"] = WORLDS["chain 48 falling"] | {"actor.layers": 2, "actor.width": 48}

# Decoding dominates: few sequences, and a policy four times as deep
WORLDS["chain 48 deep"] = WORLDS["chain 48"] | {
    "policy.layers": 8,
    "rollout.prompts_per_step": 4,
}

# 10 to 96 sums a completion, of which only the last two are scored: credit is delayed
WORLDS["chain final"] = (
    WORLDS["chain 48"]
    | _FALLING
    | {
        "task.digits_min": 10,
        "task.digits_max": 96,
        "task.pad_prompt_to": 96,
        "reward.type": "ending",
        "rollout.max_new_tokens": 97,
        "pretrain.policy_steps": 400,
        "pretrain.policy_error": 0.015,
        "pretrain.actor_steps": 600,
        "pretrain.actor_error": 0.05,
        "run.steps": 110,
    }
)

# 25 tokens a completion, 2,048 ids
WORLDS["chain 24 forms"] = (
    WORLDS["chain 48"]
    | _FALLING
    | {
        "task.digits_min": 24,
        "task.digits_max": 24,
        "task.digit_synonyms": 201,
        "rollout.max_new_tokens": 25,
        "rollout.prompts_per_step": 32,
        "pretrain.policy_error": 0.015,
        "pretrain.actor_steps": 800,
        "run.steps": 130,
    }
)

SMOLLM2 = "smollm2"  # a real model, and its int8 copy for an actor
SMOLLM2_LONG = "smollm2 long"  # the same, long enough for a learning curve


def _smollm2() -> Settings:
    """The settings of its configuration, less its folder; fewer steps."""
    file = Path(__file__).resolve().parents[2] / "llm" / "configs" / "smollm2_cpu.toml"
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    flat = {f"{s}.{k}": v for s, values in table.items() for k, v in values.items()}
    own = {"run.steps": 8, "run.eval_every": 4, "run.checkpoint_every": 8}
    return {k: v for k, v in flat.items() if k != "run.folder"} | own


WORLDS[SMOLLM2] = _smollm2()
# A checkpoint at the end alone, because each is 1.6 GB; an interrupted run saves one too
WORLDS[SMOLLM2_LONG] = WORLDS[SMOLLM2] | {
    **{"run.steps": 20, "run.eval_every": 5, "run.eval_prompts": 64},
    **{"run.checkpoint_every": 20, "run.samples_kept": 0},
}

_FROZEN: Settings = {"actor.type": "frozen"}
_SELF: Settings = {"actor.type": "self"}
_INT8: Settings = {"actor.type": "quantized", "actor.bits": 8}
NO_CLIP: Settings = {
    "objective.clip_low": float("inf"),
    "objective.clip_high": float("inf"),
}
_JACKPOT: Settings = {"correction.type": "jackpot"}
_EXPECTED: Settings = {**_JACKPOT, "correction.mask": "expected"}
_PREFIXES: Settings = {**_EXPECTED, "correction.scope": "prefix", "actor.ppo": False}

METHODS: dict[str, Settings] = {
    "on-policy": {**_SELF, "correction.type": "none"},
    "on-policy small": {**_SELF, "correction.type": "none"},
    "none": {**_FROZEN, "correction.type": "none"},
    "none+ppo+kl": {"correction.type": "none"},
    "kl": {"correction.type": "none", "actor.ppo": False},
    "tis": {**_FROZEN, "correction.type": "tis"},
    "tis+kl": {"correction.type": "tis", "actor.ppo": False},
    "tis+ppo+kl": {"correction.type": "tis"},
    "tis+ppo": {"correction.type": "tis", "actor.distill.type": "none"},
    "areal+ppo+kl": {"correction.type": "importance"},
    "icepop+ppo+kl": {"correction.type": "icepop"},
    "jackpot": _JACKPOT,
    "jackpot expected": _EXPECTED,
    # ours; and TIS in its place, min(r, C) for min(Z r, c1)
    "jackpot prefixes": _PREFIXES,
    "tis prefixes": {**_PREFIXES, "correction.z.type": "none", "correction.c1": 2.0},
    "jackpot frozen": {**_FROZEN, **_JACKPOT},
    "jackpot+ppo": {**_JACKPOT, "actor.distill.type": "none"},
    # stale: the policy samples itself, updates_per_rollout comes from the run
    "clipped": {**_SELF, "correction.type": "none"},
    "no clip": {**_SELF, **NO_CLIP, "correction.type": "none"},
    "capped": {
        **_SELF, **NO_CLIP, "correction.type": "tis", "correction.target.type": "new",
        "correction.cap": 3.0, "correction.target.c2": float("inf"),
    },
    "tis new": {
        **_SELF, **NO_CLIP, "correction.type": "tis", "correction.target.type": "new",
        "correction.cap": 2.0,
    },
    "jackpot new": {**_SELF, **NO_CLIP, **_JACKPOT, "correction.target.type": "new"},
    "jackpot expected new": {**_SELF, **NO_CLIP, **_EXPECTED, "correction.target.type": "new"},
    "jackpot clipped": {**_SELF, **_JACKPOT, "correction.target.type": "new"},
    "rival": {},  # all that it is stands in the run's own settings (studies.py)
    # the policy's own copy in 8 bits samples: reduced precision alone
    "int8": {**_INT8, "correction.type": "none"},
    "int8 tis": {**_INT8, "correction.type": "tis"},
    "int8 jackpot": {**_INT8, **_JACKPOT},
}  # fmt: skip


def actors_model(world: Settings) -> Settings:
    """The actor's model, and its pretraining, in the policy's place."""
    own = {f"policy.{key}": world[f"actor.{key}"] for key in ("layers", "width")}
    return own | {f"pretrain.policy_{k}": world[f"pretrain.actor_{k}"] for k in ("steps", "error")}


def layers(run: RunSpec) -> list[Settings]:
    """What differs from the trainer's defaults, as `llm.settings.resolve` takes it: the world, then
    method, `extra` and seed. Another type in the second starts its section anew.

    Raises:
        KeyError: an unknown world or method.
    """
    world, method = dict(WORLDS[run.world]), METHODS[run.method] | dict(run.extra)
    if run.method == "on-policy small":  # the actor's model in the policy's place
        world |= actors_model(world)
    if method.get("actor.type") == "frozen":  # the same model
        method = {k: world[k] for k in ("actor.layers", "actor.width")} | method
    return [world, method | {"run.seed": run.seed}]
