"""Group-relative advantages."""

from __future__ import annotations

import torch

_EPS = 1e-4  # GRPO's guard against a group of equal rewards; the paper does not give it


def group_advantage(reward: torch.Tensor, rollouts_per_prompt: int) -> torch.Tensor:
    """(reward - group mean) / (group standard deviation + 1e-4), over each prompt's completions.

    Computed before any token is rejected: rejection never changes a baseline. A group of equal
    rewards has advantage exactly 0.

    Args:
        reward: one per sequence, shape (b,), float; the completions of a prompt are neighbours.
        rollouts_per_prompt: size of a group; divides b.

    Returns:
        Advantages, shape (b,), float32.

    Source: GRPO (arXiv 2402.03300), unbiased standard deviation.
    """
    groups = reward.float().reshape(-1, rollouts_per_prompt)
    centred = groups - groups.mean(dim=1, keepdim=True)
    alike = (groups == groups[:, :1]).all(dim=1, keepdim=True)
    centred = centred.masked_fill(alike, 0.0)
    return (centred / (groups.std(dim=1, keepdim=True) + _EPS)).reshape(-1)
