"""A model whose next-token distribution is a table of the whole prefix, cached as any model's is.

Its keys are the token ids and its values their positions, so the distribution of a token is wrong
as soon as a cache holds a token too many, too few, or at another position.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config

from llm.rollout.sampling import CACHE_KEYWORD

VOCABULARY = 4
END = 0  # the token that ends a completion
HORIZON = 5
PROMPTS = ([1], [2, 3, 1], [3, 3])  # of unequal lengths, one of a single token
_STATES = 4096
_POSITIONS = 32


class Texts:
    """A tokenizer of the prompts, which are named by their number."""

    pad, eos = 1, frozenset({END})

    def prompt(self, number: str) -> list[int]:
        return PROMPTS[int(number)]


class TableModel:
    """Logits, (STATES, 4), by a sum of random numbers over (position, token) of the prefix."""

    device = torch.device("cpu")

    def __init__(self, seed: int, scale: float = 1.0, near: TableModel | None = None) -> None:
        """near: the distribution is that of this model, with `scale` of noise on its logits."""
        self.config: Any = Qwen3Config(vocab_size=VOCABULARY, num_hidden_layers=1)
        rng = np.random.default_rng(seed)
        logits = torch.from_numpy(scale * rng.standard_normal((_STATES, VOCABULARY)))
        self.logits: torch.Tensor = logits if near is None else near.logits + logits
        hashes = np.random.default_rng(0).integers(0, _STATES, (_POSITIONS, VOCABULARY))
        self.hashes = torch.from_numpy(hashes)
        self.passes = 0

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        use_cache: bool,
        logits_to_keep: int,
        **cache: Any,
    ) -> Any:
        self.passes += 1
        new = (x[:, None, :, None].double() for x in (input_ids, position_ids))
        keys, values = cache[CACHE_KEYWORD].update(*new, 0)  # (r, 1, w, 1) each
        ids, position = keys[:, 0, :, 0].long(), values[:, 0, :, 0].long()
        assert attention_mask.shape == ids.shape
        seen = self.hashes[position, ids] * attention_mask  # (r, w)
        state = seen.cumsum(dim=1)[:, -input_ids.shape[1] :] % _STATES
        return SimpleNamespace(logits=self.logits[state][:, -logits_to_keep:])

    def distribution(self, prefix: list[int], temperature: float = 1.0) -> np.ndarray:
        """Probabilities of the next token, (4,) float64."""
        state = sum(int(self.hashes[i, x]) for i, x in enumerate(prefix)) % _STATES
        e = np.exp((self.logits[state] - self.logits[state].max()).numpy() / temperature)
        return e / e.sum()
