"""Checkpoints that are complete or absent, and the guard that lets nothing non-finite train.

A checkpoint is a folder `step_00000050` with one safetensors file per part and `state.json`. It is
written beside its final name, flushed to disk, and renamed, so a kill at any moment leaves the
previous one untouched. Optimiser state is stored as tensors too: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

_KEPT = 2
Parts = Mapping[str, torch.nn.Module | torch.optim.Optimizer]


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to something else."""


class Diverged(RuntimeError):
    """Something became NaN or infinite; training stopped before it could be used."""


def save_state(folder: Path, step: int, parts: Parts, state: dict[str, Any]) -> Path:
    """Write a checkpoint atomically and drop all but the newest two."""
    final = folder / f"step_{step:08d}"
    draft = folder / f".{final.name}.{os.getpid()}"
    for stale in folder.glob(".step_*"):
        shutil.rmtree(stale, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, part in parts.items():
        save_file(_tensors(part), draft / f"{name}.safetensors")
        _flush(draft / f"{name}.safetensors")
    write_json(draft / "state.json", state)
    if final.exists():
        shutil.rmtree(final)
    os.replace(draft, final)
    _flush(folder)
    for old in _all(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    found = _all(folder)
    return found[-1] if found else None


def load_state(checkpoint: Path, parts: Parts) -> dict[str, Any]:
    """Restore every part in place and return the saved state.

    Raises:
        CheckpointError: a file missing, truncated or of another shape, named.
    """
    for name, part in parts.items():
        path = checkpoint / f"{name}.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as e:
            raise CheckpointError(
                f"cannot read {path}: {e}; remove {checkpoint} to use an older"
            ) from e
        try:
            _restore(part, tensors)
        except (KeyError, RuntimeError, ValueError) as e:
            raise CheckpointError(f"{path} does not fit this run: {e}") from e
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            raise ValueError("it holds no step")
    except (OSError, ValueError) as e:
        raise CheckpointError(f"cannot read {checkpoint / 'state.json'}: {e}") from e
    return state


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(value, indent=1) + "\n")
    _flush(draft)
    os.replace(draft, path)


class Guard:
    """Stops a run at the first NaN or inf, naming the step, the tensor and the last checkpoint."""

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def finite(self, step: int, **tensors: torch.Tensor) -> None:
        for name, x in tensors.items():
            if not bool(torch.isfinite(x).all()):
                self._stop(step, name, x)

    def gradients(self, step: int, **models: torch.nn.Module) -> None:
        for role, model in models.items():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                    self._stop(step, f"gradient of {role}.{name}", parameter.grad)

    def _stop(self, step: int, name: str, x: torch.Tensor) -> None:
        bad = int((~torch.isfinite(x)).sum())
        kept = latest(self.checkpoints)
        raise Diverged(
            f"step {step}: {name} holds {bad} NaN or inf of {x.numel()} values, so training "
            f"stopped before using it. Last good checkpoint: {kept if kept else 'none yet'}. "
            "Lower the learning rate or the caps c1, c2 and start again from there."
        )


def _all(folder: Path) -> list[Path]:
    found = folder.glob("step_*") if folder.is_dir() else []
    return sorted(p for p in found if re.fullmatch(r"step_\d{8}", p.name))


def _tensors(part: torch.nn.Module | torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    if isinstance(part, torch.nn.Module):
        return {k: v.detach().clone().contiguous() for k, v in part.state_dict().items()}
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().clone().contiguous()
        for index, values in part.state_dict()["state"].items()
        for name, value in values.items()
    }


def _restore(
    part: torch.nn.Module | torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    if isinstance(part, torch.nn.Module):
        part.load_state_dict(tensors)
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    shapes = [p.shape for group in part.param_groups for p in group["params"]]
    for number, values in state.items():
        fits = number < len(shapes) and all(
            v.ndim == 0 or v.shape == shapes[number] for v in values.values()
        )
        if not fits:
            raise ValueError(f"optimiser state {number} has another shape than its parameter")
    part.load_state_dict({**part.state_dict(), "state": state})


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
