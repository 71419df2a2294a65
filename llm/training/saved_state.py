"""What a checkpoint holds besides tensors; a value that cannot be right is refused."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from jackpot.torch.control import Controls
from jackpot.torch.correction import CorrectionState
from llm.errors import CheckpointError
from llm.runs.alarms import AlarmState
from llm.runs.metrics_files import RunFiles


class SavedState(NamedTuple):
    """step: steps that are done. bytes: of each *.jsonl file at that moment. alarms: the fields of
    `AlarmState`. best: the highest held-out pass rate so far, None before the first evaluation."""

    step: int
    bytes: dict[str, int]
    controls: Controls
    correction: CorrectionState
    alarms: dict[str, Any]
    best: float | None


def saved_state(state: dict[str, Any], checkpoint: Path) -> SavedState:
    """The contents of state.json, checked.

    Raises:
        CheckpointError: what is missing, unknown, of another type or out of range, by name.
    """
    try:
        _check_names("it", state, SavedState._fields)
        step = _count("step", state["step"])
        named = re.match(r"\.?step_(\d{8})", checkpoint.name)
        if named and int(named.group(1)) != step:
            raise ValueError(f"step is {step}, and the checkpoint is called {checkpoint.name}")
        _check_names("bytes", state["bytes"], RunFiles.NAMES)
        _check_names("controls", state["controls"], _names(Controls))
        _check_names("correction", state["correction"], _names(CorrectionState))
        _check_names("alarms", state["alarms"], _names(AlarmState))
        sizes = {name: _count(f"bytes.{name}", n) for name, n in state["bytes"].items()}
        controls = {k: _number(f"controls.{k}", v) for k, v in state["controls"].items()}
        correction: dict[str, Any] = {
            k: v if k == "log_lam" and v is None else _number(f"correction.{k}", v, k == "log_lam")
            for k, v in state["correction"].items()
        }
        alarms = {
            k: _number(f"alarms.{k}", v) if k == "lr_factor" else _count(f"alarms.{k}", v)
            for k, v in state["alarms"].items()
        }
        best = state["best"]
        best = best if best is None else _number("best", best, signed=True)
    except ValueError as e:
        raise CheckpointError(
            f"{checkpoint / 'state.json'} cannot be right: {e}; remove {checkpoint} to use an "
            "older one"
        ) from e
    states = Controls(**controls), CorrectionState(**correction)
    return SavedState(step, sizes, *states, alarms, best)


def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _check_names(name: str, value: Any, wanted: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}, not an object")
    missing = [key for key in wanted if key not in value]
    unknown = [key for key in value if key not in wanted]
    if missing or unknown:
        what = [f"lacks {', '.join(missing)}"] * bool(missing)
        what += [f"holds {', '.join(unknown)[:80]}, which is unknown"] * bool(unknown)
        raise ValueError(f"{name} {' and '.join(what)}")


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} is {value!r:.80}, not a whole number of at least 0")
    return value


def _number(name: str, value: Any, signed: bool = False) -> float:
    right = type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
    if not right or (value < 0 and not signed):
        least = "" if signed else " of at least 0"
        raise ValueError(f"{name} is {value!r:.80}, not a finite number{least}")
    return float(value)
