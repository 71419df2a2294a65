"""Phase 1 of a step: prompts, completions, rewards, advantages."""

from __future__ import annotations

from dataclasses import replace

import torch

from llm import distributed
from llm.algorithm.advantages import group_advantage
from llm.errors import NonFinite
from llm.rewards.scorers import Scorer
from llm.rollout.batch import Batch, Samples
from llm.rollout.engines.base import EngineError, request_ahead
from llm.runs.nonfinite_guard import Guard
from llm.settings.loading import Config
from llm.tasks.problem import Problem

from .context import TrainContext


def sample_rollouts(ctx: TrainContext, step: int, guard: Guard, ahead: int | None = None) -> Batch:
    """This step's prompts, each completed by a group, with log q of every sampled token.

    A rank samples neighbouring prompts, with the random numbers that they have among all. The
    batches of the `ahead` next steps are ordered too, by default rollout.max_staleness of them.

    Raises:
        NonFinite: the sampling model gives NaN or inf.
        EngineError: the engine failed.
    """
    cfg, rollout, engine = ctx.cfg, ctx.cfg.rollout, ctx.engine
    assert engine is not None  # a context for training has one
    own, group = distributed.rank_slice(rollout.prompts_per_step), rollout.rollouts_per_prompt
    place = (own.start * group, rollout.prompts_per_step * group)  # (first sequence, of how many)
    of_this_rank = Guard(guard.checkpoints)  # ranks sample different numbers of tokens

    def problems(of_step: int) -> list[Problem]:
        everywhere = ctx.task.batch(cfg.run.seed, of_step, rollout.prompts_per_step)
        return everywhere[own.start : own.stop]

    def check(logq: torch.Tensor) -> None:
        of_this_rank.logprobs(step, **{"log-probability of the sampling model": logq})

    def sample() -> Samples:
        last = min(step + (rollout.max_staleness if ahead is None else ahead), cfg.run.steps)
        request_ahead(engine, range(step, last + 1), problems, place)
        return engine.collect(step, problems(step), check=check)

    # A rank that raised alone would leave the others waiting in their next collective.
    return distributed.raise_on_all_ranks(sample, NonFinite, EngineError).flat(group)


def with_rewards(batch: Batch, scorer: Scorer) -> Batch:
    """The batch with the score of each completion, (b,)."""
    return replace(batch, reward=rewards(batch, scorer).to(batch.ids.device))


def rewards(batch: Batch, scorer: Scorer) -> torch.Tensor:
    """Score of each completion, (b,) float32."""
    texts = (batch.answers, batch.prompts, batch.extras)
    return torch.tensor(scorer.score(batch.completions(), *texts), dtype=torch.float32)


def with_advantages(batch: Batch, cfg: Config) -> Batch:
    """The batch with how much better each completion is than the others of its prompt, (b,)."""
    advantage = group_advantage(batch.reward, batch.group, cfg.loss.advantage)
    return replace(batch, advantage=advantage)


def rollout_metrics(ctx: TrainContext, batch: Batch, step: int) -> dict[str, float]:
    """Of all ranks' sequences."""
    assert ctx.engine is not None
    reward = distributed.all_gather(batch.reward)  # (b,) -> (B,) of all ranks
    # (B,) -> (prompts, G): a prompt's completions are neighbours, and no rank parts a group
    groups = reward.reshape(-1, ctx.cfg.rollout.rollouts_per_prompt)
    lengths = distributed.all_gather(batch.lengths)
    return {
        "reward_mean": float(reward.mean()),
        # where all rewards of a group are equal, every advantage is 0: Eq. 5 learns nothing
        "groups_informative": float((groups != groups[:, :1]).any(dim=1).float().mean()),
        "length_mean": float(lengths.float().mean()),
        "finished": float(distributed.all_gather(batch.finished).float().mean()),
        "tokens": int(lengths.sum()),
        "staleness": float((step - batch.version).float().mean()),
        **distributed.sum_counts(ctx.engine.counts()),
        **distributed.sum_counts(ctx.scorer.counts()),
    }
