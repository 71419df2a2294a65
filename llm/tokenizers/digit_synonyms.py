"""Further characters for the digits of an answer: they give a built model a large vocabulary.

Form 0 of a digit is the digit; form j > 0 of digit d is the character U+4E00 + 10 (j - 1) + d. That
block (CJK unified ideographs) has a printable character at each of 20,992 places. Any form of
the right digit is right, so the forms are a choice that no reward depends on, spread over as many
tokens as there are forms: what a model knows by heart of a language, in small.
"""

from __future__ import annotations

from functools import cache

import numpy as np

EXPONENT = 1.3  # of 200 forms the 20 likeliest then have 0.79 of the mass
_FIRST = 0x4E00


def extra_characters(forms: int) -> str:
    """The characters that are no digits: 10 for each form after the first, in order of the form,
    then of the digit."""
    return "".join(chr(_FIRST + i) for i in range(10 * (forms - 1)))


def zipf(forms: int) -> np.ndarray:
    """Probability of each form in a demonstration, (forms,): Zipf's, (j + 1) ** -EXPONENT."""
    weights = np.arange(1, forms + 1) ** -EXPONENT
    return weights / weights.sum()


def spell(digits: str, forms: int, rng: np.random.Generator) -> str:
    """Digits, each in a form drawn from `zipf`."""
    drawn = rng.choice(forms, size=len(digits), p=zipf(forms))
    return "".join(
        digit if form == 0 else chr(_FIRST + 10 * (int(form) - 1) + int(digit))
        for digit, form in zip(digits, drawn, strict=True)
    )


def as_digits(text: str, forms: int) -> str:
    """A text with every form as its digit; all else stays, and so is no digit. Time: its length."""
    return text.translate(_digits(forms))


@cache
def _digits(forms: int) -> dict[int, str]:
    return {ord(c): str(i % 10) for i, c in enumerate(extra_characters(forms))}
