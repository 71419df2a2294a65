"""What is kept of a step's samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch


def positions(is_real: torch.Tensor) -> torch.Tensor:
    """Position of each token within its own sequence, whatever the padding around it. (b, t)."""
    return (is_real.long().cumsum(dim=1) - 1).clamp(min=0)


@dataclass(frozen=True)
class Batch:
    """Sequences with what was known when they were sampled. b sequences, t completion positions.

    ids: prompt left-padded, completion right-padded, (b, t_prompt + t).
    is_real: a token, not padding, (b, t_prompt + t).
    is_completion: a sampled token, end-of-sequence included, (b, t).
    logp_inf: log q of the sampled token, 0 at padding, (b, t) float32.
    topk_ids, topk_logp_inf: the k likeliest tokens of q and their log q, (b, t, k).
    index: number of the sequence within the step's batch, (b,): what its random numbers belong to.
    version: of the weights that each token was sampled from, (b, t): steps whose updates they hold.
    finished: the completion ended itself, (b,).
    prompts, answers: text of each prompt, and its right answer.
    reward, advantage: (b,), filled in by the trainer.
    """

    ids: torch.Tensor
    is_real: torch.Tensor
    is_completion: torch.Tensor
    logp_inf: torch.Tensor
    topk_ids: torch.Tensor
    topk_logp_inf: torch.Tensor
    index: torch.Tensor
    finished: torch.Tensor
    version: torch.Tensor
    prompts: list[str]
    answers: list[str]
    reward: torch.Tensor
    advantage: torch.Tensor

    @property
    def completion_ids(self) -> torch.Tensor:
        return self.ids[:, -self.is_completion.shape[1] :]

    def rows(self, chosen: torch.Tensor) -> Batch:
        """The sub-batch of these sequences, in this order."""
        order = chosen.tolist()
        picked: dict[str, Any] = {
            k: v[chosen] if isinstance(v, torch.Tensor) else [v[i] for i in order]
            for k, v in vars(self).items()
        }
        return replace(self, **picked)

    def completions(self) -> list[list[int]]:
        """Sampled ids of each sequence, without padding."""
        lengths = self.is_completion.sum(dim=1).tolist()
        rows = self.completion_ids.tolist()
        return [row[:n] for row, n in zip(rows, lengths, strict=True)]
