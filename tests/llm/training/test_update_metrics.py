"""Metrics of an update: sums over microbatches, means over tokens."""

from __future__ import annotations

import pytest
import torch

from llm.algorithm.objectives import PolicyLoss
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
