"""One step of every part, thrown away: what doctor tries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm.runs.nonfinite_guard import Guard
from llm.train import update
from llm.training.context import TrainContext
from llm.training.minibatches import split_minibatches
from llm.training.optimal_values import with_optimal_values
from llm.training.optimizer import open_learner, set_learning_rates
from llm.training.record import Record
from llm.training.rollout_phase import rollout_metrics, sample_rollouts, with_rewards
from llm.training.selection import with_advantages


def dry_step(ctx: TrainContext, folder: Path) -> dict[str, Any]:
    """One step of everything but evaluation, in memory alone; `folder` is only named in errors."""
    cfg, guard, record = ctx.cfg, Guard(folder), Record(0, evaluated=False)
    learner = open_learner(ctx, guard)
    with record.timed("rollout"):
        batch = sample_rollouts(ctx, 0, ahead=0)
        batch = with_optimal_values(ctx, with_rewards(batch, ctx.scorer), 0)
        record.add(rollout_metrics(ctx, batch, 0))
        batch = with_advantages(batch, cfg, 0)
    with record.timed("update"):
        set_learning_rates(cfg, learner, 1.0, 0)
        minibatch = split_minibatches(ctx, batch, learner, 0)[0]
        record.add_update(minibatch, *update(ctx, learner, minibatch, 0))
        record.merge_updates(cfg.correction.type)
    record.row["seconds_update"] *= cfg.loss.updates_per_rollout
    return record.row
