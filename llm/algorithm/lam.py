"""lam from a budget, where the budget may be out of reach: then the most that can be accepted."""

from __future__ import annotations

import math

import torch

import jackpot
from llm.settings.schema import JackpotCorrection

from .logprobs import with_tail

_LOG_RATIO_MAX = 60.0  # ratios beyond e^60 count as that where lam is sought: lam stays a float32


@torch.no_grad()
def state_lam(
    topk_logp_target: torch.Tensor, topk_logp_inf: torch.Tensor, budget: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lam that accepts `budget` in each state, its tail counted as one token.

    Args:
        topk_logp_target, topk_logp_inf: log p and log q of q's k likeliest tokens, (n, k).
        budget: wanted acceptance rate, in (0, 1].

    Returns:
        lam, (n,) float64, and whether the budget is within reach, (n,) bool. Where it is not, p
        being 0 on too much of q, the largest lam that accepts all the rest; 1 where p is 0 on all.
    """
    log_p, log_q = (with_tail(x.double()) for x in (topk_logp_target, topk_logp_inf))
    reach = torch.where(log_p > -torch.inf, log_q.exp(), 0.0).sum(dim=-1)
    log_p = torch.where(reach[:, None] > 0, log_p, log_q)  # lam is not used there
    both = (log_p > -torch.inf) & (log_q > -torch.inf)
    ratio = (log_p - log_q).clamp(-_LOG_RATIO_MAX, _LOG_RATIO_MAX)
    log_p = torch.where(both, log_q + ratio, log_p)
    wanted = reach.clamp(max=budget)
    lam = jackpot.lam_for_budget(log_p, log_q, torch.where(reach > 0, wanted, budget))
    return torch.where(reach > 0, lam, 1.0), budget <= reach + 1e-12


@torch.no_grad()
def batch_lam(log_ratio: torch.Tensor, budget: float) -> tuple[float, bool]:
    """The lam whose mean acceptance over these tokens is `budget`, and whether it is within reach.

    Where p = 0 on too many of them, the largest lam that accepts all others; 1 if p = 0 on all.
    """
    reach = float((log_ratio > -torch.inf).double().mean())
    if reach == 0.0:
        return 1.0, False
    return jackpot.lam_from_samples(moderate(log_ratio), min(budget, reach)), budget <= reach


def moderate(log_ratio: torch.Tensor) -> torch.Tensor:
    """Log-ratios within +-_LOG_RATIO_MAX, p = 0 kept: lam is the same unless it lies beyond."""
    moderate = log_ratio.clamp(-_LOG_RATIO_MAX, _LOG_RATIO_MAX)
    return torch.where(log_ratio > -torch.inf, moderate, log_ratio)


def limited(log_lam: float, cfg: JackpotCorrection) -> float:
    """log lam within its limits."""
    return max(math.log(cfg.lam_min), min(math.log(cfg.lam_max), log_lam))
