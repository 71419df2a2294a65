"""Rows with the same prompt: counted once where their answers agree, bad rows where they do not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from llm.errors import ConfigError
from llm.tokenizers.conversation import messages_of

from .problem import Problem

Placed = tuple[str, Problem]
"""Where a row stands ("line 3"), and its problem."""


class Distinct(NamedTuple):
    """Problems of different prompts; bad rows with place and reason; rows left out as repeats."""

    problems: list[Placed]
    bad: list[tuple[str, str]]
    repeats: int


TEXT_BYTES_MAX = 1 << 31  # millions of problems; every rank holds all, and a few copies for a time
_ROW_BYTES = 500  # of a row besides its texts


class Room:
    """What is left in memory for the rows of a run, all sources together."""

    def __init__(self) -> None:
        self._left = TEXT_BYTES_MAX

    def take(self, where: str, texts: Sequence[str]) -> None:
        """Raises ConfigError where a row does not fit any more."""
        self._left -= _ROW_BYTES + sum(map(sys.getsizeof, texts))
        if self._left < 0:
            raise ConfigError(
                f"the rows of --task.source and --task.eval_source take more than {TEXT_BYTES_MAX} "
                f"bytes of memory, at {where} of the source that was being read: give fewer rows, "
                "or shorter ones"
            )


def distinct_problems(
    rows: Iterable[tuple[str, Problem | str]],
    same: Callable[[Problem, Problem], bool],
    room: Room,
) -> Distinct:
    """The first row of each prompt. Every row of a prompt with two answers is bad.

    Args:
        rows: place and problem, or place and why the row is none.
        same: whether two problems with one prompt have the same answer.
        room: for what is kept of them. Rows that repeat others take none.

    Raises:
        ConfigError: there is no more room.
    """
    first: dict[str, Placed] = {}
    contradicted: dict[str, str] = {}
    bad: list[tuple[str, str]] = []
    repeats = 0
    for where, problem in rows:
        if isinstance(problem, str):
            room.take(where, [problem])
            bad.append((where, problem))
            continue
        there, earlier = first.setdefault(problem.prompt, (where, problem))
        if earlier is problem:
            room.take(where, [*problem, *(text for _, text in messages_of(problem.prompt))])
            continue
        if same(earlier, problem):
            repeats += 1
            continue
        room.take(where, [problem.prompt])
        bad.append((where, _contradiction(problem, earlier, there)))
        contradicted.setdefault(problem.prompt, _contradiction(earlier, problem, where))
    bad = [(first.pop(prompt)[0], reason) for prompt, reason in contradicted.items()] + bad
    return Distinct(list(first.values()), bad, repeats)


def _contradiction(problem: Problem, other: Problem, where: str) -> str:
    answers = f"{other.answer[:40]!r}, here it is {problem.answer[:40]!r}"
    return f"the prompt is that of {where}, and the answer there is {answers}"
