"""Before sampling: how many completions each prompt of a step gets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jackpot import allocation, selection
from llm import randomness
from llm.settings.loading import Config
from llm.settings.schema import (
    AStarPoObjective,
    CobaAllocation,
    HorvitzThompsonPruning,
    UniformAllocation,
)
from llm.tasks.pool import PoolTask
from llm.tasks.problem import Problem, Task

from .prompt_history import OptimalValues, PromptHistory


class Allocation(NamedTuple):
    """Of each prompt of a step, all ranks': its completions, (prompts,) int64, and what multiplies
    their advantages, (prompts,) float64."""

    counts: np.ndarray
    multiplier: np.ndarray


def open_history(cfg: Config, task: Task) -> PromptHistory | None:
    """An empty history, where something goes by it."""
    own, pruning = cfg.rollout.allocation, cfg.rollout.pruning
    by_prompt = isinstance(pruning, HorvitzThompsonPruning) and pruning.prompt_rate > 0
    if isinstance(own, UniformAllocation) and not by_prompt:
        return None
    assert isinstance(task, PoolTask)  # settings: a history needs task.pool
    window = 1 if isinstance(own, UniformAllocation) else own.window
    steps = own.failure_steps if isinstance(own, CobaAllocation) else 1
    return PromptHistory(task.size, window, steps)


def open_values(cfg: Config, task: Task) -> OptimalValues | None:
    """None yet, where the objective asks for them."""
    if not isinstance(cfg.objective, AStarPoObjective):
        return None
    assert isinstance(task, PoolTask)  # settings: V* needs task.pool
    return OptimalValues(task.size)


def allocate(
    cfg: Config, history: PromptHistory, task: Task, problems: list[Problem], step: int
) -> Allocation:
    """The step's completions, shared out among its prompts; the same on every rank.

    prompts_per_step x rollouts_per_prompt completions in all, except that those of pruned prompts
    are not sampled.
    """
    rollout, n = cfg.rollout, len(problems)
    total = n * rollout.rollouts_per_prompt
    assert isinstance(task, PoolTask)
    row = np.array([task.rows[problem.prompt] for problem in problems])
    own = rollout.allocation
    if isinstance(own, UniformAllocation):
        return _without_pruned(cfg, history.abs_advantage[row], step)
    rate = allocation.pass_rates(*history.pooled(row))
    bounds = {"low": own.rollouts_min, "high": own.rollouts_max}
    if isinstance(own, CobaAllocation):
        alpha = allocation.coba_alpha(history.failures(), own.concentration)
        count = allocation.coba(rate, total, alpha, own.concentration, **bounds)
    else:
        assert cfg.loss.advantage != "grpo"  # refused: VIP has no variance of it
        count = allocation.vip(rate, total, estimator=cfg.loss.advantage, **bounds)
    # equal: a prompt's completions together weigh as much as any other prompt's
    return Allocation(count, total / n / count if own.prompt_weight == "equal" else np.ones(n))


def _without_pruned(cfg: Config, abs_advantage: np.ndarray, step: int) -> Allocation:
    """No completions for prompts that a coin drops. abs_advantage: at the last visit, (prompts,),
    negative before the first."""
    pruning = cfg.rollout.pruning
    assert isinstance(pruning, HorvitzThompsonPruning)
    # a prompt that was never seen may be worth anything: it is the last candidate
    score = np.where(abs_advantage < 0, abs_advantage.max(initial=0.0) + 1.0, abs_advantage)
    rng = randomness.stream(cfg.run.seed, "prompt pruning", step)
    rate, fraction = pruning.prompt_rate, pruning.candidate_fraction
    keep, weight = selection.horvitz_thompson(score, rate, fraction, rng)
    if not keep.any():  # something must be sampled; its weight of 0 leaves it out of the loss
        keep[0] = True
    return Allocation(np.where(keep, cfg.rollout.rollouts_per_prompt, 0), weight)
