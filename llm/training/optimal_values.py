"""A*-PO's V*: of each prompt of the pool, from completions of the initial policy."""

from __future__ import annotations

from dataclasses import replace

import torch

from jackpot.torch.sequence_objectives import optimal_value
from llm import distributed, randomness
from llm.rollout.batch import Batch
from llm.rollout.sampling import sample
from llm.settings.schema import AStarPoObjective
from llm.tasks.pool import PoolTask
from llm.tasks.problem import Problem

from .context import TrainContext
from .rollout_phase import rewards


def with_optimal_values(ctx: TrainContext, batch: Batch, step: int) -> Batch:
    """The batch with V* of each completion's prompt, (b,); as it is where nothing asks for it.

    A prompt that comes for the first time is completed by the initial policy, which is frozen:
    the actor's completions would give another V*. All ranks must call.
    """
    values, task, objective = ctx.values, ctx.task, ctx.cfg.objective
    if values is None:
        return batch
    assert isinstance(task, PoolTask) and isinstance(objective, AStarPoObjective)
    step_problems = task.batch(ctx.cfg.run.seed, step, ctx.cfg.rollout.prompts_per_step)
    new = [p for p in step_problems if not values.known[task.rows[p.prompt]]]
    if new:  # on every rank or on none
        own = distributed.rank_slice(len(new))
        of_rank = _values(ctx, objective, new[own.start : own.stop], (own.start, len(new)), step)
        for pairs in distributed.all_gather_object(of_rank):
            for row, value in pairs:
                values.value[row], values.known[row] = value, 1
    rows = torch.tensor([task.rows[prompt] for prompt in batch.prompts])
    return replace(batch, value=values.value[rows].to(batch.reward))


def _values(
    ctx: TrainContext,
    objective: AStarPoObjective,
    problems: list[Problem],
    place: tuple[int, int],
    step: int,
) -> list[tuple[int, float]]:
    """Rows of the pool with V*. place: the first of the problems among all ranks', of how many."""
    if not problems:
        return []
    assert ctx.initial_policy is not None and isinstance(ctx.task, PoolTask)
    rollout, n = ctx.cfg.rollout, objective.value_rollouts
    samples = sample(
        ctx.initial_policy,
        ctx.tokenizer,
        problems,
        randomness.stream(ctx.cfg.run.seed, "optimal values", step),
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_k=1,
        group=n,
        place=(place[0] * n, place[1] * n),
    )
    reward = rewards(samples.flat(n), ctx.scorer).reshape(-1, n)  # (problems, n)
    values = [optimal_value(own, beta=objective.value_beta) for own in reward]
    return [(ctx.task.rows[p.prompt], v) for p, v in zip(problems, values, strict=True)]
