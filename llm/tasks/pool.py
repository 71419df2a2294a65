"""A fixed pool of training prompts, which a run comes back to: what has a history needs one."""

from __future__ import annotations

import math

from llm.errors import ConfigError

from .digits import DigitProblems
from .problem import Problem, RowTask, Task

_DRAWS = 64  # times the pool's size; a task with that few prompts is told so
_DRAWN_MAX = 300_000  # prompts of digits, which are drawn one by one: a quarter of a minute
_QUICK = 1000  # prompts of a pool whose draws end at once, whatever comes of them


class PoolTask(RowTask):
    """So many different prompts of another task, seen again in every pass over them.

    Held-out problems are the other task's. rows: the number of each prompt in the pool.
    """

    def __init__(self, task: Task, problems: list[Problem]) -> None:
        super().__init__(problems, {}, task.skipped, task.repeats, task.digests)
        self._task = task
        self.rows = {problem.prompt: i for i, problem in enumerate(problems)}

    def held_out(self, seed: int, n: int) -> list[Problem]:
        return self._task.held_out(seed, n)

    def held_out_sets(self, seed: int, n: int) -> dict[str, list[Problem]]:
        return self._task.held_out_sets(seed, n)


def _expected_draws(there: int, size: int) -> int:
    """Draws with replacement until `size` of as many equally likely prompts were seen."""
    if there > 1000 * size:  # hardly any comes twice, and `there` may be no float
        return size
    # sum of there / i for the last `size` of 1..there; the logarithm is of its two ends
    return round(there * math.log((there + 0.5) / (max(there - size, 0) + 0.5)))


def pool_of(task: Task, seed: int, size: int) -> PoolTask:
    """The first `size` different prompts that the task would train on with this seed.

    Raises:
        ConfigError: the task has fewer, or drawing so many would take long.
    """
    there = task.size if isinstance(task, RowTask) else size
    if isinstance(task, DigitProblems) and size > _QUICK:  # drawing would take a minute
        there = task.training_prompts()
        draws = _expected_draws(there, size)
        if size <= there and draws > _DRAWN_MAX:
            raise ConfigError(
                f"--task.pool {size} needs about {draws:,} draws of a prompt, of which at most "
                f"{_DRAWN_MAX:,} are made before a run starts: lower it"
            )
    if size > there:
        raise ConfigError(
            f"--task.pool {size} is more than the {there} different prompts to train on: lower "
            "it, or give more problems"
        )
    different: dict[str, Problem] = {}
    for step in range(_DRAWS):
        for problem in task.batch(seed, step, size):
            different.setdefault(problem.prompt, problem)
        if len(different) >= size:
            return PoolTask(task, list(different.values())[:size])
    raise ConfigError(
        f"--task.pool {size}: {_DRAWS * size:,} problems drawn had {len(different)} different "
        "prompts: lower it, or choose problems of more kinds"
    )
