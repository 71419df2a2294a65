"""One token for each character, for models that are built here."""

from __future__ import annotations

from .digit_synonyms import extra_characters

_CHARACTERS = "0123456789=+-*/().,:;?!<>_ abcdefghijklmnopqrs"  # with padding and end, 48 ids


class CharTokenizer:
    """One id for each character of a fixed alphabet, with `synonyms` characters for each digit.

    48 + 10 (synonyms - 1) ids: 2,048 with 201 synonyms. Those of fewer synonyms are the first ones.
    """

    pad: int = 0
    eos: frozenset[int] = frozenset({1})

    def __init__(self, synonyms: int = 1) -> None:
        self._characters = _CHARACTERS + extra_characters(synonyms)
        self._ids = {c: i + 2 for i, c in enumerate(self._characters)}
        self.vocab_size: int = len(self._characters) + 2

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt: those of its characters."""
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises:
            ValueError: a character outside the alphabet, named with its position.
        """
        for i, c in enumerate(text):
            if c not in self._ids:
                raise ValueError(f"character {c!r} at {i} of {text!r} is not in the alphabet")
        return [self._ids[c] for c in text]

    def decode(self, ids: list[int]) -> str:
        """Text of ids up to end-of-sequence; padding inside shows as <pad>."""
        return "".join(self.pieces(until_end(ids, self.eos)))

    def pieces(self, ids: list[int]) -> list[str]:
        """What each id stands for."""
        names = {self.pad: "<pad>", 1: "<eos>"}
        known = range(2, self.vocab_size)
        return [self._characters[i - 2] if i in known else names.get(i, f"<id {i}>") for i in ids]


def until_end(ids: list[int], eos: frozenset[int]) -> list[int]:
    return ids[: next((n for n, i in enumerate(ids) if i in eos), len(ids))]
