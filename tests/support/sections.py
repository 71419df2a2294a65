"""Sections of settings for tests: `correction(type="tis", cap=3.0)`, checked as from a file."""

from typing import Any

from llm.settings.schema import (
    ControlConfig,
    CorrectionConfig,
    DigitTask,
    JackpotCorrection,
    NoControl,
    TaskConfig,
)
from llm.settings.sections import updated


def task(**given: Any) -> TaskConfig:
    return updated(DigitTask(), given, hint=TaskConfig)  # type: ignore[no-any-return]


def correction(**given: Any) -> CorrectionConfig:
    return updated(JackpotCorrection(), given, hint=CorrectionConfig)  # type: ignore[no-any-return]


def control(**given: Any) -> ControlConfig:
    return updated(NoControl(), given, hint=ControlConfig)  # type: ignore[no-any-return]
