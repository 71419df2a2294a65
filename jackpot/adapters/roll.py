"""ROLL: `actor_train.worker_cls: jackpot.adapters.roll.JackpotActorWorker`.

ROLL hands over logits, p_ref and p_inf (infer_logprobs), and its `agg_loss` divides. Read at commit
8eb27cc2 (2026-08-18, 0.3.0). It has no release on PyPI. The class is made when it is first asked
for, because its base class lies in ROLL.
"""

from __future__ import annotations

from typing import Any

import torch

from jackpot.torch.checks import real_mask

from .hook import Hook, PeerError, require_read, required, token_losses

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
        PeerError: ROLL is another version than the one that was read, corrects by itself, or hands
            over less than is named above.
        TypeError, ValueError: as `token_losses`; a mask that is a weight.
    """
    from roll.utils.functionals import agg_loss, compute_approx_kl

    config, batch = worker.pipeline_config, data.batch
    if getattr(worker, "jackpot_hook", None) is None:
        require_read("roll", READ)
        worker.jackpot_hook = Hook("ROLL")
    refuse_second_correction(config)
    own = {name: batch.get(name, None) for name in ("input_ids", "response_mask", "advantages")}
    for name, x in own.items():
        required("ROLL", f"{name} in its batch", x)
    mask = batch.get("final_response_mask", None)
    counts = "response_mask" if mask is None else "final_response_mask"
    mask = own["response_mask"][:, 1:] if mask is None else mask
    logp_new = worker.strategy.op_compute_log_probs(
        logits=output_tensor, input_ids=own["input_ids"], attention_mask=own["response_mask"]
    )
    mask = real_mask(mask, logp_new.shape)
    logp_ref = worker.get_old_log_probs_with_cache(data, logp_new)
    denominators = {
        "loss_mask": mask.long(),
        "loss_agg_mode": config.loss_agg_mode,
        "batch_num_tokens": count_of(data, "batch_num_tokens", counts),
        "global_valid_samples": count_of(data, "global_valid_samples", counts),
    }
    weights = worker.jackpot_hook.weights(
        batch.get("infer_logprobs", None), logp_ref, logp_new, mask
    )
    ranged = config.use_pg_clip_range
    low = config.pg_clip_low if ranged else config.pg_clip
    high = config.pg_clip_high if ranged else config.pg_clip
    losses = token_losses(logp_new, logp_ref, own["advantages"], weights, low, high)
    loss = agg_loss(loss_mat=losses, **denominators)
    # Divided by the tokens of all processes: ROLL adds up what ends in @sum, and shows it without.
    metrics = {"actor/pg_loss@sum": float(loss.detach())} | worker.jackpot_hook.metrics(weights)
    if config.use_kl_loss:
        base = required(
            "ROLL",
            "ref_log_probs in its batch",
            batch.get("ref_log_probs", None),
            "use_kl_loss needs the reference model's log-probabilities",
        )
        kl = compute_approx_kl(logp_new, base, action_mask=mask, kl_penalty="k3")
        loss = loss + agg_loss(loss_mat=kl, **denominators) * config.kl_loss_coef
    return loss, metrics


def count_of(data: Any, name: str, mask: str) -> Any:
    """A denominator: ROLL's count `name` of what `mask` marks, on all processes.

    Raises:
        PeerError: ROLL did not count it.
    """
    table = required("ROLL", f"{name} in meta_info", data.meta_info.get(name))
    if mask not in table:
        raise PeerError(
            f"ROLL counted {name} of {', '.join(sorted(table)) or 'nothing'}, and not of {mask}, "
            "which its batch holds: the loss would have another mask's denominator. Let the "
            f"pipeline count {mask}, or leave max_len_mask and difficulty_mask off"
        )
    return table[mask]


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
