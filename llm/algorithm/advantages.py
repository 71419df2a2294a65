"""Group-relative advantages."""

from __future__ import annotations

from typing import Literal

import torch

_EPS = 1e-4  # GRPO's guard against a group of equal rewards; the paper does not give it


def group_advantage(
    reward: torch.Tensor,
    rollouts_per_prompt: int,
    kind: Literal["grpo", "dr_grpo", "rloo"] = "grpo",
) -> torch.Tensor:
    """How much better each completion is than the others of its prompt.

    grpo: (reward - group mean) / (group standard deviation + 1e-4); dr_grpo: not divided; rloo:
    reward minus the mean of the group's other completions. Computed before any token is rejected:
    rejection never changes a baseline. A group of equal rewards has advantage exactly 0.

    Args:
        reward: one per sequence, shape (b,), float; the completions of a prompt are neighbours.
        rollouts_per_prompt: size of a group, at least 2; divides b.
        kind: which of the three.

    Returns:
        Advantages, shape (b,), float32.

    Source: GRPO (arXiv 2402.03300), unbiased standard deviation; Dr. GRPO (2503.20783); RLOO
    (2402.14740).
    """
    groups = reward.float().reshape(-1, rollouts_per_prompt)
    centred = groups - groups.mean(dim=1, keepdim=True)
    # Equal rewards centre to rounding, not to 0, which 1 / (0 + eps) would blow up.
    alike = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    centred = centred.masked_fill(alike, 0.0)
    if kind == "grpo":
        centred = centred / (groups.std(dim=1, keepdim=True) + _EPS)
    elif kind == "rloo":  # r - (sum - r) / (n - 1) = (r - mean) n / (n - 1)
        centred = centred * (rollouts_per_prompt / (rollouts_per_prompt - 1))
    return centred.reshape(-1)
