"""Group-relative advantages."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from .checks import refuse_unusable, require_tensor

Kind = Literal["grpo", "dr_grpo", "rloo"]
_EPS = 1e-4  # GRPO's guard against a group of equal rewards; the paper does not give it
_LARGEST = 1e15  # of a reward's size: float32 holds the squares of a large group's differences


def group_advantage(
    reward: torch.Tensor,
    group: torch.Tensor,
    kind: Kind = "grpo",
) -> torch.Tensor:
    """How much better each completion is than the others of its prompt.

    grpo: (reward - group mean) / (group standard deviation + 1e-4); dr_grpo: not divided; rloo:
    reward minus the mean of the group's other completions. Computed before any token is rejected:
    rejection never changes a baseline. A group of equal rewards has advantage exactly 0, and so has
    a completion that is its prompt's only one.

    Args:
        reward: one per sequence, shape (b,), of a size up to 1e15; bool and integers do as well.
        group: number of each one's prompt, (b,) integers. Groups may differ in size.
        kind: which of the three.

    Returns:
        Advantages, shape (b,), float32.

    Raises:
        TypeError: what is no tensor, or a group that is no integer.
        ValueError: another kind, shapes that are not (b,) both, or a reward that is NaN, inf or
            above 1e15 in size.

    Source: GRPO (arXiv 2402.03300), unbiased standard deviation; Dr. GRPO (2503.20783); RLOO
    (2402.14740).
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind = {kind!r}; choose one of {', '.join(get_args(Kind))}")
    require_tensor("reward", reward, integers=True)
    require_tensor("group", group, integers=True)
    if group.is_floating_point():
        raise TypeError(f"group: wanted integers, a number for each prompt, found {group.dtype}")
    if reward.ndim != 1 or group.shape != reward.shape:
        raise ValueError(
            f"reward and group: wanted (b,) each, found {tuple(reward.shape)} and "
            f"{tuple(group.shape)}"
        )
    # In its own dtype: float32 would turn 1e300 into inf.
    reward = reward if reward.is_floating_point() else reward.float()
    refuse_unusable({}, {"reward": reward}, "completions")
    _refuse_huge(reward)
    reward = reward.float()
    order = group.argsort(stable=True)  # a group's completions become neighbours
    _, sizes = torch.unique_consecutive(group[order], return_counts=True)
    size = sizes.repeat_interleave(sizes)  # (b,) of each one's group, in that order
    advantage = torch.zeros(len(reward), dtype=torch.float32, device=reward.device)
    for n in torch.unique(sizes).tolist():
        rows = order[size == n]
        groups = reward[rows].reshape(-1, n)  # (groups of this size, n)
        advantage[rows] = _centred(groups, kind).reshape(-1)
    return advantage


def _refuse_huge(reward: torch.Tensor) -> None:
    huge = reward.detach().abs() > _LARGEST
    n = int(huge.sum())
    if n:
        raise ValueError(
            f"reward: a size above {_LARGEST:g} at {n} of {reward.numel()} completions, the first "
            f"{float(reward.detach()[huge][0]):.3g}. The mean or the variance of its group can "
            "overflow float32. Divide all rewards by one number, or clip them"
        )


def _centred(groups: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Advantages of groups of one size, (g, n) -> (g, n)."""
    n = groups.shape[1]
    if n == 1:
        return torch.zeros_like(groups)
    centred = groups - groups.mean(dim=1, keepdim=True)
    # Equal rewards centre to rounding, not to 0, which 1 / (0 + eps) would blow up.
    alike = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    centred = centred.masked_fill(alike, 0.0)
    if kind == "grpo":
        return centred / (groups.std(dim=1, keepdim=True) + _EPS)
    if kind == "rloo":  # r - (sum - r) / (n - 1) = (r - mean) n / (n - 1)
        return centred * (n / (n - 1))
    return centred
