"""Metrics of an update: sums over microbatches, means over tokens."""

from __future__ import annotations

import math

import pytest
import torch

from jackpot.torch.objectives import PolicyLoss
from llm.distributed import GlobalTokens
from llm.training.forward import ModelOutputs
from llm.training.update_metrics import UpdateMetrics


def outputs(entropy: list[float], kl: list[float]) -> ModelOutputs:
    x = torch.tensor(entropy)
    return ModelOutputs(x, None, x, {"control": torch.tensor(kl)}, None)


def test_losses_are_summed_over_microbatches_and_token_metrics_are_means_over_tokens():
    sequence, position = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    metrics = UpdateMetrics(GlobalTokens(sequence, position, torch.arange(2)), {"type": "ppo"})
    for places, entropy, kl, loss in (
        ([2], [4.0], [0.5], 1.0),
        ([0, 1], [1.0, 1.0], [1.0, 3.0], 2.0),
    ):
        out, terms = outputs(entropy, kl), {"loss_policy": torch.tensor(loss)}
        clipped = torch.tensor([float(x > 1) for x in entropy])
        policy = PolicyLoss(terms["loss_policy"], clipped, 0 * clipped, 0 * clipped)
        metrics.add(torch.tensor(places), terms, out, policy)
        assert terms.keys() == {"loss_policy"}  # the caller's own terms are not added to
    found = metrics.of_all_ranks()
    assert found["loss_policy"] == 3.0
    assert found["kl_policy_actor_now"] == pytest.approx(4.5 / 3)
    assert found["entropy_policy"] == 2.0
    assert found["clip_fraction"] == pytest.approx(1 / 3)


def test_shares_of_masked_tokens_and_bounds_that_adapt_are_metrics_of_their_own():
    """clip 1, objective's mask 2 and sequences' mask 3 of 4 tokens; an infinite bound is none."""
    tokens = GlobalTokens(torch.zeros(4).long(), torch.arange(4), torch.arange(1))

    def of(**objective):
        metrics = UpdateMetrics(tokens, objective)
        loss, rank = torch.tensor(1.0), torch.arange(4)
        policy = PolicyLoss(loss, *((rank < k).float() for k in (1, 2, 3)))
        metrics.add(rank, {"loss_policy": loss}, outputs([0.0] * 4, [0.0] * 4), policy)
        found = metrics.of_all_ranks()
        assert found.pop("clip_fraction") == 0.25
        return {k: v for k, v in found.items() if k.startswith(("bapo", "m2po", "obj", "seq"))}

    assert of(type="ppo", opsm_delta=math.inf) == {}
    assert of(type="dppo") == {"objective_mask_fraction": 0.5}
    assert of(type="ppo", opsm_delta=0.1) == {"sequence_mask_fraction": 0.75}
    assert of(type="bapo", low=0.6, high=1.5) == {"bapo_low": 0.6, "bapo_high": 1.5}
    assert of(type="m2po", threshold=0.2) == {"objective_mask_fraction": 0.5, "m2po_threshold": 0.2}
    assert of(type="m2po", threshold=math.inf) == {"objective_mask_fraction": 0.5}
