"""What is remembered of each prompt, against lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm.errors import ConfigError
from llm.training.prompt_history import PromptHistory


def visited(history: PromptHistory, rewards: dict[int, list[float]]) -> None:
    pairs = [(row, r) for row, own in rewards.items() for r in own]
    rows, values = (torch.tensor(column) for column in zip(*pairs, strict=True))
    history.add(rows, values, "rloo")


def test_a_prompts_last_visits_are_pooled_and_older_ones_forgotten():
    history = PromptHistory(prompts=4, window=2, steps=2)
    assert history.failures().tolist() == [0.5]
    visited(history, {2: [1.0, 0.0, 1.0], 0: [0.0, 0.0]})
    visited(history, {2: [1.0]})
    sums, counts = history.pooled(np.array([0, 2, 3]))
    assert sums.tolist() == [0.0, 3.0, 0.0] and counts.tolist() == [2, 4, 0]
    assert history.failures().tolist() == [0.0, 1 - (2 / 3 + 0) / 2]
    visited(history, {2: [0.5, 0.0]})
    assert [float(x[0]) for x in history.pooled(np.array([2]))] == [1.5, 3.0]
    assert history.failures().tolist() == [0.75, 0.0]  # of prompts, not of completions


def test_how_far_advantages_are_from_0_is_of_the_last_visit():
    history = PromptHistory(prompts=3, window=1, steps=1)
    visited(history, {1: [1.0, 0.0, 0.0], 0: [1.0, 1.0]})
    assert history.abs_advantage.tolist() == pytest.approx([0.0, (1 + 0.5 + 0.5) / 3, -1.0])
    visited(history, {1: [1.0, 0.0]})
    assert history.abs_advantage[1] == 1.0


def test_it_is_kept_and_read_back_and_a_wrong_one_refused():
    history = PromptHistory(prompts=3, window=2, steps=2)
    visited(history, {1: [1.0, 0.0, 0.0]})
    other = PromptHistory(prompts=3, window=2, steps=2)
    other.load_state_dict(history.state_dict())
    assert all(np.array_equal(x, vars(history)[name]) for name, x in vars(other).items())
    visited(other, {1: [1.0]})
    assert history.pooled(np.array([1]))[1] == 3  # nothing is shared
    kept = history.state_dict()
    for wrong, said in (
        ({**kept, "failure": torch.zeros(3, dtype=torch.float64)}, r"failure is \(3,\)"),
        ({**kept, "rollouts": kept["rollouts"].double()}, "rollouts is"),
        ({**kept, "failure": kept["failure"] / 0}, "failure is not finite"),
        ({k: v for k, v in kept.items() if k != "failure"}, "a history holds"),
        ({**kept, "reward_sum": kept["reward_sum"] - 1}, "is negative"),
        ({**kept, "reward_sum": kept["reward_sum"] + 9}, "reward_sum is above rollouts"),
    ):
        with pytest.raises(ValueError, match=said):
            other.load_state_dict(wrong)


@pytest.mark.parametrize("value", [-0.5, 1.5])
def test_rewards_that_are_no_pass_rates_are_refused_where_rates_are_kept(value):
    """A reward function may return any finite number. Only advantages are kept then, if no
    allocation goes by rates, and what is saved can be read back."""
    history, rows = PromptHistory(prompts=3, window=2, steps=2), torch.tensor([1, 1, 2, 2])
    rewards = torch.tensor([0.0, 1.0, value, 0.0])
    with pytest.raises(ConfigError, match=f"a reward is {value}, and .* choose uniform"):
        history.add(rows, rewards, "rloo")
    assert (history.abs_advantage == -1).all() and not history.rollouts.any()
    history.add(rows, rewards, "rloo", rates=False)
    assert history.abs_advantage.tolist() == [-1.0, 1.0, abs(value)]
    other = PromptHistory(prompts=3, window=2, steps=2)
    other.load_state_dict(history.state_dict())
    assert other.abs_advantage.tolist() == history.abs_advantage.tolist()
