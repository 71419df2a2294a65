"""slime: `--use-tis --custom-tis-function-path jackpot.adapters.slime.tis_function`.

slime hands over p_ref and p_inf of a microbatch and multiplies nothing itself: the function returns
the weighted loss of each token. slime divides by the proposed tokens of the rollout, whatever the
weights are. Read at commit 624b824a (2026-08-21, 0.3.1); not run, because it needs Megatron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from jackpot.torch.checks import real_mask, refuse_unusable, require_tensor

from .hook import Hook, PeerError, require_read, required

READ = ("0.3.1",)  # PyPI has another project of this name

_hooks: dict[int, tuple[Any, Hook]] = {}  # with its args, so that no other gets their id


def hook_of(args: Any) -> Hook:
    """The hook of this process. Options: `args.jackpot`, a mapping that slime's
    `--custom-config-path` sets, else the environment variable JACKPOT_OPTIONS.

    Raises:
        PeerError: slime is another version than the one that was read.
    """
    if id(args) not in _hooks:
        require_read("slime", READ)
        _hooks[id(args)] = args, Hook("slime", getattr(args, "jackpot", None), one_policy=True)
    return _hooks[id(args)][1]


def tis_function(
    args: Any,
    *,
    pg_loss: torch.Tensor,
    train_log_probs: Sequence[torch.Tensor],
    rollout_log_probs: Sequence[torch.Tensor],
    loss_masks: Sequence[torch.Tensor],
    **_: Any,
) -> tuple[torch.Tensor, Sequence[torch.Tensor], dict[str, torch.Tensor]]:
    """slime's hook: the loss of each token times its weight; masks as they were; metrics.

    Args:
        pg_loss: of the tokens of all completions, one after another, (n,), with gradient.
        train_log_probs, rollout_log_probs: log p_ref and log q, a tensor for each completion.
        loss_masks: 1 at sampled tokens, of the same lengths.

    Raises:
        PeerError: something is missing, or lengths differ, as with context parallelism; slime
            centers scores, which the weights do not reach.
        ValueError: NaN or inf in the loss of a token that counts, or a mask that is a weight.
    """
    if getattr(args, "use_score_centering", False):
        raise PeerError(
            "slime: use_score_centering adds a term of its own to each token's loss after this "
            "function, and corrects for the sampler too. Leave --use-score-centering out: "
            "jackpot's weight is the correction"
        )
    hook = hook_of(args)
    lengths = checked_lengths(pg_loss, train_log_probs, rollout_log_probs, loss_masks)
    empty = pg_loss.detach().new_zeros(0)  # a microbatch may hold no completion
    mask = real_mask(torch.cat([empty, *loss_masks]), pg_loss.shape)
    logp_ref = torch.cat([empty, *train_log_probs]).detach()
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths).long())
    weights = hook.weights(
        torch.cat([empty, *rollout_log_probs]), logp_ref, logp_ref, mask, sequence.to(mask.device)
    )
    counted = weights.weight != 0
    refuse_unusable({}, {"slime: pg_loss": pg_loss[counted]}, "tokens that count")
    # Selected, not multiplied: a loss of inf times a weight of 0 would be NaN.
    weighted = torch.where(counted, pg_loss, 0.0) * weights.weight.to(pg_loss.dtype)
    same = torch.ones_like(weights.weight)
    # slime averages (n,) tensors: a number is given as n equal ones.
    metrics = {
        name.replace("/", "_"): value * same for name, value in hook.metrics(weights).items()
    }
    return weighted, loss_masks, metrics


def checked_lengths(
    pg_loss: Any, train_log_probs: Any, rollout_log_probs: Any, masks: Any
) -> list[int]:
    """The tokens of each completion; arguments as of `tis_function`.

    Raises:
        PeerError: slime left something out, or shapes do not fit.
    """
    advice = "Run it with --use-tis, and a rollout that returns log-probabilities"
    require_tensor("pg_loss", required("slime", "pg_loss", pg_loss))
    named = {
        "train_log_probs": train_log_probs,
        "rollout_log_probs": rollout_log_probs,
        "loss_masks": masks,
    }
    for name, values in named.items():
        for i, x in enumerate(required("slime", name, values, advice)):
            if not isinstance(required("slime", f"{name}[{i}]", x, advice), torch.Tensor):
                raise PeerError(f"slime: {name}[{i}]: wanted a tensor, found {type(x).__name__}")
            if x.ndim != 1:
                raise PeerError(f"slime: {name}[{i}]: wanted (length,), found {tuple(x.shape)}")
    lengths = [len(x) for x in train_log_probs]
    others = ([len(x) for x in rollout_log_probs], [len(x) for x in masks])
    if any(lengths != other for other in others) or pg_loss.shape != (sum(lengths),):
        raise PeerError(
            f"slime: lengths of log-probabilities {lengths}, of the sampler's {others[0]}, of "
            f"masks {others[1]}, of the loss {tuple(pg_loss.shape)} differ. Context parallelism "
            "splits some of them and not others: this adapter needs context-parallel-size 1"
        )
    return lengths
