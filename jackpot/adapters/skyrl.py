"""SkyRL: call `register()` before training, and set `trainer.algorithm.policy_loss_type=jackpot`.

SkyRL hands over p_new, p_ref and p_inf, (B, T) each. It divides the advantages beforehand, so a
loss is a plain sum over tokens, and the denominator is SkyRL's. Read at commit a9564572
(2026-08-21, which calls itself 0.3.0), and in the package 0.4.0, which needs Python 3.12 and ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .hook import Hook, PeerError, require_read, required, token_losses

NAME = "jackpot"
READ = ("0.4.0",)
# Of off_policy_correction: each weights or masks tokens by p_ref / p_inf, unless it is null.
_SECOND_CORRECTIONS = (
    "tis_ratio_type",
    "sequence_mask_metric",
    "outlier_token_is_threshold_low",
    "outlier_token_is_threshold_high",
    "token_mask_is_threshold_low",
    "token_mask_is_threshold_high",
)


def policy_loss(options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """A policy loss of SkyRL's signature. Options: as `Hook`.

    The function carries options alone, so that ray can send it to workers; each worker makes its
    own hook when it is first called, and keeps it in the attribute `hook`.
    """

    def jackpot_policy_loss(
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        config: Any,
        loss_mask: torch.Tensor | None = None,
        rollout_logprobs: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        if jackpot_policy_loss.hook is None:  # type: ignore[attr-defined]
            jackpot_policy_loss.hook = Hook("SkyRL", options)  # type: ignore[attr-defined]
        hook = jackpot_policy_loss.hook  # type: ignore[attr-defined]
        own = getattr(config, "off_policy_correction", None)
        refuse_second_correction(own)
        low, high = (
            required("SkyRL", f"config.{name}", getattr(config, name, None))
            for name in ("eps_clip_low", "eps_clip_high")
        )
        weights = hook.weights(rollout_logprobs, old_log_probs, log_probs, loss_mask)
        losses = token_losses(log_probs, old_log_probs, advantages, weights, low, high)
        return losses.sum(), hook.metrics(weights)

    jackpot_policy_loss.hook = None  # type: ignore[attr-defined]
    return jackpot_policy_loss


def refuse_second_correction(own: Any) -> None:
    """SkyRL's own correction of p_inf beside ours would count the importance weight twice."""
    for name in _SECOND_CORRECTIONS:
        value = getattr(own, name, None)
        if value is not None:
            raise PeerError(
                f"SkyRL: off_policy_correction.{name} = {value!r} corrects for the sampler too. "
                "Set it to null: jackpot's weight is the correction"
            )


def register(options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Register the loss under the name "jackpot"; returns it.

    Raises:
        PeerError: SkyRL is not installed, is another version than the one that was read, or its
            registry is not where it was.
    """
    require_read("skyrl", READ)
    try:
        from skyrl.backends.skyrl_train.utils.ppo_utils import PolicyLossRegistry
    except ImportError as e:
        raise PeerError(f"SkyRL's registry of policy losses could not be imported: {e}") from e
    loss = policy_loss(options)
    PolicyLossRegistry.register(NAME, loss)
    return loss
