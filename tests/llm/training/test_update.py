"""One update: what is trained on depends on the tokens alone, not on layout, order or memory."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tiny_context import PROBLEMS, full_logprobs, learner, rollout, world
from update_cases import SETTINGS, assert_same, config, scored_update, whole

from llm.algorithm.control import Controls
from llm.settings.schema import KLControl, OptimConfig, SeparateActor, TisWeight
from llm.train import update


def test_control_drives_the_gradient_of_the_distillation(pair, scene):
    """The coefficient in force is the controller's, not the configured one."""
    cfg = config(type="none")
    cfg = dataclasses.replace(cfg, actor=SeparateActor(ppo=False))
    one, three = (
        scored_update(pair, cfg, *scene, controls=Controls(distill_coef=c))[0] for c in (1.0, 3.0)
    )
    assert three["loss_distill"] == pytest.approx(one["loss_distill"])
    assert three["grad_norm_actor"] == pytest.approx(3 * one["grad_norm_actor"], rel=1e-4)


def test_control_measures_the_exact_forward_kl_whatever_is_distilled(pair, scene):
    cfg = config(type="none")
    cfg = dataclasses.replace(cfg, control=KLControl(kl_target=0.1))
    other = {"distill_direction": "reverse", "distill_top_k": 3, "distill_temperature": 2.0}
    other = dataclasses.replace(cfg, actor=SeparateActor(**other))
    a, b = (scored_update(pair, c, *scene)[0] for c in (cfg, other))
    assert a["kl_policy_actor_now"] == pytest.approx(a["loss_distill"], rel=1e-6)
    assert b["kl_policy_actor_now"] == pytest.approx(a["kl_policy_actor_now"], rel=1e-6)
    assert b["loss_distill"] != pytest.approx(a["loss_distill"], rel=0.005)


def test_the_actors_ratio_is_to_the_actor_before_the_updates(pair, scene):
    """actor.correction on, second update of a step: p_actor_ref is given, not the present actor."""
    batch, coin = scene
    cfg = config(type="none")
    cfg = dataclasses.replace(cfg, actor=SeparateActor(correction=TisWeight()))
    real = batch.is_completion
    now = full_logprobs(pair[1], batch.ids, batch.is_real, real.shape[1], 1.0)[real].detach()
    act, q = now.gather(1, batch.token_ids[:, None])[:, 0], batch.logp_inf
    before = act - 0.3  # as if the actor had since moved by 0.3 nats at every token
    advantage = batch.advantage[:, None].expand(batch.is_completion.shape)[batch.is_completion]
    ratio, weight = (act - before).exp(), (before - q).exp().clamp(max=2.0)
    clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    found = scored_update(pair, cfg, batch, coin, ref_actor=before)[0]
    assert found["loss_actor_ppo"] == pytest.approx(-float((weight * clipped).mean()), rel=1e-4)


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
        cfg = config(type="jackpot", mask=mask, scope=scope)
        cfg = dataclasses.replace(cfg, optim=OptimConfig(sequences_per_microbatch=size))
        found[scope] = scored_update(models, cfg, batch, coin, order)[0]["weights"]
    real = batch.is_completion if order is None else batch.is_completion[order]
    alone = torch.ones(real.shape)
    alone[real] = found["token"].accepted
    before = torch.cat([torch.ones(len(real), 1), alone.cumprod(dim=1)[:, :-1]], dim=1)[real]
    assert 0.2 < float(before.mean()) < 0.95
    assert torch.allclose(found["prefix"].weight, found["token"].weight * before, atol=1e-6)
    assert torch.allclose(found["prefix"].accepted, found["token"].accepted * before, atol=1e-6)


def widened(padded, batch, coin, left, right):
    """The same sequences with more padding on both sides, with poison in it."""
    b = len(padded.answers)

    def pad(x, value, n_left, n_right):
        shape = list(x.shape)
        shape[1] = n_left
        before = torch.full(shape, value, dtype=x.dtype)
        shape[1] = n_right
        return torch.cat([before, x, torch.full(shape, value, dtype=x.dtype)], dim=1)

    nan, t = float("nan"), padded.is_completion.shape[1]
    poisoned = torch.where(padded.is_completion, padded.logp_inf, torch.tensor(nan))
    topk = torch.where(padded.is_completion[..., None], padded.topk_logp_inf, torch.tensor(nan))
    assert b and t
    wide = dataclasses.replace(
        padded,
        ids=pad(padded.ids, 7, left, right),
        is_real=pad(padded.is_real, False, left, right),
        is_completion=pad(padded.is_completion, False, 0, right),
        logp_inf=pad(poisoned, nan, 0, right),
        topk_ids=pad(padded.topk_ids, 3, 0, right),
        topk_logp_inf=pad(topk, nan, 0, right),
        version=pad(padded.version, -9, 0, right),
    )
    flat = dataclasses.replace(wide.flat(), advantage=batch.advantage)
    return flat, pad(coin, nan, 0, right)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("left, right", [(0, 4), (3, 0), (2, 5)])
def test_padding_and_poison_in_it_change_nothing(pair, padded, scene, setting, left, right):
    """NaN at every padded position leaves loss, gradient and metrics finite and unchanged."""
    cfg = config(**setting)
    wide = widened(padded, *scene, left, right)
    assert_same(scored_update(pair, cfg, *scene), scored_update(pair, cfg, *wide))


def test_the_actors_ppo_carries_none_of_the_policys_weights(pair, scene):
    """Eq. 6: the actor sampled the tokens itself, so F = 1 whatever the policy's correction is."""
    plain, _ = scored_update(pair, config(type="none"), *scene)
    for setting in ({"lam": 5.0}, {"mask": "expected", "target": "new"}):
        found, _ = scored_update(pair, config(type="jackpot", **setting), *scene)
        assert found["loss_actor_ppo"] == pytest.approx(plain["loss_actor_ppo"], rel=1e-6)
        assert found["loss_policy"] != pytest.approx(plain["loss_policy"], rel=1e-3)


def test_the_actors_gradient_is_proportional_to_the_distillation_coefficient(pair, scene):
    """Eq. 8: lambda_distill L_distill, with nothing else training the actor."""
    grads = []
    for coef in (0.5, 2.0):
        cfg = config(type="none")
        own = SeparateActor(ppo=False, distill_coef=coef)
        found, _ = scored_update(pair, dataclasses.replace(cfg, actor=own), *scene)
        grads.append(found["grad_norm_actor"])
    assert grads[1] == pytest.approx(4 * grads[0], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for(pair, scene):
    """SGD with learning rate 1 moves each model by exactly its clipped gradient."""
    cfg = dataclasses.replace(config(type="none"), optim=OptimConfig(grad_clip=0.01))
    moved = [copy.deepcopy(m) for m in pair]
    optimizers = {
        name: torch.optim.SGD(m.parameters(), lr=1.0)
        for name, m in zip(("policy", "actor"), moved, strict=True)
    }
    batch, coin = scene
    coin = coin[batch.is_completion]
    update(world(cfg, moved), learner(cfg, optimizers), whole(batch, coin), 0)
    for old, new in zip(pair, moved, strict=True):
        steps = [(a - b).flatten() for a, b in zip(old.parameters(), new.parameters(), strict=True)]
        assert float(torch.cat(steps).norm().detach()) == pytest.approx(0.01, rel=1e-3)
