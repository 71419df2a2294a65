"""Sampled tokens in a trainer's layout, padded (B, T) or packed (n,), as flat tensors and back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from .checks import LOG_PROB_MAX, real_mask, refuse, require_tensor


class TokenLayout:
    """Which tokens of (B, T) or (n,) are real, in order, and back."""

    def __init__(
        self, like: torch.Tensor, mask: torch.Tensor | None, sequence: torch.Tensor | None
    ) -> None:
        require_tensor("logp_inf", like)
        self._shape = like.shape
        if like.ndim not in (1, 2):
            raise ValueError(f"logp_inf: wanted (B, T) or (n,), found {tuple(like.shape)}")
        if mask is None:
            mask = torch.ones_like(like, dtype=torch.bool)
        self.mask = real_mask(mask, like.shape)
        self.padded_rows = like.ndim == 2
        if self.padded_rows:
            if sequence is not None:
                raise ValueError("sequence is of packed (n,) tokens; a row of (B, T) is one")
            number = torch.arange(len(like), device=like.device)[:, None].expand(like.shape)
        else:
            if sequence is None:
                raise ValueError("packed (n,) tokens need sequence, the completion of each token")
            _require_integers("sequence", sequence, like.shape)
            number = sequence
        self.sequence = number[self.mask]  # (n,)
        names, self._lengths = torch.unique_consecutive(self.sequence, return_counts=True)
        if len(names.unique()) != len(names):
            raise ValueError("sequence: the tokens of a completion must be neighbours")
        self.n_sequences = len(names)  # those that have a real token

    def logp(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Log-probabilities at the real tokens, (n, ...) float32, checked."""
        require_tensor(name, x)
        if x.shape[: len(self._shape)] != self._shape:
            raise ValueError(f"{name}: wanted {tuple(self._shape)}, found {tuple(x.shape)}")
        values = x.detach()[self.mask].float()
        refuse(values.isnan(), name, "NaN")
        refuse(values > LOG_PROB_MAX, name, "a positive log-probability")
        return values.clamp(max=0.0)

    def ids(self, given: torch.Tensor | None, seen: int) -> torch.Tensor:
        """The number of each real token's completion, (n,) int64.

        Completions without a real token are not counted, because packed tokens hold none of them.
        """
        if given is None:
            place = torch.arange(len(self._lengths), device=self.sequence.device)
            return place.repeat_interleave(self._lengths) + seen
        wanted = self._shape[:1] if self.padded_rows else self._shape
        _require_integers("sequence_id", given, wanted)
        if bool((given < 0).any()):
            raise ValueError("sequence_id: a number is negative")
        if not self.padded_rows:
            own = given[self.mask].long()  # (n,)
            first = own[self._starts()]  # (completions,)
            if bool((own != first.repeat_interleave(self._lengths)).any()):
                raise ValueError("sequence_id: tokens of one completion have two numbers")
            if len(first.unique()) != len(first):
                raise ValueError("sequence_id: two completions have the same number")
            return own
        if len(given.unique()) != len(given):
            raise ValueError("sequence_id: two rows have the same number")
        return given.long()[self.sequence]

    def place(self) -> torch.Tensor:
        """The place of each token among the real ones of its completion, (n,), from 0."""
        count = torch.arange(len(self.sequence), device=self.sequence.device)
        return count - self._starts().repeat_interleave(self._lengths)

    def _starts(self) -> torch.Tensor:
        """Where each completion begins among the real tokens, (completions,)."""
        return self._lengths.cumsum(0) - self._lengths

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) -> the layout of the inputs; 0 where there is no real token."""
        out = torch.zeros(self._shape, dtype=torch.float32, device=self.mask.device)
        out[self.mask] = values.float()
        return out


def per_token(advantage: torch.Tensor, like: torch.Tensor, name: str = "advantage") -> torch.Tensor:
    """(B,) -> (B, T) where tokens are padded; else as it is. `name` is for messages.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: neither (B,) nor the shape of `like`.
    """
    require_tensor(name, advantage, integers=True)
    if like.ndim == 2 and advantage.shape == like.shape[:1]:
        return advantage[:, None].expand(like.shape)
    if advantage.shape != like.shape:
        rows = f"({len(like)},) or " if like.ndim == 2 else ""
        raise ValueError(
            f"{name}: wanted {rows}{tuple(like.shape)}, found {tuple(advantage.shape)}"
        )
    return advantage


def _require_integers(name: str, x: Any, shape: torch.Size) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: wanted a torch tensor of integers, found {type(x).__name__}")
    whole = not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
    if x.shape != shape or not whole:
        raise ValueError(
            f"{name}: wanted {tuple(shape)} integers, found {tuple(x.shape)} {x.dtype}"
        )


def acceptance_coins(
    seed: int, step: int, sequence_id: torch.Tensor, place: torch.Tensor
) -> torch.Tensor:
    """The uniform number of each token, by (seed, step, completion, place in it), (n,) float64.

    A counter-based generator (Philox) has a stream for each completion. So a token's number is the
    same in any microbatch, padding, packing and process.

    The trainer of this repository has coins of its own (llm/training/minibatches.py), by one stream
    for each step: these would give runs that are on record other numbers. Its coins need the number
    of all completions of a step, which another trainer's microbatch does not know.

    Args:
        seed: any integer. step: at least 0.
        sequence_id: number of each token's completion, (n,) integer, at least 0.
        place: of the token among its completion's, (n,) integer, from 0.
    """
    ids, places = sequence_id.cpu().numpy(), place.cpu().numpy()
    uniform = np.empty(len(ids))
    bounds = [*np.flatnonzero(np.diff(ids)) + 1, len(ids)]
    for start, end in pairwise([0, *bounds]):
        if start == end:  # no tokens at all
            continue
        key = np.array([seed & (2**64 - 1), step], dtype=np.uint64)
        counter = np.array([0, 0, ids[start], 0], dtype=np.uint64)
        stream = np.random.Generator(np.random.Philox(key=key, counter=counter))
        own = places[start:end]
        uniform[start:end] = stream.random(int(own.max()) + 1)[own]
    return torch.from_numpy(uniform).to(sequence_id.device)
