"""Completions shared out by pass rates, and prompts dropped by chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_context import world

from jackpot import allocation, selection
from llm import randomness
from llm.errors import ConfigError
from llm.settings.loading import resolve
from llm.tasks import factory
from llm.training.allocation import allocate, open_history
from llm.training.rollout_phase import rollout_metrics, sample_rollouts, visits, with_rewards

POOL = {"task.pool": 12, "task.digits_min": 1, "task.digits_max": 2, "loss.advantage": "rloo"}
SIZES = {"rollout.prompts_per_step": 6, "rollout.rollouts_per_prompt": 5}
BY_RATE = {"rollout.allocation.prompt_weight": "equal", "rollout.allocation.rollouts_min": 3}
VIP = {**POOL, **SIZES, **BY_RATE, "rollout.allocation.type": "vip"}
COBA = {**POOL, **SIZES, **BY_RATE, "rollout.allocation.type": "coba"}
PRUNED = {
    **POOL,
    **SIZES,
    "rollout.pruning.type": "horvitz_thompson",
    "rollout.pruning.prompt_rate": 0.6,
    "loss.denominator": "sequence",
}


def opened(flags, pair):
    """A context with a pool and a history of it: prompt i passes at a rate of i / 11."""
    cfg = resolve(flags)
    ctx = world(cfg, pair)
    ctx = ctx._replace(task=factory.with_pool(cfg, ctx.task))
    history = open_history(cfg, ctx.task)
    assert history is not None
    rows = torch.arange(12).repeat_interleave(11)
    history.add(rows, (torch.arange(132) % 11 < rows).float(), "rloo")
    return ctx._replace(history=history)


@pytest.mark.parametrize("flags", [VIP, COBA], ids=["vip", "coba"])
def test_a_step_samples_as_many_completions_of_each_prompt_as_its_rate_asks_for(pair, flags):
    ctx = opened(flags, pair)
    batch = sample_rollouts(ctx, 4)
    problems = ctx.task.batch(0, 4, 6)
    rate = np.array([ctx.task.rows[p.prompt] for p in problems]) / 11
    if flags is VIP:
        count = allocation.vip(rate, 30, 3, 32, "rloo")
    else:
        alpha = allocation.coba_alpha([1 - np.arange(12).mean() / 11])
        count = allocation.coba(rate, 30, alpha, low=3, high=128)
    assert len(set(count.tolist())) > 1
    prompts = [p.prompt for p, n in zip(problems, count, strict=True) for _ in range(n)]
    assert batch.prompts == prompts and len(prompts) == 30
    assert batch.group.tolist() == np.repeat(np.arange(6), count).tolist()
    np.testing.assert_allclose(batch.multiplier.numpy(), np.repeat(5 / count, count), rtol=1e-6)
    assert batch.index.tolist() == list(range(30))


def test_weight_by_completions_multiplies_nothing(pair):
    ctx = opened({**COBA, "rollout.allocation.prompt_weight": "rollouts"}, pair)
    assert sample_rollouts(ctx, 4).multiplier.unique().tolist() == [1.0]


def test_a_first_visit_is_uniform(pair):
    ctx = opened(VIP, pair)
    fresh = open_history(ctx.cfg, ctx.task)
    assert fresh is not None
    shared = allocate(ctx.cfg, fresh, ctx.task, ctx.task.batch(0, 0, 6), 0)
    assert shared.counts.tolist() == [5] * 6 and shared.multiplier.tolist() == [1.0] * 6


def test_pruned_prompts_are_not_sampled_and_the_others_weigh_more(pair):
    ctx, counts = opened(PRUNED, pair), set()
    assert ctx.history is not None
    for step in range(8):
        problems = ctx.task.batch(0, step, 6)
        rows = [ctx.task.rows[p.prompt] for p in problems]
        rng = randomness.stream(0, "prompt pruning", step)
        score = ctx.history.abs_advantage[rows]
        keep, weight = selection.horvitz_thompson(score, 0.6, 0.5, rng)
        batch = sample_rollouts(ctx, step)
        wanted = [p.prompt for p, k in zip(problems, keep, strict=True) if k for _ in range(5)]
        assert batch.prompts == wanted
        np.testing.assert_allclose(batch.multiplier.numpy(), np.repeat(weight[keep], 5), rtol=1e-6)
        counts.add(len(wanted))
    assert len(counts) > 1


def test_a_prompt_never_seen_is_the_last_candidate_and_one_at_least_is_sampled(pair):
    ctx = opened({**PRUNED, "rollout.pruning.candidate_fraction": 1.0}, pair)
    assert ctx.history is not None
    problems = ctx.task.batch(0, 0, 6)
    rows = [ctx.task.rows[p.prompt] for p in problems]
    ctx.history.abs_advantage[rows[0]] = -1.0
    half = resolve(
        {**PRUNED, "rollout.pruning.candidate_fraction": 0.5, "rollout.pruning.prompt_rate": 0.9}
    )
    dropped = 0
    for step in range(40):
        shared = allocate(half, ctx.history, ctx.task, problems, step)
        assert shared.counts[0] == 5
        dropped += (shared.counts == 0).sum()
        all_may_go = allocate(ctx.cfg, ctx.history, ctx.task, problems, step)
        assert all_may_go.counts.sum() >= 5
    assert dropped > 40


def test_metrics_and_visits_are_of_every_prompt_whatever_its_number(pair):
    ctx = opened(VIP, pair)
    batch = with_rewards(sample_rollouts(ctx, 4), ctx.scorer)
    batch.reward[:] = 0.0
    batch.reward[batch.group == 2] = torch.linspace(0, 1, int((batch.group == 2).sum()))
    assert rollout_metrics(ctx, batch, 4)["groups_informative"] == pytest.approx(1 / 6)
    seen = visits(ctx, batch)
    assert seen is not None
    assert seen[0].tolist() == [ctx.task.rows[p] for p in batch.prompts]
    assert torch.equal(seen[1], batch.reward)


@pytest.mark.parametrize("reward", [-0.5, 2.0, float("nan")])
def test_a_reward_that_is_no_share_is_an_error_before_any_update(pair, reward):
    ctx = opened(VIP, pair)
    batch = sample_rollouts(ctx, 4)
    batch.reward[3] = reward
    with pytest.raises(ConfigError, match=r"outside \[0, 1\]: scale the rewards"):
        visits(ctx, batch)


def test_nothing_goes_by_a_history_where_no_setting_asks(pair):
    cfg = resolve({**POOL, **SIZES, "loss.advantage": "grpo"})
    ctx = world(cfg, pair)
    assert open_history(cfg, factory.with_pool(cfg, ctx.task)) is None
    assert visits(ctx, sample_rollouts(ctx, 0)) is None
