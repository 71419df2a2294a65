"""The tokens of all ranks, in the order that a single process has them in."""

from __future__ import annotations

import torch

from .collectives import all_gather, all_gather_object, rank, world_size

_PLACE = 1 << 32  # more than the tokens of any sequence


class GlobalTokens:
    """The sampled tokens of an update on all ranks, ordered as a single process has them.

    sequence: the completion of each, by its place in the update, (n of all ranks,).
    n_sequences: how many completions the update has.
    """

    def __init__(
        self, sequence: torch.Tensor, position: torch.Tensor, global_row: torch.Tensor
    ) -> None:
        """All ranks must make one at the same time.

        Args:
            sequence, position: of this rank's tokens, (n,).
            global_row: where each of this rank's sequences stands among those of all ranks, (b,);
                (0,) if this rank has none.
        """
        self.n_sequences = sum(all_gather_object(len(global_row)))
        keys = global_row[sequence] * _PLACE + position  # (n,) in the order of one process
        counts = all_gather_object(len(keys))
        self._order = all_gather(keys)
        self.sequence = self._order // _PLACE
        if world_size() > 1:
            self._order = self._order.argsort()
            self.sequence = self.sequence[self._order]
            start = sum(counts[: rank()])
            self._own = self._order.argsort()[start : start + len(keys)]

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Values of this rank's tokens -> of all ranks': (n, ...) -> (n of all ranks, ...)."""
        return x if world_size() == 1 else all_gather(x)[self._order]

    def local(self, x: torch.Tensor) -> torch.Tensor:
        """Values of all ranks' tokens -> of this rank's."""
        return x if world_size() == 1 else x[self._own]
