"""The tokens of all ranks, in the order that a single process has them in."""

from __future__ import annotations

import torch

from .collectives import all_gather, all_gather_object, rank, world_size

_PLACE = 1 << 32  # more than the tokens of any sequence


class GlobalTokens:
    """The real tokens of an update on all ranks, in the order that a single process has them in.

    sequence: the sequence of each, its place in the update, (n of all ranks,). sequences: how many.
    """

    def __init__(self, is_completion: torch.Tensor, place: torch.Tensor) -> None:
        """is_completion: of this rank's sequences, (b, t). place: where each stands among those of
        all ranks, (b,); (0,) if this rank has none, and `is_completion` then holds no token."""
        b, t = is_completion.shape
        self.sequences = sum(all_gather_object(len(place)))
        if not len(place):
            place = torch.zeros(b, dtype=torch.long, device=is_completion.device)
        column = torch.arange(t, device=place.device)
        keys = (place[:, None] * _PLACE + column)[is_completion]
        counts = all_gather_object(len(keys))
        self._order = all_gather(keys)
        self.sequence = self._order // _PLACE
        if world_size() > 1:
            self._order = self._order.argsort()
            self.sequence = self.sequence[self._order]
            start = sum(counts[: rank()])
            self._own = self._order.argsort()[start : start + len(keys)]

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """Values of this rank's tokens -> of all: (n, ...) -> (n of all ranks, ...)."""
        return x if world_size() == 1 else all_gather(x)[self._order]

    def mine(self, x: torch.Tensor) -> torch.Tensor:
        """Values of all tokens -> of this rank's."""
        return x if world_size() == 1 else x[self._own]
