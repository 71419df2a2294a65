"""The task that a configuration names, and how long its prompts are."""

from __future__ import annotations

from typing import Any

from llm.phases import during
from llm.settings.loading import Config, ConfigError
from llm.settings.schema import AutoReward, RewardConfig, TaskConfig
from llm.tokenizers.pretrained import Tokenizer

from .pool import pool_of
from .problem import RowTask, Task

_AUTO = AutoReward()


@during("while data were read")
def open_task(cfg: TaskConfig, tokenizer: Any, reward: RewardConfig = _AUTO) -> Task:
    """The task of a configuration, its data read and checked.

    reward: what judges. For a function a row keeps its other columns and needs no answer; for a
    scorer its answer must be one that the scorer can compare with.

    Raises:
        ConfigError: a task without held-out problems, or prompts the tokenizer cannot read; for
            rows and generators also a missing file, package or column, or bad rows.
    """
    if cfg.type == "problems":
        from .datasets import open_problems

        return open_problems(cfg, tokenizer, reward)
    if cfg.type == "gym":
        from .reasoning_gym_task import open_gym

        return open_gym(cfg, tokenizer, reward)
    from .digits import open_digits

    return open_digits(cfg, tokenizer)


def with_pool(cfg: Config, task: Task) -> Task:
    """The task, or its pool of task.pool prompts. Raises ConfigError if it has fewer."""
    return pool_of(task, cfg.run.seed, cfg.task.pool) if cfg.task.pool else task


def require_distinct_prompts(cfg: Config, task: Task) -> None:
    """Raises ConfigError if a step has more prompts than the task has different ones."""
    n = cfg.rollout.prompts_per_step
    if isinstance(task, RowTask) and n > task.size:
        raise ConfigError(
            f"--rollout.prompts_per_step {n} is more than the {task.size} different prompts to "
            "train on, and a step holds no prompt twice: lower it, or give more problems"
        )


_PROMPTS_SEEN = 4096


def prompt_lengths(cfg: Config, task: Task, tokenizer: Tokenizer) -> list[int]:
    """Tokens of the prompts that a run will see: all held-out ones, the first 4096 trained on."""
    n = cfg.rollout.prompts_per_step
    steps = max(1, min(cfg.run.steps, _PROMPTS_SEEN // n))
    prompts = {p.prompt for step in range(steps) for p in task.batch(cfg.run.seed, step, n)}
    prompts |= {p.prompt for p in task.held_out(cfg.run.seed, cfg.run.eval_prompts)}
    return [len(tokenizer.prompt(p)) for p in prompts]
