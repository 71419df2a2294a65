"""The losses of a trainer's microbatch, Eq. 5 to 7, from tensors in its own layout.

Every function returns a sum over the tokens given, already divided by the whole update's
denominator: the losses of all microbatches and processes add up to the loss of the update. Where a
framework averages gradients over processes, multiply the loss by their number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch

import jackpot

from .checks import (
    check_bounds,
    number,
    ratio_of,
    real_mask,
    refuse_unusable,
    require_tensor,
)
from .correction import TRUNCATIONS
from .corrector import UpdateWeights
from .corrector_settings import check_settings
from .losses import actor_ppo_sum, bucketed, distill_sum
from .objectives import ObjectiveTokens, PolicyLoss, policy_loss_sum
from .token_layout import per_token

_PER_TOKEN = ("ppo", "cispo")  # objectives that need no more than the tokens of a microbatch
_CLIP = ("clip_low", "clip_high")
_COUNTED = "tokens that count"
_SAMPLED = "sampled tokens"


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
        TypeError: what is no tensor, holds no floating-point numbers, or is no `UpdateWeights`.
        ValueError: shapes that do not fit; at a token that counts, NaN, inf, a positive
            log-probability or a ratio that overflows; a bound that is NaN, negative or unknown.
    """
    if type not in _PER_TOKEN:
        raise ValueError(f"type = {type!r}; choose one of {', '.join(_PER_TOKEN)}, or call "
                         "jackpot.torch.objectives.policy_loss_sum with flat tensors")  # fmt: skip
    if not isinstance(weights, UpdateWeights):
        raise TypeError(
            "weights: wanted what Corrector.weights returns, found "
            f"{weights.__class__.__name__}. Take the rows of a microbatch by its method `at`"
        )
    _check_policy_bounds(bounds)
    counted = weights.weight != 0  # NaN too
    logps = {"logp_new": logp_new, "logp_ref": logp_ref}
    for name, x in logps.items():
        require_tensor(name, x)
    values = logps | {"advantage": per_token(advantage, counted)}
    values |= {"weights.weight": weights.weight, "weights.scale": weights.scale}
    own = _selected(values, counted)
    logps = {name: own[name] for name in logps}
    own["p_new / p_ref"] = ratio_of(own["logp_new"], own["logp_ref"])
    refuse_unusable(logps, {k: x for k, x in own.items() if k not in logps}, _COUNTED)
    tokens = ObjectiveTokens(
        own["logp_new"],
        own["logp_ref"].detach(),
        logp_inf=own["logp_ref"].detach(),  # neither objective reads it
        advantage=own["advantage"].detach(),
        sequence=torch.zeros_like(own["logp_ref"], dtype=torch.long),
    )
    clip: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2} if type == "ppo" else {}
    loss = policy_loss_sum(
        tokens, own["weights.weight"], own["weights.scale"], type=type, **clip | bounds
    )
    _refuse_infinite(loss.loss)
    return loss


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
        TypeError: what is no tensor, holds no floating-point numbers, or a keyword that does not
            exist.
        ValueError: shapes that do not fit; at a sampled token, NaN, inf, a positive log-probability
            or a ratio that overflows; a keyword out of bounds or without effect; fewer n_tokens
            than the mask marks.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    _check_actor_correction(correction, logp_actor_ref)
    require_tensor("logp_actor", logp_actor)
    mask = real_mask(mask, logp_actor.shape)
    logps = {"logp_actor": logp_actor, "logp_inf": logp_inf}
    if logp_actor_ref is not None:
        logps["logp_actor_ref"] = logp_actor_ref
    for name, x in logps.items():
        require_tensor(name, x)
    own = _selected(logps | {"advantage": per_token(advantage, mask)}, mask)
    logps = {name: own[name].detach() for name in logps}
    others = {"advantage": own["advantage"]}
    others["p_actor / p_inf"] = ratio_of(own["logp_actor"], own["logp_inf"])
    if logp_actor_ref is not None:
        others["p_actor / p_actor_ref"] = ratio_of(own["logp_actor"], own["logp_actor_ref"])
    refuse_unusable(logps, others, _SAMPLED)
    total = actor_ppo_sum(
        own["logp_actor"],
        logps["logp_inf"],
        logps.get("logp_actor_ref"),
        own["advantage"].detach(),
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
        TypeError: what is no tensor, holds no floating-point numbers, or is no number.
        ValueError: shapes that do not fit, top_k or temperature out of bounds, NaN or inf in the
            result, or fewer n_tokens than the mask marks.
    """
    if not 0 < number("temperature", temperature) < math.inf:
        raise ValueError(f"temperature = {temperature}; it is above 0 and finite")
    if top_k is not None and _whole("top_k", top_k) < 1:
        raise ValueError(f"top_k = {top_k}; it is at least 1, or None for all tokens")
    logits = {"logits_policy": logits_policy, "logits_actor": logits_actor}
    for name, x in logits.items():
        require_tensor(name, x)
    shape = logits_policy.shape
    if logits_actor.shape != shape or len(shape) not in (2, 3) or shape[-1] == 0:
        raise ValueError(
            "logits_policy and logits_actor: wanted (B, T, v) or (n, v) each, with the same tokens "
            f"in the last axis, found {tuple(shape)} and {tuple(logits_actor.shape)}"
        )
    mask = real_mask(mask, shape[:-1])
    log_p = (logits_policy.detach()[mask].float() / temperature).log_softmax(-1)  # (n, v)
    log_q = (logits_actor[mask].float() / temperature).log_softmax(-1)
    for name, logp in (("logits_policy", log_p), ("logits_actor", log_q)):
        if bool(logp.detach().isnan().any()):
            raise ValueError(
                f"distill_loss: NaN or inf in KL(policy || actor), because {name} holds NaN, +inf, "
                "or nothing but -inf in a state"
            )
    if top_k is not None:
        log_p, log_q = bucketed(log_p, log_q, top_k)  # (n, k + 1)
    kl = jackpot.kl_p_q(log_p, log_q)  # (n,); the KL of llm's pass too
    if not bool(torch.isfinite(kl.detach()).all()):
        raise ValueError(
            "distill_loss: NaN or inf in KL(policy || actor): logits_actor gives -inf to a token "
            "that the policy may choose. Exclude a token in both models, or in neither"
        )
    return _mean(distill_sum(kl, temperature), mask, n_tokens)


def _selected(values: Mapping[str, torch.Tensor], at: torch.Tensor) -> dict[str, torch.Tensor]:
    """The values at some tokens, (n,) each; shapes that are not that of `at` are refused."""
    for name, x in values.items():
        if x.shape != at.shape:
            raise ValueError(f"{name}: wanted {tuple(at.shape)}, found {tuple(x.shape)}")
    return {name: x[at] for name, x in values.items()}


def _check_policy_bounds(bounds: Mapping[str, Any]) -> None:
    unknown = sorted(bounds.keys() - set(_CLIP))
    if unknown:
        raise TypeError(f"no bound is called {', '.join(unknown)}; there are {' and '.join(_CLIP)}")
    check_bounds(**bounds)


def _check_actor_correction(
    correction: Mapping[str, Any], logp_actor_ref: torch.Tensor | None
) -> None:
    known = dict.fromkeys(("type", *(word for words in TRUNCATIONS.values() for word in words)))
    unknown = sorted(correction.keys() - known.keys())
    if unknown:
        raise TypeError(
            f"actor_loss takes no {', '.join(unknown)}; its correction has {', '.join(known)}"
        )
    kind = correction.get("type", "none")
    if kind not in TRUNCATIONS:
        raise ValueError(
            f"type = {kind!r}: the actor's loss takes one of {', '.join(TRUNCATIONS)}. Its own "
            "tokens are not rejected"
        )
    check_settings({"type": kind, **correction})
    if kind == "none" and logp_actor_ref is not None:
        raise ValueError(
            "logp_actor_ref has no effect with type = none, whose ratio is to logp_inf: leave it "
            "out, or choose another type"
        )


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} = {value!r}; it is a whole number") from None


def _mean(total: torch.Tensor, mask: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """total / n_tokens; 0 of an update without tokens, as the policy's loss is."""
    own, n = int(mask.sum()), _whole("n_tokens", n_tokens)
    if n < own:
        raise ValueError(
            f"n_tokens = {n}, but the mask marks {own} tokens. Give UpdateWeights.n_tokens, "
            "the tokens of the whole update on all processes"
        )
    _refuse_infinite(total)
    return total / max(n, 1)


def _refuse_infinite(loss: torch.Tensor) -> None:
    if not bool(torch.isfinite(loss.detach())):
        raise ValueError(
            "the loss is NaN or inf, though every value given is finite: look at the size of "
            "advantages and ratios"
        )
