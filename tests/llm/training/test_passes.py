"""How the passes of an update give p_ref and p_new. (Their number is tested in test_train.py.)"""

from __future__ import annotations

import dataclasses

import pytest
import sections
import torch
from tiny_context import learner, world
from update_cases import config, whole

from jackpot.torch.correction import CorrectionState
from llm.settings.schema import OptimConfig, SequenceMicrobatches
from llm.training import scoring
from llm.training.microbatches import microbatches
from llm.training.passes import ForwardPasses
from llm.training.scoring import score


def opened(pair, scene, micro: int, target: str, p_ref=None):
    cfg = dataclasses.replace(
        config(type="jackpot", target=target),
        optim=OptimConfig(microbatch=SequenceMicrobatches("sequences", micro)),
    )
    batch, coin = scene
    ctx = world(cfg, pair)
    minibatch = dataclasses.replace(whole(batch, coin[batch.is_completion]), p_ref=p_ref)
    return ForwardPasses(ctx, learner(cfg), minibatch), ctx


@pytest.mark.parametrize("micro", [0, 6])
def test_with_a_single_update_p_ref_is_p_new_in_the_order_of_the_batch(pair, scene, micro):
    passes, ctx = opened(pair, scene, micro, "ref")
    ref, new = passes.logprobs_for_weights()
    assert ref is new
    whole_batch = microbatches(dataclasses.replace(ctx.cfg, optim=OptimConfig()), scene[0])
    plain = score(ctx, whole_batch, CorrectionState(), is_target=True)
    assert torch.allclose(new.logp, plain.logp, atol=1e-5)
    assert torch.allclose(new.topk_logp, plain.topk_logp, atol=1e-5)


def test_a_known_p_ref_serves_as_p_new_where_weights_do_not_use_p_new(pair, scene):
    _, ctx = opened(pair, scene, 6, "ref")
    known = score(ctx, microbatches(ctx.cfg, scene[0]), CorrectionState(), is_target=True)
    shifted = known._replace(logp=known.logp - 1.0)
    for target, is_same in (("ref", True), ("new", False)):
        ref, new = opened(pair, scene, 6, target, shifted)[0].logprobs_for_weights()
        assert ref is shifted and (new is shifted) == is_same


@pytest.mark.parametrize("micro", [0, 6])
def test_every_token_is_in_one_pass_with_gradient(pair, scene, micro):
    passes = opened(pair, scene, micro, "ref")[0]
    _, new = passes.logprobs_for_weights()
    seen = []
    for places, out in passes.microbatches():
        assert out.logp_policy.requires_grad
        assert torch.allclose(out.logp_policy.detach(), new.logp[places], atol=1e-5)
        seen += places.tolist()
    assert sorted(seen) == list(range(len(new.logp)))


@pytest.mark.parametrize(
    ("kind", "is_first", "scored"),
    [
        ("bapo", False, 1),
        ("bapo", True, 0),
        ("m2po", False, 1),
        ("m2po", True, 0),
        ("ppo", False, 0),
    ],
)
def test_bounds_that_adapt_are_of_p_new_which_is_p_ref_before_the_first_update(
    pair, scene, monkeypatch, kind, is_first, scored
):
    """From the second update on the policy is scored once more, over each microbatch."""
    batch, coin = scene
    cfg = dataclasses.replace(
        config(type="none"),
        objective=sections.objective(type=kind),
        optim=OptimConfig(microbatch=SequenceMicrobatches("sequences", 6)),
    )
    ctx = world(cfg, pair)
    micro = microbatches(cfg, batch)
    now = score(ctx, micro, CorrectionState(), is_target=True)
    shifted = now._replace(logp=now.logp - 1.0)
    minibatch = dataclasses.replace(
        whole(batch, coin[batch.is_completion]), p_ref=shifted, is_first=is_first
    )
    calls = []
    original = scoring.policy_logprobs

    def counted(*args, **keywords):
        calls.append(1)
        return original(*args, **keywords)

    monkeypatch.setattr(scoring, "policy_logprobs", counted)
    ref, new = ForwardPasses(ctx, learner(cfg), minibatch).logprobs_for_weights()
    assert ref is shifted and len(calls) == scored * len(micro)
    assert torch.equal(new.logp, now.logp if scored else shifted.logp)
