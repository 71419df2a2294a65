"""Which runs compare Jackpot's rivals: three studies in the world "chain 48".

The methods of a setting differ in what is compared alone. The models, the losses of the actor and
the number of updates are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .configurations import FIGURE_SEEDS, RunSpec, Settings

WORLD = "chain 48"
SWEEP, JUDGED = "sweep", "judged"  # stages
SWEEP_SEED = 0  # never judged
SWEEP_STEPS = 40
FEW_SEEDS = FIGURE_SEEDS[:3]
QUICK_SEED = 10
POOL = 64  # prompts, where their history counts
STALE_UPDATES = 16  # of one rollout
SWEEP_STALE_STEPS, STALE_STEPS = 3, 5  # rollouts

# Learning rates of the policy that the sweep tries; the actor's is three times as high
RATES = (2e-4, 4e-4, 8e-4)
ACTOR_RATE = 3.0

_SELF: Settings = {"actor.type": "self"}
_NO_DISTILLATION: Settings = {"actor.distill.type": "none"}
_STALE: Settings = {
    **_SELF,
    "rollout.prompts_per_step": 8 * STALE_UPDATES,
    "loss.updates_per_rollout": STALE_UPDATES,
    "run.eval_every": 1,
    "run.eval_updates": 8,
    "run.checkpoint_every": 2,
}
_NO_CLIP: Settings = {"objective.clip_low": float("inf"), "objective.clip_high": float("inf")}
_NEW: Settings = {"correction.target.type": "new"}

# Corrections, with PPO of one update: the settings of the policy's loss and no others
CORRECTIONS: dict[str, Settings] = {
    "tis": {"correction.type": "tis"},
    "jackpot": {"correction.type": "jackpot"},
    "none": {"correction.type": "none"},
    "jackpot expected": {"correction.type": "jackpot", "correction.mask": "expected"},
    "jackpot prefixes": {
        "correction.type": "jackpot",
        "correction.mask": "expected",
        "correction.scope": "prefix",
    },
    "tis prefixes": {
        "correction.type": "jackpot",
        "correction.mask": "expected",
        "correction.scope": "prefix",
        "correction.z.type": "none",
        "correction.c1": 2.0,
    },
    "icepop": {"correction.type": "icepop"},
}
_UNCORRECTED: Settings = {"correction.type": "none"}


def _objectives(ratio: str) -> dict[str, Settings]:
    """The token objectives beside PPO, whose own ratio is to p_ref or p_inf."""
    return {
        "cispo": {**_UNCORRECTED, "objective.type": "cispo", "objective.ratio": ratio},
        "gspo": {
            **_UNCORRECTED,
            "objective.type": "gspo",
            "objective.ratio": ratio,
            "loss.denominator": "sequence",
        },
        "dppo": {**_UNCORRECTED, "objective.type": "dppo"},
        "minpro": {**_UNCORRECTED, "objective.type": "minpro"},
        "bapo": {**_UNCORRECTED, "objective.type": "bapo", "objective.ratio": ratio},
        "m2po": {**_UNCORRECTED, "objective.type": "m2po"},
    }


_ON_POLICY: dict[str, Settings] = {"on-policy": {**_SELF, **_UNCORRECTED}}
_ONE_UPDATE = CORRECTIONS | _objectives("inf")
_SEVERAL: dict[str, Settings] = {
    "tis": {**_NO_CLIP, "correction.type": "tis", **_NEW},
    "jackpot": {**_NO_CLIP, "correction.type": "jackpot", **_NEW},
    "ppo": _UNCORRECTED,
    "no clip": {**_NO_CLIP, **_UNCORRECTED},
    "icepop": {**_NO_CLIP, "correction.type": "icepop", **_NEW},
    **_objectives("ref"),
}
_WHOLE: dict[str, Settings] = {
    "grpo": {"correction.type": "tis"},
    "a_star_po": {**_UNCORRECTED, "objective.type": "a_star_po"},
    "dmpo": {**_UNCORRECTED, "objective.type": "dmpo"},
    "alpha_dpo": {**_UNCORRECTED, "objective.type": "alpha_dpo"},
}
_EACH_EQUAL: Settings = {"rollout.allocation.prompt_weight": "equal"}
_RANDOM, _VARIANCE = "random", "max_variance"


def _kept(kind: str, keep: int) -> Settings:
    return {"rollout.down_sampling.type": kind, "rollout.down_sampling.keep": keep}


def _pruned() -> Settings:
    """Each completion is dropped with probability 1/2."""
    return {"rollout.pruning.type": "horvitz_thompson", "rollout.pruning.candidates": 1.0}


# 64 completions a step are sampled. PODS and pruning update on half of them
_EQUAL_ROLLOUTS: dict[str, Settings] = {
    "uniform": {},
    "vip": {"rollout.allocation.type": "vip", **_EACH_EQUAL},
    "coba": {"rollout.allocation.type": "coba", **_EACH_EQUAL},
    "pods": _kept(_VARIANCE, 4),
    "random half": _kept(_RANDOM, 4),
    "pruning": _pruned(),
}
# 64 completions a step are updated on, as with uniform, out of 128 that are sampled
_TWICE: Settings = {"rollout.rollouts_per_prompt": 16}
_EQUAL_TOKENS: dict[str, Settings] = {
    "pods of 128": {**_TWICE, **_kept(_VARIANCE, 8)},
    "random half of 128": {**_TWICE, **_kept(_RANDOM, 8)},
    "pruning of 128": {**_TWICE, **_pruned()},
}
_TIS: Settings = {"correction.type": "tis"}
_BY_PROMPT: Settings = {
    **_TIS,
    "task.pool": POOL,
    "loss.advantage": "rloo",
    "loss.denominator": "sequence",
}


class Setting(NamedTuple):
    """What the runs of a study share. base: settings under those of each method; baseline: the
    method that the others are compared with; rates_of: the setting whose sweep is taken over."""

    study: str
    name: str
    baseline: str
    methods: Mapping[str, Settings]
    base: Settings
    seeds: tuple[int, ...]
    rates_of: str = ""


# In the order in which they are trained
SETTINGS = (
    Setting("objectives", "separate", "tis", _ONE_UPDATE | _ON_POLICY, {}, FIGURE_SEEDS),
    Setting("objectives", "stale", "tis", _SEVERAL, _STALE, FEW_SEEDS),
    Setting("completions", "separate", "grpo", _WHOLE, {"task.pool": POOL}, FEW_SEEDS),
    Setting(
        *("allocation", "separate", "uniform", _EQUAL_ROLLOUTS | _EQUAL_TOKENS, _BY_PROMPT),
        FEW_SEEDS,
    ),
    Setting(
        *("objectives", "not distilled", "tis", _ONE_UPDATE, _NO_DISTILLATION, FEW_SEEDS),
        rates_of="separate",
    ),
)


class Entry(NamedTuple):
    """One run of a study. rate: learning rate of the policy."""

    study: str
    setting: str
    stage: str
    method: str
    rate: float
    seed: int
    run: RunSpec

    def text(self) -> str:
        return (
            f"{self.study}, {self.setting}, {self.stage}: {self.method}, "
            f"rate {self.rate:g}, seed {self.seed}"
        )


def entry(setting: Setting, method: str, stage: str, rate: float, seed: int) -> Entry:
    """A run of its setting, shorter in the sweep."""
    own: dict[str, Any] = {**setting.base, **setting.methods[method], "optim.policy_lr": rate}
    if own.get("actor.type", "separate") == "separate":
        own["actor.lr"] = ACTOR_RATE * rate
    else:
        own.pop("actor.distill.type", None)
    stale = setting.base is _STALE
    if stage == SWEEP:
        own["run.steps"] = SWEEP_STALE_STEPS if stale else SWEEP_STEPS
    elif stale:
        own["run.steps"] = STALE_STEPS
    run = RunSpec(WORLD, RIVAL, seed, tuple(sorted(own.items())))
    return Entry(setting.study, setting.name, stage, method, rate, seed, run)


RIVAL = "rival"  # of METHODS: nothing beside what the entry says


def sweep(setting: Setting) -> list[Entry]:
    """Every method at every rate; none where another setting's rates are taken over."""
    if setting.rates_of:
        return []
    return [entry(setting, m, SWEEP, r, SWEEP_SEED) for m in setting.methods for r in RATES]


def judged(setting: Setting, rates: Mapping[str, float]) -> list[Entry]:
    """Every method at its rate, seed by seed, so that a part of them is a comparison too."""
    return [entry(setting, m, JUDGED, rates[m], s) for s in setting.seeds for m in setting.methods]


def quick() -> list[Entry]:
    """One seed, the middle rate, few steps, short pretraining: no evidence."""
    short: Settings = {"pretrain.policy_steps": 60, "run.steps": 4}
    short |= {"run.eval_every": 2, "run.eval_prompts": 32}
    entries = []
    for setting in SETTINGS:
        for method in tuple(setting.methods)[:2]:
            own = entry(setting, method, JUDGED, RATES[1], QUICK_SEED)
            settings = dict(own.run.extra) | short
            if "actor.lr" in settings:
                settings["pretrain.actor_steps"] = 60
            if setting.base is _STALE:
                settings |= {"run.steps": 1, "run.eval_every": 1}
            run = own.run._replace(extra=tuple(sorted(settings.items())))
            entries.append(own._replace(run=run))
    return entries


def planned(settings: Sequence[Setting] = SETTINGS) -> int:
    """How many runs they have in all."""
    return sum(len(sweep(s)) + len(s.methods) * len(s.seeds) for s in settings)
