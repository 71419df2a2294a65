"""Scores: completion ids and the right answer in, a number out. Nothing is executed."""

from __future__ import annotations

from .data import EOS, decode


def exact_match(completion: list[int], answer: str) -> float:
    """1.0 if the completion ends itself and reads exactly as the answer, else 0.0.

    Args:
        completion: sampled ids, end-of-sequence included if it was sampled, no padding.
        answer: the right text.
    """
    return float(completion[-1:] == [EOS] and decode(completion) == answer)
