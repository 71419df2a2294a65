"""slime: `--use-tis --custom-tis-function-path jackpot.adapters.slime.tis_function`.

slime hands over p_ref and p_inf of a microbatch and multiplies nothing itself: the function returns
the weighted loss of each token. slime divides by the proposed tokens of the rollout, whatever the
weights are. Read at commit 624b824a (2026-08-21, 0.3.1); not run, because it needs Megatron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .hook import Hook, PeerError, require_read

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
        PeerError: lengths differ, as with context parallelism.
    """
    hook = hook_of(args)
    lengths = [len(x) for x in train_log_probs]
    others = ([len(x) for x in rollout_log_probs], [len(x) for x in loss_masks])
    if any(lengths != other for other in others) or sum(lengths) != len(pg_loss):
        raise PeerError(
            f"slime: lengths of log-probabilities {lengths}, of the sampler's {others[0]}, of "
            f"masks {others[1]}, of the loss {len(pg_loss)} differ. Context parallelism splits "
            "some of them and not others: this adapter needs context-parallel-size 1"
        )
    mask = torch.cat(list(loss_masks)).bool()
    logp_ref = torch.cat(list(train_log_probs)).detach()
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    weights = hook.weights(
        torch.cat(list(rollout_log_probs)), logp_ref, logp_ref, mask, sequence.to(mask.device)
    )
    # Selected, not multiplied: a loss of inf times a weight of 0 would be NaN.
    weighted = torch.where(weights.weight != 0, pg_loss, 0.0) * weights.weight.to(pg_loss.dtype)
    same = torch.ones_like(weights.weight)
    # slime averages (n,) tensors: a number is given as n equal ones.
    metrics = {
        name.replace("/", "_"): value * same for name, value in hook.metrics(weights).items()
    }
    return weighted, loss_masks, metrics
