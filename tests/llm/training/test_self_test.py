"""The self-test passes where sampler and scorer agree, and says what is wrong elsewhere."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_context import full_logprobs
from transformers import (
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)
from transformers.cache_utils import DynamicLayer

from jackpot.torch import logprobs
from llm import settings
from llm.models import actors, loading
from llm.models.lm_head import chunked, support
from llm.rewards import scorers as rewards
from llm.rollout import drafted, sampling
from llm.rollout.engines.in_process import HfEngine
from llm.settings.loading import ConfigError
from llm.tasks import factory
from llm.tokenizers import character
from llm.training import forward
from llm.training.context import TrainContext
from llm.training.self_test import SelfTestError, limits, self_test

FLAGS = ["--actor.type", "self", "--correction.type", "none"]
FLAGS += ["--task.digits_min", "3", "--policy.width", "32"]


def opened(*flags: str, dropout: float = 0.0, absolute: bool = False) -> TrainContext:
    """A random model; prompts of 3 to 8 digits, so that there is padding.

    absolute: GPT-2, which notices where a sequence starts; rotary positions are relative.
    """
    cfg = settings.load([], [*FLAGS, "--rollout.temperature", "0.7", *flags])
    if absolute:
        torch.manual_seed(0)
        size: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
        policy = GPT2LMHeadModel(GPT2Config(vocab_size=48, n_positions=64, **size)).eval()
    else:
        policy = loading.build(cfg.policy, seed=0).to(getattr(torch, cfg.policy.dtype)).eval()
        for layer in policy.model.layers:
            layer.self_attn.attention_dropout = dropout
    tokenizer = character.CharTokenizer()
    task, scorer = factory.open_task(cfg.task, tokenizer), rewards.open_scorer(cfg.task, tokenizer)
    actor = actors.open_actor(cfg, policy, Path("unused"))
    chunked = support.chunked(cfg, policy, actor.model)
    parts = (cfg, tokenizer, task, scorer, policy, actor, None, torch.device("cpu"))
    return TrainContext(*parts, chunked=chunked)


DRAFTED = ("--actor.type", "noisy", "--actor.noise", "0.05", "--rollout.mode.type", "drafted")


def drafting(*flags: str) -> TrainContext:
    ctx = opened(*DRAFTED, *flags)
    engine = HfEngine(ctx.cfg, ctx.tokenizer, ctx.device, ctx.policy)
    engine.update(ctx.actor.model, 0)
    return ctx._replace(engine=engine)


@pytest.mark.parametrize("lam", ["1", "0.5"])
def test_drafted_completions_agree_with_the_scorer(lam):
    """log p and log s; early tokens, bonuses and the likeliest tokens among them."""
    found = self_test(drafting("--rollout.mode.lam.value", lam))["drafting"]
    assert 0 < found["log p"] < 1e-4 and found["log s"] < 1e-4


@pytest.mark.parametrize(("what", "said"), [("policy", "log p"), ("distribution", "log s")])
def test_a_policy_with_other_weights_and_a_distribution_that_is_none_are_found(
    monkeypatch, what, said
):
    ctx = drafting("--rollout.mode.lam.value", "0.5")
    assert ctx.engine is not None
    if what == "policy":
        ctx.engine._policy = copy.deepcopy(ctx.policy)
        with torch.no_grad():
            ctx.engine._policy.lm_head.weight.mul_(1.01)
    else:
        original = drafted._distribution

        def other(*args, **keywords):
            found = original(*args, **keywords)
            return found._replace(log_s=found.log_s - 0.01)

        monkeypatch.setattr(drafted, "_distribution", other)
    with pytest.raises(SelfTestError, match=rf"self-test \(drafting\): {said} of the engine"):
        self_test(ctx)


def test_a_sound_ctx_passes_with_rounding_alone():
    found = self_test(opened())
    assert 0.0 <= found["mean"] <= found["max"] < 2e-5
    assert found["max_topk"] < 2e-5 and found["tokens"] >= 8
    assert found["tolerance"] == 1e-3


def test_it_repeats_exactly_and_changes_nothing():
    ctx = opened()
    before = {k: v.clone() for k, v in ctx.policy.state_dict().items()}
    assert self_test(ctx) == self_test(ctx)
    assert all(torch.equal(v, before[k]) for k, v in ctx.policy.state_dict().items())


def test_bfloat16_has_wider_limits_and_a_setting_overrides_both():
    ctx = opened("--policy.dtype", "bfloat16")
    found = self_test(ctx)
    assert limits(ctx).token == 2.0 and 1e-3 < found["mean"] <= found["max"] < 0.5
    assert abs(found["scale"] - 1.0) < 0.01
    with pytest.raises(SelfTestError, match="allowed for one 1e-06"):
        self_test(opened("--run.self_test_max", "1e-6", "--policy.dtype", "bfloat16"))


def test_a_policy_that_scales_its_logits_passes_with_whole_ones(monkeypatch):
    """By 1.1 in bfloat16; taken for unscaled it would fail here."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 48}
    granite = GraniteConfig(**shape, logits_scaling=1.1, initializer_range=0.3, pad_token_id=0)
    policy = GraniteForCausalLM(granite).bfloat16().eval()
    monkeypatch.setattr(loading, "build", lambda *a, **k: policy)
    monkeypatch.setattr(support, "BLOCKS_FROM", 48)
    policy.model.layers[0].self_attn.attention_dropout = 0.0
    with pytest.warns(UserWarning, match="whole logits") as seen:
        ctx = opened("--policy.dtype", "bfloat16")
    assert len(seen) == 1 and not ctx.chunked
    assert abs(self_test(ctx)["scale"] - 1.0) < 0.02


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.3])
def test_bfloat16_rounding_hides_no_wrong_temperature(factor, monkeypatch):
    """Every token within what bfloat16 may do to one, and the scale of all tells."""
    ctx = opened("--policy.dtype", "bfloat16")
    states = forward.completion_states
    monkeypatch.setattr(forward, "completion_states", lambda *a: states(*a) / factor)
    with pytest.raises(SelfTestError, match=r"scaled by .* look at the temperature"):
        self_test(ctx)


def planted(fault: str, patch: pytest.MonkeyPatch, ctx: TrainContext) -> None:
    """One side made wrong, the other left right."""
    states: Any = forward.completion_states
    sampler, noted = sampling._forward, sampling.sample
    positions, pretrained = forward.positions, ctx.cfg.rollout.temperature

    def raw(*args, **kwargs):
        batch = noted(*args, **kwargs)
        width = batch.is_completion.shape[1]
        logp = full_logprobs(ctx.policy, batch.ids, batch.is_real, width, 1.0)
        batch.logp_inf.copy_(logprobs.chosen(logp, batch.ids[:, -width:]))
        return batch

    scorers = {
        "scorer at temperature 1": lambda *a: states(*a) * pretrained,
        "scored one token late": lambda *a: states(*a).roll(1, dims=1),
        "another prompt is scored": lambda m, ids, *a: states(m, ids + (ids == 5), *a),
        "NaN": lambda *a: states(*a) * math.nan,
        "scorer sees padding": lambda m, ids, real, *a: _unmasked(states, m, ids, real, *a),
        "scorer pads on the right": lambda m, ids, real, t, split: states(
            m, _right(ids, real, t), _right(real, real, t), t, split
        ),
    }
    samplers = {
        "sampler's positions off by one": lambda m, ids, real, pos, cache: sampler(
            m, ids, real, pos + (ids.shape[1] == 1), cache
        ),
        "sampler sees padding": lambda m, ids, real, pos, cache: sampler(
            m, ids, torch.ones_like(real), pos, cache
        ),
    }
    orders = {
        "scorer skips every other position": lambda real: positions(real) * 2,
        "scorer's positions count padding": lambda real: positions(torch.ones_like(real)),
    }
    if fault in scorers:
        patch.setattr(forward, "completion_states", scorers[fault])
    elif fault in samplers:
        patch.setattr(sampling, "_forward", samplers[fault])
    elif fault in orders:
        patch.setattr(forward, "positions", orders[fault])
    elif fault == "sampler notes raw log-probabilities":
        patch.setattr(sampling, "sample", raw)
    else:
        assert fault == "dropout"
        ctx.policy.train()


def _unmasked(states, m, ids, real, *a):
    """Only positions know of the padding."""
    position = forward.positions(real)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "positions", lambda _: position)
        return states(m, ids, torch.ones_like(real), *a)


def _right(x, real, t):
    """The prompt's padding moved behind the prompt."""
    rows = []
    for row, mask in zip(x, real[:, :-t], strict=True):
        prompt = row[:-t]
        rows.append(torch.cat([prompt[mask], prompt[~mask], row[-t:]]))
    return torch.stack(rows)


EVEN_FIRST = "even first tokens are wrong: look at the temperature"
ONLY_PADDED = "only sequences with padded prompts are wrong: look at the padding side"
CACHE = "the first token of every completion is right: look at what sampling with a cache"


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        ("scorer at temperature 1", EVEN_FIRST),
        ("sampler notes raw log-probabilities", EVEN_FIRST),
        ("scored one token late", EVEN_FIRST),
        ("another prompt is scored", "differ by up to"),
        ("dropout", "differ by up to"),
        ("scorer skips every other position", EVEN_FIRST),
        ("scorer's positions count padding", ONLY_PADDED),
        ("scorer sees padding", ONLY_PADDED),
        ("scorer pads on the right", ONLY_PADDED),
        ("sampler sees padding", ONLY_PADDED),
        ("sampler's positions off by one", CACHE),
        ("NaN", "differ by up to inf nats"),
    ],
)
def test_a_planted_fault_is_caught_and_the_message_points_at_it(fault, hint, monkeypatch):
    ctx = opened(dropout=0.3 * (fault == "dropout"), absolute="positions" in fault)
    self_test(ctx)  # nothing is wrong without the fault
    planted(fault, monkeypatch, ctx)
    with pytest.raises(SelfTestError, match=hint) as found:
        self_test(ctx)
    assert "--run.self_test_max" in str(found.value)


def test_log_probabilities_of_the_likeliest_tokens_are_compared_too(monkeypatch):
    real = sampling.sample

    def wrong(*args, **kwargs):
        batch = real(*args, **kwargs)
        batch.topk_logp_inf[0, 0, 1] += 0.01
        return batch

    ctx = opened()
    monkeypatch.setattr(sampling, "sample", wrong)
    with pytest.raises(SelfTestError, match="sampled tokens are right: look at how the likeliest"):
        self_test(ctx)


def test_the_worst_token_is_named(monkeypatch):
    real, seen = sampling.sample, []

    def wrong(*args, **kwargs):
        batch = real(*args, **kwargs)
        batch.logp_inf[5, 2] += 1.0
        assert bool(batch.is_completion[5, 2])
        seen.append(batch)
        return batch

    ctx = opened()
    monkeypatch.setattr(sampling, "sample", wrong)
    with pytest.raises(ConfigError, match=r"1 of \d+ tokens too far off") as found:
        self_test(ctx)
    piece = ctx.tokenizer.pieces([int(seen[0].ids[5, 2 - seen[0].is_completion.shape[1]])])[0]
    assert f"most at token 2 ({piece!r}) after {seen[0].prompts[5]!r}" in str(found.value)


def test_arithmetic_that_depends_on_the_longest_sequence_is_caught(monkeypatch):
    """A longrope model as transformers loads it: self-test completions stay below the switch."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 48}
    shape |= {"original_max_position_embeddings": 100, "max_position_embeddings": 512}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 100}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    shape |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = Phi3Config(**shape, rope_parameters=rope, initializer_range=0.3)
    model = Phi3ForCausalLM(config).eval()
    monkeypatch.setattr(loading, "build", lambda *a, **k: model)
    assert self_test(opened("--rollout.max_new_tokens", "80"))["passes"] < 1e-4
    with pytest.raises(
        SelfTestError, match=r"policy's log-probabilities of the same tokens .*long"
    ):
        self_test(opened("--rollout.max_new_tokens", "120"))


def test_positions_counted_from_the_first_column_are_caught():
    """BART's decoder takes no position ids; sampler and scorer have the same padding here."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 48,
        "d_model": 16,
        "decoder_layers": 1,
        "pad_token_id": 0,
    }
    shape |= {"decoder_attention_heads": 2, "decoder_ffn_dim": 16, "max_position_embeddings": 64}
    config = BartConfig(**shape, eos_token_id=1, bos_token_id=1, is_decoder=True, init_std=0.5)
    ctx = opened()._replace(policy=BartForCausalLM(config).eval())
    with pytest.raises(SelfTestError, match="it counts positions from the first column"):
        self_test(ctx)


def test_a_cache_that_forgets_beyond_the_sampled_length_is_caught(monkeypatch):
    """Of 80 tokens or more, where the self-test samples 64."""
    real = DynamicLayer.update

    def forgetful(self, *args, **keywords):
        keys, values = real(self, *args, **keywords)
        forgets = keys.shape[-2] > 80
        return (keys * (1.0 - 0.5 * forgets), values)

    monkeypatch.setattr(DynamicLayer, "update", forgetful)
    self_test(opened("--rollout.max_new_tokens", "64"))
    with pytest.raises(SelfTestError, match="its cache does not keep"):
        self_test(opened("--rollout.max_new_tokens", "90"))


def biased(ctx: TrainContext, ids: list[int]) -> None:
    """These ids get probability 0."""
    bias = torch.zeros(48)
    bias[ids] = -math.inf
    ctx.policy.lm_head.bias = torch.nn.Parameter(bias)


def test_ids_of_probability_0_pass_and_entropies_that_are_nan_do_not(monkeypatch):
    ctx = opened()
    biased(ctx, [5, 9])
    assert self_test(ctx)["max"] < 2e-5
    monkeypatch.setattr(chunked, "_entropy", lambda logp: -(logp.exp() * logp).sum(-1))
    with pytest.raises(SelfTestError, match="the entropy is not finite"):
        self_test(ctx)


def test_a_model_that_can_end_no_completion_is_refused():
    ctx = opened()
    biased(ctx, sorted(ctx.tokenizer.eos))
    with pytest.raises(SelfTestError, match=r"no completion can end: .*\(1\) has probability 0"):
        self_test(ctx)
