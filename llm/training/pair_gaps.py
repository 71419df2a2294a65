"""alpha-DPO's moving statistics of its pairs, which it keeps between updates."""

from __future__ import annotations

import torch

from jackpot.torch.sequence_objectives import GapStatistics


class PairGaps:
    """alpha-DPO's moving statistics, as part of a checkpoint."""

    def __init__(self) -> None:
        self.statistics = GapStatistics()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"gaps": torch.tensor(self.statistics, dtype=torch.float64)}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Raises ValueError: not three finite numbers, of which the last two are at least 0."""
        gaps = tensors.get("gaps", torch.zeros(0))
        if tensors.keys() != {"gaps"} or gaps.shape != (3,) or gaps.dtype != torch.float64:
            raise ValueError("the statistics of pairs are three numbers")
        mean, std, updates = gaps.tolist()
        if not bool(gaps.isfinite().all()) or std < 0 or updates < 0 or updates % 1:
            raise ValueError(f"the statistics of pairs cannot be {gaps.tolist()}")
        self.statistics = GapStatistics(mean, std, int(updates))
