"""Random laws, tokens and coins, and the weights of tokens."""

from __future__ import annotations

from functools import partial

import torch

from llm.algorithm.correction import CorrectionState, forward_tail, token_weights
from llm.models.lm_head.threshold_scan import above
from llm.settings.schema import ControlConfig


def log_softmax(seed: int, n: int, v: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(n, v, generator=generator), dim=-1)


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(q: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(q.exp(), 1, generator=generator)[:, 0]


def weights_of(cfg, p, q, x, u, k=None, state=None, control=None, ref=None, sequence=None):
    """token_weights for tokens x (n,) of states with laws p (the policy now) and q, (n, v)."""
    ref = p if ref is None else ref
    state, control = state or CorrectionState(), control or ControlConfig()
    target = p if cfg.target == "new" else ref
    top = q.topk(k or q.shape[1], dim=-1)
    return token_weights(
        cfg,
        control=control,
        state=state,
        logp_inf=q.gather(1, x[:, None])[:, 0],
        logp_ref=ref.gather(1, x[:, None])[:, 0],
        logp_new=p.gather(1, x[:, None])[:, 0],
        topk_logp_inf=top.values,
        topk_logp_target=target.gather(1, top.indices),
        uniform=u,
        in_topk=(top.indices == x[:, None]).any(dim=1),
        sequence=sequence,
        tail_bound=forward_tail(
            cfg, state, target.gather(1, top.indices), top.values, partial(above, target)
        ),
    )
