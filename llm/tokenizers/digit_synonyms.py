"""Further characters for the digits of an answer: they give a built model a large vocabulary.

Synonym 0 of a digit is the digit. Synonym j > 0 of digit d is the character
U+4E00 + 10 (j - 1) + d. That block (CJK unified ideographs) has a printable character at each of
20,992 places. Any synonym of the right digit is right, so the choice between synonyms changes no
reward. A model spreads its probability over as many tokens as a digit has synonyms, as language
models spread theirs over words.
"""

from __future__ import annotations

from functools import cache

import numpy as np

EXPONENT = 1.3  # of 200 synonyms the 20 likeliest then have 0.79 of the mass
_FIRST = 0x4E00


def extra_characters(synonyms: int) -> str:
    """The characters that are no digits: 10 for each synonym after the first, in order of the
    synonym, then of the digit."""
    return "".join(chr(_FIRST + i) for i in range(10 * (synonyms - 1)))


def zipf(synonyms: int) -> np.ndarray:
    """Probability of each synonym in a demonstration, (synonyms,): Zipf's, (j + 1) ** -EXPONENT."""
    weights = np.arange(1, synonyms + 1) ** -EXPONENT
    return weights / weights.sum()


def spell(digits: str, synonyms: int, rng: np.random.Generator) -> str:
    """Digits, each as a synonym drawn from `zipf`."""
    drawn = rng.choice(synonyms, size=len(digits), p=zipf(synonyms))
    return "".join(
        digit if j == 0 else chr(_FIRST + 10 * (int(j) - 1) + int(digit))
        for digit, j in zip(digits, drawn, strict=True)
    )


def as_digits(text: str, synonyms: int) -> str:
    """A text with every synonym as its digit; all else stays, and so is no digit.

    Time: its length."""
    return text.translate(_digits(synonyms))


@cache
def _digits(synonyms: int) -> dict[int, str]:
    return {ord(c): str(i % 10) for i, c in enumerate(extra_characters(synonyms))}
