"""alpha-DPO's statistics in a checkpoint."""

from __future__ import annotations

import pytest
import torch

from jackpot.torch.sequence_objectives import GapStatistics
from llm.training.pair_gaps import PairGaps


def test_they_are_kept_and_read_back():
    gaps, other = PairGaps(), PairGaps()
    gaps.statistics = GapStatistics(-0.25, 1.5, 7)
    other.load_state_dict(gaps.state_dict())
    assert other.statistics == GapStatistics(-0.25, 1.5, 7)
    assert type(other.statistics.updates) is int


@pytest.mark.parametrize(
    "gaps", [[0, -1, 1], [0, 1, -1], [0, 1, 0.5], [0, float("nan"), 1], [0, 1], [0, 1, 2, 3]]
)
def test_what_cannot_be_statistics_is_refused(gaps):
    with pytest.raises(ValueError, match="statistics of pairs"):
        PairGaps().load_state_dict({"gaps": torch.tensor(gaps, dtype=torch.float64)})
