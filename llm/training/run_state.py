"""What a checkpoint holds besides tensors, and whether the models are worth saving."""

from __future__ import annotations

from typing import Any

import torch

from llm.rollout.batch import Batch
from llm.runs.nonfinite_guard import Guard

from . import forward
from .context import TrainContext


@torch.no_grad()
def check_models(setup: TrainContext, batch: Batch, guard: Guard, step: int) -> None:
    """Only models that still give finite log-probabilities are worth a checkpoint."""
    models = {"policy": setup.policy, "actor": setup.actor.model, **setup.trained}
    for name, model in models.items():
        side = forward.forward(setup, model, batch.rows(torch.arange(1)))._replace(entropy=True)
        found = forward.read([side], setup.cfg.rollout.temperature)[0][0]
        entropy: Any = found.entropy  # takes in all log-probabilities
        guard.finite(step, **{f"log-probability of {name} after the update": entropy})
