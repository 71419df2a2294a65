"""Configs by which sampler and scorer would compute differently, or that hide what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llm import settings
from llm.models import actors, configs, loading, roles
from llm.planning import memory
from llm.rollout.sampling import CACHE_KEYWORD
from llm.settings.loading import ConfigError

SHAPE: dict[str, Any] = dict(
    vocab_size=48, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3, pad_token_id=0,
    eos_token_id=1, bos_token_id=1,
)  # fmt: skip
CONTEXT: dict[str, Any] = dict(max_position_embeddings=64, original_max_position_embeddings=24)
IDS = torch.arange(2, 42)[None]  # 40 tokens


def longrope(**more: Any) -> dict[str, Any]:
    table = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24}
    return table | {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8} | more


def phi3() -> loading.Model:
    torch.manual_seed(0)
    config = transformers.Phi3Config(**SHAPE, **CONTEXT, rope_parameters=longrope())
    return transformers.Phi3ForCausalLM(config)


def phimoe() -> loading.Model:
    torch.manual_seed(0)
    rope = longrope(short_mscale=1.0, long_mscale=1.5)
    config = transformers.PhimoeConfig(
        **SHAPE, **CONTEXT, num_local_experts=2, rope_parameters=rope
    )
    return transformers.PhimoeForCausalLM(config)


def gemma3() -> loading.Model:
    """A wrapper of a text and a vision model."""
    torch.manual_seed(0)
    special = {k: v for k, v in SHAPE.items() if k.endswith("token_id")}
    text = {k: v for k, v in SHAPE.items() if k not in special}
    text |= dict(head_dim=16, sliding_window=16, max_position_embeddings=512)
    text |= dict(layer_types=["sliding_attention", "full_attention"])
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1)
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision | dict(image_size=28, patch_size=14),
        mm_tokens_per_image=4, boi_token_index=40, eoi_token_index=41, image_token_index=42,
        **special,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gemma3")
    gemma3().save_pretrained(folder)
    return folder


@torch.no_grad()
def logits_of_first(model: loading.Model, seen: int) -> torch.Tensor:
    """Of the first 20 tokens, in a pass over `seen` tokens."""
    position = torch.arange(seen)[None]
    out = model(input_ids=IDS[:, :seen], position_ids=position, use_cache=False)
    return out.logits[0, :20].float()


@pytest.mark.parametrize("make", [phi3, phimoe])
@pytest.mark.parametrize(("longest", "table"), [(24, "short"), (40, "long")])
def test_longrope_uses_one_table_whatever_the_batch_holds(tmp_path, make, longest, table):
    make().save_pretrained(tmp_path)
    free = loading.load(tmp_path)
    assert configs.rope_switches(free.config) == [24]
    short, long = logits_of_first(free, 20), logits_of_first(free, 40)
    assert float((short - long).abs().max()) > 0.1  # that is what depends on the batch
    pinned = loading.load(tmp_path, longest=longest)
    assert configs.rope_switches(pinned.config) == []
    wanted = {"short": short, "long": long}[table]
    if make is phimoe:  # in transformers its long passes have the short table and the long scale
        wanted = logits_of_first(pinned, 40)
    for seen in (20, 40):
        torch.testing.assert_close(logits_of_first(pinned, seen), wanted, rtol=1e-4, atol=1e-4)


def test_a_run_gives_its_longest_sequence_as_the_length(tmp_path):
    phi3().save_pretrained(tmp_path)
    flags = ["--policy.path", str(tmp_path), "--rollout.max_new_tokens", "20"]
    policy = roles.open_policy(settings.load([], flags), tmp_path)
    assert policy.config.rope_parameters["short_factor"] == [4.0] * 8


@pytest.mark.parametrize("kind", ["linear", "yarn", "dynamic", "llama3", "longrope"])
def test_other_kinds_of_rope_do_not_depend_on_the_batch(tmp_path, kind):
    """Within max_position_embeddings, beyond which `check_positions` refuses."""
    table = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    table |= {"original_max_position_embeddings": 24} if kind != "dynamic" else {}
    table |= dict(low_freq_factor=1.0, high_freq_factor=4.0) if kind == "llama3" else {}
    table = longrope() if kind == "longrope" else table
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SHAPE, max_position_embeddings=64, rope_parameters=table)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = loading.load(tmp_path, longest=40)
    torch.testing.assert_close(
        logits_of_first(model, 20), logits_of_first(model, 40), rtol=1e-4, atol=1e-4
    )


def test_settings_of_a_text_model_inside_a_config_are_found(wrapper):
    cfg = settings.load([], ["--policy.path", str(wrapper)])
    model = roles.open_policy(cfg, wrapper)
    assert loading.positions_of(model) == 512
    with pytest.raises(ConfigError, match="the policy has 512 positions"):
        loading.check_positions({"policy": model}, 34, 600)
    shape = memory.shape(cfg.policy)
    assert memory.layers_and_width(shape.config) == (2, 32)
    assert memory.attention_widths(shape.config) == (32, 16)


def test_early_exit_of_a_model_inside_a_wrapper_has_a_cache_of_as_many_layers(wrapper):
    model = loading.load(wrapper)
    short = actors.early_exit(model, 1)
    assert short.config.get_text_config().num_hidden_layers == 1
    assert model.config.get_text_config().num_hidden_layers == 2
    assert len(transformers.DynamicCache(config=short.config).layers) == 1
    assert short(input_ids=IDS).logits.shape == (1, 40, 48)


def test_outputs_that_a_config_switches_on_are_switched_off(tmp_path):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(**SHAPE, num_local_experts=2)
    model = transformers.MixtralForCausalLM(config)
    wanted = model.eval()(input_ids=IDS).logits
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    on = '{"output_router_logits": true, "output_hidden_states": true, "use_cache": false,'
    on += '"output_attentions": true, "return_dict": false,'
    for name in ("output_router_logits", "use_cache", "output_hidden_states", "return_dict"):
        for value in ("true", "false"):
            file.write_text(file.read_text().replace(f'  "{name}": {value},\n', ""))
    file.write_text(file.read_text().replace("{", on, 1))
    loaded = loading.load(tmp_path)
    assert torch.equal(loaded(input_ids=IDS).logits, wanted)
    out = loaded(input_ids=IDS)
    assert out[CACHE_KEYWORD] is not None
    assert not any(out.get(x) for x in ("router_logits", "hidden_states", "attentions"))


def test_outputs_of_a_text_model_inside_a_wrapper_are_switched_off_too(tmp_path):
    model = gemma3()
    model.config.text_config.use_cache = False
    model.config.text_config.output_hidden_states = True
    model.save_pretrained(tmp_path)
    text = loading.load(tmp_path).config.get_text_config()
    assert text.use_cache and not text.output_hidden_states


def test_dropout_inside_a_config_is_seen_before_layers_are_in_training_mode():
    model = gemma3()
    loading.enable_recomputing(model)
    model.config.text_config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match=r"the model has dropout \(attention_dropout\)"):
        loading.enable_recomputing(model)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("MptConfig", "max_seq_len"), ("WhisperConfig", "max_target_positions")],
)
def test_a_limit_of_positions_is_found_under_its_other_names(kind, name):
    assert configs.positions_in(getattr(transformers, kind)(**{name: 64})) == 64
