"""Tokenizers that have only what one test needs."""

from __future__ import annotations


class Unicode:
    """A tokenizer for tests: ids are code points, 0 ends."""

    eos = frozenset({0, 1})

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).split("\0")[0]


class Words:
    """A tokenizer for tests: one id a word, 0 ends."""

    eos = frozenset({0})

    def prompt(self, text: str) -> list[int]:
        return [1] * len(text.split())
