"""Contract: prime-rl calls `fn(inputs, **kwargs)` for one completion and divides afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from peer_batches import PeerBatch, peer_batch, stub_modules

from jackpot.adapters import prime_rl
from jackpot.adapters.hook import PeerError


@dataclass
class LossInputs:
    trainer_logprobs: torch.Tensor
    inference_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    loss_mask: torch.Tensor
    loss_weights: torch.Tensor | None = None
    # Since September 2026, for a loss of prime-rl's own:
    trainer_mask_logprobs: torch.Tensor | None = None
    inference_mask_logprobs: torch.Tensor | None = None


@dataclass
class LossOutputs:
    loss: torch.Tensor
    metrics: dict[str, Any]


@pytest.fixture
def peer(monkeypatch):
    stub_modules(monkeypatch, prime_rl__trainer__rl__loss={"LossOutputs": LossOutputs})
    monkeypatch.setattr(prime_rl, "_hooks", {})


def completion(batch: PeerBatch, row: int, weights: torch.Tensor | None = None) -> LossInputs:
    return LossInputs(
        batch.new[row], batch.inf[row], None, batch.advantage[row], batch.mask[row], weights
    )


@pytest.mark.usefixtures("peer")
def test_the_gradient_is_that_of_a_capped_importance_ratio():
    """Expected mask without Z: a max(1, r) = r, up to c1."""
    batch = peer_batch()
    out = prime_rl.loss(completion(batch, 0), c1=1.3)
    out.loss.backward()
    r = (batch.new - batch.inf).detach().exp()[0]
    accept = r.clamp(max=1.0)
    want = -(accept * r.clamp(min=1.0, max=1.3)) * batch.advantage[0]
    assert batch.new.grad is not None
    assert torch.allclose(batch.new.grad[0], want, rtol=1e-5)
    assert float(out.loss.detach()) == pytest.approx(float(want.sum()), rel=1e-5)
    assert float(out.metrics["jackpot/hook_calls"]) == 1


def compute_loss(batch: PeerBatch, rl_loss_fn: Any, rl_weights: Any, rl_scale: float):
    """prime-rl's loop over packed completions: members have a weight, and their sum divides."""
    total = 0.0
    for row in range(3):
        inputs = completion(batch, row, rl_weights[row])
        inputs.loss_mask = inputs.loss_mask & (rl_weights[row] != 0)
        if bool(inputs.loss_mask.any()):
            total = total + rl_loss_fn.loss(inputs).loss
    return total / rl_scale


@pytest.mark.usefixtures("peer")
def test_the_object_has_the_numbers_of_the_function_under_prime_rls_denominator():
    batch = peer_batch()
    weights = torch.tensor([[1.0, 0.5, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0]])
    loss_of = prime_rl.CompletionLoss(lam=0.8, c1=1.2)
    rl_scale = float(weights[batch.mask].sum())
    loss = compute_loss(batch, loss_of, weights, rl_scale)
    want = 0.0
    for i, j in batch.mask.nonzero().tolist():
        r = math.exp(float(batch.new[i, j].detach()) - float(batch.inf[i, j]))
        w = min(1.0, r / 0.8) * min(max(0.8, r), 1.2)  # a min(max(lam, r), c1), Z = 1
        want -= w * float(batch.advantage[i, j]) * float(weights[i, j])
    assert float(loss.detach()) == pytest.approx(want / rl_scale, rel=1e-5)
    loss.backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad).all())
    # The second completion has one real token, of weight 0: prime-rl does not call for it.
    assert loss_of.hook.calls == 2
    loss_of.hook.require_called()
    assert prime_rl.CompletionLoss(lam=0.8, c1=1.2).hook.calls == 0  # counters of their own
    one = prime_rl.loss(completion(batch, 0), lam=0.8, c1=1.2).loss
    assert float(one.detach()) == float(loss_of.loss(completion(batch, 0)).loss.detach())


@pytest.mark.usefixtures("peer")
def test_masked_tokens_are_left_out_and_loss_weights_multiply():
    batch = peer_batch()
    loss = prime_rl.loss(completion(batch, 2)).loss
    assert bool(torch.isfinite(loss))
    half = prime_rl.loss(completion(batch, 2, torch.full((4,), 0.5))).loss
    assert float(half.detach()) == pytest.approx(0.5 * float(loss.detach()), rel=1e-6)
    assert prime_rl.hook_of({}).calls == 2


def test_what_prime_rl_does_not_hand_over_is_refused(monkeypatch):
    monkeypatch.setattr(prime_rl, "_hooks", {})
    with pytest.raises(PeerError, match="LossOutputs could not be imported"):
        prime_rl.loss(completion(peer_batch(), 0))
    with pytest.raises(ValueError, match="prime-rl hands over one log-probability"):
        prime_rl.hook_of({"target": "new"})
    monkeypatch.setenv("JACKPOT_OPTIONS", '{"lam": 2.0, "c1": 1.5}')
    assert prime_rl.hook_of({"c1": 4.0}).options == {
        **{"lam": 2.0, "c1": 4.0, "z": "none", "mask": "expected"}
    }
    monkeypatch.setenv("JACKPOT_OPTIONS", '{"target": "new"}')
    with pytest.raises(ValueError, match="leave target out"):
        prime_rl.hook_of({"lam": 0.7})


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize(
    "name", ["trainer_logprobs", "inference_logprobs", "advantages", "loss_mask"]
)
def test_what_prime_rl_does_not_hand_over_is_named(name):
    inputs = completion(peer_batch(), 0)
    setattr(inputs, name, None)
    said = "log-probabilities of the sampler" if name == "inference_logprobs" else name
    with pytest.raises(PeerError, match=f"prime-rl gave no {said}"):
        prime_rl.loss(inputs)


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize("name", ["advantages", "loss_weights"])
def test_factors_that_are_no_numbers_are_refused(name):
    inputs = completion(peer_batch(), 0)
    setattr(inputs, name, torch.tensor([1.0, math.inf, 1.0, 1.0]))
    with pytest.raises(ValueError, match=f"{name}: NaN or inf at 1 of 4"):
        prime_rl.loss(inputs)


@pytest.mark.parametrize(
    ("value", "said"), [([1.0], r"lam = \[1.0\]; it is a number"), ({}, "lam = {}")]
)
def test_an_option_that_is_no_number_is_refused_by_name(value, said):
    """A list in [trainer.loss.kwargs], for example."""
    with pytest.raises(ValueError, match=said):
        prime_rl.hook_of({"lam": value})


def test_true_is_not_the_number_1(monkeypatch):
    monkeypatch.setattr(prime_rl, "_hooks", {})
    prime_rl.hook_of({"c1": 1.0})
    with pytest.raises(ValueError, match="c1 = True; it is a number"):
        prime_rl.hook_of({"c1": True})
