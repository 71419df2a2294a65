"""Which completions an update uses, and their advantages."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from threaded_ranks import on_ranks

from jackpot import selection
from jackpot.torch.advantages import group_advantage
from llm import randomness
from llm.settings.loading import resolve
from llm.training.selection import with_advantages

REWARD = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0.25, 0.5, 0, 0, 0, 1])


def config(**flags):
    given = {"rollout.prompts_per_step": 5, "rollout.rollouts_per_prompt": 4}
    return resolve(given | {k.replace("__", "."): v for k, v in flags.items()})


@pytest.fixture
def scored(scene):
    """Five prompts with four completions each."""
    group = torch.arange(20) // 4
    return dataclasses.replace(scene[0], reward=REWARD, group=group)


def test_without_a_selection_every_completion_keeps_its_place(scored):
    made = with_advantages(scored, config(), 0)
    assert torch.equal(made.advantage, group_advantage(REWARD, scored.group))
    assert torch.equal(made.index, scored.index) and made.answers == scored.answers


@pytest.mark.parametrize("rule", ["max_variance", "max_reward", "random"])
def test_down_sampling_keeps_what_its_rule_says_and_compares_it_with_itself(scored, rule):
    cfg = config(rollout__down_sampling__type=rule, rollout__down_sampling__keep=2)
    made = with_advantages(scored, cfg, 3)
    rows = []
    for prompt in range(5):
        rng = None
        if rule == "random":
            rng = randomness.stream(0, f"down-sampling of prompt {prompt}", 3)
        own = REWARD[4 * prompt : 4 * prompt + 4].numpy()
        rows += (4 * prompt + selection.pods(own, 2, rule, rng)).tolist()
    assert made.answers == [scored.answers[i] for i in rows]
    assert torch.equal(made.advantage, group_advantage(REWARD[rows], scored.group[rows]))
    assert made.index.tolist() == list(range(10))  # numbered anew
    assert made.completions() == [scored.completions()[i] for i in rows]
    if rule == "random":
        assert with_advantages(scored, cfg, 4).answers != made.answers


PRUNED = {"rollout__pruning__type": "horvitz_thompson", "loss__denominator": "sequence"}


def test_pruned_completions_are_made_up_for_by_the_weights_of_the_others(scored):
    """The update divides by what is left, the mean wanted is over all: 20 here."""
    before = group_advantage(REWARD, scored.group)
    means, left = [], set()
    for step in range(300):
        made = with_advantages(scored, config(**PRUNED), step)
        n = len(made.advantage)
        rng = randomness.stream(0, "completion pruning", step)
        keep, weight = selection.horvitz_thompson(before.abs().double().numpy(), 0.5, 0.5, rng)
        assert n == keep.sum() < 20 and made.index.tolist() == list(range(n))
        wanted = before * torch.from_numpy(weight).float() * n / 20
        torch.testing.assert_close(made.advantage, wanted[torch.from_numpy(keep)])
        # any number g of each completion; here its advantage times its length
        means.append(float((made.advantage * made.lengths).sum()) / n)
        left.add(n)
    exact = float((before * scored.lengths).sum()) / 20
    error = torch.tensor(means).std().item() / 300**0.5
    assert abs(sum(means) / 300 - exact) < 4 * error and len(left) > 3


def test_pruning_goes_by_the_number_of_a_completion_not_by_its_place(scored):
    """As on several ranks, whose completions lie in another order than their numbers."""
    batch = dataclasses.replace(scored, reward=REWARD + torch.arange(20) / 1000)  # a name of each
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    plain = with_advantages(batch, config(**PRUNED), 3)
    made = with_advantages(batch.rows(order), config(**PRUNED), 3)
    wanted = dict(zip(plain.reward.tolist(), plain.advantage.tolist(), strict=True))
    found = dict(zip(made.reward.tolist(), made.advantage.tolist(), strict=True))
    assert found == pytest.approx(wanted) and len(found) < 20


@pytest.mark.parametrize("allocation", ["uniform", "prompts pruned", "coba"])
def test_two_ranks_prune_what_one_prunes_and_divide_by_what_all_have_left(scored, allocation):
    """The first prompt has equal rewards, so the first rank often has nothing left: it then keeps a
    completion of weight 0. With an allocation, or where prompts were pruned, a prompt's completions
    may be on both ranks. What has a weight has the number that it has in one process."""
    batch = dataclasses.replace(scored, reward=REWARD.roll(-4))
    flags = {**PRUNED, "rollout__pruning__completion_rate": 0.9}
    if allocation == "coba":
        flags |= {"task__pool": 40, "rollout__allocation__type": "coba"}
        flags |= {"rollout__allocation__prompt_weight": "equal"}
    if allocation == "prompts pruned":
        flags |= {"task__pool": 40, "rollout__pruning__prompt_rate": 0.5}
    cfg, cut = config(**flags), 4 if allocation == "uniform" else 10
    own, added = (torch.arange(cut), torch.arange(cut, 20)), set()
    for step in range(6):
        alone = with_advantages(batch, cfg, step)
        made = on_ranks(2, partial(of_rank, batch, own, cfg, step))
        n = sum(len(b.index) for b in made)
        assert sorted(i for b in made for i in b.index.tolist()) == list(range(n))
        assert numbers(made) == numbers([alone])
        found = contributions(made, n)
        assert found == pytest.approx(contributions([alone], len(alone.index)))
        added.add(n - len(alone.index))
    assert added == ({0, 1} if allocation == "uniform" else {0})


def of_rank(batch, own, cfg, step, rank):
    return with_advantages(batch.rows(own[rank]), cfg, step)


def numbers(batches):
    """Of each completion that adds something to the update."""
    trios = [
        trio
        for b in batches
        for trio in zip(b.answers, b.index.tolist(), b.advantage.tolist(), strict=True)
    ]
    return {answer: number for answer, number, advantage in trios if advantage}


def contributions(batches, left):
    """What each completion adds to an update that divides by what is left, if it adds anything."""
    pairs = [pair for b in batches for pair in zip(b.answers, b.advantage.tolist(), strict=True)]
    return {answer: advantage / left for answer, advantage in pairs if advantage}


def test_the_completions_of_kept_prompts_carry_their_prompts_weight(scored):
    batch = dataclasses.replace(scored, multiplier=torch.linspace(1, 2, 20))
    flags = {**PRUNED, "rollout__pruning__prompt_rate": 0.5, "task__pool": 40}
    cfg = config(**flags, rollout__pruning__completion_rate=0.0)
    made = with_advantages(batch, cfg, 0)
    torch.testing.assert_close(
        made.advantage, group_advantage(REWARD, scored.group) * batch.multiplier
    )


def test_a_multiplier_counts_once_with_pruning_and_an_allocation_together(scored):
    """And what is dropped goes by the advantages within the group, before it."""
    batch = dataclasses.replace(scored, multiplier=torch.linspace(0.5, 2, 20))
    flags = {**PRUNED, "task__pool": 40, "rollout__allocation__type": "coba"}
    made = with_advantages(batch, config(**flags, rollout__allocation__prompt_weight="equal"), 3)
    plain = with_advantages(scored, config(**PRUNED), 3)
    assert made.answers == plain.answers
    torch.testing.assert_close(made.advantage, plain.advantage * made.multiplier)


def test_unequal_groups_weigh_what_the_allocation_says(scored):
    group = torch.tensor([0] * 2 + [1] * 7 + [2] * 3 + [3] * 4 + [4] * 4)
    batch = dataclasses.replace(scored, group=group, multiplier=torch.linspace(0.5, 2, 20))
    flags = {"task__pool": 40, "rollout__allocation__type": "coba"}
    made = with_advantages(batch, config(**flags, rollout__allocation__prompt_weight="equal"), 0)
    torch.testing.assert_close(made.advantage, group_advantage(REWARD, group) * batch.multiplier)
