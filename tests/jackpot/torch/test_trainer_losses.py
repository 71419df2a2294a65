"""Losses in a trainer's layout: against plain loops, and the same in any split of the rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import jackpot.torch as jt

B, T, V = 4, 5, 6


@pytest.fixture
def batch():
    """Log-probabilities at sampled tokens, and the logits that they come from."""
    g = torch.Generator().manual_seed(2)
    logits = {name: torch.randn(B, T, V, generator=g) for name in ("inf", "ref", "new")}
    token = torch.randint(V, (B, T, 1), generator=g)
    logp = {k: x.log_softmax(-1).gather(-1, token)[..., 0] for k, x in logits.items()}
    mask = torch.arange(T) < torch.tensor([5, 2, 0, 3])[:, None]
    return logits, logp, mask, torch.tensor([1.0, -0.5, 2.0, 0.25])


def test_the_policys_loss_is_the_plain_loop(batch):
    _, logp, mask, advantage = batch
    weights = jt.Corrector(z="batch", seed=5).weights(logp["inf"], logp["ref"], mask=mask)
    assert 0 < int((weights.weight > 0).sum()) < int(mask.sum())
    new = logp["new"].clone().requires_grad_()
    got = jt.policy_loss(new, logp["ref"], advantage, weights, clip_low=0.1, clip_high=0.3)
    want = 0.0
    for i, j in np.argwhere(mask.numpy()):
        r = math.exp(float(logp["new"][i, j] - logp["ref"][i, j]))
        a = float(advantage[i])
        term = min(r * a, min(max(r, 0.9), 1.3) * a)
        want -= float(weights.weight[i, j]) * term / int(mask.sum())
    assert float(got.loss.detach()) == pytest.approx(want, rel=1e-5)
    got.loss.backward()
    assert not new.grad[weights.weight == 0].any() and new.grad.any()


def test_cispo_has_the_gradient_of_its_clipped_ratio(batch):
    _, logp, mask, advantage = batch
    weights = jt.Corrector(type="none").weights(logp["inf"], logp["ref"], mask=mask)
    new = logp["new"].clone().requires_grad_()
    jt.policy_loss(
        new, logp["ref"], advantage, weights, type="cispo", clip_high=0.5
    ).loss.backward()
    ratio = (logp["new"] - logp["ref"]).exp().clamp(max=1.5)
    want = -ratio * advantage[:, None] * mask / mask.sum()
    assert torch.allclose(new.grad, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("denominator", ["proposed", "accepted", "sequence"])
def test_microbatches_add_up_and_padding_is_not_read(batch, denominator):
    logits, logp, mask, advantage = batch
    corrector = jt.Corrector(z="batch", denominator=denominator)
    weights = corrector.weights(logp["inf"], logp["ref"], mask=mask)
    wild = {k: x.masked_fill(~mask, math.nan) for k, x in logp.items()}
    rows = [slice(0, 1), slice(1, 4)]
    whole = jt.policy_loss(logp["new"], logp["ref"], advantage, weights).loss
    parts = [
        jt.policy_loss(wild["new"][r], wild["ref"][r], advantage[r], weights.at(r)).loss
        for r in rows
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)
    n = weights.n_tokens
    wild_logits = {k: x.masked_fill(~mask[..., None], math.nan) for k, x in logits.items()}
    actor = (logp["new"], logp["inf"], advantage), (wild["new"], wild["inf"], advantage)
    distill = (logits["ref"], logits["inf"]), (wild_logits["ref"], wild_logits["inf"])
    cases: list[Any] = [(jt.actor_loss, *actor), (jt.distill_loss, *distill)]
    for loss, clean, spoiled in cases:
        split = [loss(*(x[r] for x in spoiled), mask[r], n) for r in rows]
        assert float(sum(split)) == pytest.approx(float(loss(*clean, mask, n)), rel=1e-5)


def test_the_actors_loss_is_ppo_to_q_and_its_correction_multiplies(batch):
    _, logp, mask, advantage = batch
    args = (logp["new"], logp["inf"], advantage, mask, 10)
    ratio = (logp["new"] - logp["inf"]).exp()
    a = advantage[:, None]
    plain = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)[mask].sum() / 10
    assert float(jt.actor_loss(*args)) == pytest.approx(float(plain), rel=1e-6)
    ratio = (logp["new"] - logp["ref"]).exp()
    f = (logp["ref"] - logp["inf"]).exp().clamp(max=1.5)
    tis = -(f * torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a))[mask].sum() / 10
    got = jt.actor_loss(*args, logp_actor_ref=logp["ref"], type="tis", cap=1.5)
    assert float(got) == pytest.approx(float(tis), rel=1e-6)


def test_distillation_is_the_forward_kl_and_trains_the_actor_alone(batch):
    logits, _, mask, _ = batch
    policy, actor = (logits[k].double().requires_grad_() for k in ("ref", "inf"))
    got = jt.distill_loss(policy, actor, mask, 10, temperature=2.0)
    p, q = (np.exp(x.detach().numpy() / 2) for x in (policy, actor))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    want = 4 * (p * np.log(p / q)).sum(-1)[mask.numpy()].sum() / 10
    assert float(got.detach()) == pytest.approx(want, rel=1e-5)
    got.backward()
    assert policy.grad is None and actor.grad is not None and not actor.grad[~mask].any()
    actor = actor.detach()
    top = jt.distill_loss(policy, actor, mask, 10, top_k=2)
    assert 0 < float(top) < float(jt.distill_loss(policy, actor, mask, 10).detach())
    assert float(jt.distill_loss(policy, actor, mask, 10, top_k=V)) == pytest.approx(
        float(jt.distill_loss(policy, actor, mask, 10).detach())
    )


def test_distillation_takes_tokens_that_a_model_excludes(batch):
    """-inf in both: 0 log 0. In the actor alone: an infinite KL, refused."""
    logits, _, mask, _ = batch
    policy, actor = (logits[k].clone() for k in ("ref", "inf"))
    policy[..., 0] = actor[..., 0] = -math.inf
    actor.requires_grad_()
    jt.distill_loss(policy, actor, mask, 10).backward()
    assert bool(torch.isfinite(actor.grad).all())
    policy[..., 0] = 0.0
    with pytest.raises(ValueError, match="NaN or inf in KL"):
        jt.distill_loss(policy, actor, mask, 10)


def test_bad_input_is_refused_by_name(batch):
    logits, logp, mask, advantage = batch
    weights = jt.Corrector(type="none").weights(logp["inf"], logp["ref"], mask=mask)
    bad = logp["new"].clone()
    bad[0, 0] = math.nan
    for call, said in [
        (lambda: jt.policy_loss(bad, logp["ref"], advantage, weights), "logp_new: NaN"),
        (
            lambda: jt.policy_loss(logp["new"][:2], logp["ref"], advantage, weights),
            "logp_new: want",
        ),
        (lambda: jt.policy_loss(bad, logp["ref"], advantage, weights, type="gspo"), "choose one"),
        (lambda: jt.actor_loss(bad, logp["inf"], advantage, mask, 10), "logp_actor: NaN"),
        (lambda: jt.distill_loss(logits["ref"], logits["inf"], mask, 10, top_k=0), "top_k"),
        (lambda: jt.distill_loss(logits["ref"], logits["inf"], mask, 10, temperature=0), "temper"),
        (lambda: jt.policy_loss(bad, logp["ref"], advantage[:3], weights), "advantage: wanted"),
        (
            lambda: jt.actor_loss(logp["new"], logp["inf"][:2], advantage, mask, 10),
            "logp_inf: want",
        ),
        (lambda: jt.actor_loss(logp["new"], logp["inf"], advantage, mask, 9), "marks 10 tokens"),
        (lambda: jt.distill_loss(logits["ref"], logits["inf"], mask, 0), "marks 10 tokens"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()


def test_an_update_without_tokens_has_losses_of_0(batch):
    """Not NaN, which one step of an optimiser would put into every weight."""
    logits, logp, mask, advantage = batch
    none = torch.zeros_like(mask)
    actor = logits["inf"].clone().requires_grad_()
    loss = jt.distill_loss(logits["ref"], actor, none, 0)
    loss = loss + jt.actor_loss(actor[..., 0], logp["inf"], advantage, none, 0)
    loss.backward()
    assert float(loss.detach()) == 0 and actor.grad is not None and not actor.grad.any()


def test_the_actors_ratio_has_a_bound_of_its_own_on_each_side():
    """-mean min(r A, clip(r, 1 - 0.1, 1 + 0.4) A), r = p_actor / q."""
    ratio, advantage = torch.tensor([[1.3, 1.6, 0.8, 1.6]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    logp_inf = torch.full((1, 4), -2.0)
    loss = jt.actor_loss(
        logp_inf + ratio.log(),
        logp_inf,
        advantage,
        torch.ones(1, 4),
        4,
        clip_low=0.1,
        clip_high=0.4,
    )
    assert float(loss) == pytest.approx(-(1.3 + 1.4 - 0.9 - 1.6) / 4, rel=1e-5)
