"""ROLL: `actor_train.worker_cls: jackpot.adapters.roll.JackpotActorWorker`.

ROLL hands over logits, p_ref and p_inf (infer_logprobs), and its `agg_loss` divides. Read at commit
8eb27cc2 (2026-08-18, 0.3.0). It has no release on PyPI. The class is made when it is first asked
for, because its base class lies in ROLL.
"""

from __future__ import annotations

from typing import Any

import torch

from .hook import Hook, PeerError, require_read, token_losses

READ = ("0.3.0",)  # PyPI has another project of this name
# Settings that ROLL's own loss follows and this one does not, with the value that changes nothing.
_NEUTRAL = {
    "dual_clip_loss": False,
    "entropy_loss_coef": 0,
    "importance_sampling": "token",
    "difficulty_loss_weight": False,
    "length_loss_weight": False,
    "rl_loss_coef": 1.0,
}


def loss_func(worker: Any, data: Any, output_tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """The loss of ROLL's actor worker: PPO with our weights, and its KL if it is switched on.

    Args:
        worker: ROLL's ActorWorker; its attribute `jackpot_hook` holds the hook.
        data: DataProto with response_mask (B, S), advantages, infer_logprobs, ref_log_probs
            (B, S - 1), and the denominators in meta_info. final_response_mask, (B, S - 1), where
            ROLL leaves completions out (max_len_mask, difficulty_mask).
        output_tensor: logits.

    Raises:
        PeerError: ROLL is another version than the one that was read, or corrects by itself.
    """
    from roll.utils.functionals import agg_loss, compute_approx_kl

    config, batch = worker.pipeline_config, data.batch
    if getattr(worker, "jackpot_hook", None) is None:
        require_read("roll", READ)
        worker.jackpot_hook = Hook("ROLL")
    refuse_second_correction(config)
    mask = batch.get("final_response_mask", None)
    counts = "response_mask" if mask is None else "final_response_mask"
    mask = batch["response_mask"][:, 1:] if mask is None else mask
    logp_new = worker.strategy.op_compute_log_probs(
        logits=output_tensor, input_ids=batch["input_ids"], attention_mask=batch["response_mask"]
    )
    logp_ref = worker.get_old_log_probs_with_cache(data, logp_new)
    weights = worker.jackpot_hook.weights(
        batch.get("infer_logprobs", None), logp_ref, logp_new, mask.bool()
    )
    ranged = config.use_pg_clip_range
    low = config.pg_clip_low if ranged else config.pg_clip
    high = config.pg_clip_high if ranged else config.pg_clip
    denominators = {
        "loss_mask": mask.long(),
        "loss_agg_mode": config.loss_agg_mode,
        "batch_num_tokens": data.meta_info["batch_num_tokens"][counts],
        "global_valid_samples": data.meta_info["global_valid_samples"][counts],
    }
    losses = token_losses(logp_new, logp_ref, batch["advantages"], weights, low, high)
    loss = agg_loss(loss_mat=losses, **denominators)
    # Divided by the tokens of all processes: ROLL adds up what ends in @sum, and shows it without.
    metrics = {"actor/pg_loss@sum": float(loss.detach())} | worker.jackpot_hook.metrics(weights)
    if config.use_kl_loss:
        kl = compute_approx_kl(
            log_probs=logp_new,
            log_probs_base=batch["ref_log_probs"],
            action_mask=mask,
            kl_penalty="k3",
        )
        loss = loss + agg_loss(loss_mat=kl, **denominators) * config.kl_loss_coef
    return loss, metrics


def refuse_second_correction(config: Any) -> None:
    """Settings of ROLL that would count the importance weight twice, or that are not followed."""
    own = getattr(config, "train_infer_correction", None)
    if own is not None and getattr(own.is_weight, "enabled", False):
        raise PeerError(
            "ROLL: train_infer_correction.is_weight.enabled corrects for the sampler too. Set it "
            "to false: jackpot's weight is the correction"
        )
    if any(getattr(one, "enabled", False) for one in getattr(own, "filters", None) or ()):
        raise PeerError(
            "ROLL: train_infer_correction.filters masks tokens by the same ratio, or has no effect "
            "beside this loss. Leave it empty: jackpot's mask is the filter"
        )
    for name, neutral in _NEUTRAL.items():
        if getattr(config, name, neutral) != neutral:
            raise PeerError(f"ROLL: {name} is not part of this loss; set it to {neutral!r}")


def __getattr__(name: str) -> Any:
    if name != "JackpotActorWorker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from roll.pipeline.rlvr.actor_worker import ActorWorker
    except ImportError as e:
        raise PeerError(f"ROLL's ActorWorker could not be imported: {e}") from e
    worker = type(name, (ActorWorker,), {"loss_func": loss_func, "__module__": __name__})
    globals()[name] = worker
    return worker
