"""The guard finds and names non-finite gradients and values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from optional import not_none

from llm.errors import Diverged, NonFinite
from llm.runs.nonfinite_guard import Guard


def model_with_gradients() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    for p in model.parameters():
        p.grad = torch.full_like(p, 3e38)  # whose squares overflow
    return model


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_gradient_is_named(tmp_path, bad):
    model = model_with_gradients()
    Guard(tmp_path).gradients(4, policy=model)
    not_none(model.get_parameter("1.weight").grad)[0, 1] = bad
    with pytest.raises(NonFinite, match=r"step 4: gradient of policy.1.weight holds 1 NaN or inf"):
        Guard(tmp_path).gradients(4, actor=model_with_gradients(), policy=model)


def test_gradients_of_several_precisions_and_none_at_all_are_checked(tmp_path):
    Guard(tmp_path).gradients(0, policy=torch.nn.Linear(1, 1))
    model = torch.nn.Linear(2, 2).to(torch.bfloat16)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    Guard(tmp_path).gradients(0, a=model, b=model_with_gradients())
    not_none(model.bias.grad)[0] = math.nan
    with pytest.raises(NonFinite, match=r"gradient of a.bias"):
        Guard(tmp_path).gradients(0, a=model, b=model_with_gradients())


def test_a_non_finite_value_is_a_divergence_whoever_catches_it(tmp_path):
    with pytest.raises(Diverged, match=r"loss holds 1 NaN or inf of 1 values"):
        Guard(tmp_path).finite(0, ok=torch.ones(2), loss=torch.tensor(math.nan))


def test_guard_passes_finite_values_and_counts_the_others():
    guard = Guard(Path("nowhere"))
    guard.finite(7, x=torch.zeros(3))
    with pytest.raises(Diverged, match=r"step 7: x holds 2 NaN or inf of 3 values.*none yet"):
        guard.finite(7, x=torch.tensor([1.0, float("inf"), float("nan")]))


def test_minus_infinity_is_a_log_probability_and_nan_and_plus_infinity_are_none():
    guard = Guard(Path("nowhere"))
    guard.logprobs(7, x=torch.tensor([0.0, -torch.inf]))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(NonFinite, match="x holds 1 NaN or inf of 2 values"):
            guard.logprobs(7, x=torch.tensor([-torch.inf, bad]))
    with pytest.raises(NonFinite, match="x holds 1 NaN or inf"):
        guard.finite(7, x=torch.tensor([-torch.inf]))


def test_before_the_first_step_is_done_no_learning_rate_is_blamed():
    guard = Guard(Path("nowhere"))
    with pytest.raises(NonFinite, match=r"step 1: .*Lower the learning rate"):
        guard.finite(1, x=torch.tensor(torch.nan))
    with pytest.raises(NonFinite, match=r"No step was done yet.*llm doctor") as found:
        guard.finite(0, x=torch.tensor(torch.nan))
    assert "learning rate" not in str(found.value)
