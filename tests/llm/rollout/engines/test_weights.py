"""Weights of every kind of actor reach an engine's process bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from engine_cases import cfg_of, moved, opened
from tiny_context import PROBLEMS, random_pair

from llm.models import actors, loading
from llm.rollout.engines import weights as engine_weights
from llm.rollout.engines.base import FIELDS, generate
from llm.settings.loading import ConfigError


@pytest.mark.parametrize(
    "flags",
    [
        ("--actor.type", "quantized"),
        ("--actor.type", "early_exit", "--policy.lora.rank", "2"),
        ("--actor.type", "stale", "--policy.lora.rank", "2", "--policy.dtype", "bfloat16"),
    ],
    ids=lambda f: f[1],
)
def test_every_kind_of_actor_crosses_to_a_process_bit_for_bit(flags):
    """Quantised weights, adapters, a model cut short, bfloat16: a copy that computes the same."""
    cfg = cfg_of("process", *flags)
    policy = random_pair()[0].to(getattr(torch, cfg.policy.dtype)).eval()
    if cfg.policy.lora.rank:
        policy = loading.with_lora(policy, cfg.policy, seed=0)
    actor = actors.open_actor(cfg, policy, Path("unused"))
    shape = json.loads(json.dumps(engine_weights.shape_of(actor.model, cfg)))
    shell = engine_weights.build_shell(shape, "cpu")
    moved(policy, 1.01)
    actor.refresh(policy, 0)
    engine_weights.load_weights(shell, engine_weights.weights_of(actor.model))
    request = opened("hf", policy)._request("sampling", 0, PROBLEMS, 2, 6, 4, None)
    a, b = generate(actor.model, request, 1), generate(shell, request, 1)
    assert all(torch.equal(a[name], b[name]) for name in FIELDS)
    weights = engine_weights.weights_of(actor.model)
    weights.popitem()
    with pytest.raises(ConfigError, match="has other weights"):
        engine_weights.load_weights(shell, weights)
