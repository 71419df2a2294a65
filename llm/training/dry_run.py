"""One step of every part, thrown away: what doctor tries."""

from __future__ import annotations

import time
from pathlib import Path

from llm.algorithm.control import initial_controls
from llm.algorithm.correction import CorrectionState
from llm.runs.nonfinite_guard import Guard

from .context import TrainContext
from .minibatches import shares
from .optimizer import open_optimizers, set_learning_rates
from .rollout_phase import rollout, rollout_metrics
from .update import merge, update


def dry_step(setup: TrainContext, folder: Path) -> dict:
    """One step of everything but evaluation, in memory alone; `folder` is only named in errors."""
    cfg, guard = setup.cfg, Guard(folder)
    optimizers, controls, state = open_optimizers(setup), initial_controls(cfg), CorrectionState()
    clock = time.perf_counter()
    batch = rollout(setup, 0, guard, ahead=0)
    row = rollout_metrics(batch, setup, 0) | {"seconds_rollout": time.perf_counter() - clock}
    clock = time.perf_counter()
    set_learning_rates(cfg, optimizers, controls, 1.0, 0)
    share = shares(setup, batch, state, 0)[0]
    found = update(setup, optimizers, share, controls, state, guard, 0)
    weights = [found.pop("weights")]
    row |= merge([found], weights, cfg)
    row["seconds_update"] = (time.perf_counter() - clock) * cfg.loss.updates_per_rollout
    return row
