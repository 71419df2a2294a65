"""Rows with the same prompt: counted once where their answers agree, bad rows where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .problem import Problem

Placed = tuple[str, Problem]
"""Where a row stands ("line 3"), and its problem."""


class Distinct(NamedTuple):
    """Problems of different prompts; bad rows with place and reason; rows left out as repeats."""

    problems: list[Placed]
    bad: list[tuple[str, str]]
    repeats: int


def distinct_problems(
    rows: Iterable[tuple[str, Problem | str]], same: Callable[[Problem, Problem], bool]
) -> Distinct:
    """The first row of each prompt. Every row of a prompt with two answers is bad.

    Args:
        rows: place and problem, or place and why the row is none.
        same: whether two problems with one prompt have the same answer.
    """
    first: dict[str, Placed] = {}
    contradicted: dict[str, str] = {}
    bad: list[tuple[str, str]] = []
    repeats = 0
    for where, problem in rows:
        if isinstance(problem, str):
            bad.append((where, problem))
            continue
        there, earlier = first.setdefault(problem.prompt, (where, problem))
        if earlier is problem:
            continue
        if same(earlier, problem):
            repeats += 1
            continue
        bad.append((where, _contradiction(problem, earlier, there)))
        contradicted.setdefault(problem.prompt, _contradiction(earlier, problem, where))
    bad = [(first.pop(prompt)[0], reason) for prompt, reason in contradicted.items()] + bad
    return Distinct(list(first.values()), bad, repeats)


def _contradiction(problem: Problem, other: Problem, where: str) -> str:
    answers = f"{other.answer[:40]!r}, here it is {problem.answer[:40]!r}"
    return f"the prompt is that of {where}, and the answer there is {answers}"
