"""A wrong merge of adapters, which have no effect before the first update, is seen before it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm import settings
from llm.models import actors, loading
from llm.models.lm_head import support
from llm.rewards import scorers
from llm.rollout.engines import weights
from llm.rollout.engines.in_process import HfEngine
from llm.tasks import factory
from llm.tokenizers.character import CharTokenizer
from llm.training import adapter_check
from llm.training.adapter_check import AdapterCheckError, adapter_layers
from llm.training.context import TrainContext
from llm.training.self_test import self_test

FLAGS = ["--policy.width", "32", "--policy.lora.rank", "4", "--policy.lora.alpha", "12"]
SELF = ["--actor.type", "self", "--correction.type", "none", "--rollout.engine.type", "process"]
Copy = Callable[[loading.Model], loading.Model]


def scaled(factor: float) -> Copy:
    def copied(model: loading.Model) -> loading.Model:
        other = copy.deepcopy(model)
        for _, layer in adapter_layers(other):
            layer.scaling = {name: factor * x for name, x in layer.scaling.items()}
        return other.float().merge_and_unload().eval()

    return copied


@torch.no_grad()
def merged_twice(model: loading.Model) -> loading.Model:
    other = loading.frozen_copy(model)
    for name, layer in adapter_layers(model):
        own = other.get_submodule(name.removeprefix("base_model.model."))
        own.weight += layer.get_delta_weight("default").to(own.weight.dtype)
    return other


class FirstCopy:
    """Weights that are never taken over again."""

    def __init__(self) -> None:
        self.model: Any = None

    def __call__(self, model: loading.Model) -> loading.Model:
        self.model = self.model or loading.frozen_copy(model)
        return self.model


FAULTS: dict[str, Copy] = {
    "scaled by 2": scaled(2.0),
    "scaled by a half": scaled(0.5),
    "alpha ignored": scaled(4.0 / 12.0),
    "divided by rank only": scaled(1.0 / 12.0),
    "adapter not applied": scaled(0.0),
    "sign": scaled(-1.0),
    "merged twice": merged_twice,
    "weights of the start": FirstCopy(),
}


class Copying(HfEngine):
    """Samples, as vLLM does, from a copy into which adapters were merged."""

    copied: Copy

    def update(self, model: loading.Model, version: int | None = None) -> None:
        super().update(type(self).copied(model), version)


def opened(copied: Copy | None, *flags: str) -> TrainContext:
    """A random policy with adapters that have no effect yet."""
    cfg = settings.load([], [*FLAGS, *flags])
    policy = loading.build(cfg.policy, seed=0).to(getattr(torch, cfg.policy.dtype)).eval()
    policy = loading.with_lora(policy, cfg.policy, seed=1)
    tokenizer = CharTokenizer()
    task, scorer = factory.open_task(cfg.task, tokenizer), scorers.open_scorer(cfg.task, tokenizer)
    actor = actors.open_actor(cfg, policy, Path("unused"))
    engine: Any = None
    if copied is not None:
        kind = type("Kind", (Copying,), {"copied": staticmethod(copied)})
        engine = kind(cfg, tokenizer, torch.device("cpu"))
        engine.update(actor.model, version=3)
    chunked = support.chunked(cfg, policy, actor.model)
    parts = (cfg, tokenizer, task, scorer, policy, actor, None, torch.device("cpu"), engine)
    return TrainContext(*parts, chunked=chunked)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_merge_passes_and_changes_nothing(dtype):
    ctx = opened(loading.frozen_copy, *SELF, "--policy.dtype", dtype)
    before = {k: v.clone() for k, v in ctx.policy.state_dict().items()}
    found = self_test(ctx)["adapters"]
    assert found.place == "engine process" and found.effect > 0.05 and found.gap < found.effect / 4
    if dtype == "float32":
        assert found.gap < 1e-4
    assert all(torch.equal(v, before[k]) for k, v in ctx.policy.state_dict().items())
    assert ctx.engine is not None and ctx.engine.version == 3
    last: Any = ctx.engine
    own = loading.frozen_copy(ctx.policy).state_dict()
    assert all(torch.equal(v, own[k]) for k, v in last._model.state_dict().items())


@pytest.mark.parametrize(
    ("fault", "dtype"),
    [*((fault, "float32") for fault in FAULTS), ("scaled by 2", "bfloat16")],
)
def test_a_wrong_merge_in_the_engine_is_refused(fault, dtype):
    """Planted one by one. At the start all of them compute what the base model does."""
    ctx = opened(FAULTS[fault], *SELF, "--policy.dtype", dtype)
    with pytest.raises(AdapterCheckError, match=r"the engine process differs from the trainer"):
        self_test(ctx)
    assert not any(bool(x.any()) for n, x in ctx.policy.named_parameters() if ".lora_B." in n)


@pytest.mark.parametrize("fault", ["scaled by 2", "adapter not applied", "merged twice"])
def test_a_wrong_merge_in_a_copy_that_an_actor_is_made_of_is_refused(fault, monkeypatch):
    ctx = opened(None, "--actor.type", "noisy")
    assert self_test(ctx)["adapters"].gap < 1e-4
    monkeypatch.setattr(adapter_check, "frozen_copy", FAULTS[fault])
    with pytest.raises(AdapterCheckError, match="copy of which the noisy actor is made"):
        self_test(ctx)


def shelled(model: loading.Model) -> loading.Model:
    """The copy that the engine process builds, whose adapters are beside its weights."""
    cfg = settings.load([], [*FLAGS, *SELF])
    shell = weights.build_shell(weights.shape_of(model, cfg), "cpu")
    weights.load_weights(shell, weights.weights_of(model))
    return shell


def test_adapters_of_another_scale_beside_the_weights_are_refused(monkeypatch):
    assert self_test(opened(shelled, *SELF))["adapters"].gap < 1e-4
    other = loading.with_lora

    def ignored(model, part, seed):
        adapted = other(model, part, seed)
        for _, layer in adapter_layers(adapted):
            layer.scaling = dict.fromkeys(layer.scaling, 1.0)
        return adapted

    monkeypatch.setattr(weights, "with_lora", ignored)
    with pytest.raises(AdapterCheckError, match=r"about 0\.\d+ times, with .* = 3"):
        self_test(opened(shelled, *SELF))


def test_nothing_is_compared_where_nothing_is_merged():
    flags = ["--actor.type", "self", "--correction.type", "none"]
    assert self_test(opened(None, *flags))["adapters"] is None
