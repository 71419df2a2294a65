"""The losses of a trainer's microbatch, Eq. 5 to 7, from tensors in its own layout.

Every function returns a sum over the tokens given, already divided by the whole update's
denominator: the losses of all microbatches and processes add up to the loss of the update. Where a
framework averages gradients over processes, multiply the loss by their number.
"""

from __future__ import annotations

import math
from typing import Any

import torch

import jackpot

from .corrector import UpdateWeights
from .losses import actor_ppo_sum, bucketed, distill_sum
from .objectives import ObjectiveTokens, PolicyLoss, policy_loss_sum
from .token_layout import per_token

_PER_TOKEN = ("ppo", "cispo")  # objectives that need no more than the tokens of a microbatch


def policy_loss(
    logp_new: torch.Tensor,
    logp_ref: torch.Tensor,
    advantage: torch.Tensor,
    weights: UpdateWeights,
    *,
    type: str = "ppo",
    **bounds: float,
) -> PolicyLoss:
    """Eq. 5: -sum scale weight term, with PPO's clipped term or CISPO's.

    Args:
        logp_new: log p of the sampled tokens now, with gradient, (B, T) or (n,), in nats.
        logp_ref: before this rollout's updates, of the same shape, without gradient.
        advantage: (B,), or of each token; (n,) with packed tokens.
        weights: `Corrector.weights`, and `UpdateWeights.at` the rows of this microbatch.
        type: ppo or cispo. bounds: clip_low, clip_high; inf for none on that side.

    Returns:
        `PolicyLoss`: .loss is the scalar. Tokens outside the mask and rejected ones are left out
        before anything is computed: whatever stands there reaches neither loss nor gradient.

    Raises:
        ValueError: shapes that do not fit, or NaN at a token that counts.
    """
    if type not in _PER_TOKEN:
        raise ValueError(f"type = {type!r}; choose one of {', '.join(_PER_TOKEN)}, or call "
                         "jackpot.torch.objectives.policy_loss_sum with flat tensors")  # fmt: skip
    counted = weights.weight != 0
    flat = {"logp_new": logp_new, "logp_ref": logp_ref, "advantage": per_token(advantage, counted)}
    for name, x in flat.items():
        if x.shape != counted.shape:
            raise ValueError(f"{name}: wanted {tuple(counted.shape)}, found {tuple(x.shape)}")
        if bool(x.detach()[counted].isnan().any()):
            raise ValueError(f"{name}: NaN at a token that counts")
    own = {name: x[counted] for name, x in flat.items()}
    tokens = ObjectiveTokens(
        own["logp_new"],
        own["logp_ref"].detach(),
        logp_inf=own["logp_ref"].detach(),  # neither objective reads it
        advantage=own["advantage"].detach(),
        sequence=torch.zeros_like(own["logp_ref"], dtype=torch.long),
    )
    clip: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2} if type == "ppo" else {}
    return policy_loss_sum(
        tokens, weights.weight[counted], weights.scale[counted], type=type, **clip | bounds
    )


def actor_loss(
    logp_actor: torch.Tensor,
    logp_inf: torch.Tensor,
    advantage: torch.Tensor,
    mask: torch.Tensor,
    n_tokens: int,
    *,
    logp_actor_ref: torch.Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    **correction: Any,
) -> torch.Tensor:
    """Eq. 6: the actor's PPO loss on its own rollouts. Tokens that the policy rejects count too.

    Args:
        logp_actor: the actor's log-probabilities now, with gradient, (B, T) or (n,).
        logp_inf, mask: as for `Corrector.weights`. advantage: as for `policy_loss`.
        n_tokens: `UpdateWeights.n_tokens`, the tokens of the update on all processes.
        logp_actor_ref, correction: as for `losses.actor_ppo_sum`: type, cap, low, high.

    Raises:
        ValueError: NaN at a sampled token, shapes that do not fit, or fewer n_tokens than the mask
            marks.
    """
    mask = mask.bool()
    values = {"logp_actor": logp_actor, "logp_inf": logp_inf, "advantage": advantage}
    values["advantage"] = per_token(advantage, mask)
    if logp_actor_ref is not None:
        values["logp_actor_ref"] = logp_actor_ref
    for name, x in values.items():
        if x.shape != mask.shape:
            raise ValueError(f"{name}: wanted {tuple(mask.shape)}, found {tuple(x.shape)}")
    flat = {name: x[mask] for name, x in values.items()}
    for name, x in flat.items():
        if bool(x.detach().isnan().any()):
            raise ValueError(f"{name}: NaN at a sampled token")
    total = actor_ppo_sum(
        flat["logp_actor"],
        flat["logp_inf"].detach(),
        flat["logp_actor_ref"].detach() if logp_actor_ref is not None else None,
        flat["advantage"].detach(),
        clip_low,
        clip_high,
        **correction,
    )
    return _mean(total, mask, n_tokens)


def distill_loss(
    logits_policy: torch.Tensor,
    logits_actor: torch.Tensor,
    mask: torch.Tensor,
    n_tokens: int,
    *,
    top_k: int | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Eq. 7: KL(policy || actor) in every state of the rollout; only the actor has a gradient.

    Args:
        logits_policy, logits_actor: (B, T, v) or (n, v) of the states in which the tokens of the
            mask were sampled; log-probabilities do as well. The policy's are detached.
        mask: (B, T) or (n,). n_tokens: `UpdateWeights.n_tokens`.
        top_k: the KL over the policy's k likeliest tokens and all others as one; None: over all.
        temperature: of both distributions; the loss is multiplied by its square.

    Raises:
        ValueError: top_k or temperature out of bounds, NaN or inf in the result, or fewer n_tokens
            than the mask marks.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature = {temperature}; it is above 0 and finite")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k = {top_k}; it is at least 1, or None for all tokens")
    mask = mask.bool()
    log_p = (logits_policy.detach()[mask].float() / temperature).log_softmax(-1)  # (n, v)
    log_q = (logits_actor[mask].float() / temperature).log_softmax(-1)
    if top_k is not None:
        log_p, log_q = bucketed(log_p, log_q, top_k)  # (n, k + 1)
    nan = bool(log_p.isnan().any()) or bool(log_q.detach().isnan().any())
    kl = None if nan else jackpot.kl_p_q(log_p, log_q)  # (n,); the KL of llm's pass too
    if kl is None or not bool(torch.isfinite(kl.detach()).all()):
        raise ValueError("distill_loss: NaN or inf in KL(policy || actor); look at the logits")
    return _mean(distill_sum(kl, temperature), mask, n_tokens)


def _mean(total: torch.Tensor, mask: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """total / n_tokens; 0 of an update without tokens, as the policy's loss is."""
    own = int(mask.sum())
    if n_tokens < own:
        raise ValueError(
            f"n_tokens = {n_tokens}, but the mask marks {own} tokens. Give UpdateWeights.n_tokens, "
            "the tokens of the whole update on all processes"
        )
    return total / max(n_tokens, 1)
