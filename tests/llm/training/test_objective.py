"""What the objective is given: the tokens of a microbatch, each with its own values."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import sections
import torch
from optional import not_none
from threaded_ranks import on_ranks
from tiny_context import learner, world
from update_cases import config, whole

from jackpot.torch.correction import CorrectionState, TokenWeights
from llm.settings.loading import Config
from llm.settings.schema import OptimConfig, SequenceMicrobatches
from llm.train import update
from llm.training import objective as objective_module
from llm.training.forward import ModelOutputs, PolicyLogprobs
from llm.training.keywords import objective_keywords
from llm.training.microbatches import microbatches
from llm.training.minibatches import Minibatch
from llm.training.objective import bounded_objective, objective_tokens
from llm.training.scoring import score


def test_tokens_of_a_microbatch_keep_their_own_values_and_their_sequence(scene):
    batch, coin = scene
    best = {"topk_ids": batch.topk_ids[:, :1], "topk_logp_inf": batch.topk_logp_inf[:, :1]}
    batch = dataclasses.replace(batch, **best)  # the likeliest alone: some tokens are another
    n = len(batch.sequence)
    at = (batch.sequence >= 12).nonzero()[:, 0]  # a microbatch of the last sequences
    logp_new = torch.randn(len(at), requires_grad=True)
    out = ModelOutputs(logp_new, None, torch.zeros(len(at)), {}, None)
    p_ref = PolicyLogprobs(torch.arange(n) * -1.0, torch.zeros(n, 5), None)
    found = objective_tokens(whole(batch, coin[batch.is_completion]), p_ref, out, at)
    assert found.logp_new is logp_new
    assert torch.equal(found.logp_ref, -at.float())
    assert torch.equal(found.logp_inf, batch.logp_inf[at])
    assert torch.equal(found.advantage, batch.advantage[batch.sequence[at]])
    assert torch.equal(found.sequence, batch.sequence[at])
    assert found.topk_logp_new is found.topk_logp_inf is found.in_topk is None
    out = out._replace(topk_logp=torch.randn(len(at), 1))
    found = objective_tokens(whole(batch, coin[batch.is_completion]), p_ref, out, at)
    assert found.topk_logp_new is out.topk_logp
    assert torch.equal(not_none(found.topk_logp_inf), batch.topk_logp_inf[at])
    in_topk = not_none(found.in_topk)
    assert torch.equal(in_topk, batch.in_topk[at]) and 0 < in_topk.sum() < len(at)


CASES = [  # with the correction none, or the one given: (correction, objective)
    ({"type": "tis"}, {"type": "ppo", "clip_low": 0.05, "clip_high": 0.05}),
    ({"type": "jackpot"}, {"type": "cispo", "clip_high": 0.05}),
    ({"type": "jackpot"}, {"type": "gspo", "clip_low": 0.02, "clip_high": 0.02}),
    ({"type": "none"}, {"type": "gspo", "ratio": "inf", "clip_low": 0.5, "clip_high": 0.5}),
    ({"type": "none"}, {"type": "dppo", "divergence.delta": 0.1}),
    ({"type": "none"}, {"type": "dppo", "divergence.type": "top_k_kl", "divergence.delta": 0.3}),
    (
        {"type": "jackpot", "target": "new", "mask": "expected"},
        {"type": "dppo", "divergence.type": "top_k_tv", "divergence.delta": 0.05},
    ),
    ({"type": "none"}, {"type": "minpro"}),
    ({"type": "jackpot"}, {"type": "bapo", "share": 0.55}),
    ({"type": "none"}, {"type": "bapo", "ratio": "inf", "share": 0.75}),
    ({"type": "none"}, {"type": "m2po", "tau": 0.5}),
    (
        {"type": "jackpot", "mask": "expected"},
        {"type": "ppo", "sequence_mask.type": "opsm", "sequence_mask.delta": 0.001},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("correction", "objective"), CASES, ids=lambda x: "-".join(map(str, x.values()))
)
def test_two_ranks_in_microbatches_make_the_update_of_one_rank_in_one_pass(
    pair, scene, correction, objective
):
    """A later update of a rollout: metrics, bounds that adapt, and both gradients."""
    batch, coin = scene
    cfg = config_of(correction, objective)
    with torch.no_grad():
        now = score(world(cfg, pair), microbatches(cfg, batch), CorrectionState(), is_target=True)
    noise = torch.randn(len(now.logp), generator=torch.Generator().manual_seed(5)) * 0.1
    p_ref = now._replace(logp=now.logp + noise)
    coins = coin[batch.is_completion]

    def on(rows: torch.Tensor, size: int):
        micro = OptimConfig(grad_clip=math.inf, microbatch=SequenceMicrobatches("sequences", size))
        models = tuple(copy.deepcopy(m) for m in pair)
        ctx = world(dataclasses.replace(cfg, optim=micro), models)
        learns = learner(cfg, {
            role: torch.optim.SGD(m.parameters(), lr=0.0)
            for role, m in zip(("policy", "actor"), models, strict=True)
        })  # fmt: skip
        at = batch.token_index(rows)
        parts = batch.rows(rows, at), coins[at], p_ref.at(at), None, rows
        minibatch = Minibatch(*parts, is_first=False)
        # Python 3.11 lets one thread at a time into a cached property, and this one waits for all
        minibatch.__dict__["all_ranks"] = vars(Minibatch)["all_ranks"].func(minibatch)
        weights, metrics = update(ctx, learns, minibatch, 0)
        return weights, metrics, [p.grad for m in models for p in m.parameters()]

    alone = on(torch.arange(20), 0)
    first = [0, 2, 3, 7, 11, 12, 19]  # rank 0's sequences
    own = [torch.tensor(first), torch.tensor([i for i in range(20) if i not in first])]
    for weights, metrics, grads in on_ranks(2, lambda rank: on(own[rank], 3)):
        assert torch.allclose(weights.weight, alone[0].weight, atol=1e-5)
        assert metrics == pytest.approx(alone[1], rel=1e-4, abs=1e-6)
        for mine, wanted in zip(grads, alone[2], strict=True):
            assert (mine is None) == (wanted is None)
            assert mine is None or torch.allclose(mine, wanted, rtol=1e-3, atol=2e-6)
    wanted = {"dppo": "objective_mask_fraction", "m2po": "m2po_threshold", "bapo": "bapo_high"}
    names = {wanted[objective["type"]]} if objective["type"] in wanted else set()
    names |= {"sequence_mask_fraction"} if "sequence_mask.type" in objective else set()
    assert names <= alone[1].keys() and all(alone[1][name] > 0 for name in names)


def config_of(correction: dict, objective: dict) -> Config:
    cfg = config(**correction)
    sequences = objective["type"] == "gspo"
    loss = dataclasses.replace(cfg.loss, denominator="sequence" if sequences else "proposed")
    chosen = sections.objective(**objective)
    sizes: dict[str, Any] = {"top_k": 5} if chosen.needs_topk else {}
    rollout = dataclasses.replace(cfg.rollout, **sizes)
    return dataclasses.replace(cfg, objective=chosen, loss=loss, rollout=rollout)


@pytest.mark.parametrize(
    "objective", [{"type": "bapo", "ratio": "inf"}, {"type": "m2po"}], ids=lambda x: x["type"]
)
def test_bounds_that_adapt_are_of_p_new_and_of_the_weights(scene, monkeypatch, objective):
    """Each value of a token is given in its own place; what comes back replaces the settings."""
    batch, coin = scene
    cfg = config_of({"type": "none"}, objective)
    n = len(batch.sequence)
    p_ref, p_new = (
        PolicyLogprobs(batch.logp_inf - shift, torch.zeros(n, 5), None) for shift in (1.0, 2.0)
    )
    one = torch.ones(n)
    weights = TokenWeights(torch.rand(n), one, one, one, one, one, one, one)
    given = []

    def bounds_of(*args, **keywords):
        given.append((*args, keywords))
        return {"bound": 7.0}

    monkeypatch.setattr(objective_module, "bounds_of", bounds_of)
    minibatch = whole(batch, coin[batch.is_completion])
    found = bounded_objective(cfg, minibatch, p_ref, p_new, weights)
    assert found == {"type": cfg.objective.type, "ratio": "inf", "opsm_delta": math.inf, "bound": 7}
    ((tokens, weight, keywords),) = given
    assert torch.equal(tokens.logp_new, p_new.logp) and torch.equal(tokens.logp_ref, p_ref.logp)
    assert torch.equal(tokens.logp_inf, batch.logp_inf) and weight is weights.weight
    assert torch.equal(tokens.advantage, batch.token_advantage)
    assert torch.equal(tokens.sequence, batch.sequence) and keywords == objective_keywords(cfg)


def test_where_no_bound_adapts_the_objective_is_its_settings(scene):
    cfg = config_of({"type": "none"}, {"type": "minpro", "clip_low": 0.1})
    assert bounded_objective(cfg, *[None] * 4) == objective_keywords(cfg)  # type: ignore[arg-type]
