"""Studies whose finished runs are kept as rows: what their settings share, and the runs of each.

A study compares methods in a setting: a world, seeds, and a baseline. The methods of a setting
differ in what is compared alone. Each has the learning rate that a sweep on another seed found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .configurations import RunSpec, Settings

SWEEP, JUDGED = "sweep", "judged"  # stages
SWEEP_SEED = 0  # never judged
QUICK_SEED = 10
# Learning rates of the policy that the sweep tries; the actor's is three times as high
RATES = (2e-4, 4e-4, 8e-4)
ACTOR_RATE = 3.0
NOTHING_MORE = "rival"  # of METHODS: nothing beside what the entry says


class Setting(NamedTuple):
    """What the runs of a comparison share.

    base: settings under those of each method; baseline: the method that the others are compared
    with; rates_of: the setting whose sweep is taken over; rates: what the sweep tries, and where it
    is one, there is no sweep; sweep_steps, steps: of a run (0: as many as the world has); quick:
    settings of `--quick` that replace those of all studies.
    """

    study: str
    name: str
    baseline: str
    methods: Mapping[str, Settings]
    base: Settings
    seeds: tuple[int, ...]
    rates_of: str = ""
    world: str = "chain 48"
    rates: tuple[float, ...] = RATES
    sweep_steps: int = 40
    steps: int = 0
    quick: Mapping[str, Any] = {}


class Study(NamedTuple):
    """A command of `python -m paper_figures`, and its settings in the order of training.

    long: its model is a real one. It is trained by `--long` in place of `--train`, by one worker
    unless more are asked for, and has no `--quick`. The checkpoints of a run, which are large, are
    removed as its row is kept.
    """

    name: str
    settings: tuple[Setting, ...]
    long: bool = False

    @property
    def flag(self) -> str:
        """The option that trains the runs that no row is kept of."""
        return "--long" if self.long else "--train"


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
    kind = own.get("actor.type", "separate")
    if kind == "separate":
        own["actor.lr"] = ACTOR_RATE * rate
    else:
        own.pop("actor.distill.type", None)
    if stage == SWEEP:
        own["run.steps"] = setting.sweep_steps
    elif setting.steps:
        own["run.steps"] = setting.steps
    run = RunSpec(setting.world, NOTHING_MORE, seed, tuple(sorted(own.items())))
    return Entry(setting.study, setting.name, stage, method, rate, seed, run)


def sweep(setting: Setting) -> list[Entry]:
    """Every method at every rate; none where the rate is given, or another setting's is taken."""
    if setting.rates_of or len(setting.rates) == 1:
        return []
    return [entry(setting, m, SWEEP, r, SWEEP_SEED) for m in setting.methods for r in setting.rates]


def judged(setting: Setting, rates: Mapping[str, float]) -> list[Entry]:
    """Every method at its rate, seed by seed, so that a part of them is a comparison too."""
    return [entry(setting, m, JUDGED, rates[m], s) for s in setting.seeds for m in setting.methods]


def quick(study: Study) -> list[Entry]:
    """One seed, the middle rate, few steps, short pretraining: no evidence."""
    short: Settings = {"pretrain.policy_steps": 60, "run.steps": 4}
    short |= {"run.eval_every": 2, "run.eval_prompts": 32}
    entries = []
    for setting in study.settings:
        for method in tuple(setting.methods)[:2]:
            own = entry(setting, method, JUDGED, setting.rates[len(setting.rates) // 2], QUICK_SEED)
            settings = dict(own.run.extra) | short
            if settings.get("actor.type", "separate") in ("separate", "frozen"):
                settings["pretrain.actor_steps"] = 60
            settings |= setting.quick
            run = own.run._replace(extra=tuple(sorted(settings.items())))
            entries.append(own._replace(run=run))
    return entries


def planned(study: Study) -> int:
    """How many runs it has in all."""
    return sum(map(planned_of, study.settings))


def planned_of(setting: Setting) -> int:
    """How many runs a setting has."""
    return len(sweep(setting)) + len(setting.methods) * len(setting.seeds)
