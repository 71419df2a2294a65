"""What a run works with: which models are trained, who is closed, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_context import random_pair, world

from llm.models import loading
from llm.settings.loading import Config, ConfigError, ModelConfig, load
from llm.training.context import open_context, open_device


def test_shards_are_trained_in_place_of_the_models_that_sample():
    policy, actor = random_pair()
    ctx = world(Config(), (policy, actor))
    assert ctx.trained == ctx.full_models == {"policy": policy, "actor": actor}
    shard = object()
    ctx = ctx._replace(shards={"policy": shard})
    assert ctx.trained == {"policy": shard, "actor": actor}
    assert ctx.full_models["policy"] is policy
    frozen = ctx._replace(actor=SimpleNamespace(trained=False, model=actor))  # type: ignore[arg-type]
    assert list(frozen.full_models) == ["policy"]


def test_weights_are_published_to_the_actor_and_then_to_the_engine_under_the_next_version():
    told = []
    actor = SimpleNamespace(
        trained=False, model="weights", refresh=lambda policy, step: told.append(("actor", step))
    )
    engine = SimpleNamespace(update=lambda model, version: told.append((model, version)))
    ctx = world(Config(), random_pair())._replace(actor=actor, engine=engine)  # type: ignore[arg-type]
    ctx.publish_weights(4)
    assert told == [("actor", 4), ("weights", 5)]


def test_engine_and_scorer_are_closed_with_the_context_after_an_error_too():
    closed = []
    parts = {
        name: SimpleNamespace(close=lambda name=name: closed.append(name))
        for name in ("engine", "scorer")
    }
    with pytest.raises(KeyError), world(Config(), random_pair())._replace(**parts):  # type: ignore[arg-type]
        raise KeyError
    assert closed == ["engine", "scorer"]


def test_a_loaded_model_has_as_many_ids_as_log_probabilities_are_kept(tmp_path):
    loading.build(ModelConfig(layers=1, width=16), seed=0).save_pretrained(tmp_path / "model")
    flags = f"--policy.path {tmp_path}/model --actor.type noisy --rollout.top_k"
    open_context(load([], [*flags.split(), "48"]), tmp_path).close()
    with pytest.raises(ConfigError, match=r"top_k must be at most 48, .*, got 49"):
        open_context(load([], [*flags.split(), "49"]), tmp_path)


def test_a_device_that_is_not_there_is_an_error_that_names_what_can_be_used():
    assert open_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"--run.device cuda:99 cannot be used.*Use auto or cpu"):
        open_device("cuda:99")
