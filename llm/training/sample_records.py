"""What the report shows beside the curves: completions token by token, and histograms.

Pure functions of a batch and its weights; the trainer writes their rows to samples.jsonl and
histograms.jsonl at every evaluation. Numbers that JSON cannot hold (NaN, inf) become null.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from jackpot.torch.correction import TokenWeights
from llm import distributed
from llm.rollout.batch import Batch

from .context import TrainContext
from .minibatches import Minibatch


class Weights(Protocol):
    """The fields read here of a correction's TokenWeights: (n,) each, over real tokens in order."""

    @property
    def weight(self) -> torch.Tensor: ...
    @property
    def log_ratio(self) -> torch.Tensor: ...
    @property
    def accept_prob(self) -> torch.Tensor: ...
    @property
    def accepted(self) -> torch.Tensor: ...


class Decoder(Protocol):
    def decode(self, ids: list[int]) -> str: ...
    def pieces(self, ids: list[int]) -> list[str]: ...


# Logarithmic bins with 1 in the middle of one of them. Log ratios: both signs, |log r| < 0.001 is
# the middle bin. The first and last bin of a histogram hold what lies outside the edges.
_MAGNITUDES = 10.0 ** (np.arange(-12, 6) / 4)  # 0.001 to 17.8 nats
LOG_RATIO_EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])
WEIGHT_EDGES = 10.0 ** ((np.arange(-24, 25) - 0.5) / 8)  # 0.000866 to 866
ACCEPT_EDGES = np.linspace(0.05, 0.95, 19)


def token_rows(
    step: int,
    batch: Batch,
    tokenizer: Decoder,
    weights: Weights,
    kept: int,
    place: tuple[list[int], int] | None = None,
) -> list[dict[str, Any]]:
    """`kept` completions of a batch, evenly spread over it (so over its prompts), token by token.

    Args:
        step: the update they were sampled for.
        batch: with reward and advantage filled in; `weights` are those of exactly its tokens.
        tokenizer: `pieces` gives what each id stands for, `decode` the text.
        weights: of the batch's tokens, (n,).
        kept: how many; all of them if the batch holds fewer.
        place: (of each completion, of how many), where these stand among those of all ranks, over
            which the kept ones are spread then.

    Returns:
        Rows with step, sequence (its number in the step), prompt, answer, text, reward, advantage
        and, a list each with one entry per token: tokens, logp_inf, log_ratio, accept_prob,
        accepted, weight.
    """
    if len(weights.weight) != len(batch.sequence):
        raise ValueError(
            f"weights of {len(weights.weight)} tokens do not belong to a batch of "
            f"{len(batch.sequence)}: give the weights of this very batch"
        )
    columns = {
        "logp_inf": batch.logp_inf,
        "log_ratio": weights.log_ratio,
        "accept_prob": weights.accept_prob,
        "accepted": weights.accepted,
        "weight": weights.weight,
    }
    ends = torch.cumsum(batch.lengths, dim=0).tolist()
    starts = [0, *ends[:-1]]
    completions = batch.completions()
    rows = []
    places, everything = place or (list(range(len(ends))), len(ends))
    wanted = set(_spread(everything, kept))
    for i in [i for i, p in enumerate(places) if p in wanted]:
        row: dict[str, Any] = {
            "step": step,
            "sequence": int(batch.index[i]),
            "prompt": batch.prompts[i],
            "answer": batch.answers[i],
            "text": tokenizer.decode(completions[i]),
            "reward": _number(float(batch.reward[i])),
            "advantage": _number(float(batch.advantage[i])),
            "tokens": tokenizer.pieces(completions[i]),
        }
        for name, values in columns.items():
            row[name] = [_number(x) for x in values[starts[i] : ends[i]].tolist()]
        rows.append(row)
    return rows


def sample_rows(
    ctx: TrainContext, step: int, minibatch: Minibatch, weights: TokenWeights
) -> list[dict[str, Any]]:
    """Some of an update's completions, on whichever rank, token by token, for the report.

    weights: of the tokens of all ranks. All ranks must call.
    """
    batch, place, tokens = minibatch.batch, minibatch.global_row.tolist(), minibatch.all_ranks
    columns = ("weight", "log_ratio", "accept_prob", "accepted")
    local: dict[str, Any] = {name: tokens.local(getattr(weights, name)) for name in columns}
    places = (place, tokens.n_sequences)
    own = replace(weights, **local)
    rows = token_rows(step, batch, ctx.tokenizer, own, ctx.cfg.run.samples_kept, places)
    places_of = distributed.all_gather_object([batch.index.tolist(), place])
    order = {i: p for part in places_of for i, p in zip(*part, strict=False)}
    gathered = [row for rows in distributed.all_gather_object(rows) for row in rows]
    return sorted(gathered, key=lambda row: order[row["sequence"]])


def histogram_row(step: int, parts: Sequence[Weights]) -> dict[str, Any]:
    """Counts of log ratios, applied weights and acceptance probabilities over a step's tokens.

    Args:
        step: the update.
        parts: the weights of each of its optimiser steps.

    Returns:
        step, tokens, and for log_ratio, weight, accept_prob: edges (e,) and counts (e + 1,), the
        first below the first edge, the last from the last edge up. Weights that are exactly 0 are
        counted in weight.zeros instead.
    """

    def flat(name: str) -> np.ndarray:
        return torch.cat([getattr(p, name) for p in parts]).double().cpu().numpy()

    weight = flat("weight")
    return {
        "step": step,
        "tokens": len(weight),
        "log_ratio": _histogram(flat("log_ratio"), LOG_RATIO_EDGES),
        "weight": _histogram(weight[weight != 0], WEIGHT_EDGES)
        | {"zeros": int((weight == 0).sum())},
        "accept_prob": _histogram(flat("accept_prob"), ACCEPT_EDGES),
    }


def _histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """NaN is counted nowhere; -inf and inf in the outer bins."""
    bins = np.searchsorted(edges, values[~np.isnan(values)], side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return {"edges": [float(f"{e:.6g}") for e in edges], "counts": counts.tolist()}


def _spread(n: int, kept: int) -> list[int]:
    """Up to `kept` of 0 .. n - 1, evenly spread, each once."""
    kept = min(n, kept)
    return [(i * n) // kept for i in range(kept)]


def _number(x: float) -> float | None:
    """Five significant digits are enough to read and a third of the file."""
    return float(f"{x:.5g}") if math.isfinite(x) else None
