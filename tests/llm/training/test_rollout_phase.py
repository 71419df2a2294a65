"""The rollout of a step: its metrics, and prompts, samples and coins of its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from threaded_ranks import on_ranks
from tiny_context import world
from update_cases import config

from jackpot.torch.advantages import group_advantage
from llm import randomness
from llm.settings.schema import DraftedMode, FixedBlock, FixedDraftLam
from llm.training import rollout_phase
from llm.training.selection import with_advantages


def rolled(ctx, step):
    """A step's batch, scored, with advantages."""
    batch = rollout_phase.sample_rollouts(ctx, step)
    return with_advantages(rollout_phase.with_rewards(batch, ctx.scorer), ctx.cfg, step)


def test_rejection_changes_no_reward_baseline_or_length_metric(pair):
    """Behaviour 7: everything measured before the weights is the same with rejection."""
    rows = []
    for correction in ({"type": "none"}, {"type": "jackpot", "lam": 50.0}):
        cfg = config(**correction)
        ctx = world(cfg, pair)
        batch = rolled(ctx, 0)
        reward = rollout_phase.rewards(batch, ctx.scorer)
        rows.append((rollout_phase.rollout_metrics(ctx, batch, 0), batch.advantage, batch.ids))
        assert torch.equal(batch.advantage, group_advantage(reward, torch.arange(len(reward)) // 4))
    assert rows[0][0] == rows[1][0]
    assert torch.equal(rows[0][1], rows[1][1]) and torch.equal(rows[0][2], rows[1][2])


def test_every_step_has_prompts_samples_and_coins_of_its_own(pair):
    """The same step gives the same batch, another step another one."""
    cfg = config(type="jackpot")
    one, again, other = (rolled(world(cfg, pair), s) for s in (3, 3, 4))
    assert torch.equal(one.ids, again.ids) and torch.equal(one.logp_inf, again.logp_inf)
    assert one.answers != other.answers
    a, b = (randomness.stream(0, "sampling", s).random(1000) for s in (3, 4))
    c = randomness.stream(0, "rejection", 3).random(1000)
    assert abs(np.corrcoef([a, b, c]) - np.eye(3)).max() < 0.15


def drafting():
    cfg, mode = (
        config(type="tis"),
        DraftedMode(block=FixedBlock(length=1), lam=FixedDraftLam(value=0.001)),
    )
    return dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, mode=mode))


def test_two_ranks_draft_what_one_does(pair):
    """Each its own sequences with their own random numbers; the metrics are of both."""
    whole = rollout_phase.sample_rollouts(world(drafting(), pair), 3)
    wanted = rollout_phase.rollout_metrics(world(drafting(), pair), whole, 3)

    def on_rank(_rank):
        ctx = world(drafting(), pair)
        batch = rollout_phase.sample_rollouts(ctx, 3)
        return batch, rollout_phase.rollout_metrics(ctx, batch, 3)

    found = on_ranks(2, on_rank)
    assert [x for batch, _ in found for x in batch.completions()] == whole.completions()
    for _, row in found:
        assert row == pytest.approx(wanted, rel=1e-5)


def test_drafting_is_measured_over_states_rounds_and_completions(pair):
    """Z, lam and KL(p || q) of verified states; KL(p || s) of all tokens; rounds of the slowest."""
    ctx = world(drafting(), pair)
    batch = rolled(ctx, 0)
    row, verified = rollout_phase.rollout_metrics(ctx, batch, 0), batch.verification
    assert verified is not None
    drafted = [not x for x in verified.is_bonus.tolist()]
    assert 0 < sum(drafted) < len(drafted)

    def mean(values):
        own = [x for x, counts in zip(values.tolist(), drafted, strict=True) if counts]
        return pytest.approx(sum(own) / len(own), rel=1e-5)

    assert row["draft_accept_rate"] == mean(verified.accept_rate)
    assert row["draft_kl_policy_actor"] == mean(verified.kl_actor) and row[
        "draft_lam"
    ] == pytest.approx(0.001)
    assert row["draft_kl_policy_sampled"] == pytest.approx(float(verified.kl_sampled.mean()))
    rounds = [0] * len(batch.answers)
    for i, starts in zip(batch.sequence.tolist(), verified.starts_round.tolist(), strict=True):
        rounds[i] += starts
    assert row["draft_passes_max"] == max(rounds)
    assert row["draft_tokens_per_pass"] == pytest.approx(row["tokens"] / sum(rounds))
    assert 0 < row["draft_kl_policy_sampled"] < row["draft_kl_policy_actor"]
