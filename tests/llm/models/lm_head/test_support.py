"""Which models can have their head in blocks."""

import copy
import functools
import warnings

import pytest
import torch
from lm_head_cases import ids
from optional import not_none
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llm import settings as config
from llm.errors import ConfigError
from llm.models.lm_head import support
from llm.models.lm_head.chunked import Chunk, token_logprobs
from llm.models.lm_head.support import head_of, heads_of, hidden_states

TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def transformer(kind, config, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config(**TINY, **settings, initializer_range=0.3, pad_token_id=0))


def tied(tie):
    return transformer(Qwen3ForCausalLM, Qwen3Config, head_dim=8, tie_word_embeddings=tie)


def gemma():
    return transformer(Gemma2ForCausalLM, Gemma2Config, head_dim=8, final_logit_softcapping=3.0)


def phi():
    made = transformer(PhiForCausalLM, PhiConfig)
    torch.nn.init.normal_(made.lm_head.bias, generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("make", [lambda: tied(True), lambda: tied(False), gemma, phi])
def test_a_model_trained_through_its_head_gets_the_gradient_of_its_own_logits(make):
    """Every parameter, so tied embeddings receive both their gradients; bias and soft-cap, too."""
    net = make()
    inputs = {"input_ids": ids(2, 6, seed=1, v=50)}
    head, why = head_of(net)
    assert head is not None, why
    tokens = ids(12, seed=2, v=50)
    logp = torch.log_softmax(net(**inputs).logits.flatten(0, 1), -1)
    logp.gather(1, tokens[:, None]).sum().backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    hidden = hidden_states(net, **inputs).flatten(0, 1)
    token_logprobs(hidden, head, tokens, chunk=Chunk(5, 7)).sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # of peft
def test_an_adapted_model_keeps_its_head():
    peft = pytest.importorskip("peft")
    net = peft.get_peft_model(tied(False), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    head, why = head_of(net)
    assert head is not None, why
    assert head.weight is net.get_base_model().lm_head.weight


def test_dropout_does_not_hide_the_head():
    net = transformer(PhiForCausalLM, PhiConfig, embd_pdrop=0.5, resid_pdrop=0.5).train()
    head, why = head_of(net)
    assert head is not None, why


def test_finding_the_head_leaves_the_model_as_it_was():
    net = tied(False).train()
    net.model.layers[0].eval()
    modes, state = [m.training for m in net.modules()], torch.get_rng_state()
    head_of(net)
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


def scaled():
    return transformer(GraniteForCausalLM, GraniteConfig, logits_scaling=4.0)


def wrapped():
    net = tied(False)
    net.lm_head = torch.nn.Sequential(net.lm_head)
    return net


def infinite():
    net = phi()
    net.lm_head.bias.data[3] = -torch.inf
    return net


@pytest.mark.parametrize(
    "make, reason",
    [
        (scaled, "not those of its head's weight"),
        (wrapped, "Sequential, not a plain linear layer"),
        (infinite, "bias is not finite"),
        (lambda: torch.nn.Linear(2, 2), "not a transformers causal language model"),
    ],
)
def test_another_kind_of_head_is_named_and_left_to_the_dense_path(make, reason):
    net = make()
    head, why = head_of(net)
    assert head is None and reason in why
    models = {"policy": tied(False), "actor": net}
    with pytest.warns(UserWarning, match=f"the actor: .*{reason}") as seen:
        assert heads_of(models, "auto") is None
    assert len(seen) == 1
    with pytest.raises(ConfigError, match=f"out of reach for the actor: .*{reason}"):
        heads_of(models, "chunked")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert heads_of(models, "dense") is None


def scale_of(scaling, dtype):
    return transformer(GraniteForCausalLM, GraniteConfig, logits_scaling=scaling).to(dtype)


def scaled_input(dtype):
    """Something between the last hidden state and the head, where its logits do not show it."""
    net = tied(False).to(dtype)
    net.lm_head.register_forward_pre_hook(lambda _, x: (x[0] * 1.02,))
    return net


def one_id_off(dtype):
    """By a sixth of the largest logit, too little for the slope over all ids."""
    net = tied(False).to(dtype)

    def shift(_, x, out):
        least = out.abs().amax((0, 1)).argmin()
        out[..., least] += 0.16 * out.abs().max()

    net.lm_head.register_forward_hook(shift)
    return net


def hidden_cap(dtype):
    """Of 100, which a model with logits below 10 hardly shows; its name is not among those read."""
    net = gemma().to(dtype)
    net.config.final_logit_softcapping, net.lm_head = None, copy.deepcopy(net.lm_head)
    forward = net.forward

    def capped(**inputs):
        out = forward(**inputs)
        out.logits = 100.0 * torch.tanh(out.logits / 100.0)
        return out

    net.forward = capped
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        *(functools.partial(scale_of, s) for s in (1.02, 1.2, 0.98, 1.0001)),
        scaled_input,
        one_id_off,
        hidden_cap,
    ],
    ids=["1.02", "1.2", "0.98", "1.0001", "input", "one id", "cap"],
)
def test_a_head_that_is_nearly_the_formula_is_refused_in_every_dtype(make, dtype):
    head, why = head_of(make(dtype))
    assert head is None and "not those of its head's weight" in why


def another_order(make, dtype):
    """The same formula with logits made in float32 and the soft-cap's scale multiplied."""
    net = make().to(dtype)
    cap = getattr(net.config, "final_logit_softcapping", None)
    net.config.final_logit_softcapping = None
    forward = net.forward

    def wider(_, x, out):
        bias = None if net.lm_head.bias is None else net.lm_head.bias.float()
        return torch.nn.functional.linear(x[0].float(), net.lm_head.weight.float(), bias)

    def capped(**inputs):
        net.config.final_logit_softcapping = None
        out = forward(**inputs)
        net.config.final_logit_softcapping = cap
        if cap is not None:
            out.logits = torch.tanh(out.logits * (1.0 / cap)) * cap
        return out

    net.lm_head.register_forward_hook(wider)
    net.config.final_logit_softcapping, net.forward = cap, capped
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [lambda: tied(True), lambda: tied(False), gemma, phi])
def test_a_right_head_is_found_in_every_dtype_however_it_rounds(make, dtype):
    for net in (make().to(dtype), another_order(make, dtype)):
        head, why = head_of(net)
        assert head is not None, why


def own(kind):
    return config.load([], ["--actor.type", kind])


@pytest.mark.parametrize("role", ["policy", "actor"])
def test_auto_falls_back_to_whole_logits_with_one_warning_for_a_policy_or_an_actors_own_head(
    role, monkeypatch
):
    monkeypatch.setattr(support, "BLOCKS_FROM", 50)
    pair = {"policy": tied(False), "actor": tied(False)} | {role: scale_of(1.02, torch.bfloat16)}
    with pytest.warns(UserWarning, match=f"whole logits .* the {role}: its logits") as seen:
        assert not support.chunked(own("frozen"), **pair)
    assert len(seen) == 1


def test_a_derived_actor_whose_head_cannot_be_read_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(support, "BLOCKS_FROM", 50)
    with pytest.warns(
        UserWarning, match="whole logits .* the actor: its head is Sequential"
    ) as seen:
        assert support.chunked(own("quantized"), tied(False), wrapped())
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert support.chunked(own("quantized"), tied(False), tied(True))


def test_plain_heads_are_all_found():
    models = {"policy": tied(True), "actor": gemma()}
    by_role = not_none(heads_of(models, "chunked"))
    assert by_role["actor"].softcap == 3.0 and by_role["policy"].softcap is None
    assert by_role["policy"].weight is models["policy"].model.embed_tokens.weight
    with pytest.raises(ConfigError, match='"auto", "chunked" or "dense", got "fast"'):
        heads_of(models, "fast")
