"""The sequences of each optimiser step of a rollout."""

from __future__ import annotations

from typing import NamedTuple

import torch

from llm import distributed, randomness
from llm.algorithm.correction import CorrectionState
from llm.distributed.global_tokens import GlobalTokens
from llm.rollout.batch import Batch

from .context import TrainContext
from .forward import Tokens
from .microbatches import none_of
from .scoring import before_updates


class Share(NamedTuple):
    """What one optimiser step works on: this rank's sequences of it."""

    batch: Batch
    coin: torch.Tensor  # (n,) float64, below 1
    ref: Tokens | None  # p_ref; None: the update's own forward pass gives it
    ref_actor: torch.Tensor | None  # (n,) p_actor_ref of the sampled token; None likewise
    place: torch.Tensor | None = None  # (b,) of its sequences among all ranks'; None: 0 to b - 1

    def places(self) -> torch.Tensor:
        """`place`, written out."""
        real = self.batch.is_completion
        return torch.arange(len(real), device=real.device) if self.place is None else self.place

    def tokens(self) -> GlobalTokens:
        """Its tokens among all ranks'; all ranks must ask."""
        return GlobalTokens(self.batch.is_completion, self.places())


def shares(setup: TrainContext, batch: Batch, state: CorrectionState, step: int) -> list[Share]:
    """The sequences of each optimiser step of a rollout: all of them, or random equal shares.

    p_ref and p_actor_ref are scored here, before any update. Coins belong to (sequence, position).
    The shares are of the sequences of all ranks, so of some a rank may have none.
    """
    cfg, device = setup.cfg, batch.ids.device
    n = sum(distributed.all_gather_object(len(batch.answers)))
    coins = randomness.stream(cfg.run.seed, "rejection", step).random(
        (n, batch.is_completion.shape[1])
    )
    coin = torch.from_numpy(coins).to(device)[batch.index][batch.is_completion]
    if cfg.loss.updates_per_rollout == 1:
        return [Share(batch, coin, None, None, batch.index)]
    ref, ref_actor = before_updates(setup, batch, state)
    order = randomness.stream(cfg.run.seed, "shares", step).permutation(n)
    found = []
    for numbers in torch.from_numpy(order).to(device).reshape(cfg.loss.updates_per_rollout, -1):
        rows, place = (batch.index[:, None] == numbers).nonzero().T
        rows, place = rows[place.argsort()], place.sort().values
        tail = None if ref.tail_bound is None else _pick(ref.tail_bound, batch, rows)
        part = Tokens(_pick(ref.logp, batch, rows), _pick(ref.topk_logp, batch, rows), tail)
        part_actor = None if ref_actor is None else _pick(ref_actor, batch, rows)
        own = batch.rows(rows) if len(rows) else none_of(batch)
        found.append(Share(own, _pick(coin, batch, rows), part, part_actor, place))
    return found


def _pick(flat: torch.Tensor, batch: Batch, rows: torch.Tensor) -> torch.Tensor:
    """Entries of the tokens of some sequences, in their order: (n, ...) -> (m, ...)."""
    real = batch.is_completion
    grid = flat.new_zeros((*real.shape, *flat.shape[1:]))
    grid[real] = flat
    return grid[rows][real[rows]]
