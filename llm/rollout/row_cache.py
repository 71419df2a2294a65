"""A model's keys and values for rows of unequal length, each cut back by itself.

Rows are right-aligned: the last column is the last token of every row, and what is missing stands
on the left, masked. So a row's columns are neighbours, whatever was cut from other rows, and
attention to a window of the last columns sees what it would see without a batch.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from llm.errors import ConfigError

from .batch import positions


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
        self._cache.layers = [
            DynamicLayer() if isinstance(layer, DynamicSlidingWindowLayer) else layer
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
        """Keep the first `held` tokens, (r',), of these rows, (r',)."""
        width, start = self.width, self.width - self.held[rows]  # (r',) column of the first token
        new = int(held.max())
        # new column c of a row is its token c - (new - held), in the old column start + that
        shift = start - (new - held)  # (r',)
        column = torch.arange(new, device=held.device)
        source = (column + shift[:, None]).clamp(0, max(width - 1, 0))  # (r', new); padding: any
        same = bool((shift == shift[0]).all()) and int(shift[0]) >= 0
        for layer in self._cache.layers:
            if not getattr(layer, "is_initialized", False):
                continue  # layers that share the keys of others
            for name in ("keys", "values"):
                kept = getattr(layer, name)  # (r, heads, width, d)
                if same:
                    kept = kept[rows, :, int(shift[0]) : int(shift[0]) + new]
                else:
                    head = torch.arange(kept.shape[1], device=kept.device)[:, None]
                    kept = kept[rows[:, None, None], head, source[:, None]]
                setattr(layer, name, kept)  # (r', heads, new, d)
        self.held, self._last = held, self._last[rows]

    def _forward(
        self, ids: torch.Tensor, is_real: torch.Tensor, position: torch.Tensor, keep: int
    ) -> torch.Tensor:
        out = self.model(
            input_ids=ids,
            attention_mask=is_real.long(),
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return out.logits[:, -keep:].float()


def check_cuts(model: Any) -> None:
    """Refuse a model whose cache cannot be cut back by row.

    Raises:
        ConfigError: a layer keeps something else than keys and values of each token.
    """
    able = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)  # dummies share another's
    layers = DynamicCache(config=model.config).layers
    odd = sorted({type(x).__name__ for x in layers if type(x) not in able})
    if odd:
        raise ConfigError(
            f"--rollout.mode.type drafted cuts caches back by row, and {type(model).__name__} "
            f"(model_type {model.config.model_type}) has layers that cannot be cut: "
            f"{', '.join(odd)}. Use --rollout.mode.type plain"
        )
