"""Small models and checkpoints of one constant."""

from __future__ import annotations

from pathlib import Path

import torch

from llm.checkpoints.checkpoint import load_state, save_best, save_state
from llm.training.optimizer import adamw

MINE = {"run.seed": "0", "correction.lam.value": "1.0"}


def linear(value: float = 0.0, n: int = 3) -> torch.nn.Linear:
    model = torch.nn.Linear(n, 2)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.constant_(model.bias, value)
    return model


def value_in(path: Path | None) -> float:
    """The constant that a complete checkpoint holds, every check passed."""
    assert path is not None
    model = linear(-1.0)
    state = load_state(path, {"policy": model}, MINE)
    assert {*model.bias.tolist(), *model.weight.flatten().tolist()} == {state["value"]}
    return state["value"]


def save(folder: Path, step: int, value: float, keep: int = 2) -> Path:
    return save_state(folder, step, {"policy": linear(value)}, {"value": value}, keep, MINE)


def save_as_best(folder: Path, step: int, value: float) -> Path:
    return save_best(folder, step, {"policy": linear(value)}, {"value": value}, MINE)


def trained(dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, dtype=dtype)
    optimizer = adamw(model, 0.1, 0.0)
    for _ in range(3):
        model(torch.randn(4, 3, dtype=dtype)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer
