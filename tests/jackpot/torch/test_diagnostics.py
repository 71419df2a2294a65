"""Metrics of ratios and weights, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jackpot.torch import diagnostics
from jackpot.torch.correction import TokenWeights
from jackpot.torch.diagnostics import ess


def test_ess_is_one_for_equal_weights_and_one_over_n_for_a_single_one():
    assert ess(torch.full((10,), 0.3)) == pytest.approx(1.0)
    assert ess(torch.tensor([0.0, 5.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert ess(torch.tensor([1.0, 3.0])) == pytest.approx(16 / 20)
    assert ess(torch.zeros(4)) == 0.0


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
