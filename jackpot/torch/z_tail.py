"""U' of theory D2 from the tokens that are more likely than a floor: how many, and their mass.

No more of p's tail is needed (`jackpot.tail_bound_above`), and as a rule they are few: the k
likeliest and some others. So whatever finds them looks at the largest entry of each stretch of a
row, and then only into the stretches that reach the floor.
"""

from __future__ import annotations

import math

import torch

import jackpot

from .logprobs import log_tail

Tensor = torch.Tensor
# A tail mass is 1 minus a float32 sum, which misses by as much over a large vocabulary: a bound
# that is sharper by less says nothing, and p = q must give Z = 1 to the last bit.
_TAIL_ROUNDING = 1e-4


def tail_floor(topk_logp_inf: Tensor, lam: float | Tensor) -> Tensor:
    """log(lam c), (n,): only tokens with p above it make U' smaller than the lumped bound."""
    log_lam = lam.log() if isinstance(lam, Tensor) else math.log(lam)
    return topk_logp_inf.min(dim=-1).values + log_lam


@torch.no_grad()
def tail_terms(
    topk_logp: Tensor,
    topk_logp_inf: Tensor,
    count: Tensor,
    mass: Tensor,
    lam: float | Tensor,
) -> Tensor:
    """U' of each token's state: the most that the tokens outside q's top k can add to Z, (n,).

    Args:
        topk_logp, topk_logp_inf: log p and log q of q's k likeliest tokens, (n, k).
        count, mass: `above` of p at `tail_floor`, (n,), those k tokens included.
        lam: threshold, a number or (n,).
    """
    # Of p's tokens above lam c, those of q's top k do not belong to the tail: they are subtracted.
    is_high = topk_logp > tail_floor(topk_logp_inf, lam)[:, None]
    count = (count - is_high.sum(dim=-1)).to(topk_logp.dtype)
    mass = mass - torch.where(is_high, topk_logp.exp(), 0.0).sum(dim=-1, dtype=torch.float64)
    # A difference of two sums over the same tokens: below 0 by rounding alone.
    mass = mass.clamp(min=0.0).to(topk_logp.dtype)
    log_p_tail, log_q_tail = log_tail(topk_logp), log_tail(topk_logp_inf)
    cap = topk_logp_inf.min(dim=-1).values  # log c: no tail token is likelier under q
    sharp = jackpot.tail_bound_above(count, mass, log_p_tail, log_q_tail, cap, lam)
    lumped = lumped_tail(log_p_tail, log_q_tail, lam)
    return torch.where(lumped - sharp > _TAIL_ROUNDING, sharp, lumped)


def lumped_tail(log_p_tail: Tensor, log_q_tail: Tensor, lam: float | Tensor) -> Tensor:
    """U = min(q_T, p_T / lam): the acceptance rate of a vocabulary that is one token, (n,)."""
    return jackpot.acceptance_rate(log_p_tail[:, None], log_q_tail[:, None], lam)
