"""verl: a policy loss named "jackpot", in each worker by VERL_USE_EXTERNAL_MODULES.

    VERL_USE_EXTERNAL_MODULES=jackpot.adapters.verl
    actor_rollout_ref.actor.policy_loss.loss_mode=jackpot
    actor_rollout_ref.rollout.calculate_log_probs=true
    algorithm.rollout_correction.rollout_is=token
    algorithm.rollout_correction.rollout_is_threshold=1e9
    algorithm.rollout_correction.bypass_mode=false

verl gives its losses no log-probabilities of the sampler. The settings above make it pass the ratio
w = p_ref / p_inf of each token in their place, uncapped up to e^20, so log p_inf = log p_ref - log
w. verl's `agg_loss` divides. Options: the environment variable JACKPOT_OPTIONS.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch

from jackpot.torch.checks import real_mask

from .hook import Hook, PeerError, require_tested, required, token_losses

TESTED = ("0.9.1",)
_RATIO_LOG_MAX = 20.0  # verl clamps log ratios there
_hook: Hook | None = None


def hook() -> Hook:
    """The hook of this process."""
    global _hook
    if _hook is None:
        _hook = Hook("verl")
    return _hook


def logp_of_sampler(
    logp_ref: torch.Tensor, ratio: torch.Tensor | None, mask: torch.Tensor
) -> torch.Tensor:
    """log p_inf = log p_ref - log(p_ref / p_inf), (B, T); 0 outside the mask.

    Raises:
        PeerError: no ratios, ratios of other tokens, or one that is 0, negative or not finite at a
            sampled token.
    """
    if ratio is None:
        raise PeerError(
            "verl passed no rollout_is_weights. Set rollout.calculate_log_probs=true and "
            "algorithm.rollout_correction.rollout_is=token, rollout_is_threshold=1e9"
        )
    if ratio.shape != mask.shape or logp_ref.shape != mask.shape:
        raise PeerError(
            f"verl: rollout_is_weights {tuple(ratio.shape)}, old_log_prob {tuple(logp_ref.shape)} "
            f"and response_mask {tuple(mask.shape)} are not of the same tokens. Set rollout_is="
            "token: a ratio for each token"
        )
    own = ratio[mask]
    if not bool((torch.isfinite(own) & (own > 0)).all()):
        raise PeerError(
            "verl: a rollout_is_weight is 0 or not finite at a sampled token. Set "
            "rollout_is_threshold=1e9 (a number, not a band) and rollout_is_batch_normalize=false"
        )
    log_ratio = torch.zeros_like(logp_ref).masked_scatter(mask, own.log().to(logp_ref.dtype))
    # Rounding of exp and log: p_inf is a probability.
    return torch.where(mask, (logp_ref - log_ratio).clamp(max=0.0), 0.0)


def policy_loss(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """verl's signature: log-probabilities, advantages and mask are (B, T).

    Raises:
        PeerError: something is missing.
        TypeError, ValueError: as `token_losses`; a mask that is a weight.
    """
    from verl.trainer.ppo.core_algos import agg_loss

    own = hook()
    given = {"old_log_prob": old_log_prob, "log_prob": log_prob, "response_mask": response_mask}
    for name, x in given.items():
        required("verl", name, x)
    mask = real_mask(response_mask, log_prob.shape)
    low, high = clip_bounds(config)
    batch_info = required(
        "verl", "config.global_batch_info", getattr(config, "global_batch_info", None)
    )
    logp_inf = logp_of_sampler(old_log_prob, rollout_is_weights, mask)
    weights = own.weights(logp_inf, old_log_prob, log_prob, mask)
    losses = token_losses(log_prob, old_log_prob, advantages, weights, low, high)
    loss = agg_loss(
        loss_mat=losses,
        loss_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        **batch_info,
    )
    metrics = own.metrics(weights)
    log_ratio = weights.tokens.log_ratio.abs()
    # Ratios that verl clamped are not known; the metric says how many.
    clamped = (log_ratio >= _RATIO_LOG_MAX - 1e-3).float()
    metrics["jackpot/ratio_clamped_by_verl"] = float(clamped.mean()) if len(clamped) else 0.0
    return loss, {name: value for name, value in metrics.items() if math.isfinite(value)}


def clip_bounds(config: Any) -> tuple[float, float]:
    """verl's clip_ratio_low and clip_ratio_high, clip_ratio in the place of one that is not set.

    Raises:
        PeerError: verl passed no configuration, or one without them.
    """
    required("verl", "config of the actor", config)
    bounds = []
    for name in ("clip_ratio_low", "clip_ratio_high"):
        own = getattr(config, name, None)
        bound = getattr(config, "clip_ratio", None) if own is None else own
        advice = "Set actor_rollout_ref.actor.clip_ratio"
        bounds.append(required("verl", f"config.{name} and no clip_ratio", bound, advice))
    return bounds[0], bounds[1]


def register() -> None:
    """Register the loss; importing this module inside verl's worker does it.

    Raises:
        PeerError: verl is not installed, or is a version that was not tested.
    """
    require_tested("verl", TESTED)
    from verl.trainer.ppo.core_algos import register_policy_loss

    register_policy_loss("jackpot")(policy_loss)


# verl imports the modules that VERL_USE_EXTERNAL_MODULES names, and does nothing more with them.
if importlib.util.find_spec("verl") is not None:
    register()
