"""Problems to train on and to be held out: the protocol every task keeps, and which task it is."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from llm.randomness import stream

EXTRA_CHARACTERS_MAX = 1 << 16  # of a row's other columns: every completion sends them to a worker


class Problem(NamedTuple):
    """A prompt as text, and the right answer.

    extra: the row's other columns as a JSON object, for a reward function; "" where none asks.
    """

    prompt: str
    answer: str
    extra: str = ""


def extra_of(columns: Mapping[str, Any]) -> str:
    """Columns as the JSON of `Problem.extra`; those that JSON cannot hold (bytes, dates) left out.

    "" where nothing is left.
    """
    texts = {}
    for name, value in columns.items():
        try:
            texts[json.dumps(name)] = json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            continue
    return f"{{{', '.join(f'{k}: {v}' for k, v in texts.items())}}}" if texts else ""


class Task(Protocol):
    """Where a run's problems come from. No prompt is both trained on and held out."""

    skipped: int
    """Bad rows left out."""

    def batch(self, seed: int, step: int, n: int) -> list[Problem]:
        """Training problems of a step; depends on nothing but the arguments."""

    def held_out(self, seed: int, n: int) -> list[Problem]:
        """Problems that no `batch` ever holds: n, or all there are."""


def is_held_out(prompt: str) -> bool:
    """An eighth of all prompts, by a hash of the text: the same ones in every run and file."""
    return zlib.crc32(prompt.encode()) % 8 == 0


def with_instruction(prompt: str, instruction: str) -> str:
    return f"{prompt}\n{instruction}" if instruction else prompt


class RowTask:
    """Problems held in memory: a seeded permutation for each pass over them."""

    def __init__(self, train: list[Problem], held: list[Problem], skipped: int) -> None:
        self._train, self._held, self.skipped = train, held, skipped

    def batch(self, seed: int, step: int, n: int) -> list[Problem]:
        size = len(self._train)
        problems: list[Problem] = []
        for i in range(step * n, (step + 1) * n):
            if i % size == 0 or not problems:
                order = stream(seed, "prompts", i // size).permutation(size)
            problems.append(self._train[order[i % size]])
        return problems

    def held_out(self, seed: int, n: int) -> list[Problem]:
        order = stream(seed, "evaluation prompts").permutation(len(self._held))[:n]
        return [self._held[i] for i in order]
