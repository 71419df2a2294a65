"""Sequences dealt to forward passes: so many each, or by a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from llm import distributed
from llm.rollout.batch import Batch
from llm.settings.loading import Config


class Micro(NamedTuple):
    """batch: the sequences of one pass. tokens: where its real tokens stand among those of the
    whole batch, (m,)."""

    batch: Batch
    tokens: torch.Tensor


def microbatches(cfg: Config, batch: Batch) -> list[Micro]:
    """Every sequence of a batch once.

    Every rank gets equally many: sharded models compute together. What a rank lacks are passes
    over a sequence of which no token counts, so that they add exactly 0.
    """
    lengths = batch.is_completion.sum(dim=1)
    first = lengths.cumsum(dim=0) - lengths
    found = []
    for rows in _groups(cfg, batch):
        counts = lengths[rows]
        inside = torch.arange(int(counts.sum()), device=counts.device)
        inside -= (counts.cumsum(dim=0) - counts).repeat_interleave(counts)
        tokens = first[rows].repeat_interleave(counts) + inside
        some = batch.rows(rows)
        found.append(Micro(_cut(some) if cfg.optim.tokens_per_microbatch else some, tokens))
    missing = distributed.all_reduce_max(len(found)) - len(found)
    return found + [Micro(none_of(batch), lengths.new_zeros(0))] * missing


def in_order(parts: Sequence[torch.Tensor], micro: list[Micro]) -> torch.Tensor:
    """Values of each microbatch's tokens, (m, ...) each, as the batch has its tokens, (n, ...)."""
    found = torch.cat(list(parts))
    placed = torch.empty_like(found)
    placed[torch.cat([mb.tokens for mb in micro])] = found
    return placed


def none_of(batch: Batch) -> Batch:
    """One sequence, of which no token counts, cut to two tokens."""
    one = batch.rows(torch.arange(1))
    width = one.ids.shape[1] - one.is_completion.shape[1]
    one = _columns(one, width - 1, 1)
    return replace(one, is_completion=torch.zeros_like(one.is_completion))


def _groups(cfg: Config, batch: Batch) -> list[torch.Tensor]:
    """Numbers of the sequences of each microbatch."""
    n, budget = len(batch.answers), cfg.optim.tokens_per_microbatch
    if not budget:
        per = cfg.optim.sequences_per_microbatch or n
        return list(torch.arange(n).split(per))
    prompt_width = batch.ids.shape[1] - batch.is_completion.shape[1]
    completion = batch.is_completion.sum(dim=1).tolist()
    prompt = batch.is_real[:, :prompt_width].sum(dim=1).tolist()
    found: list[list[int]] = []
    wide = (0, 0)
    for i in sorted(range(n), key=lambda i: (-(prompt[i] + completion[i]), i)):
        wider = (max(wide[0], prompt[i]), max(wide[1], completion[i]))
        if not found or sum(wider) * (len(found[-1]) + 1) > budget:
            found.append([])
            wider = (prompt[i], completion[i])
        found[-1].append(i)
        wide = wider
    return [torch.tensor(rows) for rows in found]


def _cut(batch: Batch) -> Batch:
    """Without columns that are padding in every sequence."""
    width = batch.ids.shape[1] - batch.is_completion.shape[1]
    prompt = int(batch.is_real[:, :width].sum(dim=1).max())
    return _columns(batch, width - prompt, max(1, int(batch.is_completion.sum(dim=1).max())))


def _columns(batch: Batch, left: int, new: int) -> Batch:
    """Without the first `left` columns of the prompts, and with `new` of the completions."""
    end = batch.ids.shape[1] - batch.is_completion.shape[1] + new
    kept: dict[str, Any] = {
        name: x[:, left:end] if name in ("ids", "is_real") else x[:, :new]
        for name, x in vars(batch).items()
        if isinstance(x, torch.Tensor) and x.ndim > 1
    }
    return replace(batch, **kept)
