"""Small formulas of positions and log-probabilities."""

from __future__ import annotations

import torch


def chosen(logp: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of the token taken: (b, t, v), (b, t) -> (b, t)."""
    return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def log_tail(logp_known: torch.Tensor) -> torch.Tensor:
    """log of the mass left outside the known tokens, (..., k) -> (...); -inf where none is left.

    Computed as log(1 - sum): rounding may push the sum past 1, which means there is no tail.
    """
    # (..., k) -> (...)
    rest = 1.0 - logp_known.exp().sum(dim=-1)
    return torch.where(rest > 0, rest, torch.zeros_like(rest)).log()


def with_tail(logp_known: torch.Tensor) -> torch.Tensor:
    """The known tokens and, last, all others as one, (..., k) -> (..., k + 1)."""
    return torch.cat([logp_known, log_tail(logp_known).unsqueeze(-1)], dim=-1)
