"""Loading models and adapters: what is promised, on models of a few thousand weights."""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llm import settings as config
from llm.checkpoints import state_tensors
from llm.models import loading, roles
from llm.settings.loading import ConfigError
from llm.settings.schema import Adapters, SeparateActor, TrainedModelConfig
from llm.training import optimizer as optim

SMALL: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, vocab_size=48, tie_word_embeddings=True, max_position_embeddings=64,
)  # fmt: skip
IDS = torch.arange(2, 14).reshape(2, 6)


def llama(seed: int = 0, **changes: int) -> loading.Model:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, "initializer_range": 0.3, **changes})).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    llama().save_pretrained(path)
    return path


def settings(*flags: str) -> config.Config:
    return config.load([], list(flags))


def edited(folder: Path, to: Path, old: str, new: str) -> Path:
    """A copy of a model folder with one change in config.json."""
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    text = (to / "config.json").read_text()
    assert old in text
    (to / "config.json").write_text(text.replace(old, new, 1))
    return to


def test_a_loaded_model_is_the_saved_one_in_the_dtype_asked_for(folder):
    exact, rounded = loading.load(folder), loading.load(folder, "bfloat16")
    kept = llama().state_dict()
    assert all(torch.equal(exact.state_dict()[k], v) for k, v in kept.items())
    assert all(p.dtype == torch.bfloat16 for p in rounded.parameters())
    for name, weight in rounded.named_parameters():
        assert torch.equal(weight, kept[name].bfloat16())
    buffers = dict(rounded.named_buffers())  # positions in bfloat16 would be wrong beyond 256
    assert all(b.dtype == torch.float32 for n, b in buffers.items() if "inv_freq" in n)
    # dropout would make p_new another distribution than the one sampled from
    assert not exact.training


def test_only_safetensors_are_read(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").unlink()
    torch.save(llama().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"cannot load a safetensors model from .*safetensors"):
        loading.load(tmp_path)


def test_a_model_with_code_of_its_own_is_refused_and_the_code_not_run(folder, tmp_path):
    evil = edited(
        folder, tmp_path, '"model_type": "llama"',
        '"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "e.M"}',
    )  # fmt: skip
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match="cannot load"):
        loading.load(evil)
    assert not (tmp_path / "ran").exists()


def test_incomplete_weights_are_refused_rather_than_filled_at_random(folder, tmp_path):
    broken = edited(folder, tmp_path, "{", "{")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights are missing.*layers\.1\.mlp\.up_proj"):
        loading.load(broken)


def test_weights_that_the_settings_have_no_place_for_are_refused(folder, tmp_path):
    cut = edited(folder, tmp_path, '"num_hidden_layers": 2', '"num_hidden_layers": 1')
    with pytest.raises(ConfigError, match=r"no place for 9 of the weights, model\.layers\.1"):
        loading.load(cut)


def test_models_whose_cache_has_no_rows_are_refused_by_name(tmp_path):
    """State-space and hybrid ones; attention beside a state in one layer selects only half."""
    import transformers

    shape: dict[str, Any] = dict(vocab_size=48, hidden_size=32, num_hidden_layers=2)
    shape |= dict(intermediate_size=32)
    heads: dict[str, Any] = dict(num_attention_heads=2, num_key_value_heads=1)
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(**shape, state_size=4))
    lfm2 = transformers.Lfm2ForCausalLM(
        transformers.Lfm2Config(**shape, **heads, layer_types=["conv", "full_attention"])
    )
    for name, model in {"mamba": mamba, "lfm2": lfm2}.items():
        model.save_pretrained(tmp_path / name)
        cfg = settings("--policy.path", str(tmp_path / name))
        with pytest.raises(ConfigError, match=rf"{type(model).__name__}.*selected by row"):
            roles.open_policy(cfg, tmp_path)
    loading.check_cache(llama())
    both = transformers.cache_utils.LinearAttentionAndFullAttentionLayer()
    assert not loading._selects_rows(both)


def test_sequences_longer_than_the_positions_are_refused_and_none_shorter():
    model = llama()  # 64 positions
    loading.check_positions({"policy": model}, longest_prompt=24, max_new_tokens=40)
    with pytest.raises(ConfigError, match=r"25 tokens, with 40 new .* 65 tokens, and the actor"):
        loading.check_positions(
            {"policy": llama(max_position_embeddings=65), "actor": model}, 25, 40
        )
    unlimited = torch.nn.Module()
    unlimited.config = object()  # type: ignore[assignment]
    loading.check_positions({"policy": unlimited}, 10**6, 1)


def test_quantised_weights_are_refused(folder, tmp_path):
    packed = edited(folder, tmp_path, "{", '{"quantization_config": {"quant_method": "gptq"},')
    with pytest.raises(ConfigError, match="quantised, and such weights cannot be trained"):
        loading.load(packed)


def test_a_path_that_is_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"cannot load .*no/such/folder.*no such folder"):
        loading.load("no/such/folder")


def test_a_model_smaller_than_its_tokenizer_is_refused(tmp_path):
    llama(vocab_size=40).save_pretrained(tmp_path)
    cfg = settings("--policy.path", str(tmp_path))
    with pytest.raises(ConfigError, match=r"vocabulary of 40 ids, its tokenizer one of 48"):
        roles.open_policy(cfg, tmp_path)


def test_a_padded_vocabulary_is_no_fault(tmp_path):
    llama(vocab_size=64).save_pretrained(tmp_path)
    policy = roles.open_policy(settings("--policy.path", str(tmp_path)), tmp_path)
    assert loading.logits_width(policy) == 64


def test_lora_starts_as_the_model_and_trains_nothing_but_its_adapters(folder):
    base = llama()
    cfg = TrainedModelConfig(path=str(folder), lora=Adapters(rank=3, alpha=6.0))
    model = loading.with_lora(loading.load(folder), cfg, seed=1)
    assert torch.equal(model(input_ids=IDS).logits, base(input_ids=IDS).logits)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    layers = [n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear)]
    assert len(trained) == 2 * (len(layers) - 1)  # every linear layer but the head, two factors
    assert all("lora_" in n for n in trained)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = optim.adamw(model, lr=0.1, weight_decay=0.1)
    assert len(optimizer.param_groups[0]["params"]) == len(trained)  # no master copy of the base
    for _ in range(2):  # the first step moves the factor that is 0, the second also the other
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trained
    assert set(state_tensors.state_dict_of(model)) == trained  # what a checkpoint holds


def test_lora_is_the_weights_plus_a_scaled_product(folder):
    """W + alpha / rank * B A, put together here from the factors."""
    cfg = TrainedModelConfig(path=str(folder), lora=Adapters(rank=3, alpha=6.0))
    model = loading.with_lora(loading.load(folder), cfg, seed=1)
    generator = torch.Generator().manual_seed(2)
    for p in model.parameters():
        if p.requires_grad:
            p.data = 0.3 * torch.randn(p.shape, generator=generator)
    by_hand = llama()
    factors = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    for name, layer in by_hand.named_modules():
        a, b = (f"base_model.model.{name}.lora_{x}.default.weight" for x in "AB")
        if a in factors:
            layer.weight.data += 6.0 / 3 * factors[b] @ factors[a]
    wanted = by_hand(input_ids=IDS).logits
    torch.testing.assert_close(model(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    merged = loading.frozen_copy(model)
    torch.testing.assert_close(merged(input_ids=IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert type(merged) is LlamaForCausalLM
    assert not any(p.requires_grad for p in merged.parameters())
    memory = {p.data_ptr() for p in merged.parameters()}
    assert not memory & {p.data_ptr() for p in model.parameters()}


def test_adapters_of_a_bfloat16_model_are_merged_in_float32(folder):
    """Rounded to bfloat16, the sum of weights and a small update is the weights again."""
    cfg = TrainedModelConfig(path=str(folder), lora=Adapters(rank=2))
    model = loading.with_lora(loading.load(folder, "bfloat16"), cfg, seed=1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.fill_(1e-5)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    update = layer.get_delta_weight("default").float()
    base = layer.base_layer.weight.float()
    copied = loading.frozen_copy(model).model.layers[0].mlp.up_proj.weight
    assert copied.dtype == torch.float32
    torch.testing.assert_close(copied - base, update, rtol=0.01, atol=1e-7)
    rounded = (base + update).bfloat16().float() - base
    assert float((rounded - update).norm().detach()) > 0.3 * float(update.norm().detach())
    assert layer.base_layer.weight.dtype == torch.bfloat16  # the policy is as it was


def test_the_same_seed_gives_the_same_adapters_and_leaves_torch_alone(folder):
    cfg = TrainedModelConfig(path=str(folder), lora=Adapters(rank=3))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = (
        torch.cat([p.flatten() for p in m.parameters() if p.requires_grad])
        for m in (loading.with_lora(loading.load(folder), cfg, seed=s) for s in (1, 1, 2))
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_actor_of_a_role_has_its_own_seed(tmp_path):
    """Policy and actor of the same shape do not start as the same model."""
    cfg = settings(
        *("--policy.layers", "1", "--policy.width", "32", "--actor.width", "32"),
        *("--pretrain.policy-steps", "0", "--pretrain.actor-steps", "0"),
    )
    a, b = (roles.open_model(cfg, role, tmp_path) for role in ("policy", "actor"))
    assert not torch.equal(a.lm_head.weight, b.lm_head.weight)
    assert isinstance(cfg.actor, SeparateActor)


def test_what_libraries_say_of_their_versions_is_not_printed(caplog, recwarn):
    """torchao's log lines and FutureWarnings came with every command; ours still do come."""
    for silent in (True, False):
        with loading.quiet() if silent else contextlib.nullcontext():
            logging.getLogger("torchao").warning("an older torch")
            warnings.warn("an enum", FutureWarning, stacklevel=1)
        found = 0 if silent else 1
        assert len(caplog.records) == found and len(recwarn) == found
