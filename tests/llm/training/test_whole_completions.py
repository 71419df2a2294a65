"""What A*-PO, DMPO and alpha-DPO are given in a run, and what an update does with it."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tiny_context import NOWHERE, learner, world

from jackpot.torch.sequence_objectives import GapStatistics, a_star_po, alpha_dpo, dmpo
from llm.errors import NonFinite
from llm.settings.loading import resolve
from llm.tasks import factory
from llm.train import update
from llm.training.allocation import open_values
from llm.training.minibatches import split_minibatches
from llm.training.optimal_values import with_optimal_values
from llm.training.optimizer import open_optimizers
from llm.training.passes import ForwardPasses
from llm.training.rollout_phase import sample_rollouts
from llm.training.selection import with_advantages
from llm.training.whole_completions import completion_factors

SIZES = {
    **{"rollout.prompts_per_step": 3, "rollout.rollouts_per_prompt": 4, "task.pool": 6},
    **{"task.digits_min": 1, "task.digits_max": 3, "rollout.max_new_tokens": 5},
    **{"correction.type": "none", "actor.ppo": False},
}
TYPES = ("a_star_po", "dmpo", "alpha_dpo")


def prepared(kind, pair, **flags):
    """A context whose policy has left its start, a learner, and a scored batch of the actor."""
    cfg = resolve({**SIZES, "objective.type": kind, **flags})
    policy, actor = copy.deepcopy(pair)
    ctx = world(cfg, (policy, actor))
    start = copy.deepcopy(policy).requires_grad_(False)
    ctx = ctx._replace(initial_policy=start, task=factory.with_pool(cfg, ctx.task))
    ctx = ctx._replace(values=open_values(cfg, ctx.task))
    with torch.no_grad():
        policy.lm_head.weight.mul_(0.9)
    batch = sample_rollouts(ctx, 0)
    reward = (torch.arange(12) % 3 == 0).float()
    batch = with_optimal_values(ctx, dataclasses.replace(batch, reward=reward), 0)
    optimizers = {
        "policy": torch.optim.SGD(policy.parameters(), lr=0.0),
        "actor": torch.optim.SGD(actor.parameters(), lr=0.0),
    }
    return ctx, learner(cfg, optimizers), with_advantages(batch, cfg, 0)


def sums(batch, logp) -> torch.Tensor:
    return torch.stack([part.double().sum() for part in logp.split(batch.lengths.tolist())])


@pytest.mark.parametrize("kind", TYPES)
def test_a_tokens_weight_is_the_coefficient_of_its_completion(pair, kind):
    ctx, learns, batch = prepared(kind, pair)
    learns.gaps.statistics = GapStatistics(0.1, 0.2, 3)
    (minibatch,) = split_minibatches(ctx, batch, learns, 0)
    assert minibatch.logp_init is not None
    _, p_new = ForwardPasses(ctx, learns, minibatch).logprobs_for_weights()
    assert (p_new.logp - minibatch.logp_init).abs().max() > 1e-3  # the policy has moved
    new, start, inf = (sums(batch, x) for x in (p_new.logp, minibatch.logp_init, batch.logp_inf))
    if kind == "a_star_po":
        assert ctx.values is not None
        rows = [ctx.task.rows[p] for p in batch.prompts]
        made = a_star_po(new, start, batch.reward, ctx.values.value[rows].float())
    elif kind == "dmpo":
        made = dmpo(new, start, inf, batch.reward, torch.arange(12) // 4)
    else:
        history = GapStatistics(0.1, 0.2, 3)
        right, group = batch.reward > 0.5, torch.arange(12) // 4
        made, moved = alpha_dpo(new, start, batch.lengths, right, group, history)
    weight, scale, keywords, _ = completion_factors(ctx, learns, minibatch, p_new, 0)
    wanted = made.coefficient.repeat_interleave(batch.lengths).float()
    torch.testing.assert_close(weight, wanted)
    assert weight.any() and scale.tolist() == [1.0] * len(weight)
    assert keywords["metrics"]["loss_policy"] == pytest.approx(float(made.loss), rel=1e-5)
    if kind == "alpha_dpo":
        assert learns.gaps.statistics == pytest.approx(moved)


@pytest.mark.parametrize("kind", TYPES)
def test_microbatches_change_only_rounding_and_the_metric_is_the_loss(pair, kind):
    found = []
    for size in (0, 5):
        flags = {"optim.microbatch.sequences": size} if size else {}
        ctx, learns, batch = prepared(kind, pair, **flags)
        (minibatch,) = split_minibatches(ctx, batch, learns, 0)
        weights, metrics = update(ctx, learns, minibatch, 0)
        assert weights.weight.tolist() == [1.0] * len(weights.weight)  # nothing corrects
        found.append(metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-7)
    assert found[0]["grad_norm_policy"] > 0


def test_the_gradient_is_that_of_the_regression(pair):
    """A*-PO's loss by autograd through one forward pass, beside that of the update."""
    ctx, learns, batch = prepared("a_star_po", pair, **{"objective.beta": 0.1})
    (minibatch,) = split_minibatches(ctx, batch, learns, 0)
    _, metrics = update(ctx, learns, minibatch, 0)
    ids, width = batch.ids, batch.is_completion.shape[1]
    position = (batch.is_real.long().cumsum(1) - 1).clamp(min=0)
    grads = {}
    for name, model in (("new", ctx.policy), ("start", ctx.initial_policy)):
        assert model is not None
        model.zero_grad()
        mask = batch.is_real.long()
        logits = model(input_ids=ids, attention_mask=mask, position_ids=position).logits
        logp = logits[:, -width - 1 : -1].log_softmax(-1)
        own = logp.gather(-1, ids[:, -width:, None])[..., 0]
        grads[name] = (own * batch.is_completion).sum(1)  # (b,)
    loss = (0.1 * (grads["new"] - grads["start"]) + batch.value - batch.reward).square().mean()
    loss.backward()
    norm = sum(float(p.grad.square().sum()) for p in ctx.policy.parameters()) ** 0.5
    assert metrics["loss_policy"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["grad_norm_policy"] == pytest.approx(norm, rel=1e-3)


def test_a_completion_that_p_new_cannot_give_stops_the_update(pair):
    ctx, learns, batch = prepared("dmpo", pair)
    (minibatch,) = split_minibatches(ctx, batch, learns, 0)
    _, p_new = ForwardPasses(ctx, learns, minibatch).logprobs_for_weights()
    p_new.logp.data[3] = -torch.inf
    learns.guard = NOWHERE
    with pytest.raises(NonFinite, match="log-probability of a completion"):
        completion_factors(ctx, learns, minibatch, p_new, 0)


@pytest.mark.parametrize(("kind", "coef"), [("dmpo", 0.0), ("alpha_dpo", 0.0), ("alpha_dpo", 0.1)])
def test_an_update_without_a_term_leaves_the_policy_as_it_is_and_is_counted(pair, kind, coef):
    """AdamW's momentum of the update before would move it. The actor is distilled all the same, and
    a KL to the initial policy is a term."""
    ctx, learns, batch = prepared(kind, pair, **{"loss.initial_kl_coef": coef})
    learns.optimizers = open_optimizers(ctx)

    def updated(reward):
        before = [p.detach().clone() for m in ctx.trained.values() for p in m.parameters()]
        own = dataclasses.replace(batch, reward=reward)
        (minibatch,) = split_minibatches(ctx, own, learns, 0)
        _, metrics = update(ctx, learns, minibatch, 0)
        after = [p for m in ctx.trained.values() for p in m.parameters()]
        moved = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        n = len(list(ctx.policy.parameters()))
        assert list(ctx.trained) == ["policy", "actor"] and any(moved[n:])
        return any(moved[:n]), metrics["policy_steps_skipped"]

    assert updated(batch.reward) == (True, 0.0)
    assert updated(torch.ones(12)) == ((True, 0.0) if coef else (False, 1.0))
    assert updated(batch.reward) == (True, 0.0)
