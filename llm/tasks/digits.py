"""Tasks made of digits: prompts drawn at random, answers computed, demonstrations that go wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llm.errors import ConfigError
from llm.randomness import stream
from llm.settings import schema
from llm.tokenizers.digit_synonyms import spell

from .problem import HELD_OUT, Problem, is_held_out, with_instruction

_FILLING = "."  # of the places of a prompt that hold no digit
DigitsConfig = schema.DigitTask | schema.AddTask | schema.ArithmeticTask
_COUNTED = 200_000  # prompts that are enumerated to be counted, in a fraction of a second
_FEW = 2000  # prompts of so short a task are enumerated, to see that some are held out


class DigitProblems:
    """A generated task; all its random numbers come from `data.stream`."""

    skipped = repeats = 0
    digests: Mapping[str, str] = {}  # nothing is read

    def __init__(self, cfg: DigitsConfig) -> None:
        self.cfg = cfg
        self._width = cfg.pad_prompt_to if isinstance(cfg, schema.DigitTask) else 0
        self._instruction = cfg.instruction if isinstance(cfg, schema.ArithmeticTask) else ""
        self._held_out: dict[tuple[int, int], list[Problem]] = {}  # by seed and n

    def batch(self, seed: int, step: int, n: int) -> list[Problem]:
        return self.problems(stream(seed, "prompts", step), n)

    def held_out(self, seed: int, n: int) -> list[Problem]:
        if (seed, n) not in self._held_out:  # every evaluation asks for the same
            rng = stream(seed, "evaluation prompts")
            self._held_out[seed, n] = self.problems(rng, n, held_out=True)
        return list(self._held_out[seed, n])

    def held_out_sets(self, seed: int, n: int) -> dict[str, list[Problem]]:
        return {HELD_OUT: self.held_out(seed, n)}

    def problems(
        self, rng: np.random.Generator, n: int, *, held_out: bool = False
    ) -> list[Problem]:
        """n problems, drawn with replacement. An eighth of all prompts is held out."""
        problems: list[Problem] = []
        while len(problems) < n:
            digits = tuple(self._number(rng) for _ in range(self._operands))
            prompt = self._prompt(digits)
            if is_held_out(prompt) == held_out:
                problems.append(
                    Problem(with_instruction(prompt, self._instruction), self._answer(digits))
                )
        return problems

    def demonstration(self, prompt: str, rng: np.random.Generator, error: float) -> str:
        """An answer whose steps are, with probability `error`, random digits.

        In `chain` a wrong step carries over to the later ones; elsewhere it stays one wrong digit.
        Where digits have synonyms, each is written as one drawn from `zipf`.
        """
        asked = prompt.replace(_FILLING, "")
        digits, synonyms = (
            _DEMONSTRATIONS[self.cfg.type](asked, rng, error),
            self.cfg.digit_synonyms,
        )
        return digits if synonyms == 1 else spell(digits, synonyms, rng)

    @property
    def _operands(self) -> int:
        return 2 if self.cfg.type in ("add", "arithmetic") else 1

    def _number(self, rng: np.random.Generator) -> str:
        length = rng.integers(self.cfg.digits_min, self.cfg.digits_max + 1)
        low = int(self._operands == 2 and length > 1)  # operands of a sum have no leading zero
        if low == 0:
            return "".join(map(str, rng.integers(10, size=length)))
        return "".join(map(str, [rng.integers(1, 10), *rng.integers(10, size=length - 1)]))

    def _prompt(self, numbers: tuple[str, ...]) -> str:
        if self.cfg.type == "arithmetic":
            return f"What is {' + '.join(numbers)}?"
        return "+".join(numbers).ljust(self._width, _FILLING) + "="

    def _answer(self, numbers: tuple[str, ...]) -> str:
        return _ANSWERS[self.cfg.type](*numbers)

    def training_prompts(self) -> int:
        """Prompts that are not held out; of very many all that there are."""
        prompts = self.all_prompts(_COUNTED)
        return self._kinds() if prompts is None else sum(not is_held_out(p) for p in prompts)

    def _kinds(self) -> int:
        """Prompts that can be drawn; operands with a leading zero, which are not, included."""
        lengths = range(self.cfg.digits_min, self.cfg.digits_max + 1)
        return int(sum(10**d for d in lengths) ** self._operands)

    def all_prompts(self, most: int = _FEW) -> list[str] | None:
        """Every prompt that can be drawn, or None if there are more than `most`."""
        if self._kinds() > most:
            return None
        lengths = range(self.cfg.digits_min, self.cfg.digits_max + 1)
        numbers = ["".join(x) for d in lengths for x in itertools.product("0123456789", repeat=d)]
        if self._operands == 2:
            numbers = [x for x in numbers if len(x) == 1 or x[0] != "0"]
        return [self._prompt(x) for x in itertools.product(numbers, repeat=self._operands)]


def open_digits(cfg: DigitsConfig, tokenizer: Any) -> DigitProblems:
    """The task, after making sure that drawing can end and that the tokenizer can read it.

    Raises:
        ConfigError: hardly any prompts and none of them held out, or none to train on; a prompt
            with characters the tokenizer does not know.
    """
    task = DigitProblems(cfg)
    prompts = task.all_prompts()
    if prompts is not None and len({is_held_out(p) for p in prompts}) < 2:
        kind = "to train on" if is_held_out(prompts[0]) else "held out"
        raise ConfigError(
            f"--task.type {cfg.type} with digits_min {cfg.digits_min} and digits_max "
            f"{cfg.digits_max} has {len(prompts)} prompts, and none {kind}: raise "
            "--task.digits_max"
        )
    prompt = task.batch(0, 0, 1)[0].prompt
    try:
        tokenizer.prompt(prompt)
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(
            f"--task.type {cfg.type}: the model's tokenizer cannot read its prompts: {e}. Give a "
            "--policy.path with a tokenizer of its own"
        ) from e
    return task


def running_sums(digits: str) -> str:
    """The answer of `chain`: digit i is the sum of the first i + 1 digits modulo 10."""
    return "".join(str(x % 10) for x in itertools.accumulate(map(int, digits)))


def in_order(digits: str) -> str:
    return "".join(sorted(digits))


def backwards(digits: str) -> str:
    return digits[::-1]


def total(a: str, b: str) -> str:
    return str(int(a) + int(b))


def _chain_demonstration(prompt: str, rng: np.random.Generator, error: float) -> str:
    running, steps = 0, []
    for digit in prompt[:-1]:
        running = (running + int(digit)) % 10
        if rng.random() < error:
            running = int(rng.integers(10))
        steps.append(str(running))
    return "".join(steps)


def _digitwise(answer: Callable[..., str]) -> Callable[[str, np.random.Generator, float], str]:
    def demonstration(prompt: str, rng: np.random.Generator, error: float) -> str:
        right = answer(*prompt.removesuffix("=").split("+"))
        return "".join(str(rng.integers(10)) if rng.random() < error else c for c in right)

    return demonstration


_ANSWERS: dict[str, Callable[..., str]] = {
    "chain": running_sums,
    "sort": in_order,
    "reverse": backwards,
    "add": total,
    "arithmetic": total,
}
_DEMONSTRATIONS = {
    "chain": _chain_demonstration,
    "sort": _digitwise(in_order),
    "reverse": _digitwise(backwards),
    "add": _digitwise(total),
}
