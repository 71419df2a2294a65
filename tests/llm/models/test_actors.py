"""Each kind of actor: its distribution against an independent computation, and how it follows the
policy."""

from __future__ import annotations

import copy
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from llm import randomness
from llm import settings as config
from llm.checkpoints import state_tensors
from llm.models import actors, loading, roles
from llm.rollout.sampling import CACHE_KEYWORD
from llm.settings.loading import ConfigError
from llm.settings.schema import Adapters, ModelConfig, TrainedModelConfig

V, LAYERS = 48, 3
KINDS = {
    "stale": ("--actor.type", "stale", "--actor.lag", "2"),
    "int8": ("--actor.type", "quantized"),
    "int4": ("--actor.type", "quantized", "--actor.bits", "4"),
    "early_exit": tuple("--policy.layers 4 --actor.type early_exit --actor.exit_layers 2".split()),
    "noisy": ("--actor.type", "noisy", "--actor.noise", "0.1"),
    "self": ("--actor.type", "self", "--correction.type", "none"),
}
COPIES = ("stale", "int8", "int4", "noisy")


def llama(seed: int = 0, vocabulary: int = V) -> loading.Model:
    """Three layers of width 64, tied like SmolLM2; weights wide enough for a peaked
    distribution."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS)
    heads: dict[str, Any] = dict(
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True
    )
    shape |= heads | dict(vocab_size=vocabulary, max_position_embeddings=64)
    return LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.15)).eval()


def policy_of(lora: bool) -> loading.Model:
    if not lora:
        return llama()
    model = loading.with_lora(llama(), TrainedModelConfig(lora=Adapters(rank=2, alpha=4.0)), seed=3)
    change(model, 4)  # adapters start without effect
    return model


@torch.no_grad()
def change(model: loading.Model, seed: int) -> None:
    """What training does, as far as an actor can see."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            p += 0.1 * torch.randn(p.shape, generator=generator)


def settings(kind: str, *more: str) -> config.Config:
    return config.load([], [*KINDS[kind], *more])


def opened(kind: str, policy: loading.Model, *more: str) -> actors.Actor:
    return actors.open_actor(settings(kind, *more), policy, Path("unused"))


IDS = torch.arange(2, 2 + 24).reshape(2, 12)


@torch.no_grad()
def distribution(model: loading.Model) -> torch.Tensor:
    return model(input_ids=IDS).logits.float().log_softmax(-1)


def kl(a: torch.Tensor, b: torch.Tensor) -> float:
    """KL(a || b), nats per token."""
    return float((a.exp() * (a - b)).sum(-1).mean())


@torch.no_grad()
def sampled(model: loading.Model, prompt: torch.Tensor, n: int, seed: int) -> tuple:
    """n greedy-free tokens with a cache, and the log-probabilities they were drawn from."""
    generator, cache = torch.Generator().manual_seed(seed), DynamicCache(config=model.config)
    ids, new, logs = prompt, prompt, []
    for _ in range(n):
        at = torch.arange(ids.shape[1])[-new.shape[1] :]
        out = model(
            input_ids=new, attention_mask=torch.ones_like(ids), position_ids=at.expand_as(new),
            use_cache=True, logits_to_keep=1, **{CACHE_KEYWORD: cache},
        )  # fmt: skip
        logs.append(out.logits[:, -1].float().log_softmax(-1))
        new = logs[-1].exp().multinomial(1, generator=generator)
        ids = torch.cat([ids, new], dim=1)
    return ids, torch.stack(logs, dim=1), len(cache)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_samples_from_the_distribution_it_is_scored_by(kind, lora):
    """With a cache, token by token, as in one pass; at some KL to the policy, but for self."""
    policy = policy_of(lora)
    actor = opened(kind, policy)
    for step in range(3):  # a stale actor differs only later
        change(policy, 10 + step)
        actor.refresh(policy, step)
    ids, logs, cached_layers = sampled(actor.model, IDS[:, :4], 6, seed=0)
    assert actor.model.generation_config is not None
    with torch.no_grad():
        whole = actor.model(input_ids=ids).logits.float().log_softmax(-1)
    torch.testing.assert_close(logs, whole[:, 3:-1], rtol=1e-4, atol=1e-4)
    assert cached_layers == (2 if kind == "early_exit" else LAYERS)
    distance = kl(distribution(actor.model), distribution(policy))
    assert (distance == 0) if kind == "self" else (1e-7 < distance < 10)
    assert actor.kind == settings(kind).actor.type
    assert not actor.trained


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_shares_no_memory_with_the_policy_and_takes_no_gradient(kind, lora):
    policy = policy_of(lora)
    actor = opened(kind, policy)
    for _ in range(2):
        before = distribution(actor.model)
        assert not any(p.requires_grad for p in actor.model.parameters())
        change(policy, 5)
        assert torch.equal(distribution(actor.model), before)
        actor.refresh(policy, 0)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "stale"])
def test_after_a_refresh_the_actor_is_that_of_the_changed_policy(kind, lora):
    """What a new actor made from the same policy for the same step would be; twice is once."""
    policy = policy_of(lora)
    actor = opened(kind, policy)
    change(policy, 6)
    fresh = opened(kind, policy)
    for _ in range(2):
        actor.refresh(policy, 3)
        fresh.refresh(policy, 3)
        assert torch.equal(distribution(actor.model), distribution(fresh.model))


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_a_stale_actor_is_exactly_lag_steps_old(lag, lora):
    policy = policy_of(lora)
    actor = opened("stale", policy, "--actor.lag", str(lag))
    history = [distribution(policy)]
    assert torch.equal(distribution(actor.model), history[0])
    for step in range(8):
        change(policy, 20 + step)
        history.append(distribution(policy))
        actor.refresh(policy, step)
        wanted = history[max(0, step + 1 - lag)]  # sampling of step + 1
        assert torch.equal(distribution(actor.model), wanted), step
        assert not torch.equal(wanted, history[-1])


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("saved_after", [0, 1, 2, 7])
def test_a_stale_actor_resumes_with_the_same_past(saved_after, lora):
    policy = policy_of(lora)
    start = copy.deepcopy(policy)
    actor = opened("stale", policy)
    for step in range(saved_after):
        change(policy, 30 + step)
        actor.refresh(policy, step)
    kept = {
        name: {k: v.clone() for k, v in state_tensors.state_dict_of(part).items()}
        for name, part in {"policy": policy, **actor.parts()}.items()
    }
    resumed_policy = start
    resumed = opened("stale", resumed_policy)
    for name, part in {"policy": resumed_policy, **resumed.parts()}.items():
        state_tensors.load_state_dict(part, kept[name])
    resumed.refresh(resumed_policy, saved_after - 1)
    assert torch.equal(distribution(resumed.model), distribution(actor.model))
    for step in range(saved_after, saved_after + 5):
        for p, a in ((policy, actor), (resumed_policy, resumed)):
            change(p, 30 + step)
            a.refresh(p, step)
        assert torch.equal(distribution(resumed.model), distribution(actor.model)), step


@pytest.mark.parametrize(("bits", "levels", "group"), [(8, 256, 64), (4, 16, 32)])
def test_quantised_weights_lie_on_a_grid_of_2_to_the_bits_levels(bits, levels, group):
    """Per group (int8: the row of 64, int4: 32 weights) at most that many levels, equally spaced,
    each weight moved by at most about half a step; and every linear layer, the head included."""
    policy = llama()
    actor = opened(f"int{bits}", policy)
    originals = {n: m for n, m in policy.named_modules() if isinstance(m, torch.nn.Linear)}
    for name, module in actor.model.named_modules():
        if name in originals:
            exact = originals[name].weight.detach()
            found = module.weight.dequantize()
            width = group if exact.shape[1] % group == 0 and bits == 4 else exact.shape[1]
            exact, found = exact.reshape(-1, width), found.reshape(-1, width)
            for row, values in zip(exact, found, strict=True):
                step = float(2 * row.abs().max() / (levels - 1))
                grid = values / step
                assert len(values.unique()) <= levels
                assert float((grid - grid.round()).abs().max()) < 1e-3
                assert float((values - row).abs().max()) <= 1.01 * step
                assert float((values - row).abs().mean()) < 0.35 * step
            del originals[name]
    assert not originals
    assert torch.equal(actor.model.model.embed_tokens.weight, policy.model.embed_tokens.weight)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantised_actor_computes_with_its_grid_values(kind):
    """A plain float model that holds the dequantised weights has the same distribution."""
    policy = llama()
    actor = opened(kind, policy)
    by_hand = copy.deepcopy(policy)
    head = by_hand.lm_head = torch.nn.Linear(64, V, bias=False)  # untied: the head is quantised
    modules = dict(actor.model.named_modules())
    with torch.no_grad():
        for name, module in by_hand.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(modules[name].weight.dequantize())
    assert not torch.equal(head.weight, policy.lm_head.weight)
    torch.testing.assert_close(
        distribution(actor.model), distribution(by_hand), rtol=1e-4, atol=1e-4
    )


def test_fewer_bits_are_further_from_the_policy():
    policy = llama()
    near, far = (
        kl(distribution(opened(k, policy).model), distribution(policy)) for k in ("int8", "int4")
    )
    assert 0 < near < far / 10


def test_int4_takes_the_whole_row_where_32_does_not_divide_it():
    policy = loading.build(ModelConfig(layers=1, width=48), seed=0).eval()
    model = opened("int4", policy).model
    assert 0 < kl(distribution(model), distribution(policy)) < 1


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("layers", [1, 2])
def test_early_exit_is_the_model_with_the_later_layers_gone(layers, lora):
    policy = policy_of(lora)
    actor = opened("early_exit", policy, "--actor.exit_layers", str(layers))
    by_hand = loading.frozen_copy(policy)
    del by_hand.model.layers[layers:]
    by_hand.config.num_hidden_layers = layers
    torch.testing.assert_close(
        distribution(actor.model), distribution(by_hand), rtol=1e-4, atol=1e-5
    )
    own = {id(p) for p in policy.parameters()}
    assert all(id(p) in own for p in actor.model.parameters())  # nothing is copied
    assert len(loading.plain(policy).model.layers) == LAYERS  # and the policy is what it was
    assert loading.plain(policy).config.num_hidden_layers == LAYERS
    before = distribution(policy)
    distribution(actor.model)
    assert torch.equal(distribution(policy), before)


def test_early_exit_of_a_built_model_has_its_layer_types_cut_too():
    policy = loading.build(ModelConfig(layers=3, width=32), seed=0).eval()
    actor = opened("early_exit", policy, "--actor.exit_layers", "1")
    assert actor.model.config.layer_types == ["full_attention"]
    assert len(DynamicCache(config=actor.model.config).layers) == 1
    assert kl(distribution(actor.model), distribution(policy)) > 0.01


def test_an_exit_that_is_not_early_is_refused():
    with pytest.raises(ConfigError, match=r"exit_layers 3 must be below the policy's 3 layers"):
        opened("early_exit", llama(), "--actor.exit_layers", "3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_has_the_size_asked_for_on_matrices_and_is_absent_elsewhere(dtype):
    policy = llama().to(dtype)
    actor = opened("noisy", policy)
    exact = dict(policy.named_parameters())
    scaled = []
    for name, weight in actor.model.named_parameters():
        if exact[name].ndim == 1:
            assert torch.equal(weight, exact[name])
        else:
            w = exact[name].detach().double()
            scaled.append((weight.double() - w).flatten() / w.square().mean().sqrt())
            assert float(scaled[-1].std()) == pytest.approx(0.1, rel=0.1)
    z = torch.cat(scaled) / 0.1
    n = len(z)
    assert abs(float(z.mean())) < 4 / math.sqrt(n)
    assert float(z.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * n) + 0.001)
    assert float((z.abs() < 1).double().mean()) == pytest.approx(
        0.6827, abs=2 / math.sqrt(n) + 0.002
    )


def test_noise_comes_from_the_stream_of_the_step_that_it_samples():
    """W + sigma rms(W) N, drawn again here; another step and another seed give other noise."""
    policy = llama()
    actor = opened("noisy", policy)
    change(policy, 8)
    actor.refresh(policy, 4)
    rng = np.random.default_rng((0, zlib.crc32(b"noise"), 5))
    first = policy.model.embed_tokens.weight.detach()
    normal = torch.from_numpy(rng.standard_normal(first.shape, dtype=np.float32))
    wanted = first + 0.1 * first.square().mean().sqrt() * normal
    torch.testing.assert_close(actor.model.model.embed_tokens.weight, wanted, rtol=1e-6, atol=1e-7)
    assert actor.model.lm_head.weight is actor.model.model.embed_tokens.weight  # tied: noise once
    kept = distribution(actor.model)
    actor.refresh(policy, 5)
    assert not torch.equal(distribution(actor.model), kept)
    actor.refresh(policy, 4)
    assert torch.equal(distribution(actor.model), kept)
    other = opened("noisy", policy, "--run.seed", "1")
    other.refresh(policy, 4)
    assert not torch.equal(distribution(other.model), kept)
    assert randomness.stream(0, "noise", 5).random() == randomness.stream(0, "noise", 5).random()


@pytest.mark.parametrize("trained", [True, False], ids=["separate", "frozen"])
def test_another_model_is_the_one_in_its_folder(trained, tmp_path):
    for name, seed in (("policy", 0), ("actor", 1)):
        llama(seed).save_pretrained(tmp_path / name)
    paths = [f"--{n}.path={tmp_path / n}" for n in ("policy", "actor")]
    kind = [] if trained else ["--actor.type", "frozen"]
    cfg = config.load([], [*paths, *kind])
    policy = roles.open_policy(cfg, tmp_path)
    actor = actors.open_actor(cfg, policy, tmp_path)
    assert torch.equal(distribution(policy), distribution(llama(0)))
    assert torch.equal(distribution(actor.model), distribution(llama(1)))
    assert actor.trained == trained
    assert list(actor.parts()) == (["actor"] if trained else [])
    assert any(p.requires_grad for p in actor.model.parameters()) == trained
    actor.refresh(policy, 0)
    assert torch.equal(distribution(actor.model), distribution(llama(1)))


def test_an_actor_with_other_token_ids_is_refused(tmp_path):
    llama().save_pretrained(tmp_path / "policy")
    llama(vocabulary=64).save_pretrained(tmp_path / "actor")
    cfg = config.load([], [f"--{n}.path={tmp_path / n}" for n in ("policy", "actor")])
    policy = roles.open_policy(cfg, tmp_path)
    with pytest.raises(
        ConfigError, match=r"of 64 token ids, the policy of 48.*only in the padding.*resize"
    ):
        actors.open_actor(cfg, policy, tmp_path)


def other(name: str, **more: Any) -> loading.Model:
    """A small random model of another architecture."""
    import transformers

    shape = dict(vocab_size=V, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2)
    settings = getattr(transformers, f"{name}Config")(**shape, initializer_range=0.15, **more)
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(settings).eval()


MIXTRAL = dict(
    intermediate_size=32, num_key_value_heads=1, num_local_experts=4, max_position_embeddings=64
)


def test_models_without_plain_linear_layers_are_refused_by_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel has no torch\.nn\.Linear .* 100%"):
        opened("int8", gpt2)
    with pytest.raises(ConfigError, match="GPT2LMHeadModel has no list of decoder layers"):
        opened("early_exit", gpt2)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_mixture_of_experts_that_would_stay_as_it_is_is_refused(kind):
    """Its experts are tensors of three dimensions, no linear layers."""
    model = other("Mixtral", **MIXTRAL)
    with pytest.raises(ConfigError, match=r"MixtralForCausalLM has no torch\.nn\.Linear"):
        opened(kind, model)


def test_layers_that_need_a_plain_weight_are_refused_before_sampling():
    falcon = other("Falcon")
    with pytest.raises(ConfigError, match="FalconForCausalLM does not run with torchao's weights"):
        opened("int8", falcon)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_early_exit_of_a_decoder_that_lies_deeper_is_early_too(lora):
    """OPT's is model.decoder."""
    policy = other("OPT", ffn_dim=32, word_embed_proj_dim=32, max_position_embeddings=64)
    policy.config.pad_token_id = None
    if lora:
        policy = loading.with_lora(
            policy, TrainedModelConfig(lora=Adapters(rank=2, alpha=4.0)), seed=3
        )
        change(policy, 4)
    actor = opened("early_exit", policy, "--actor.exit_layers", "1")
    by_hand = loading.frozen_copy(policy)
    del by_hand.model.decoder.layers[1:]
    torch.testing.assert_close(
        distribution(actor.model), distribution(by_hand), rtol=1e-4, atol=1e-5
    )
    assert kl(distribution(actor.model), distribution(policy)) > 1e-4
    assert sampled(actor.model, IDS[:, :4], 3, seed=0)[2] == 1
    assert len(loading.plain(policy).model.decoder.layers) == LAYERS


def test_every_expert_has_noise_of_its_own_size():
    policy = other("Mixtral", **MIXTRAL)
    experts = policy.model.layers[0].mlp.experts
    with torch.no_grad():
        experts.down_proj[1] *= 100
    noisy = opened("noisy", policy).model.model.layers[0].mlp.experts
    for name in ("gate_up_proj", "down_proj"):
        exact, found = getattr(experts, name).detach(), getattr(noisy, name).detach()
        for one, changed in zip(exact, found, strict=True):
            size = float((changed - one).square().mean().sqrt() / one.square().mean().sqrt())
            assert size == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("lora", "peft")])
def test_a_missing_package_is_named_with_its_extra(kind, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=rf"pip install -e '.\[{package}\]' in the checkout"):
        policy_of(lora=True) if kind == "lora" else opened(kind, llama())
