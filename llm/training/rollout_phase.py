"""Phase 1 of a step: prompts, completions, rewards."""

from __future__ import annotations

from dataclasses import replace

import torch

from llm import distributed
from llm.errors import ConfigError, NonFinite
from llm.rewards.scorers import Scorer
from llm.rollout.batch import Batch, Samples
from llm.rollout.engines.base import EngineError, request_ahead
from llm.runs.nonfinite_guard import Guard
from llm.tasks.pool import PoolTask
from llm.tasks.problem import Problem

from .allocation import Allocation, allocate
from .context import TrainContext


def sample_rollouts(ctx: TrainContext, step: int, ahead: int | None = None) -> Batch:
    """This step's prompts, each completed by a group, with log q of every sampled token.

    A rank samples neighbouring prompts, with the random numbers that they have among all. The
    batches of the `ahead` next steps are ordered too, by default rollout.max_staleness of them.

    Raises:
        NonFinite: the sampling model gives NaN or inf.
        EngineError: the engine failed.
    """
    cfg, rollout, engine = ctx.cfg, ctx.cfg.rollout, ctx.engine
    assert engine is not None  # a context for training has one
    prompts, group = rollout.prompts_per_step, rollout.rollouts_per_prompt
    shared = None
    if ctx.history is not None:  # groups of unequal sizes: every completion is asked for by itself
        everywhere = ctx.task.batch(cfg.run.seed, step, prompts)
        shared = allocate(cfg, ctx.history, ctx.task, everywhere, step)
        total, group = int(shared.counts.sum()), 1
    else:
        total = prompts * group
    own = distributed.rank_slice(total // group)  # whole groups, where they are equal
    place = (own.start * group, total)  # (first sequence, of how many)
    of_this_rank = Guard(ctx.checkpoints)  # ranks sample different numbers of tokens

    def problems(of_step: int) -> list[Problem]:
        everywhere = ctx.task.batch(cfg.run.seed, of_step, prompts)
        if shared is not None:
            everywhere = [
                p for p, n in zip(everywhere, shared.counts, strict=True) for _ in range(n)
            ]
        return everywhere[own.start : own.stop]

    def check(logq: torch.Tensor) -> None:
        of_this_rank.logprobs(step, **{"log-probability of the sampling model": logq})

    def sample() -> Samples:
        last = min(step + (rollout.max_staleness if ahead is None else ahead), cfg.run.steps)
        request_ahead(engine, range(step, last + 1), problems, place, group)
        return engine.collect(step, problems(step), check=check)

    # A rank that raised alone would leave the others waiting in their next collective.
    batch = distributed.raise_on_all_ranks(sample, NonFinite, EngineError).flat(group)
    return batch if shared is None else _allocated(batch, shared)


def _allocated(batch: Batch, shared: Allocation) -> Batch:
    """With the number of each completion's prompt, and what multiplies its advantage, (b,) each."""
    group = torch.from_numpy(shared.counts).to(batch.index.device)
    group = torch.arange(len(group), device=group.device).repeat_interleave(group)[batch.index]
    multiplier = torch.from_numpy(shared.multiplier).float().to(group.device)[group]
    return replace(batch, group=group, multiplier=multiplier)


def with_rewards(batch: Batch, scorer: Scorer) -> Batch:
    """The batch with the score of each completion, (b,)."""
    return replace(batch, reward=rewards(batch, scorer).to(batch.ids.device))


def rewards(batch: Batch, scorer: Scorer) -> torch.Tensor:
    """Score of each completion, (b,) float32."""
    texts = (batch.answers, batch.prompts, batch.extras)
    return torch.tensor(scorer.score(batch.completions(), *texts), dtype=torch.float32)


def rollout_metrics(ctx: TrainContext, batch: Batch, step: int) -> dict[str, float]:
    """Of all ranks' sequences."""
    assert ctx.engine is not None
    # (b,) -> (B,) of all ranks
    reward, group = distributed.all_gather(batch.reward), distributed.all_gather(batch.group)
    lengths = distributed.all_gather(batch.lengths)
    return {
        "reward_mean": float(reward.mean()),
        # where all rewards of a group are equal, every advantage is 0: Eq. 5 learns nothing
        "groups_informative": _informative(reward, group),
        "length_mean": float(lengths.float().mean()),
        "finished": float(distributed.all_gather(batch.finished).float().mean()),
        "tokens": int(lengths.sum()),
        "staleness": float((step - batch.version).float().mean()),
        **_drafting_metrics(batch),
        **distributed.sum_counts(ctx.engine.counts()),
        **distributed.sum_counts(ctx.scorer.counts()),
    }


def _drafting_metrics(batch: Batch) -> dict[str, float]:
    """Of all ranks' tokens, where they were drafted and verified."""
    if batch.verification is None:
        return {}
    verified, gather = batch.verification, distributed.all_gather
    passes = torch.zeros_like(batch.index).index_add_(  # (b,) of the policy over each sequence
        0, batch.sequence, verified.starts_round.to(batch.index)
    )
    passes, drafted = gather(passes), ~gather(verified.is_bonus)  # (B,), (N,)

    def mean(x: torch.Tensor) -> float:
        return float(gather(x)[drafted].mean())

    return {
        "draft_accept_rate": mean(verified.accept_rate),
        "draft_tokens_per_pass": len(drafted) / int(passes.sum()),
        "draft_passes_max": int(passes.max()),
        "draft_lam": mean(verified.lam),
        "draft_kl_policy_sampled": float(gather(verified.kl_sampled).mean()),
        "draft_kl_policy_actor": mean(verified.kl_actor),
    }


def visits(ctx: TrainContext, batch: Batch) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Row in the pool and reward of each completion of all ranks, (B,) each; None where nothing
    goes by them.

    Raises:
        ConfigError: a reward outside [0, 1], which is no share of right answers.
    """
    if ctx.history is None:
        return None
    assert isinstance(ctx.task, PoolTask)
    rows = torch.tensor([ctx.task.rows[p] for p in batch.prompts], device=batch.reward.device)
    reward = distributed.all_gather(batch.reward)  # (B,): every rank raises, or none
    outside = reward[~((reward >= 0) & (reward <= 1))]
    if len(outside):
        raise ConfigError(
            "rollout.allocation and rollout.pruning.prompt_rate go by pass rates, and a reward is "
            f"{float(outside[0]):g}, outside [0, 1]: scale the rewards, or choose "
            "--rollout.allocation.type uniform and --rollout.pruning.prompt_rate 0"
        )
    return distributed.all_gather(rows), reward


def _informative(reward: torch.Tensor, group: torch.Tensor) -> float:
    """Share of the prompts whose completions have different rewards, (B,) each."""
    number = torch.unique(group, return_inverse=True)[1]  # 0, 1, .. without gaps
    extremes = torch.zeros(2, int(number.max()) + 1, dtype=reward.dtype, device=reward.device)
    for row, how in zip(extremes, ("amin", "amax"), strict=True):
        row.scatter_reduce_(0, number, reward, how, include_self=False)
    return float((extremes[0] != extremes[1]).float().mean())
