"""Phase 1 of a step: prompts, completions, rewards, advantages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llm import distributed
from llm.algorithm.advantages import group_advantage
from llm.distributed import sum_counts
from llm.rollout.batch import Batch
from llm.rollout.engines.base import Engine, EngineError, request_ahead
from llm.runs.alarms import NonFinite
from llm.runs.nonfinite_guard import Guard
from llm.tasks.problem import Problem

from . import rollout_phase
from .context import TrainContext

if TYPE_CHECKING:
    from llm.rewards.scorers import Scorer


def rewards(batch: Batch, scorer: Scorer) -> torch.Tensor:
    """Score of each completion, (b,) float32."""
    return torch.tensor(scorer.score(batch.completions(), batch.answers), dtype=torch.float32)


def engine_of(setup: TrainContext) -> Engine:
    assert setup.engine is not None  # a training setup has one
    return setup.engine


def rollout(setup: TrainContext, step: int, guard: Guard, ahead: int | None = None) -> Batch:
    """This step's prompts, each completed by a group, scored; advantages before any rejection.

    Those of this rank: neighbouring prompts, sampled as they are among all. Orders the batches of
    the `ahead` next steps too, by default rollout.max_staleness.
    """
    cfg, r, engine = setup.cfg, setup.cfg.rollout, engine_of(setup)
    own, group = distributed.rank_slice(r.prompts_per_step), r.rollouts_per_prompt
    place = (own.start * group, r.prompts_per_step * group)
    here = Guard(guard.checkpoints)  # ranks sample different numbers of tokens

    def problems(of: int) -> list[Problem]:
        return setup.task.batch(cfg.run.seed, of, r.prompts_per_step)[own.start : own.stop]

    def sampled() -> Batch:
        last = min(step + (r.max_staleness if ahead is None else ahead), cfg.run.steps)
        request_ahead(engine, range(step, last + 1), problems, place)
        return engine.collect(
            step,
            problems(step),
            check=lambda logq: here.finite(step, **{"log-probability of the sampling model": logq}),
        )

    batch = distributed.raise_on_all_ranks(sampled, NonFinite, EngineError)
    reward = rollout_phase.rewards(batch, setup.scorer).to(setup.device)
    advantage = group_advantage(reward, r.rollouts_per_prompt, cfg.loss.advantage)
    return replace(batch, reward=reward, advantage=advantage)


def rollout_metrics(batch: Batch, setup: TrainContext, step: int) -> dict[str, float]:
    """Of all ranks' sequences."""
    reward = distributed.all_gather(batch.reward)
    groups = reward.reshape(-1, setup.cfg.rollout.rollouts_per_prompt)
    lengths = distributed.all_gather(batch.is_completion.sum(dim=1))
    return {
        "reward_mean": float(reward.mean()),
        "groups_informative": float((groups != groups[:, :1]).any(dim=1).float().mean()),
        "length_mean": float(lengths.float().mean()),
        "finished": float(distributed.all_gather(batch.finished).float().mean()),
        "tokens": int(lengths.sum()),
        "staleness": float((step - batch.version[batch.is_completion]).float().mean()),
        **sum_counts(engine_of(setup).counts()),
        **sum_counts(setup.scorer.counts()),
    }
