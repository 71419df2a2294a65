"""The weights of an update: what they are computed from, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_context import learner, world
from update_cases import config, whole

from jackpot.torch.correction import CorrectionInputs, token_weights
from llm.errors import ConfigError, NonFinite
from llm.rollout.batch import Verification
from llm.training.keywords import correction_keywords
from llm.training.passes import ForwardPasses
from llm.training.weights import jackpot_weights


@pytest.fixture
def scored(pair, scene):
    """A context, a learner, a minibatch, and p_ref and p_new at its tokens."""
    batch, coin = scene
    cfg = config(type="jackpot")
    ctx, learns = world(cfg, pair), learner(cfg)
    minibatch = whole(batch, coin[batch.is_completion])
    with torch.no_grad():
        return ctx, learns, minibatch, *ForwardPasses(ctx, learns, minibatch).logprobs_for_weights()


def test_z_comes_from_the_bound_of_the_tail_that_the_forward_pass_computed(scored):
    """U' of each state, not the bound of a tail that is one token (DEVIATIONS 4)."""
    ctx, learns, minibatch, p_ref, p_new = scored
    weights = jackpot_weights(ctx, learns, minibatch, p_ref, p_new, 0)
    batch = minibatch.batch
    inputs = CorrectionInputs(
        logp_inf=batch.logp_inf,
        logp_ref=p_new.logp,
        logp_new=p_new.logp,
        topk_logp_inf=batch.topk_logp_inf,
        topk_logp_target=p_new.topk_logp,
        in_topk=batch.in_topk,
        uniform=minibatch.uniform,
        sequence=batch.sequence,
        tail_bound=p_new.tail_bound,
    )
    wanted = token_weights(inputs, learns.correction, **correction_keywords(ctx.cfg))
    assert torch.equal(weights.z, wanted.z) and torch.equal(weights.weight, wanted.weight)
    lumped = token_weights(
        inputs._replace(tail_bound=None), learns.correction, **correction_keywords(ctx.cfg)
    )
    assert float((lumped.z - weights.z).abs().max()) > 1e-3


def test_nan_in_p_ref_is_refused_by_name(scored):
    """Where there are several updates p_ref comes from before them, and is checked too."""
    ctx, learns, minibatch, p_ref, p_new = scored
    broken = p_ref._replace(logp=p_ref.logp.clone().index_fill_(0, torch.tensor([3]), torch.nan))
    later = dataclasses.replace(minibatch, p_ref=broken)
    with pytest.raises(NonFinite, match="logp_ref"):
        jackpot_weights(ctx, learns, later, broken, p_new, 0)


def test_a_ratio_outside_the_bounds_of_a_drafted_state_is_refused(scored):
    """p / s lies in [lam, mu] where the policy that verified is the one that is trained."""
    ctx, learns, minibatch, p_ref, p_new = scored
    batch = minibatch.batch
    ratio = (p_ref.logp - batch.logp_inf).exp()
    n, k = batch.topk_ids.shape
    blank = Verification.blank(1, n, k, ratio.device).at(torch.tensor(0))
    for lam, mu, fits in ((0.999, 1.001, True), (1.01, 1.02, False), (0.98, 0.99, False)):
        verified = blank._replace(lam=ratio * lam, mu=ratio * mu)
        drafted = dataclasses.replace(
            minibatch, batch=dataclasses.replace(batch, verification=verified)
        )
        if fits:
            jackpot_weights(ctx, learns, drafted, p_ref, p_new, 0)
            continue
        with pytest.raises(ConfigError, match="the policy that verified is not the one that is"):
            jackpot_weights(ctx, learns, drafted, p_ref, p_new, 0)
