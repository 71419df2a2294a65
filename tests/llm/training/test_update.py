"""One update: what is trained on depends on the tokens alone, not on layout, order or memory."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tiny_context import NOWHERE, PROBLEMS, full_logprobs, random_pair, rollout, start, world

from llm import randomness
from llm.algorithm import diagnostics
from llm.algorithm.advantages import group_advantage
from llm.algorithm.control import Controls
from llm.algorithm.correction import CorrectionState, TokenWeights, token_weights
from llm.models.lm_head.chunked import HeadInput
from llm.settings.loading import Config, CorrectionConfig
from llm.settings.schema import ControlConfig, LossConfig, OptimConfig, RolloutConfig
from llm.training import forward as laws
from llm.training import rollout_phase
from llm.training.minibatches import Share
from llm.training.update import update


@pytest.fixture(scope="module")
def pair():
    return random_pair()


def config(**correction) -> Config:
    """Strong mismatch, two updates, variable lengths; enough for every branch of the update."""
    name, z = correction.get("name", "jackpot"), correction.get("z", "state")
    sizes = {"top_k": 5} if (name, z) == ("jackpot", "state") else {}
    return Config(
        rollout=RolloutConfig(prompts_per_step=5, rollouts_per_prompt=4, max_new_tokens=9, **sizes),
        correction=CorrectionConfig(**correction),
        loss=LossConfig(updates_per_rollout=2),
    )


def scored_update(pair, cfg, batch, coin, order=None, anchor=None, controls=None, ref_actor=None):
    """Losses and gradients of one update on (a permutation of) a batch, without the step."""
    policy, actor = (copy.deepcopy(m) for m in pair)
    optimizers = {
        "policy": torch.optim.SGD(policy.parameters(), lr=0.0),
        "actor": torch.optim.SGD(actor.parameters(), lr=0.0),
    }
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, grad_clip=float("inf")))
    if order is not None:
        batch, coin = batch.rows(order), coin[order]
    share = Share(batch, coin[batch.is_completion], None, ref_actor)
    setup = world(cfg, (policy, actor))._replace(anchor=anchor)
    first, state = start(cfg)
    found = update(setup, optimizers, share, controls or first, state, NOWHERE, 0)
    grads = [p.grad.clone() for m in (policy, actor) for p in m.parameters() if p.grad is not None]
    return found, grads


@pytest.fixture(scope="module")
def scene(pair):
    """A batch with advantages of both signs, and its coins."""
    batch = rollout(pair[1], problems=PROBLEMS * 4, seed=3)
    advantage = torch.linspace(-1.5, 2.0, 20)
    batch = dataclasses.replace(batch, advantage=advantage)
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return batch, coin


SETTINGS = [
    {"name": "jackpot"},
    {"name": "jackpot", "z_tail": "lumped", "kappa": True, "lam_from": "batch"},
    {"name": "jackpot", "lam_from": "state", "target": "new"},
    {"name": "jackpot", "z": "batch"},
    {"name": "jackpot", "mask": "expected", "target": "new"},
    {"name": "tis"},
]


def assert_same(a, b):
    for name in ("loss_policy", "loss_actor_ppo", "loss_distill"):
        assert a[0][name] == pytest.approx(b[0][name], rel=1e-4, abs=1e-7)
    for x, y in zip(a[1], b[1], strict=True):
        assert torch.allclose(x, y, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("size", [1, 3, 7])
def test_splitting_into_microbatches_changes_neither_loss_nor_gradient(pair, scene, setting, size):
    """Batch statistics, kappa included, are of the whole update, whatever fits into memory."""
    cfg = config(**setting)
    optim = OptimConfig(sequences_per_microbatch=size)
    split = scored_update(pair, dataclasses.replace(cfg, optim=optim), *scene)
    assert_same(scored_update(pair, cfg, *scene), split)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_anchor_is_per_proposed_token_whatever_the_microbatches(pair, scene, size):
    cfg = config(name="none")
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, anchor_coef=0.7))
    moved = (copy.deepcopy(pair[0]), pair[1])
    with torch.no_grad():
        moved[0].lm_head.weight.mul_(0.8)  # away from its anchor
    setup = world(cfg, pair)
    whole = scored_update(moved, cfg, *scene, anchor=setup.anchor)
    split = dataclasses.replace(cfg, optim=OptimConfig(sequences_per_microbatch=size))
    assert whole[0]["loss_anchor"] > 0.001
    parts = scored_update(moved, split, *scene, anchor=setup.anchor)
    assert parts[0]["loss_anchor"] == pytest.approx(whole[0]["loss_anchor"], rel=1e-4)
    assert_same(whole, parts)


def test_control_drives_the_gradient_of_the_distillation(pair, scene):
    """The coefficient in force is the controller's, not the configured one."""
    cfg = config(name="none")
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, actor_ppo=False))
    one, three = (
        scored_update(pair, cfg, *scene, controls=Controls(distill_coef=c))[0] for c in (1.0, 3.0)
    )
    assert three["loss_distill"] == pytest.approx(one["loss_distill"])
    assert three["grad_norm_actor"] == pytest.approx(3 * one["grad_norm_actor"], rel=1e-4)


def test_control_measures_the_exact_forward_kl_whatever_is_distilled(pair, scene):
    cfg = config(name="none")
    cfg = dataclasses.replace(cfg, control=ControlConfig(kl_target=0.1))
    other = {"distill_direction": "reverse", "distill_top_k": 3, "distill_temperature": 2.0}
    other = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, **other))
    a, b = (scored_update(pair, c, *scene)[0] for c in (cfg, other))
    assert a["kl_policy_actor_now"] == pytest.approx(a["loss_distill"], rel=1e-6)
    assert b["kl_policy_actor_now"] == pytest.approx(a["kl_policy_actor_now"], rel=1e-6)
    assert b["loss_distill"] != pytest.approx(a["loss_distill"], rel=0.005)


def test_the_actors_ratio_is_to_the_actor_before_the_updates(pair, scene):
    """actor_correction on, second update of a step: p_actor_ref is given, not the present actor."""
    batch, coin = scene
    cfg = config(name="none")
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, actor_correction="tis"))
    real = batch.is_completion
    now = full_logprobs(pair[1], batch.ids, batch.is_real, real.shape[1], 1.0)[real].detach()
    taken = batch.completion_ids[batch.is_completion]
    act, q = now.gather(1, taken[:, None])[:, 0], batch.logp_inf[batch.is_completion]
    before = act - 0.3  # as if the actor had since moved by 0.3 nats at every token
    advantage = batch.advantage[:, None].expand(batch.is_completion.shape)[batch.is_completion]
    ratio, weight = (act - before).exp(), (before - q).exp().clamp(max=2.0)
    clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    found = scored_update(pair, cfg, batch, coin, ref_actor=before)[0]
    assert found["loss_actor_ppo"] == pytest.approx(-float((weight * clipped).mean()), rel=1e-4)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_the_order_of_sequences_changes_neither_loss_nor_gradient(pair, scene, setting):
    """Coins belong to sequences, not to places in the batch."""
    cfg = config(**setting)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert_same(scored_update(pair, cfg, *scene), scored_update(pair, cfg, *scene, order=order))


@pytest.fixture(scope="module")
def near(pair):
    """A policy and an actor of which it accepts most tokens, and a batch of that actor's."""
    actor = copy.deepcopy(pair[0])
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in actor.parameters():
            p.add_(0.02 * p.std() * torch.randn(p.shape, generator=generator))
    batch = rollout(actor, problems=PROBLEMS * 4, seed=3)
    batch = dataclasses.replace(batch, advantage=torch.linspace(-1.5, 2.0, 20))
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return (pair[0], actor), batch, coin


@pytest.mark.parametrize("mask", ["bernoulli", "expected"])
@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("order", [None, torch.arange(20).flip(0)], ids=["as is", "reversed"])
def test_a_prefix_is_of_one_sequence(near, mask, size, order):
    """With scope prefix each sequence's tokens count as far as those before them in it do,
    whatever the microbatches and the order of the sequences."""
    models, batch, coin = near
    found = {}
    for scope in ("token", "prefix"):
        cfg = config(name="jackpot", mask=mask, scope=scope)
        cfg = dataclasses.replace(cfg, optim=OptimConfig(sequences_per_microbatch=size))
        found[scope] = scored_update(models, cfg, batch, coin, order)[0]["weights"]
    real = batch.is_completion if order is None else batch.is_completion[order]
    alone = torch.ones(real.shape)
    alone[real] = found["token"].accepted
    before = torch.cat([torch.ones(len(real), 1), alone.cumprod(dim=1)[:, :-1]], dim=1)[real]
    assert 0.2 < float(before.mean()) < 0.95
    assert torch.allclose(found["prefix"].weight, found["token"].weight * before, atol=1e-6)
    assert torch.allclose(found["prefix"].accepted, found["token"].accepted * before, atol=1e-6)


def widened(batch, coin, left, right):
    """The same sequences with more padding on both sides, with poison in it."""
    b = len(batch.answers)

    def pad(x, value, n_left, n_right):
        shape = list(x.shape)
        shape[1] = n_left
        before = torch.full(shape, value, dtype=x.dtype)
        shape[1] = n_right
        return torch.cat([before, x, torch.full(shape, value, dtype=x.dtype)], dim=1)

    nan, t = float("nan"), batch.is_completion.shape[1]
    poisoned = torch.where(batch.is_completion, batch.logp_inf, torch.tensor(nan))
    topk = torch.where(batch.is_completion[..., None], batch.topk_logp_inf, torch.tensor(nan))
    assert b and t
    wide = dataclasses.replace(
        batch,
        ids=pad(batch.ids, 7, left, right),
        is_real=pad(batch.is_real, False, left, right),
        is_completion=pad(batch.is_completion, False, 0, right),
        logp_inf=pad(poisoned, nan, 0, right),
        topk_ids=pad(batch.topk_ids, 3, 0, right),
        topk_logp_inf=pad(topk, nan, 0, right),
    )
    return wide, pad(coin, nan, 0, right)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("left, right", [(0, 4), (3, 0), (2, 5)])
def test_padding_and_poison_in_it_change_nothing(pair, scene, setting, left, right):
    """NaN at every padded position leaves loss, gradient and metrics finite and unchanged."""
    cfg = config(**setting)
    assert_same(
        scored_update(pair, cfg, *scene), scored_update(pair, cfg, *widened(*scene, left, right))
    )


def test_denominators_match_a_literal_hand_computation(pair, scene):
    """proposed: over all sampled tokens; accepted: over the coins that came up."""
    batch, coin = scene
    cfg = config(name="jackpot", lam=2.0, z="batch")
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


@pytest.mark.parametrize("denominator", ["proposed", "accepted"])
def test_when_every_token_is_rejected_the_update_is_zero_and_finite(pair, scene, denominator):
    batch, coin = scene
    cfg = config(name="jackpot", z="batch", lam=1e30)
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, denominator=denominator))
    found, grads = scored_update(pair, cfg, batch, torch.full_like(coin, 0.5))
    assert found["loss_policy"] == 0.0 and found["grad_norm_policy"] == 0.0
    assert all(bool(torch.isfinite(g).all()) for g in grads) and found["grad_norm_actor"] > 0


def test_rejection_changes_no_reward_baseline_or_length_metric(pair):
    """Behaviour 7: everything measured before the weights is the same with rejection."""
    rows = []
    for correction in ({"name": "none"}, {"name": "jackpot", "lam": 50.0}):
        cfg = config(**correction)
        setup = world(cfg, pair)
        batch = rollout_phase.rollout(setup, 0, NOWHERE)
        reward = rollout_phase.rewards(batch, setup.scorer)
        rows.append((rollout_phase.rollout_metrics(batch, setup, 0), batch.advantage, batch.ids))
        assert torch.equal(batch.advantage, group_advantage(reward, 4))
    assert rows[0][0] == rows[1][0]
    assert torch.equal(rows[0][1], rows[1][1]) and torch.equal(rows[0][2], rows[1][2])


def test_every_step_has_prompts_samples_and_coins_of_its_own(pair):
    """The same step gives the same batch, another step another one."""
    cfg = config(name="jackpot")
    one, again, other = (rollout_phase.rollout(world(cfg, pair), s, NOWHERE) for s in (3, 3, 4))
    assert torch.equal(one.ids, again.ids) and torch.equal(one.logp_inf, again.logp_inf)
    assert one.answers != other.answers
    a, b = (randomness.stream(0, "sampling", s).random(1000) for s in (3, 4))
    c = randomness.stream(0, "rejection", 3).random(1000)
    assert abs(np.corrcoef([a, b, c]) - np.eye(3)).max() < 0.15


def test_the_actors_ppo_carries_none_of_the_policys_weights(pair, scene):
    """Eq. 6: the actor sampled the tokens itself, so F = 1 whatever the policy's correction is."""
    plain, _ = scored_update(pair, config(name="none"), *scene)
    for setting in ({"lam": 5.0}, {"mask": "expected", "target": "new"}):
        found, _ = scored_update(pair, config(name="jackpot", **setting), *scene)
        assert found["loss_actor_ppo"] == pytest.approx(plain["loss_actor_ppo"], rel=1e-6)
        assert found["loss_policy"] != pytest.approx(plain["loss_policy"], rel=1e-3)


def test_the_actors_gradient_is_proportional_to_the_distillation_coefficient(pair, scene):
    """Eq. 8: lambda_distill L_distill, with nothing else training the actor."""
    grads = []
    for coef in (0.5, 2.0):
        cfg = config(name="none")
        loss = dataclasses.replace(cfg.loss, actor_ppo=False, distill_coef=coef)
        found, _ = scored_update(pair, dataclasses.replace(cfg, loss=loss), *scene)
        grads.append(found["grad_norm_actor"])
    assert grads[1] == pytest.approx(4 * grads[0], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for(pair, scene):
    """SGD with learning rate 1 moves each model by exactly its clipped gradient."""
    cfg = dataclasses.replace(config(name="none"), optim=OptimConfig(grad_clip=0.01))
    moved = [copy.deepcopy(m) for m in pair]
    optimizers = {
        name: torch.optim.SGD(m.parameters(), lr=1.0)
        for name, m in zip(("policy", "actor"), moved, strict=True)
    }
    batch, coin = scene
    coin = coin[batch.is_completion]
    share = Share(batch, coin, None, None)
    update(world(cfg, moved), optimizers, share, *start(cfg), NOWHERE, 0)
    for old, new in zip(pair, moved, strict=True):
        steps = [(a - b).flatten() for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        assert float(torch.cat(steps).norm().detach()) == pytest.approx(0.01, rel=1e-3)


def test_both_exact_kls_have_the_direction_of_their_name():
    """By hand: p = (1/2, 1/2), q = (1/4, 3/4)."""
    p, q = (HeadInput(logits=torch.tensor([x]).log()) for x in ([0.5, 0.5], [0.25, 0.75]))
    found = laws.exact_kls(p, q, 1.0)
    assert found["kl_policy_actor"] == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5
    )
    assert found["kl_actor_policy"] == pytest.approx(
        0.25 * np.log(0.5) + 0.75 * np.log(1.5), rel=1e-5
    )


def test_metrics_of_ratios_and_weights_match_a_hand_computation():
    """Two tokens, r = 2 and 1/4; weights 2 and 0; the estimates of both KLs as documented."""
    log_ratio = torch.tensor([2.0, 0.25]).log()
    zeros, ones = torch.zeros(2), torch.ones(2)
    part = TokenWeights(
        torch.tensor([2.0, 0.0]), log_ratio, ones, zeros, ones, zeros, ones * 1.5, zeros
    )
    found = diagnostics.correction_metrics([part], "jackpot")
    k3 = (2 - 1 - np.log(2) + 0.25 - 1 + np.log(4)) / 2
    forward = (2 * np.log(2) - 2 + 1 - 0.25 * np.log(4) - 0.25 + 1) / 2
    expected = {
        "kl_inf_target_k3": k3,
        "kl_target_inf_est": forward,
        "log_ratio_mean": (np.log(2) - np.log(4)) / 2,
        "log_ratio_max": np.log(2),
        "ratio_mean": 1.125,
        "weight_mean": 1.0,
        "weight_max": 2.0,
        "ess_raw": 2.25**2 / (2 * (4 + 1 / 16)),
        "ess_applied": 0.5,
        "accept_rate": 0.0,
        "accept_prob_mean": 1.0,
        "kappa": 1.0,
        "lam_mean": 1.5,
        "ratio_max": 2.0,
        "ratio_p99": 0.25 + 0.99 * 1.75,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_a_coin_just_below_one_still_accepts_a_certain_token():
    """float64 coins: the largest, 1 - 2^-53, would be 1 in float32 and reject a(x) = 1."""
    same = torch.full((1,), -0.5)
    top = torch.tensor([[-0.5, -1.5]])
    coin = torch.tensor([1.0 - 2.0**-53], dtype=torch.float64)
    w = token_weights(
        CorrectionConfig(),
        control=ControlConfig(),
        state=CorrectionState(),
        in_topk=torch.tensor([True]),
        logp_inf=same,
        logp_ref=same,
        logp_new=same,
        topk_logp_inf=top,
        topk_logp_target=top,
        uniform=coin,
    )
    assert float(w.weight) == 1.0
