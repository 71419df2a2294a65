"""p_ref and p_actor_ref are those of a plain forward pass, in the batch's order of tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_context import full_logprobs, learner, world
from update_cases import config

from jackpot.torch.correction import CorrectionState
from llm.rollout.sampling import CACHE_KEYWORD
from llm.settings.schema import (
    DraftedMode,
    FixedDraftLam,
    LossConfig,
    OptimConfig,
    PlainMode,
    SeparateActor,
    SequenceMicrobatches,
    TisWeight,
    TokenMicrobatches,
)
from llm.training.forward import PolicyLogprobs
from llm.training.microbatches import microbatches
from llm.training.minibatches import split_minibatches
from llm.training.passes import ForwardPasses
from llm.training.rollout_phase import sample_rollouts
from llm.training.scoring import in_batch_order, score, score_before_updates
from llm.training.selection import with_advantages


def test_microbatches_are_put_back_into_the_order_of_the_batch(scene):
    cfg = dataclasses.replace(config(), optim=OptimConfig(microbatch=TokenMicrobatches(tokens=30)))
    micro = microbatches(cfg, scene[0])
    n = len(scene[0].token_ids)
    x = torch.arange(float(n))
    parts = [PolicyLogprobs(x[mb.tokens], x[mb.tokens, None], x[mb.tokens]) for mb in micro]
    assert len(parts) > 2 and not torch.equal(torch.cat([p.logp for p in parts]), x)
    found = in_batch_order(parts, micro)
    assert torch.equal(found.logp, x) and torch.equal(found.topk_logp[:, 0], x)
    assert found.tail_bound is not None and torch.equal(found.tail_bound, x)
    none = in_batch_order([p._replace(tail_bound=None) for p in parts], micro)
    assert none.tail_bound is None


def test_both_models_are_scored_as_a_plain_forward_pass_scores_them(pair, scene):
    batch = scene[0]
    cfg = dataclasses.replace(
        config(type="none"),
        rollout=dataclasses.replace(config(type="none").rollout, max_staleness=1),
        actor=SeparateActor(correction=TisWeight()),
        optim=OptimConfig(microbatch=SequenceMicrobatches(sequences=3)),
    )
    ref, actor = score_before_updates(world(cfg, pair), batch, CorrectionState())
    assert actor is not None and not ref.logp.requires_grad
    width, real = batch.is_completion.shape[1], batch.is_completion
    for model, found in zip(pair, (ref.logp, actor), strict=True):
        full = full_logprobs(model, batch.ids, batch.is_real, width, 1.0)[real]
        assert torch.allclose(found, full.gather(1, batch.token_ids[:, None])[:, 0], atol=1e-5)


def test_without_a_correction_of_its_own_the_actor_is_not_scored(pair, scene):
    assert (
        score_before_updates(world(config(type="none"), pair), scene[0], CorrectionState())[1]
        is None
    )


DRAFTED = DraftedMode(lam=FixedDraftLam(value=0.5))
SEVERAL = {"loss": LossConfig(updates_per_rollout=2)}
MICRO = {"optim": OptimConfig(microbatch=SequenceMicrobatches(sequences=5))}


@pytest.mark.parametrize("parts", [SEVERAL, MICRO], ids=["several updates", "several microbatches"])
@pytest.mark.parametrize(
    ("change", "correction", "saved"),
    [
        ({}, {"type": "tis"}, True),
        ({}, {"type": "jackpot", "z": "batch"}, True),
        ({}, {"type": "jackpot"}, False),  # Z needs the tail of p
        ({"mode": dataclasses.replace(DRAFTED, reuse_logp=False)}, {"type": "tis"}, False),
        ({"max_staleness": 1}, {"type": "tis"}, False),  # p has moved on
        ({"mode": PlainMode()}, {"type": "tis"}, False),
    ],
)
def test_the_verification_serves_as_p_ref_and_saves_a_pass(pair, parts, change, correction, saved):
    """Sequences that go through the policy without a cache before the weights, over the batch."""
    cfg = config(**correction)
    rollout = dataclasses.replace(cfg.rollout, **{"mode": DRAFTED, **change})
    cfg = dataclasses.replace(cfg, rollout=rollout, **{"loss": LossConfig(), **parts})
    ctx, learns = world(cfg, pair), learner(cfg)
    batch = with_advantages(sample_rollouts(ctx, 0), cfg, 0)
    seen: list[int] = []

    def count(_module, _args, words):
        if words.get(CACHE_KEYWORD) is None:
            seen.append(len(words["input_ids"]))

    hook = ctx.policy.register_forward_pre_hook(count, with_kwargs=True)
    try:
        first = split_minibatches(ctx, batch, learns, 0)[0]
        p_ref = first.p_ref
        if p_ref is None:
            p_ref, _ = ForwardPasses(ctx, learns, first).logprobs_for_weights()
    finally:
        hook.remove()
    assert sum(seen) == (0 if saved else len(batch.answers))
    micro = microbatches(cfg, first.batch)
    own = score(ctx, micro, CorrectionState(), is_target=False)
    assert torch.allclose(p_ref.logp, own.logp, atol=2e-5)
    assert torch.allclose(p_ref.topk_logp, own.topk_logp, atol=1e-3)
    assert (p_ref.tail_bound is None) == (correction != {"type": "jackpot"})
