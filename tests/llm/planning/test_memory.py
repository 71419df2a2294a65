"""Memory of a run, against counts of real models."""

from __future__ import annotations

import pytest
import torch
from plan_cases import EIGHT_B, TINY, of_preset, tiny
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llm import settings
from llm.planning import estimate, memory
from llm.planning.memory import Layout
from llm.settings.loading import ModelConfig


def peak(*flags: str, file: str = EIGHT_B) -> int:
    cfg, pair, choice, _ = of_preset(*flags, file=file)
    return estimate.memory_of(cfg, pair, choice, 72 * 10**9).peak


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as published with the models
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B", 3_085_938_688),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_models_of_the_table_have_the_published_number_of_parameters(name, parameters):
    for path in (name, f"{name}-Base", f"{name}-Instruct"):
        found, source = estimate._config_of("policy", ModelConfig(path=path), "")
        assert source == f"table: {name}"
    model = memory.shape(ModelConfig(path=name), found)
    assert memory.size(model, ModelConfig(path=name)).total == parameters


def policy_only(*flags: str):
    base = ["--actor.type", "self", "--correction.type", "none"]
    return settings.load([], [*base, *flags])


def test_sharding_divides_what_is_trained_and_keeps_a_whole_copy_and_the_engines():
    model, cfg = tiny(), policy_only("--policy.dtype", "bfloat16")
    n = sum(p.numel() for p in model.parameters())
    held, _ = memory.by_phase(cfg, model, None, 4, Layout(ranks=4, sharded=True, engine_copy=True))
    assert held["policy weights"] == held["policy gradients"] == pytest.approx(2 * n / 4, abs=1)
    assert held["policy optimiser"] == pytest.approx(12 * n / 4, abs=1)  # masters, two moments
    assert held["engine's copy"] == held["whole copies"] == 2 * n
    whole, _ = memory.by_phase(cfg, model, None, 4, Layout(ranks=4))
    assert whole["policy weights"] == 2 * n
    assert "engine's copy" not in whole and "whole copies" not in whole


@pytest.mark.parametrize("kind", ["separate", "frozen"])
def test_of_two_models_the_trained_ones_are_whole_once_more_and_the_actor_is_the_engines(kind):
    """Float32, 2 ranks. 4 bytes of a weight: whole copies of what is trained, the engine's of the
    actor; a frozen actor and the initial policy are not divided."""
    flags = ["--actor.type", kind, "--loss.initial_kl_coef", "0.1"]
    cfg, policy, actor = settings.load([], flags), tiny(), tiny(num_hidden_layers=1)
    p, a = (4 * sum(x.numel() for x in m.parameters()) for m in (policy, actor))
    held, _ = memory.by_phase(cfg, policy, actor, 4, Layout(2, sharded=True, engine_copy=True))
    assert held["whole copies"] == p + (a if kind == "separate" else 0)
    assert held["actor weights"] == pytest.approx(a / 2 if kind == "separate" else a, abs=1)
    assert held["initial policy's weights"] == p and held["engine's copy"] == a


def test_the_estimate_counts_the_copy_of_an_engine_in_a_process_of_its_own():
    found = {}
    for engine in ("hf", "process", "vllm"):
        cfg = policy_only("--rollout.engine.type", engine)
        found[engine] = memory.estimate(cfg, tiny(), None, 4)
    n = 4 * sum(p.numel() for p in tiny().parameters())
    assert "engine's copy" not in found["hf"]
    assert found["process"]["engine's copy"] == found["vllm"]["engine's copy"] == n


def test_cache_and_head_workspace_are_as_by_hand():
    """16 x 8 sequences of 4 + 12 tokens on 2 ranks; keys and values of 3 layers x 16, float32."""
    layout = Layout(ranks=2, blocks=True)
    _, phases = memory.by_phase(policy_only(), tiny(), None, 4, layout)
    assert phases["sampling"]["key-value cache"] == 64 * 16 * 3 * 2 * 16 * 4
    blocks, hidden = 4 * 4 * 64 * 12 * 100, 2 * 4 * 64 * 12 * 32
    hidden += 4 * 100 * 32  # a block of the weight
    assert phases["update"]["logits of a micro-batch"] == blocks + hidden
    _, phases = memory.by_phase(policy_only(), tiny(), None, 4, layout._replace(at_once=5))
    assert phases["sampling"]["key-value cache"] == 5 * 16 * 3 * 2 * 16 * 4


def test_gathered_layers_are_the_outer_ones_and_two_more():
    """float32: embedding, head, final norm apart; then gradients of them and of one layer."""
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32 + 2 * 8
    layer += 32 // 3  # the final norm, spread over the layers
    _, phases = memory.by_phase(policy_only(), tiny(), None, 4, Layout(ranks=2, sharded=True))
    outer = 2 * 100 * 32
    assert phases["update"]["gathered layers"] == 4 * (2 * outer + 3 * layer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_activations_are_those_that_the_graph_of_a_real_model_keeps(dtype, kind, kv_heads):
    """Storage that autograd saves per layer, weights apart, with padding as in training."""
    cls = {"qwen3": (Qwen3ForCausalLM, Qwen3Config), "llama": (LlamaForCausalLM, LlamaConfig)}[kind]
    b, t = 2, 240
    kept = []
    for layers in (1, 3):
        fields = {**TINY, "num_hidden_layers": layers, "num_key_value_heads": kv_heads,
                  "hidden_size": 128, "intermediate_size": 384, "head_dim": 32}  # fmt: skip
        model = cls[0](cls[1](**fields)).to(getattr(torch, dtype))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen: dict[int, int] = {}
        alive: list[torch.Tensor] = []

        def pack(x, weights=weights, seen=seen, alive=alive):
            alive.append(x)
            if x.untyped_storage().data_ptr() not in weights:
                seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        mask = torch.ones(b, t, dtype=torch.long)
        mask[0, :3] = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model.model(input_ids=torch.ones(b, t, dtype=torch.long), attention_mask=mask)
        kept.append(sum(seen.values()))
    part = ModelConfig(dtype=dtype)
    each = memory.activation_bytes(model, part, t, checkpointing=False) / 3
    assert each == pytest.approx((kept[1] - kept[0]) / 2 / (b * t), rel=0.02)


def test_a_checkpointed_layer_keeps_its_input_and_one_layer_is_whole():
    model, part = tiny(), ModelConfig(dtype="bfloat16")
    whole = memory.activation_bytes(model, part, 10, checkpointing=False)
    lean = memory.activation_bytes(model, part, 10, checkpointing=True)
    assert lean == 3 * 2 * 32 + whole / 3


def test_each_way_of_saving_memory_saves_it():
    base = peak("--engine", "hf", "--checkpointing", "off")
    assert peak("--engine", "hf", "--checkpointing", "off", "--head", "dense") > base
    assert peak("--engine", "hf", "--checkpointing", "on") < base
    assert peak("--engine", "hf", "--checkpointing", "off", "--sharding", "none") > base
    assert peak("--engine", "hf", "--checkpointing", "off", "--gpus", "16") < base
    assert peak("--checkpointing", "off", "--rollout.max_new_tokens", "4096") < base
    assert peak("--checkpointing", "off", "--optim.microbatch.sequences", "2") > base
