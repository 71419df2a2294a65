"""Problems to train on and to be held out: the protocol every task keeps, and which task it is."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from llm.randomness import stream
from llm.tokenizers.conversation import Conversation, messages_of

HELD_OUT = "held_out"  # the evaluation set of a task that has no others

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
    repeats: int
    """Rows left out because an earlier row has the same prompt and answer."""
    digests: Mapping[str, str]
    """SHA-256 of the problems of each source that was read, by a name that holds its place."""

    def batch(self, seed: int, step: int, n: int) -> list[Problem]:
        """Training problems of a step; depends on nothing but the arguments."""

    def held_out(self, seed: int, n: int) -> list[Problem]:
        """Problems that no `batch` ever holds: n of each evaluation set, or all there are."""

    def held_out_sets(self, seed: int, n: int) -> dict[str, list[Problem]]:
        """The same by evaluation set, in the same order."""


def digest(problems: Iterable[Problem]) -> str:
    """SHA-256 of problems in their order, in hexadecimal: of what is read, not of a file's bytes.

    A file that is written anew with the same problems, or in another format, keeps it.
    """
    sha256 = hashlib.sha256()
    for problem in problems:
        sha256.update(json.dumps([messages_of(problem.prompt), *problem[1:]]).encode() + b"\n")
    return sha256.hexdigest()


def is_held_out(prompt: str) -> bool:
    """An eighth of all prompts, by a hash of the text: the same ones in every run and file.

    White space does not count, so that two copies of a prompt are on the same side.
    """
    return zlib.crc32(" ".join(prompt.split()).encode()) % 8 == 0


def with_instruction(prompt: str, instruction: str) -> str:
    """The prompt with an instruction on a line of its own, in the last message."""
    if not instruction:
        return prompt
    if isinstance(prompt, Conversation):
        *earlier, (role, content) = prompt.messages
        return Conversation([*earlier, (role, f"{content}\n{instruction}")])
    return f"{prompt}\n{instruction}"


class RowTask:
    """Problems held in memory: a seeded permutation for each pass over them.

    No step holds a row twice, if it has no more prompts than there are rows: in the step in which
    one pass ends and the next begins, rows of the old pass wait until the following step.
    """

    def __init__(
        self,
        train: list[Problem],
        held: Mapping[str, list[Problem]],
        skipped: int,
        repeats: int = 0,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """held: the problems of each evaluation set, all different."""
        self._train, self._held, self.skipped, self.repeats = train, held, skipped, repeats
        self.digests: Mapping[str, str] = dict(digests or {})
        self._orders: dict[tuple[int, int, int], list[int]] = {}  # the last two, by seed, n, pass

    @property
    def size(self) -> int:
        """Training problems."""
        return len(self._train)

    def batch(self, seed: int, step: int, n: int) -> list[Problem]:
        problems: list[Problem] = []
        for i in range(step * n, (step + 1) * n):
            if i % self.size == 0 or not problems:
                order = self._order(seed, n, i // self.size)
            problems.append(self._train[order[i % self.size]])
        return problems

    def _order(self, seed: int, n: int, epoch: int) -> list[int]:
        """Row numbers of a pass over the data, in steps of n."""
        key = (seed, n, epoch)
        if key not in self._orders:
            # a pass of 2n rows or more ends in rows that its own beginning left where they were
            first = max(0, epoch - 1) if self.size >= 2 * n else 0
            order: list[int] = []
            for one in range(first, epoch + 1):
                drawn = stream(seed, "prompts", one).permutation(self.size).tolist()
                order = _shared_step_distinct(drawn, order, one * self.size % n, n)
            self._orders = dict([*self._orders.items(), (key, order)][-2:])
        return self._orders[key]

    def held_out(self, seed: int, n: int) -> list[Problem]:
        return [p for problems in self.held_out_sets(seed, n).values() for p in problems]

    def held_out_sets(self, seed: int, n: int) -> dict[str, list[Problem]]:
        def some(held: list[Problem]) -> list[Problem]:
            order = stream(seed, "evaluation prompts").permutation(len(held))[:n]
            return [held[i] for i in order]

        return {name: some(held) for name, held in self._held.items()}


def _shared_step_distinct(drawn: list[int], before: list[int], late: int, n: int) -> list[int]:
    """`drawn`, but in its first n - late places no row of the last `late` of the pass before it.

    Those rows keep their order and come next. A step with more prompts than rows stays as drawn.
    """
    if late == 0 or not before or n > len(drawn):
        return drawn
    waiting = set(before[-late:])
    head = [row for row in drawn if row not in waiting][: n - late]
    taken = set(head)
    return head + [row for row in drawn if row not in taken]
