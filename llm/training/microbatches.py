"""The sequences of each forward pass: a fixed number, or as many as a budget of tokens allows."""

from __future__ import annotations

from typing import NamedTuple

import torch

from llm import distributed
from llm.rollout.batch import Batch
from llm.settings.loading import Config


class Microbatch(NamedTuple):
    """batch: the sequences of one pass. tokens: where its tokens stand among those of the whole
    batch, (m,)."""

    batch: Batch
    tokens: torch.Tensor


def microbatches(cfg: Config, batch: Batch) -> list[Microbatch]:
    """Every sequence of a batch once.

    Every rank gets equally many, because sharded models compute together. A rank that has fewer
    adds passes over a sequence of which no token counts; these add exactly 0.
    """
    micro = []
    for rows in _groups(cfg, batch):
        tokens = batch.token_index(rows)  # (m,)
        some = batch.rows(rows, tokens)
        if cfg.optim.microbatch.tokens:
            some = _trimmed(some)
        micro.append(Microbatch(some, tokens))
    # A collective: a rank that ran fewer passes would leave the others waiting in theirs.
    missing = distributed.all_reduce_max(len(micro)) - len(micro)
    filler = Microbatch(batch.without_tokens(), batch.sequence.new_zeros(0))
    return micro + [filler] * missing


def _groups(cfg: Config, batch: Batch) -> list[torch.Tensor]:
    """Rows of the sequences of each microbatch."""
    n, budget = len(batch.answers), cfg.optim.microbatch.tokens
    if not budget:
        per = cfg.optim.microbatch.sequences or n
        return list(torch.arange(n).split(per))
    completion, prompt = batch.lengths.tolist(), _prompt_lengths(batch).tolist()
    groups: list[list[int]] = []
    wide = (0, 0)  # longest prompt and completion of the group that is being filled
    # Longest first, so that neighbours are of like length and padding is small; ties by number.
    for i in sorted(range(n), key=lambda i: (-(prompt[i] + completion[i]), i)):
        wider = (max(wide[0], prompt[i]), max(wide[1], completion[i]))
        # a microbatch is a rectangle: (prompt + completion) columns by its sequences
        if not groups or sum(wider) * (len(groups[-1]) + 1) > budget:
            groups.append([])
            wider = (prompt[i], completion[i])
        groups[-1].append(i)
        wide = wider
    return [torch.tensor(rows) for rows in groups]


def _trimmed(batch: Batch) -> Batch:
    """Without columns that are padding in every sequence."""
    width = batch.ids.shape[1] - batch.is_completion.shape[1]
    longest_prompt = int(_prompt_lengths(batch).max())
    return batch.columns(width - longest_prompt, max(1, int(batch.lengths.max())))


def _prompt_lengths(batch: Batch) -> torch.Tensor:
    width = batch.ids.shape[1] - batch.is_completion.shape[1]
    return batch.is_real[:, :width].sum(dim=1)
