"""NeMo-RL: `grpo_train(..., loss_fn=JackpotLoss(...))`.

NeMo-RL hands over p_new, p_ref (prev_logprobs) and p_inf (generation_logprobs). The loss divides by
the tokens of all processes, which NeMo-RL passes along. Read at commit 7ea279ab (2026-08-22).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import torch

from jackpot.torch.checks import check_bounds

from .hook import Hook, PeerError, options_of_environment, require_read, required, token_losses

READ = ("0.6", "0.6.0rc0")

# NeMo-RL sends the loss to its workers anew for each step. A hook that stays in the process keeps
# its counter, and throws other coins in each step.
_hooks: dict[str, Hook] = {}


class JackpotLoss:
    """A LossFunction of NeMo-RL with input type LOGPROB.

    Args:
        options: as `Hook`.
        clip_low, clip_high: of PPO's ratio p_new / p_ref; inf for none.

    Raises:
        PeerError: NeMo-RL is not installed, is another version than the one that was read, or its
            interfaces are not where they were.
    """

    _input_type = "LOGPROB"

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
    ) -> None:
        try:
            from nemo_rl.algorithms.loss import interfaces
        except ImportError as e:
            raise PeerError(f"NeMo-RL's loss interfaces could not be imported: {e}") from e
        require_read("nemo-rl", READ)
        check_bounds(clip_low=clip_low, clip_high=clip_high)
        self.loss_type = interfaces.LossType.TOKEN_LEVEL
        self.input_type = getattr(interfaces.LossInputType, self._input_type)
        # In one of its trainers NeMo-RL divides by the tokens what is not declared to be divided
        # already. `metric_normalizations` is filled with the names of our metrics as they come.
        self._as_it_is = getattr(getattr(interfaces, "MetricNormalizer", None), "NONE", None)
        self.metric_normalizations: dict[str, Any] = {}
        self._options = dict(options if options is not None else options_of_environment())
        self._key = uuid.uuid4().hex
        self._clip = (clip_low, clip_high)
        _ = self.hook  # options that cannot be followed are refused here, not in the workers

    @property
    def hook(self) -> Hook:
        """Of this process, for this loss and its copies from other processes."""
        if self._key not in _hooks:
            _hooks[self._key] = Hook("NeMo-RL", self._options)
        return _hooks[self._key]

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

        Raises:
            PeerError: log-probabilities that are 0 at all tokens: NeMo-RL computed none; something
                of `data` is missing.
        """
        for name in ("prev_logprobs", "generation_logprobs", "advantages"):
            required("NeMo-RL", f"{name} in its data", data.get(name))
        mask = sampled(data)
        logp_ref, logp_inf = data["prev_logprobs"][:, 1:], data["generation_logprobs"][:, 1:]
        refuse_placeholders(mask, prev_logprobs=logp_ref, generation_logprobs=logp_inf)
        weights = self.hook.weights(logp_inf, logp_ref, next_token_logprobs, mask)
        losses = token_losses(
            next_token_logprobs, logp_ref, data["advantages"][:, 1:], weights, *self._clip
        )
        loss = losses.sum() / global_valid_toks.to(losses.dtype)
        valid = float(data["sample_mask"].sum())
        metrics = {"num_valid_samples": valid} | self.hook.metrics(weights)
        if self._as_it_is is not None:
            self.metric_normalizations.update(dict.fromkeys(metrics, self._as_it_is))
        return loss, {"loss": float(loss.detach())} | metrics


class JackpotLogitLoss(JackpotLoss):
    """The same loss with input type LOGIT: log p_new is computed here, from full logits.

    Args:
        vocabulary: tokens of the policy. Narrower logits are a part of them, as with tensor
            parallelism, and are refused.
        more: as `JackpotLoss`.
    """

    _input_type = "LOGIT"

    def __init__(self, vocabulary: int, **more: Any) -> None:
        super().__init__(**more)
        self._vocabulary = vocabulary

    def __call__(
        self,
        logits: torch.Tensor,
        data: Mapping[str, torch.Tensor],
        global_valid_seqs: torch.Tensor,
        global_valid_toks: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """As `JackpotLoss`; data also has input_ids, (B, S).

        Args:
            logits: of the token after each one, at the sampling temperature, (B, S, v), with
                gradient.

        Raises:
            PeerError: logits that are split over processes.
        """
        if hasattr(logits, "placements") or logits.shape[-1] < self._vocabulary:
            raise PeerError(
                f"NeMo-RL: logits of {logits.shape[-1]} tokens are split over processes; the "
                f"policy has {self._vocabulary}. Use JackpotLoss, for which NeMo-RL puts the parts "
                "together, or tensor_parallel_size = 1"
            )
        if "seq_index" in data:
            raise PeerError(
                "NeMo-RL: with context parallelism the logits are of a part of the sequence. Use "
                "JackpotLoss, or context_parallel_size = 1"
            )
        required("NeMo-RL", "input_ids in its data", data.get("input_ids"))
        mask = sampled(data)
        own = logits[:, :-1][mask].float()  # (n, v): of the states in which tokens were sampled
        token = data["input_ids"][:, 1:][mask]
        logp = own.gather(-1, token[:, None])[:, 0] - own.logsumexp(-1)
        next_token_logprobs = torch.zeros_like(mask, dtype=torch.float32)
        next_token_logprobs = next_token_logprobs.masked_scatter(mask, logp)  # (B, S - 1)
        return super().__call__(next_token_logprobs, data, global_valid_seqs, global_valid_toks)


def sampled(data: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Where a sampled token counts, (B, S - 1), bool.

    Raises:
        PeerError: a mask that is a weight, or is missing.
    """
    for name in ("token_mask", "sample_mask"):
        required("NeMo-RL", f"{name} in its data", data.get(name))
    mask = data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)
    if bool(((mask != 0) & (mask != 1)).any()):
        raise PeerError(
            "NeMo-RL: token_mask times sample_mask is neither 0 nor 1 somewhere. A loss multiplier "
            "between them is not part of this loss"
        )
    return mask.bool()


def refuse_placeholders(mask: torch.Tensor, **logps: torch.Tensor) -> None:
    """NeMo-RL puts zeros in the place of log-probabilities that it did not compute."""
    for name, logp in logps.items():
        if bool(mask.any()) and not bool(logp[mask].any()):
            raise PeerError(
                f"NeMo-RL: {name} is 0 at every token, so it was not computed. Set "
                "loss_fn.force_on_policy_ratio = false, and let the sampler return them"
            )
