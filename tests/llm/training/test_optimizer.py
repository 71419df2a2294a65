"""The optimiser: small steps in bfloat16, exact resume, and learning rates over a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_context import random_pair, world
from transformers import LlamaConfig, LlamaForCausalLM

from llm.checkpoints import state_tensors
from llm.models import loading
from llm.settings.loading import Config
from llm.settings.schema import OptimConfig
from llm.training import optimizer as optim

SMALL: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, vocab_size=48, tie_word_embeddings=True, max_position_embeddings=64,
)  # fmt: skip
IDS = torch.arange(2, 14).reshape(2, 6)


def llama(seed: int = 0, **changes: int) -> loading.Model:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, "initializer_range": 0.3, **changes})).eval()


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_small_steps_move_bfloat16_weights_as_they_would_float32_ones():
    """1000 steps of 1e-6 move a weight of 0.02 by up to 1e-3; in bfloat16 alone, not at all."""
    torch.manual_seed(0)
    target, x = torch.randn(8, 8), torch.randn(64, 8)
    start = (0.02 + 0.01 * torch.rand(8, 8)).bfloat16()

    def trained(weight: torch.Tensor, optimizer_of: Callable) -> torch.Tensor:
        weight = torch.nn.Parameter(weight.clone())
        optimizer = optimizer_of(weight)
        for _ in range(1000):
            optimizer.zero_grad()
            (x @ weight.float().T - x @ target.T).square().mean().backward()
            optimizer.step()
        return weight.detach()

    how: dict[str, Any] = {"lr": 1e-6, "betas": (0.9, 0.95), "weight_decay": 0.0}
    exact = trained(start.float(), lambda w: torch.optim.AdamW([w], **how))
    lost = trained(start, lambda w: torch.optim.AdamW([w], **how))
    kept = trained(start, lambda w: optim.MasterAdamW([w], **how))
    assert torch.equal(lost, start)
    assert float((exact - start).abs().min()) > 5e-4
    assert kept.dtype == torch.bfloat16
    torch.testing.assert_close(kept.float(), exact, rtol=2**-8, atol=1e-5)  # bfloat16's grid


def test_a_float32_model_is_trained_by_torchs_own_adamw():
    ours, torchs = llama(), llama()
    a = optim.adamw(ours, 1e-2, 0.1)
    b = torch.optim.AdamW(torchs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for model, optimizer in ((ours, a), (torchs, b)):
        for _ in range(3):
            optimizer.zero_grad()
            model(input_ids=IDS).logits.square().mean().backward()
            optimizer.step()
    assert same(ours, torchs)
    assert state_tensors.state_dict_of(a).keys() == state_tensors.state_dict_of(b).keys()


def test_a_large_eps_makes_the_step_that_of_gradient_descent_with_momentum():
    """By hand: the mean of the gradients, weighted by 0.9^age, times the rate over eps. Gradients
    are about 0.001, so Adam's own part of the steps is about as small beside an eps of 1."""
    pair = random_pair()
    settings = OptimConfig(policy_lr=0.5, eps=1.0)
    ctx = world(dataclasses.replace(Config(), optim=settings), pair)
    optimizers = optim.open_optimizers(ctx)
    assert {role: o.param_groups[0]["eps"] for role, o in optimizers.items()} == {
        "policy": 1.0,
        "actor": 1.0,
    }
    weight = next(ctx.policy.parameters())
    before, gradients = weight.detach().clone(), 1e-3 * torch.randn(3, *weight.shape)
    for gradient in gradients:
        weight.grad = gradient
        optimizers["policy"].step()
    moved = torch.zeros_like(before)
    for t in range(1, 4):
        shares = torch.tensor([0.9 ** (t - i) for i in range(1, t + 1)])
        shares = (shares / shares.sum()).view(-1, *[1] * before.dim())
        moved -= 0.5 * (shares * gradients[:t]).sum(0)
    torch.testing.assert_close(weight.detach() - before, moved, rtol=0.01, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimiser_goes_on_exactly(dtype):
    def steps(model, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            model(input_ids=IDS).logits.float().square().mean().backward()
            optimizer.step()

    whole = llama().to(dtype)
    optimizer = optim.adamw(whole, 1e-4, 0.0)
    steps(whole, optimizer, 3)
    kept = [
        {k: v.clone() for k, v in state_tensors.state_dict_of(x).items()}
        for x in (whole, optimizer)
    ]
    steps(whole, optimizer, 3)
    resumed = llama(seed=1).to(dtype)
    other = optim.adamw(resumed, 1e-4, 0.0)
    for part, tensors in zip((resumed, other), kept, strict=True):
        state_tensors.load_state_dict(part, tensors)
    steps(resumed, other, 3)
    assert same(whole, resumed)
    last = zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    assert all(torch.equal(x, y) for x, y in last)  # the masters, in float32


def test_a_restored_optimiser_before_its_first_step_goes_on_exactly():
    model = llama().bfloat16()
    optimizer = optim.adamw(model, 1e-2, 0.0)
    state_tensors.load_state_dict(optimizer, dict(state_tensors.state_dict_of(optimizer)))
    model(input_ids=IDS).logits.float().square().mean().backward()
    optimizer.step()
    assert all(len(s) == 3 for s in optimizer.state.values())


def test_learning_rates_rise_hold_or_fall_to_nothing():
    """By hand: 2 steps up, then 8 from 1 towards 0, which step 10 would reach."""
    for schedule, formula in (
        (OptimConfig(schedule="constant"), lambda x: 1.0),
        (OptimConfig(schedule="linear"), lambda x: 1 - x / 8),
        (OptimConfig(schedule="cosine"), lambda x: (1 + math.cos(math.pi * x / 8)) / 2),
    ):
        cfg = dataclasses.replace(schedule, lr_warmup_steps=2)
        found = [optim.lr_factor(cfg, step, 10) for step in range(10)]
        assert found == pytest.approx([1 / 3, 2 / 3, *(formula(x) for x in range(8))])
        for warmup in (0, 3):  # a single step is left: the whole rate, as schema.py says
            alone = dataclasses.replace(schedule, lr_warmup_steps=warmup)
            assert optim.lr_factor(alone, warmup, warmup + 1) == 1.0
    assert optim.lr_factor(OptimConfig(), 0, 1) == 1.0
    optimizer = optim.adamw(llama(), 1e-3, 0.0)
    optim.set_lr(optimizer, 5e-4)
    assert [g["lr"] for g in optimizer.param_groups] == [5e-4]
