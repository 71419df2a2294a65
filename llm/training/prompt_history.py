"""What a run remembers of each prompt of its pool, and a checkpoint holds: rewards of its last
visits and how far its advantages were from 0, for allocation and pruning; V*, for A*-PO."""

from __future__ import annotations

import numpy as np
import torch

from jackpot.torch.advantages import Kind, group_advantage
from llm.errors import ConfigError

_UNSEEN = -1.0  # in place of a number that does not exist yet


class PromptHistory:
    """The same on every rank: it is moved by the rollouts of all of them.

    reward_sum, rollouts: of the last `window` visits of each of P prompts, newest first,
        (P, window).
    abs_advantage: mean of |advantage| at the last visit, (P,), -1 before the first.
    failure: 1 - mean reward of the last steps, newest first, (steps,), -1 where none was.
    """

    def __init__(self, prompts: int, window: int, steps: int) -> None:
        self.reward_sum = np.zeros((prompts, window))
        self.rollouts = np.zeros((prompts, window), dtype=np.int64)
        self.abs_advantage = np.full(prompts, _UNSEEN)
        self.failure = np.full(steps, _UNSEEN)

    def pooled(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and completions of these prompts in the window, (n,) each."""
        return self.reward_sum[rows].sum(axis=1), self.rollouts[rows].sum(axis=1)

    def failures(self) -> np.ndarray:
        """Of the last steps, at most as many as are kept; before the first 1/2 alone, at which
        every prompt has the same rate and any allocation is uniform."""
        failure = self.failure[self.failure != _UNSEEN]
        return failure if len(failure) else np.array([0.5])

    def add(
        self, row: torch.Tensor, reward: torch.Tensor, kind: Kind, *, rates: bool = True
    ) -> None:
        """A step's rollouts, of all ranks.

        Args:
            row: of each completion, its prompt's in the pool, (B,). reward: (B,).
            kind: of the advantage.
            rates: whether the rewards are kept as pass rates; else only how far advantages are
                from 0, for which rewards may be any numbers.

        Raises:
            ConfigError: rates are kept, and a reward is outside [0, 1]. The history is as before.
        """
        if rates and bool(((reward < 0) | (reward > 1)).any()):
            outside = float(reward[(reward < 0) | (reward > 1)][0])
            raise ConfigError(
                f"a reward is {outside:g}, and --rollout.allocation.type vip and coba go by pass "
                "rates, so they take rewards from 0 to 1. Return such rewards, or choose uniform"
            )
        advantage = group_advantage(reward, row, kind).abs().double().cpu().numpy()
        number, value = row.cpu().numpy(), reward.double().cpu().numpy()
        means = []
        for prompt in np.unique(number):
            own = number == prompt
            self.abs_advantage[prompt] = advantage[own].mean()
            if not rates:
                continue
            for table, newest in ((self.reward_sum, value[own].sum()), (self.rollouts, own.sum())):
                table[prompt] = np.concatenate([[newest], table[prompt, :-1]])
            means.append(value[own].mean())
        if means:
            self.failure = np.concatenate([[1.0 - np.mean(means)], self.failure[:-1]])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.array(value)) for name, value in vars(self).items()}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Raises ValueError: a tensor missing, too many, of another shape or type, or no number."""
        _check("a history holds", tensors, self.state_dict())
        if bool((tensors["rollouts"] < 0).any()) or bool((tensors["reward_sum"] < 0).any()):
            raise ValueError("reward_sum or rollouts is negative")
        if bool((tensors["reward_sum"] > tensors["rollouts"]).any()):
            raise ValueError("reward_sum is above rollouts")
        for name, tensor in tensors.items():
            setattr(self, name, tensor.numpy().copy())


class OptimalValues:
    """A*-PO's V* of the pool's prompts, as far as it is known; the same on every rank.

    value: V*, (P,) float64. known: 1 where it has been computed, (P,) uint8.
    """

    def __init__(self, prompts: int) -> None:
        self.value = torch.zeros(prompts, dtype=torch.float64)
        self.known = torch.zeros(prompts, dtype=torch.uint8)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"value": self.value.clone(), "known": self.known.clone()}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Raises ValueError: a tensor missing, too many, of another shape or type, or no number."""
        _check("optimal values hold", tensors, self.state_dict())
        if bool((tensors["known"] > 1).any()):
            raise ValueError("known is neither 0 nor 1")
        self.value, self.known = tensors["value"].clone(), tensors["known"].clone()


def _check(holds: str, tensors: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """Raises ValueError unless there are the same tensors, of the same kind, and finite."""
    if tensors.keys() != own.keys():
        raise ValueError(f"{holds} {sorted(own)}, not {sorted(tensors)}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} is not finite")
