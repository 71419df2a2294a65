"""Minibatches: their denominators by hand, whatever the order of sequences."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_context import learner, world
from update_cases import SETTINGS, assert_same, config, scored_update

from llm.training.minibatches import split_minibatches


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_the_order_of_sequences_changes_neither_loss_nor_gradient(pair, scene, setting):
    """Coins belong to sequences, not to places in the batch."""
    cfg = config(**setting)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert_same(scored_update(pair, cfg, *scene), scored_update(pair, cfg, *scene, order=order))


def test_denominators_match_a_literal_hand_computation(pair, scene):
    """proposed: over all sampled tokens; accepted: over those accepted; sequence: of a completion
    over its sampled tokens, then over the completions."""
    batch, coin = scene
    cfg = config(type="jackpot", lam=2.0, z="batch")
    found, _ = scored_update(pair, cfg, batch, coin)
    w = found["weights"]
    real = batch.is_completion
    advantage = batch.advantage[:, None].expand(real.shape)[real]
    total = -float((w.weight * advantage).sum())  # p_new = p_ref here: every PPO ratio is 1
    assert found["loss_policy"] == pytest.approx(total / int(real.sum()), rel=1e-5)
    accepted = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, denominator="accepted"))
    over_accepted, _ = scored_update(pair, accepted, batch, coin)
    assert 0 < int(w.accepted.sum()) < int(real.sum())
    assert over_accepted["loss_policy"] == pytest.approx(total / int(w.accepted.sum()), rel=1e-5)
    by_sequence = dataclasses.replace(cfg.loss, denominator="sequence")
    mean_of_means, _ = scored_update(pair, dataclasses.replace(cfg, loss=by_sequence), batch, coin)
    terms = (w.weight * advantage).split(real.sum(dim=1).tolist())  # of each completion
    wanted = -sum(float(x.mean()) for x in terms) / len(batch.answers)
    assert mean_of_means["loss_policy"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("denominator", ["proposed", "accepted"])
def test_when_every_token_is_rejected_the_update_is_zero_and_finite(pair, scene, denominator):
    batch, coin = scene
    cfg = config(type="jackpot", z="batch", lam=1e30)
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, denominator=denominator))
    found, grads = scored_update(pair, cfg, batch, torch.full_like(coin, 0.5))
    assert found["loss_policy"] == 0.0 and found["grad_norm_policy"] == 0.0
    assert all(bool(torch.isfinite(g).all()) for g in grads) and found["grad_norm_actor"] > 0


def test_the_first_minibatch_of_a_rollout_is_the_one_before_which_no_update_came(pair, scene):
    cfg = config(type="none")  # two updates
    found = split_minibatches(world(cfg, pair), scene[0], learner(cfg), 0)
    assert [minibatch.is_first for minibatch in found] == [True, False]
