"""Settings of one update, and its losses and gradients without the step."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import sections
import torch
from tiny_context import learner, world

from llm.settings.loading import Config
from llm.settings.schema import LossConfig, RolloutConfig
from llm.train import update
from llm.training.minibatches import Minibatch


def config(**correction) -> Config:
    """Strong mismatch, two updates, variable lengths; enough for every branch of the update."""
    name, z = correction.get("type", "jackpot"), correction.get("z", "state")
    sizes: dict[str, Any] = {"top_k": 5} if (name, z) == ("jackpot", "state") else {}
    return Config(
        rollout=RolloutConfig(prompts_per_step=5, rollouts_per_prompt=4, max_new_tokens=9, **sizes),
        correction=sections.correction(**correction),
        loss=LossConfig(updates_per_rollout=2),
    )


def whole(batch, coin, actor_ref=None) -> Minibatch:
    """All of a batch as the minibatch of a single update; coin: (n,)."""
    return Minibatch(batch, coin, None, actor_ref, torch.arange(len(batch.answers)))


def scored_update(
    pair, cfg, batch, coin, *, order=None, initial_policy=None, controls=None, ref_actor=None
):
    """Losses and gradients of one update on (a permutation of) a batch, without the step."""
    policy, actor = (copy.deepcopy(m) for m in pair)
    optimizers = {
        "policy": torch.optim.SGD(policy.parameters(), lr=0.0),
        "actor": torch.optim.SGD(actor.parameters(), lr=0.0),
    }
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, grad_clip=float("inf")))
    if order is not None:
        batch, coin = batch.rows(order), coin[order]
    minibatch = whole(batch, coin[batch.is_completion], ref_actor)
    ctx = world(cfg, (policy, actor))._replace(initial_policy=initial_policy)
    learns = learner(cfg, optimizers)
    learns.controls = controls or learns.controls
    weights, metrics = update(ctx, learns, minibatch, 0)
    found = {"weights": weights, **metrics}
    grads = [p.grad.clone() for m in (policy, actor) for p in m.parameters() if p.grad is not None]
    return found, grads


SETTINGS = [
    {"type": "jackpot"},
    {"type": "jackpot", "z_tail": "lumped", "kappa": True, "lam_from": "batch"},
    {"type": "jackpot", "lam_from": "state", "target": "new"},
    {"type": "jackpot", "z": "batch"},
    {"type": "jackpot", "mask": "expected", "target": "new"},
    {"type": "tis"},
]


def assert_same(a, b):
    for name in ("loss_policy", "loss_actor_ppo", "loss_distill"):
        assert a[0][name] == pytest.approx(b[0][name], rel=1e-4, abs=1e-7)
    for x, y in zip(a[1], b[1], strict=True):
        assert torch.allclose(x, y, rtol=1e-3, atol=2e-6)
