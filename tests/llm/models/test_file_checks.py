"""A model's folder may be anybody's: what it may name, and what its weights may hold."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from llm.models import loading
from llm.rollout.engines import weights
from llm.settings import load as settings_of
from llm.settings.loading import ConfigError

SHAPE: dict[str, Any] = dict(
    vocab_size=48, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)
IDS = torch.arange(2, 14)[None]


def llama(tied: bool) -> loading.Model:
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, initializer_range=0.3, tie_word_embeddings=tied)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    llama(False).save_pretrained(folder, max_shard_size="4KB")
    return folder


def with_index(sharded: Path, to: Path, name: str) -> Path:
    """A copy whose index says that a tensor is in the file `name`."""
    shutil.copytree(sharded, to)
    index = to / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(table))
    return to


def test_a_sharded_model_is_loaded(sharded):
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert torch.equal(loading.load(sharded)(IDS).logits, llama(False)(IDS).logits)


@pytest.mark.parametrize("name", ["head.bin", "../other/head.safetensors", "/dev/null", "a\0b"])
def test_an_index_that_names_anything_but_safetensors_of_its_folder_is_refused(
    sharded, tmp_path, name, monkeypatch
):
    """Before anything is loaded: neither the pickle nor the model is asked for."""
    folder = with_index(sharded, tmp_path / "model", name)
    torch.save({"lm_head.weight": torch.zeros(48, 16)}, folder / "head.bin")
    (tmp_path / "other").mkdir()
    save_file({"lm_head.weight": torch.zeros(48, 16)}, tmp_path / "other" / "head.safetensors")
    asked: list[Any] = []
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", asked.append)
    monkeypatch.setattr(torch, "load", asked.append)
    with pytest.raises(ConfigError, match="only safetensors files beside it are loaded"):
        loading.load(folder)
    assert asked == []


@pytest.mark.parametrize("text", ["[]", '{"weight_map": {"a": 1}}', "{", '{"weight_map": [1]}'])
def test_an_index_that_is_none_is_refused(sharded, tmp_path, text):
    shutil.copytree(sharded, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot read .*model\.safetensors\.index\.json"):
        loading.load(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    llama(False).save_pretrained(tmp_path / "model")
    os.replace(tmp_path / "model" / name, tmp_path / "elsewhere")
    (tmp_path / "model" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"{name} is a link out of its folder, to .*elsewhere"):
        loading.load(tmp_path / "model")


def test_a_snapshot_in_the_hubs_cache_is_a_folder_of_links_and_is_loaded(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    llama(False).save_pretrained(blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert torch.equal(loading.load(snapshot)(IDS).logits, llama(False)(IDS).logits)


def test_files_that_a_config_names_are_refused(tmp_path):
    llama(False).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    os.replace(tmp_path / "model.safetensors", tmp_path / "other.safetensors")
    named = '{"transformers_weights": "other.safetensors",'
    config.write_text(config.read_text().replace("{", named, 1))
    with pytest.raises(ConfigError, match=r"names the file 'other\.safetensors' as its weights"):
        loading.load(tmp_path)


def test_adapters_beside_a_model_are_refused(tmp_path):
    llama(False).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ConfigError, match=r"adapters beside a model \(adapter_config\.json\)"):
        loading.load(tmp_path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_file_tensor_and_row(sharded, tmp_path, value):
    """In the row of an id that nothing uses."""
    shutil.copytree(sharded, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    name = "model.embed_tokens.weight"
    file = tmp_path / "model" / index["weight_map"][name]
    tensors = load_file(file)
    tensors[name][47, 3] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError) as found:
        loading.load(tmp_path / "model")
    said = str(found.value)
    assert f"1 of 768 values of {name} ({file.name}) are NaN or infinite, first in row 47" in said


def test_a_bias_of_minus_infinity_is_a_probability_of_zero_and_one_of_plus_infinity_none(tmp_path):
    model = PhiForCausalLM(PhiConfig(**SHAPE))
    for value in (-torch.inf, torch.inf):
        model.lm_head.bias.data[40] = value
        model.save_pretrained(tmp_path)
        if value < 0:
            assert float(loading.load(tmp_path)(IDS).logits[0, 0, 40].detach()) == -torch.inf
    with pytest.raises(ConfigError, match=r"1 of 48 values of lm_head\.bias"):
        loading.load(tmp_path)


@pytest.mark.parametrize(
    ("rope", "name"),
    [
        ({"rope_theta": 0.0}, r"3 of 4 values of model\.rotary_emb\.inv_freq"),
        ({"rope_theta": torch.nan}, r"3 of 4 values of model\.rotary_emb\.inv_freq"),
        (
            {"rope_type": "linear", "factor": 1e-320},
            r"4 of 4 values of model\.rotary_emb\.inv_freq",
        ),
        (
            {"rope_type": "yarn", "factor": 2.0, "attention_factor": torch.inf},
            r"1 of 1 values of model\.rotary_emb\.attention_scaling",
        ),
    ],
)
def test_what_config_json_makes_not_finite_is_refused_by_name(tmp_path, rope, name):
    """Rotary frequencies are computed, so no file of weights holds them."""
    llama(False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, **rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = rf"{name} \(computed from config\.json\) are NaN or infinite, .*rope_theta"
    with pytest.raises(ConfigError, match=said):
        loading.load(tmp_path)


@pytest.mark.parametrize(
    ("buffer", "legal"),
    [("scale", ()), ("mask", (-torch.inf,)), ("output_max", (-torch.inf, torch.inf))],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_buffers_are_checked_as_parameters_are(tmp_path, buffer, legal, value):
    """A mask may hold -inf, and a limit may be none. A single value has no rows."""
    model = llama(False)
    model.model.register_buffer(buffer, torch.tensor(value))
    if value in legal:
        loading.check_weights(model, str(tmp_path))
        return
    with pytest.raises(ConfigError, match=rf"1 of 1 values of model\.{buffer} \(model\.safet"):
        loading.check_weights(model, str(tmp_path))


def test_the_remedy_of_a_tied_file_and_an_untied_config_is_right_and_for_it_alone(
    tmp_path,
):
    model = llama(True)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="2 weights are missing, lm_head") as found:
        loading.load(tmp_path)
    assert "tie_word_embeddings" not in str(found.value)
    model.save_pretrained(tmp_path)  # and the config as the remedy says
    assert torch.equal(loading.load(tmp_path)(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("of_config", [True, False])
@pytest.mark.parametrize("of_tensors", [True, False])
def test_what_is_tied_follows_the_tensors_and_a_copy_elsewhere_too(
    tmp_path, of_config, of_tensors, monkeypatch
):
    """The copy of another process, from shape and weights alone, gives the same logits."""
    model = llama(of_tensors)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text, old = config.read_text(), f'"tie_word_embeddings": {str(of_tensors).lower()}'
    assert old in text
    config.write_text(text.replace(old, f'"tie_word_embeddings": {str(of_config).lower()}'))
    if of_tensors and not of_config:  # the file has no head, and the config demands one
        said = (
            r"1 weights are missing, lm_head\.weight .*set \"tie_word_embeddings\": true in config"
        )
        with pytest.raises(ConfigError, match=said):
            loading.load(tmp_path)
        return
    loaded = loading.load(tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tied == loaded.config.tie_word_embeddings == of_tensors
    # an engine must not rely on the config: models come from elsewhere than `load`, too
    loaded.config.tie_word_embeddings = of_config
    cfg = settings_of([], ["--actor.type", "self", "--correction.type", "none"])
    copy = weights.build_shell(weights.shape_of(loaded, cfg), "cpu")
    weights.load_weights(copy, weights.weights_of(loaded))
    assert torch.equal(copy(IDS).logits, model(IDS).logits)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    """Of the file and of the model; the library's own report of it goes to a log nobody sees."""
    llama(False).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name][:8].clone()
    tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError) as found:
        loading.load(tmp_path)
    said = str(found.value)
    assert f"{name} has the shape (8, 16) in the file, and (16, 16) by config.json" in said
    assert "and 1 more" in said and "report" not in said
