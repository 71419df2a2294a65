"""Sections of settings for tests: `correction(type="tis", cap=3.0)`, checked as from a file."""

from typing import Any

from llm.settings.schema import (
    AutoReward,
    ControlConfig,
    CorrectionConfig,
    DigitTask,
    Distill,
    Distillation,
    JackpotCorrection,
    NoControl,
    ObjectiveConfig,
    PpoObjective,
    RewardConfig,
    TaskConfig,
)
from llm.settings.sections import nested_table, updated
from llm.tasks.digits import DigitsConfig


def task(**given: Any) -> TaskConfig:
    return updated(DigitTask(), given, hint=TaskConfig)


def digit_task(**given: Any) -> DigitsConfig:
    """`task` of a generated type."""
    made = task(**given)
    assert isinstance(made, DigitsConfig)
    return made


def reward(**given: Any) -> RewardConfig:
    return updated(AutoReward(), given, hint=RewardConfig)


EXACT = reward(type="exact")


PLACES = {  # the keywords of jackpot.torch as settings of [correction]
    "target": "target.type",
    "c2": "target.c2",
    "lam": "lam.value",
    "lam_from": "lam.type",
    "budget": "lam.budget",
    "z": "z.type",
    "z_tail": "z.tail.type",
    "kappa": "z.tail.kappa",
}


def correction(**given: Any) -> CorrectionConfig:
    table = nested_table({PLACES.get(name, name): value for name, value in given.items()})
    return updated(JackpotCorrection(), table, hint=CorrectionConfig)


def objective(**given: Any) -> ObjectiveConfig:
    return updated(PpoObjective(), nested_table(given), hint=ObjectiveConfig)


def distill(**given: Any) -> Distill:
    return updated(Distillation(), given, hint=Distill)


def control(**given: Any) -> ControlConfig:
    return updated(NoControl(), given, hint=ControlConfig)
