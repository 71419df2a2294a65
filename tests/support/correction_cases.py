"""Random distributions, tokens and coins, and the weights of tokens."""

from __future__ import annotations

from functools import partial

import torch

from jackpot.torch.correction import (
    CorrectionInputs,
    CorrectionState,
    forward_tail,
    needs_tail,
    token_weights,
)
from llm.models.lm_head.threshold_scan import above


def log_softmax(seed: int, n: int, v: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(n, v, generator=generator), dim=-1)


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(q: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(q.exp(), 1, generator=generator)[:, 0]


def weights_of(p, q, x, u, k=None, state=None, ref=None, sequence=None, **settings):
    """token_weights for tokens x (n,) of states with distributions p and q, (n, v) each.

    p is the policy's as it is now. Without `sequence` all tokens are of one completion.
    """
    ref = p if ref is None else ref
    state = state or CorrectionState()
    target = p if settings.get("target") == "new" else ref
    top = q.topk(k or q.shape[1], dim=-1)
    of_topk = target.gather(1, top.indices)
    inputs = CorrectionInputs(
        logp_inf=q.gather(1, x[:, None])[:, 0],
        logp_ref=ref.gather(1, x[:, None])[:, 0],
        logp_new=p.gather(1, x[:, None])[:, 0],
        topk_logp_inf=top.values,
        topk_logp_target=of_topk,
        in_topk=(top.indices == x[:, None]).any(dim=1),
        uniform=u,
        sequence=torch.zeros(len(x)) if sequence is None else sequence,
        tail_bound=bound_of(state, of_topk, top.values, partial(above, target), **settings),
    )
    return token_weights(inputs, state, **settings)


def bound_of(state, topk_logp, topk_logp_inf, count_above, **settings):
    """forward_tail where these settings of a correction need it, else None."""
    if not needs_tail(**settings):
        return None
    of_lam = {name: settings[name] for name in ("lam", "lam_from", "budget") if name in settings}
    return forward_tail(state, topk_logp, topk_logp_inf, count_above, **of_lam)
