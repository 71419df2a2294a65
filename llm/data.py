"""The task and its text: seeded problems, noisy demonstrations, characters to ids."""

from __future__ import annotations

import zlib

import numpy as np

from .config import TaskConfig

PAD, EOS = 0, 1
_CHARACTERS = "0123456789=+-*/().,:;?!<>_ abcdefghijklmnopqrs"  # with PAD and EOS, 48 ids
VOCAB_SIZE = len(_CHARACTERS) + 2
_ID = {c: i + 2 for i, c in enumerate(_CHARACTERS)}


def encode(text: str) -> list[int]:
    """Character ids of a text.

    Raises:
        ValueError: a character outside the alphabet, named with its position.
    """
    for i, c in enumerate(text):
        if c not in _ID:
            raise ValueError(f"character {c!r} at {i} of {text!r} is not in the alphabet")
    return [_ID[c] for c in text]


def decode(ids: list[int]) -> str:
    """Text of ids up to end-of-sequence; padding inside shows as <pad>."""
    text = []
    for i in ids:
        if i == EOS:
            break
        text.append(_CHARACTERS[i - 2] if i >= 2 else "<pad>")
    return "".join(text)


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A random stream of its own for each purpose and step: nothing to save, nothing shared.

    Whatever the batch layout or the moment of a resume, the same (seed, purpose, index) gives the
    same numbers.
    """
    return np.random.default_rng((seed, zlib.crc32(purpose.encode()), index))


def problems(
    task: TaskConfig, rng: np.random.Generator, n: int, *, held_out: bool = False
) -> list[tuple[str, str]]:
    """n (prompt, answer) pairs. An eighth of all prompts is held out, and never trained on."""
    found: list[tuple[str, str]] = []
    while len(found) < n:
        digits = rng.integers(10, size=rng.integers(task.digits_min, task.digits_max + 1))
        prompt = "".join(map(str, digits)) + "="
        if (zlib.crc32(prompt.encode()) % 8 == 0) == held_out:
            found.append((prompt, running_sums(digits)))
    return found


def running_sums(digits: np.ndarray) -> str:
    """The answer of `chain`: digit i is the sum of the first i + 1 digits modulo 10."""
    return "".join(map(str, np.cumsum(digits) % 10))


def demonstration(prompt: str, rng: np.random.Generator, error: float) -> str:
    """An answer whose steps are, with probability `error`, random digits; errors carry over."""
    total, steps = 0, []
    for digit in prompt[:-1]:
        total = (total + int(digit)) % 10
        if rng.random() < error:
            total = int(rng.integers(10))
        steps.append(str(total))
    return "".join(steps)
