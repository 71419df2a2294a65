"""NeMo-RL: `grpo_train(..., loss_fn=JackpotLoss(...))`.

NeMo-RL hands over p_new, p_ref (prev_logprobs) and p_inf (generation_logprobs). The loss divides by
the tokens of all processes, which NeMo-RL passes along. Read at commit 7ea279ab (2026-08-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .hook import Hook, PeerError, check_clip, require_read, token_losses

READ = ("0.6", "0.6.0rc0")  # the commit says 0.6.0rc0


class JackpotLoss:
    """A LossFunction of NeMo-RL with input type LOGPROB.

    Args:
        options: as `Hook`.
        clip_low, clip_high: of PPO's ratio p_new / p_ref; inf for none.

    Raises:
        PeerError: NeMo-RL is not installed, is another version than the one that was read, or its
            interfaces are not where they were.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
    ) -> None:
        try:
            from nemo_rl.algorithms.loss.interfaces import LossInputType, LossType
        except ImportError as e:
            raise PeerError(f"NeMo-RL's loss interfaces could not be imported: {e}") from e
        require_read("nemo-rl", READ)
        check_clip(clip_low=clip_low, clip_high=clip_high)
        self.loss_type, self.input_type = LossType.TOKEN_LEVEL, LossInputType.LOGPROB
        self.hook = Hook("NeMo-RL", options)
        self._clip = (clip_low, clip_high)

    def __call__(
        self,
        next_token_logprobs: torch.Tensor,
        data: Mapping[str, torch.Tensor],
        global_valid_seqs: torch.Tensor,
        global_valid_toks: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss and metrics of one microbatch.

        Args:
            next_token_logprobs: log p_new, (B, S - 1), with gradient.
            data: token_mask, advantages, prev_logprobs, generation_logprobs, (B, S), whose first
                column belongs to no token; sample_mask, (B,).
            global_valid_toks: tokens of the update on all processes, a scalar.
        """
        mask = (data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)).bool()
        logp_ref = data["prev_logprobs"][:, 1:]
        weights = self.hook.weights(
            data["generation_logprobs"][:, 1:], logp_ref, next_token_logprobs, mask
        )
        losses = token_losses(
            next_token_logprobs, logp_ref, data["advantages"][:, 1:], weights, *self._clip
        )
        loss = losses.sum() / global_valid_toks.to(losses.dtype)
        valid = float(data["sample_mask"].sum())
        metrics = {"loss": float(loss.detach()), "num_valid_samples": valid}
        return loss, metrics | self.hook.metrics(weights)
