"""TRL: `JackpotGRPOTrainer` in the place of GRPOTrainer; `JackpotPairTrainer` trains the actor too.

TRL multiplies the term of each token by an advantage of shape (B, T) if it is given one. So the
weight, which is never negative, multiplies the advantage: min(r w A, clip(r) w A) is w times PPO's
term. No code of TRL is repeated, and its `loss_type` decides the denominator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from trl import GRPOTrainer

from jackpot.torch.checks import refuse_unusable
from jackpot.torch.corrector import TopK
from jackpot.torch.trainer_losses import actor_loss, distill_loss

from .hook import Hook, PeerError, require_tested

TESTED = ("1.16",)
_Z_TOP_K = 20  # the paper's
_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")  # linear in a non-negative factor of A


class JackpotGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose tokens have the weights of OBRS (Eq. 5), or of another correction.

    The sampler's log-probabilities come from vLLM, or from a `rollout_func` that returns logprobs.
    They must be of the distribution that was sampled from: a vLLM server runs with
    --logprobs-mode processed_logprobs, and TRL starts its own vLLM so.

    Args:
        jackpot_options: as `hook.Hook`.

    Raises:
        PeerError: a version of TRL that was not tested, a setting that would count the correction
            twice or skip it, or no log-probabilities of the sampler.
    """

    def __init__(
        self, *args: Any, jackpot_options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        require_tested("trl", TESTED)
        self.jackpot = self._hook(jackpot_options)
        self._jackpot_inputs: dict[str, Any] | None = None
        super().__init__(*args, **kwargs)
        self._refuse_settings()

    def _hook(self, options: Mapping[str, Any] | None) -> Hook:
        return Hook("TRL", options)

    def _topk(self, inputs: dict[str, Any]) -> TopK | None:
        """The sampler's likeliest tokens; TRL's samplers give none."""
        return None

    def _refuse_settings(self) -> None:
        wrong = {
            "use_liger_kernel": (bool(self.args.use_liger_kernel), "its loss is fused: set False"),
            "vllm_importance_sampling_correction": (
                self.use_vllm and self.vllm_importance_sampling_correction,
                "it corrects for the sampler too: set False",
            ),
            "loss_type": (
                self.loss_type not in _LOSSES,
                f"{self.loss_type} is not linear in the advantage; choose one of "
                f"{', '.join(_LOSSES)}",
            ),
            "importance_sampling_level": (
                self.importance_sampling_level != "token",
                "the weights are of tokens: set token",
            ),
            "off_policy_mask_threshold": (
                self.off_policy_mask_threshold is not None,
                "it reads the advantages that carry our weights: leave it out",
            ),
        }
        for name, (bad, why) in wrong.items():
            if bad:
                raise PeerError(f"TRL: {name} does not go with jackpot: {why}")
        if self.use_vllm and self.vllm_mode == "server" and self.accelerator.is_main_process:
            # TRL looks at this only where its own correction is on.
            info = self.vllm_generation.vllm_client.get_server_info()
            mode = info["model_config"]["logprobs_mode"]
            if mode != "processed_logprobs":
                raise PeerError(
                    f"TRL: the vLLM server runs with --logprobs-mode {mode}: its log-probabilities "
                    "are not of the distribution that it samples from. Start it with "
                    "--logprobs-mode processed_logprobs"
                )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._jackpot_inputs = dict(inputs)  # advantages are changed in this copy alone
        calls = self.jackpot.calls
        try:
            loss = super()._compute_loss(model, self._jackpot_inputs)
        finally:
            self._jackpot_inputs = None
        if self.jackpot.calls != calls + 1:
            raise PeerError("TRL computed a loss without asking for log-probabilities once")
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        inputs = self._jackpot_inputs
        if inputs is not None:  # within _compute_loss, before it reads the advantages
            topk = self._topk(inputs) if self.jackpot.wants_topk else None
            self._weight_advantages(inputs, out[0], topk)
        return out

    def _weight_advantages(
        self, inputs: dict[str, Any], logp_new: torch.Tensor, topk: TopK | None
    ) -> None:
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        logp_ref = inputs.get("old_per_token_logps")
        if logp_ref is None:  # one update per rollout: the policy is still the one before updates
            logp_ref = logp_new.detach()
        weights = self.jackpot.weights(
            inputs.get("sampling_per_token_logps"), logp_ref, logp_new, mask.bool(), topk=topk,
            trains=self.model.training,
        )  # fmt: skip
        advantage = inputs["advantages"]
        if advantage.dim() == 1:
            advantage = advantage.unsqueeze(1)
        refuse_unusable({}, {"advantages": advantage}, "values")
        inputs["advantages"] = advantage * weights.weight.to(advantage.dtype)  # (B, T)
        mode = "train" if self.model.training else "eval"
        for name, value in self.jackpot.metrics(weights).items():
            if math.isfinite(value):
                self._metrics[mode][name].append(value)


class JackpotPairTrainer(JackpotGRPOTrainer):
    """A small actor samples, is trained on the same rewards (Eq. 6) and distilled (Eq. 7).

    One process. The actor's parameters join TRL's optimizer as a group with their own rate. The
    actor's logits are at hand, so by default Z is of each state, from its likeliest tokens
    (z = state); `jackpot_options` may choose z = batch.

    Args:
        actor: a causal language model with the policy's tokens.
        actor_learning_rate: constant; TRL's schedule multiplies it as it does the policy's.
        actor_clip: of the actor's PPO ratio to q, on both sides.
        distill_coef: weight of KL(policy || actor), lambda_distill of Eq. 8.
        distill_top_k: the KL over the policy's k likeliest tokens, the rest as one; None: all.
        z_top_k: how many of the actor's likeliest tokens Z and lam of a state are computed from;
            None: 20. All tokens, where there are fewer.
    """

    def __init__(
        self,
        *args: Any,
        actor: Any,
        actor_learning_rate: float,
        actor_clip: float = 0.2,
        distill_coef: float = 1.0,
        distill_top_k: int | None = None,
        z_top_k: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (("actor_learning_rate", actor_learning_rate), ("clip", actor_clip)):
            if not value > 0:
                raise ValueError(f"{name} = {value}; it is above 0")
        if not 0 <= distill_coef < math.inf:
            raise ValueError(f"distill_coef = {distill_coef}; it is at least 0 and finite")
        if z_top_k is not None and z_top_k < 1:
            raise ValueError(f"z_top_k = {z_top_k}; it is at least 1, or None for 20")
        super().__init__(*args, rollout_func=sample_of_actor, **kwargs)
        if self.accelerator.num_processes != 1:
            raise PeerError(
                "JackpotPairTrainer runs in one process: nothing sums the actor's gradients"
            )
        if self.use_vllm:
            raise PeerError("JackpotPairTrainer samples from its actor: set use_vllm = False")
        self.actor = actor.to(self.accelerator.device)
        self._actor_learning_rate, self._actor_clip = actor_learning_rate, actor_clip
        self._distill_coef, self._distill_top_k = distill_coef, distill_top_k
        if z_top_k is not None and not self.jackpot.wants_topk:
            raise ValueError("z_top_k has no effect without z = 'state' or lam_from = 'state'")
        self.z_top_k = (z_top_k or _Z_TOP_K) if self.jackpot.wants_topk else 0
        self.sampled_topk: tuple[torch.Tensor, torch.Tensor] | None = None  # of the last rollout

    def _hook(self, options: Mapping[str, Any] | None) -> Hook:
        return Hook("TRL", options, defaults={"z": "state"}, has_topk=True)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        mine = {id(p) for p in self.actor.parameters()}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not mine & held:
            parameters = [p for p in self.actor.parameters() if p.requires_grad]
            optimizer.add_param_group({"params": parameters, "lr": self._actor_learning_rate})
        return optimizer

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, with q's likeliest tokens of each state, which `sample_of_actor` left here."""
        output = super()._generate_and_score_completions(inputs)
        if self.sampled_topk is None:
            return output
        width = output["completion_ids"].shape[1]
        ids, logp = (_of_width(x, width) for x in self.sampled_topk)  # (B, T, k)
        output |= {"jackpot_topk_ids": ids, "jackpot_topk_logps": logp}
        if "old_per_token_logps" in output:  # several updates follow: p_ref must be kept now
            size = self.args.per_device_train_batch_size
            names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
            parts = [
                logp_at(
                    self._policy_logits(self.model, {n: output[n][i : i + size] for n in names}),
                    ids[i : i + size],
                )
                for i in range(0, len(ids), size)
            ]
            output["jackpot_topk_old_logps"] = torch.cat(parts)
        return output

    def _topk(self, inputs: dict[str, Any]) -> TopK | None:
        ids = inputs["jackpot_topk_ids"]
        logp_target = inputs.get("jackpot_topk_old_logps")
        if logp_target is None or self.jackpot.options.get("target") == "new":
            logp_target = logp_at(inputs["jackpot_policy_logits"], ids)
        in_topk = (ids == inputs["completion_ids"][..., None]).any(-1)
        return TopK(inputs["jackpot_topk_logps"], logp_target, in_topk)

    @torch.no_grad()
    def _policy_logits(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """At the temperature, of the states in which the completions were sampled, (B, T, v)."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with self.accelerator.autocast():
            logits = states_logits(model, ids, attention, inputs["completion_ids"].shape[1])
        return logits / self.temperature

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        if self.model.training or self.jackpot.wants_topk:  # one pass for Z and the distillation
            inputs = inputs | {"jackpot_policy_logits": self._policy_logits(model, inputs)}
        loss = super()._compute_loss(model, inputs)
        if not self.model.training:
            return loss
        return loss + self._loss_of_actor(inputs) / self.current_gradient_accumulation_steps

    def _loss_of_actor(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Eq. 6 and 7 of this microbatch, each a mean over its tokens."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        token, mask = inputs["completion_ids"], inputs["completion_mask"].bool()
        n = int(mask.sum())
        logits = states_logits(self.actor, ids, attention, token.shape[1]) / self.temperature
        logp = logits.float().log_softmax(-1).gather(-1, token[..., None])[..., 0]  # (B, T)
        ppo = actor_loss(
            logp, inputs["sampling_per_token_logps"], inputs["advantages"], mask, n,
            clip_low=self._actor_clip, clip_high=self._actor_clip,
        )  # fmt: skip
        policy = inputs["jackpot_policy_logits"]
        kl = distill_loss(policy, logits, mask, n, top_k=self._distill_top_k)
        self._metrics["train"]["jackpot/loss_actor_ppo"].append(float(ppo.detach()))
        self._metrics["train"]["jackpot/loss_distill"].append(float(kl.detach()))
        return ppo + self._distill_coef * kl


def states_logits(
    model: Any, ids: torch.Tensor, attention: torch.Tensor, n_completion: int
) -> torch.Tensor:
    """Logits of the states in which the last n_completion tokens were sampled, (B, T, v)."""
    position = (attention.cumsum(dim=1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=attention, position_ids=position, use_cache=False)
    return out.logits[:, -n_completion - 1 : -1]


def logp_at(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of some ids of each state: logits (..., v), ids (..., k) -> (..., k)."""
    logits = logits.float()
    return logits.gather(-1, ids) - logits.logsumexp(dim=-1, keepdim=True)


def _of_width(x: torch.Tensor, width: int) -> torch.Tensor:
    """(B, T, k) -> (B, width, k): cut, or with zeros, which stand outside the mask."""
    x = x[:, :width]
    return torch.nn.functional.pad(x, (0, 0, 0, width - x.shape[1]))


@torch.no_grad()
def sample_of_actor(prompts: list[Any], trainer: JackpotPairTrainer) -> dict[str, Any]:
    """TRL's rollout_func: one completion of each prompt from the actor, with log q of its tokens.

    Sampled at the trainer's temperature, without truncation, until the end id or
    max_completion_length; log q is of the scores that were sampled from. Leaves the ids and log q
    of the `z_top_k` likeliest tokens in the trainer's `sampled_topk`, (B, T, k) each.

    Raises:
        PeerError: prompts that are no text, or a truncation among TRL's settings.
    """
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise PeerError("JackpotPairTrainer takes prompts that are text, not messages")
    args = trainer.args
    if (args.top_p, args.top_k, args.min_p, args.repetition_penalty) != (1.0, 0, None, 1.0):
        raise PeerError(
            "the actor samples without truncation: set top_p = 1.0, top_k = 0, min_p = None and "
            "repetition_penalty = 1.0"
        )
    tokenizer, device = trainer.processing_class, trainer.accelerator.device
    padded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    ends = trainer.actor.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    out = trainer.actor.generate(
        input_ids=padded["input_ids"].to(device),
        attention_mask=padded["attention_mask"].to(device),
        do_sample=True, temperature=trainer.temperature, top_k=0, top_p=1.0,
        max_new_tokens=trainer.max_completion_length, pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    completions = out.sequences[:, padded["input_ids"].shape[1] :]  # (B, T)
    log_q = torch.stack(out.scores, dim=1).float().log_softmax(-1)  # (B, T, v)
    logp = log_q.gather(-1, completions[..., None])[..., 0]
    if trainer.z_top_k:
        top = log_q.topk(min(trainer.z_top_k, log_q.shape[-1]), dim=-1)
        trainer.sampled_topk = top.indices, top.values
    rows: dict[str, list[list[Any]]] = {"prompt_ids": [], "completion_ids": [], "logprobs": []}
    for i, row in enumerate(completions.tolist()):
        length = next((j + 1 for j, token in enumerate(row) if token in ends), len(row))
        own = padded["attention_mask"][i].bool()
        rows["prompt_ids"].append(padded["input_ids"][i][own].tolist())
        rows["completion_ids"].append(row[:length])
        rows["logprobs"].append(logp[i, :length].tolist())
    return rows


__all__ = ["JackpotGRPOTrainer", "JackpotPairTrainer", "sample_of_actor"]
