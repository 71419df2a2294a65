"""A model's keys and values for rows of unequal length, each cut back by itself.

Rows are right-aligned: the last column is the last token of every row, and what is missing stands
on the left, masked. So a row's columns are neighbours, whatever was cut from other rows, and
attention to a window of the last columns sees what it would see without a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from llm.errors import ConfigError

from .batch import positions
from .preallocated_cache import Move, PreallocatedLayer
from .sampling import CACHE_KEYWORD


class RowCache:
    """A model and what it has read. held: tokens of each row whose keys and values it has, (r,)."""

    def __init__(self, model: Any, last: torch.Tensor) -> None:
        """last: the last position that each row may have, (r,); columns beyond it are padding.

        Raises:
            ConfigError: see `check_cuts`.
        """
        check_cuts(model)
        self.model, self.held, self._last = model, torch.zeros_like(last), last
        self._cache = DynamicCache(config=model.config)
        # A layer with a window forgets what is outside it, which a cut would need again. The mask
        # keeps to the window without that.
        columns = int(last.max()) + 1
        self._cache.layers = [
            layer if type(layer).__name__ == "DummyLayer" else PreallocatedLayer(columns)
            for layer in self._cache.layers
        ]

    @property
    def width(self) -> int:
        """Columns of the cache."""
        return int(self._cache.get_seq_length())

    def read_prompts(self, ids: torch.Tensor, is_real: torch.Tensor, group: int) -> None:
        """Read left-padded prompts, (problems, w) each, once for the `group` rows of each."""
        if ids.shape[1]:
            self._forward(ids, is_real, positions(is_real), keep=1)
            if group > 1:
                self._cache.batch_repeat_interleave(group)
        self.held = is_real.sum(dim=1).repeat_interleave(group)  # (problems group,)

    def read(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        """Read the next tokens of every row, (r, f); logits after the last `keep` of them, float32,
        (r, keep, v)."""
        f, width = ids.shape[1], self.width
        column = torch.arange(width + f, device=ids.device)
        is_real = column >= (width - self.held)[:, None]  # (r, width + f)
        # learned positions end somewhere: what is beyond a row's last token is cut again anyway
        position = (self.held[:, None] + column[:f]).minimum(self._last[:, None])  # (r, f)
        self.held = self.held + f
        return self._forward(ids, is_real, position, keep)

    def cut(self, rows: torch.Tensor, held: torch.Tensor) -> None:
        """Keep the first `held` tokens, (r',), of these rows, (r',) in rising order."""
        dropped = self.held[rows] - held  # (r',)
        # A row that loses as little as possible stays where it is; another moves to the right.
        back, *more = dropped.unique().tolist()
        moves = [Move((dropped == n).nonzero()[:, 0], n - back) for n in more]
        for layer in self._cache.layers:
            if isinstance(layer, PreallocatedLayer):  # another shares the keys of one of these
                layer.cut(rows, back, moves, int(held.max()))
        self.held, self._last = held, self._last[rows]

    def _forward(
        self, ids: torch.Tensor, is_real: torch.Tensor, position: torch.Tensor, keep: int
    ) -> torch.Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=is_real.long(),
            position_ids=position,
            use_cache=True,
            logits_to_keep=keep,
            **{CACHE_KEYWORD: self._cache},
        )
        return out.logits[:, -keep:].float()


def check_cuts(model: Any) -> None:
    """Refuse a model whose cache cannot be cut back by row.

    Raises:
        ConfigError: a layer keeps something else than keys and values of each token.
    """
    able = ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")  # dummies share another's
    layers = DynamicCache(config=model.config).layers
    odd = sorted({type(x).__name__ for x in layers} - set(able))
    if odd:
        raise ConfigError(
            f"--rollout.mode.type drafted cuts caches back by row, and {type(model).__name__} "
            f"(model_type {model.config.model_type}) has layers that cannot be cut: "
            f"{', '.join(odd)}. Use --rollout.mode.type plain"
        )
