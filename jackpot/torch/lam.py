"""lam from a budget, where the budget may be out of reach: then the most that can be accepted."""

from __future__ import annotations

import math

import torch

import jackpot

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
    # float64: the solver inverts cumulative sums of these masses.
    # reach: q's mass where p > 0, (n,), the most that any lam > 0 accepts.
    reach = torch.where(log_p > -torch.inf, log_q.exp(), 0.0).sum(dim=-1)
    log_p = torch.where(reach[:, None] > 0, log_p, log_q)  # lam is not used there
    both = (log_p > -torch.inf) & (log_q > -torch.inf)
    # Clamped, so that lam, which lies among the ratios, stays a float32.
    ratio = (log_p - log_q).clamp(-_LOG_RATIO_MAX, _LOG_RATIO_MAX)
    log_p = torch.where(both, log_q + ratio, log_p)
    wanted = reach.clamp(max=budget)  # a larger budget has no lam, and the solver would refuse it
    lam = jackpot.lam_for_budget(log_p, log_q, torch.where(reach > 0, wanted, budget))
    return torch.where(reach > 0, lam, 1.0), budget <= reach + 1e-12  # rounding of the sum


@torch.no_grad()
def batch_lam(log_ratio: torch.Tensor, budget: float) -> tuple[float, bool]:
    """The lam whose mean acceptance over these tokens is `budget`, and whether it is within reach.

    Where p = 0 on too many of them, the largest lam that accepts all others; 1 if p = 0 on all.
    """
    reach = float((log_ratio > -torch.inf).double().mean())
    if reach == 0.0:
        return 1.0, False
    return jackpot.lam_from_samples(clamp_log_ratio(log_ratio), min(budget, reach)), budget <= reach


def clamp_log_ratio(log_ratio: torch.Tensor) -> torch.Tensor:
    """Log-ratios within +-_LOG_RATIO_MAX, p = 0 kept: lam is the same unless it lies beyond."""
    clamped = log_ratio.clamp(-_LOG_RATIO_MAX, _LOG_RATIO_MAX)
    return torch.where(log_ratio > -torch.inf, clamped, log_ratio)


def clamp_log_lam(log_lam: float, lam_min: float, lam_max: float) -> float:
    """log lam within [log lam_min, log lam_max]."""
    return max(math.log(lam_min), min(math.log(lam_max), log_lam))
