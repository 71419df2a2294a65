"""Advantages, against numpy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from jackpot.torch.advantages import group_advantage
from jackpot.torch.losses import ppo_clip_sum, token_scale
from llm.rewards.function_worker import LARGEST

GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
REWARD = [1.0, 0.0, 0.0, 1.0, 0.25, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_advantages_match_numpy_and_are_zero_for_equal_rewards(kind):
    """Centred by the group and, for grpo alone, over its deviation; rloo leaves one out."""
    found = group_advantage(torch.tensor(REWARD), GROUP, kind).numpy().reshape(2, 4)
    for row, r in zip(found, np.reshape(REWARD, (2, 4)), strict=True):
        if kind == "rloo":
            exact = [r[i] - np.delete(r, i).mean() for i in range(4)]
        else:
            exact = (r - r.mean()) / (r.std(ddof=1) + 1e-4 if kind == "grpo" else 1.0)
        assert row == pytest.approx(exact, rel=1e-5, abs=1e-7)
        assert float(row.sum()) == pytest.approx(0.0, abs=1e-6)
    for equal in (0.1, 0.3, 0.7):  # whose means over 7 are off by rounding
        sevens = torch.arange(14) // 7
        assert group_advantage(torch.full((14,), equal), sevens, kind).tolist() == [0.0] * 14


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_groups_of_unequal_sizes_in_any_order_are_those_alone(kind):
    """And a prompt's only completion has nothing to be compared with."""
    group = torch.tensor([5, 9, 5, 2, 9, 9, 5, 7])
    found = group_advantage(torch.tensor(REWARD), group, kind)
    for number in (5, 9):
        own = group == number
        alone = group_advantage(torch.tensor(REWARD)[own], group[own], kind)
        assert torch.equal(found[own], alone) and found[own].any()
    assert found[group == 2].tolist() == found[group == 7].tolist() == [0.0]


def test_grpo_is_the_default():
    reward = torch.tensor(REWARD)
    assert torch.equal(group_advantage(reward, GROUP), group_advantage(reward, GROUP, "grpo"))


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_rejection_changes_no_baseline_and_no_length(kind):
    """A sequence rejected whole still counts in its group's mean and in the denominator."""
    advantage = group_advantage(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4).long(), kind)
    index = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    scales = [
        token_scale("sequence", accepted, index, 4)
        for accepted in (torch.ones(7), (index != 2).float())
    ]
    assert torch.equal(*scales)
    weight = (index != 2).float()
    kept = weight != 0
    loss = ppo_clip_sum(
        torch.zeros(7), torch.zeros(7), advantage[index], weight, 0.2, 0.2, scales[1]
    )
    exact = -sum(float(advantage[i]) / 4 for i in (0, 1, 3))
    assert float(loss) == pytest.approx(exact, rel=1e-6) and int(kept.sum()) == 4


def test_groups_that_do_not_fit_and_unknown_kinds_are_refused():
    reward = torch.tensor(REWARD)
    for group in (GROUP[:4], torch.cat([GROUP, GROUP]), GROUP[None]):
        with pytest.raises(ValueError, match="wanted \\(b,\\) each"):
            group_advantage(reward, group)
    with pytest.raises(ValueError, match="choose one of grpo, dr_grpo, rloo"):
        group_advantage(reward, GROUP, "gae")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
@pytest.mark.parametrize(
    ("huge", "dtype"), [(3e38, torch.float32), (1e20, torch.float32), (-1e300, torch.float64)]
)
def test_a_reward_whose_group_overflows_float32_is_refused(kind, huge, dtype):
    """3e38 overflows the mean, 1e20 the variance alone: GRPO's advantages would all be 0."""
    reward = torch.tensor([0.0, 1.0, huge, 0.0], dtype=dtype)
    said = f"reward: a size above 1e+15 at 1 of 4 completions, the first {huge:.3g}. "
    with pytest.raises(ValueError, match=re.escape(said)):
        group_advantage(reward, torch.zeros(4).long(), kind)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_the_largest_reward_of_a_function_is_accepted_and_exact(kind):
    """llm's bound on what a reward function returns is this one, so no run is ended by it."""
    r = np.array([LARGEST, -LARGEST, 0.0, LARGEST])
    found = group_advantage(torch.tensor(r), torch.zeros(4).long(), kind).numpy()
    if kind == "rloo":
        exact = [r[i] - np.delete(r, i).mean() for i in range(4)]
    else:
        exact = (r - r.mean()) / (r.std(ddof=1) if kind == "grpo" else 1.0)
    assert found == pytest.approx(np.asarray(exact), rel=1e-5)
