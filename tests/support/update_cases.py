"""Settings of one update, and its losses and gradients without the step."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tiny_context import NOWHERE, start, world

from llm.settings.loading import Config, CorrectionConfig
from llm.settings.schema import LossConfig, RolloutConfig
from llm.training.minibatches import Share
from llm.training.update import update


def config(**correction) -> Config:
    """Strong mismatch, two updates, variable lengths; enough for every branch of the update."""
    name, z = correction.get("name", "jackpot"), correction.get("z", "state")
    sizes = {"top_k": 5} if (name, z) == ("jackpot", "state") else {}
    return Config(
        rollout=RolloutConfig(prompts_per_step=5, rollouts_per_prompt=4, max_new_tokens=9, **sizes),
        correction=CorrectionConfig(**correction),
        loss=LossConfig(updates_per_rollout=2),
    )


def scored_update(pair, cfg, batch, coin, order=None, anchor=None, controls=None, ref_actor=None):
    """Losses and gradients of one update on (a permutation of) a batch, without the step."""
    policy, actor = (copy.deepcopy(m) for m in pair)
    optimizers = {
        "policy": torch.optim.SGD(policy.parameters(), lr=0.0),
        "actor": torch.optim.SGD(actor.parameters(), lr=0.0),
    }
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, grad_clip=float("inf")))
    if order is not None:
        batch, coin = batch.rows(order), coin[order]
    share = Share(batch, coin[batch.is_completion], None, ref_actor)
    setup = world(cfg, (policy, actor))._replace(anchor=anchor)
    first, state = start(cfg)
    found = update(setup, optimizers, share, controls or first, state, NOWHERE, 0)
    grads = [p.grad.clone() for m in (policy, actor) for p in m.parameters() if p.grad is not None]
    return found, grads


SETTINGS = [
    {"name": "jackpot"},
    {"name": "jackpot", "z_tail": "lumped", "kappa": True, "lam_from": "batch"},
    {"name": "jackpot", "lam_from": "state", "target": "new"},
    {"name": "jackpot", "z": "batch"},
    {"name": "jackpot", "mask": "expected", "target": "new"},
    {"name": "tis"},
]


def assert_same(a, b):
    for name in ("loss_policy", "loss_actor_ppo", "loss_distill"):
        assert a[0][name] == pytest.approx(b[0][name], rel=1e-4, abs=1e-7)
    for x, y in zip(a[1], b[1], strict=True):
        assert torch.allclose(x, y, rtol=1e-3, atol=2e-6)
