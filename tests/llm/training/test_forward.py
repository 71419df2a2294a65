"""An update through the head in blocks, against plain float64 formulas and against whole logits."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from optional import not_none
from tiny_context import PROBLEMS, full_logprobs, learner, rollout, world
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from update_cases import whole

from jackpot.torch.correction import CorrectionState
from llm import settings as config
from llm.errors import NonFinite
from llm.models import actors
from llm.models.lm_head import blocks as head_blocks
from llm.models.lm_head import chunked
from llm.models.lm_head.chunked import Chunk, HeadInput
from llm.models.lm_head.support import in_blocks
from llm.settings.loading import ConfigError
from llm.settings.schema import Distillation, OptimConfig, SeparateActor
from llm.train import update
from llm.training import forward
from llm.training.scoring import score_before_updates

SHAPE: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
KINDS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "tied": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8, "tie_word_embeddings": True}),
    "untied": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "bias": (PhiForCausalLM, PhiConfig, {}),
    "soft-cap": (
        Gemma2ForCausalLM,
        Gemma2Config,
        {"head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": None},
    ),
}


def models(kind: str) -> tuple:
    """Policy, actor and initial policy: three random ones, far enough from each other."""
    cls, shape, fields = KINDS[kind]
    found = []
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(cls(shape(**SHAPE, **fields, initializer_range=0.4)).eval())
            if kind == "bias":
                torch.nn.init.normal_(found[-1].lm_head.bias)
    return tuple(found)


@pytest.fixture(scope="module")
def scene():
    """20 sequences of one of the actors; a quarter of the advantages are 0."""
    batch = rollout(models("untied")[1], problems=PROBLEMS * 4, seed=3)
    advantage = torch.linspace(-1.5, 2.0, 20)
    advantage[::4] = 0.0
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return dataclasses.replace(batch, advantage=advantage), coin[batch.is_completion]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Neither the tokens nor the vocabulary fit into one."""
    monkeypatch.setattr(
        chunked,
        "chunked_logprobs",
        functools.partial(chunked.chunked_logprobs, chunk=Chunk(37, 20)),
    )


def settings(text: str, kind: str) -> config.Config:
    size = [] if "--correction.type none" in text else ["--rollout.top-k", "5"]
    return config.load([], [*size, "--optim.head", kind, *text.split()])


def updated(trio, cfg, scene):
    """What an update reports, and the gradients that it made, by role."""
    policy, actor, initial = (copy.deepcopy(m) for m in trio)
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, grad_clip=float("inf")))
    ctx = world(cfg, (policy, actor), cfg.actor.type)
    if cfg.loss.initial_kl_coef > 0:
        ctx = ctx._replace(initial_policy=initial.requires_grad_(False))
    assert ctx.chunked == (cfg.optim.head == "chunked")
    optimizers = {k: torch.optim.SGD(m.parameters(), lr=0.0) for k, m in ctx.trained.items()}
    weights, metrics = update(ctx, learner(cfg, optimizers), whole(*scene), 0)
    return {"weights": weights, **metrics}, {k: grads(m) for k, m in ctx.trained.items()}


def grads(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def kl(p, q):
    return (p.exp() * (p - q)).sum()


def by_hand(trio, cfg, scene, weight):
    """The losses, and gradients of their sum, in float64 by full log-softmax and autograd."""
    batch, (policy, actor, initial) = scene[0], (copy.deepcopy(m).double() for m in trio)
    real, loss, own = batch.is_completion, cfg.loss, cfg.actor

    def distribution(model, temperature=1.0):
        pretrained = cfg.rollout.temperature * temperature
        full = torch.log_softmax(logits(model, batch) / pretrained, -1)
        return full, full.gather(1, batch.token_ids[:, None])[:, 0]

    def ppo(new, old, w):
        advantage = batch.advantage[:, None].expand(real.shape)[real].double()
        r = (new - old).exp()
        return -(w * torch.minimum(r * advantage, r.clamp(0.8, 1.2) * advantage)).mean()

    (p, new), (_, act), n = distribution(policy), distribution(actor), int(real.sum())
    found = {"loss_policy": ppo(new, new.detach(), weight.double())}
    found["loss_actor_ppo"] = ppo(act, batch.logp_inf.double(), 1.0)
    t = own.distill.temperature
    pair = [distribution(policy, t)[0].detach(), distribution(actor, t)[0]]
    pair = pair if own.distill.type == "forward" else pair[::-1]
    found["loss_distill"] = t**2 * kl(*pair) / n
    if loss.initial_kl_coef > 0:
        found["loss_initial_kl"] = kl(p, distribution(initial)[0].detach()) / n
    coefs = {"loss_initial_kl": loss.initial_kl_coef, "loss_distill": own.distill.coef}
    sum(coefs.get(k, 1.0) * x for k, x in found.items()).backward()
    found["entropy_policy"] = -(p.exp() * p).sum() / n
    return {k: float(x.detach()) for k, x in found.items()}, {
        "policy": grads(policy),
        "actor": grads(actor),
    }


def logits(model, batch):
    """(n, v), in the model's dtype: sequence by sequence, without padding."""
    found = []
    for ids, real, sampled in zip(batch.ids, batch.is_real, batch.is_completion, strict=True):
        out = model(input_ids=ids[real][None]).logits[0]
        found.append(out[-1 - int(sampled.sum()) : -1])
    return torch.cat(found)


EVERYTHING = (
    "--rollout.temperature 0.7 --loss.initial-kl-coef 0.3 --actor.distill.type reverse "
    "--actor.distill.coef 0.5 --control.type kl --control.kl-target 0.1 "
    "--optim.microbatch.sequences 3 "
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "setting",
    [
        "--loss.initial-kl-coef 0.3 --correction.lam.value 2.0",
        EVERYTHING,
        "--actor.distill.temperature 2.0 --correction.lam.type state --rollout.temperature 1.3",
    ],
    ids=["one microbatch", "several", "another temperature"],
)
def test_losses_and_gradients_are_those_of_plain_float64_and_metrics_of_whole_logits(
    kind, setting, scene
):
    trio = models(kind)
    blocks, ours = updated(trio, settings(setting, "chunked"), scene)
    dense, _ = updated(trio, settings(setting, "dense"), scene)
    weights = blocks.pop("weights")
    assert 0.1 < float((weights.weight == 0).float().mean()) < 0.9
    losses, exact = by_hand(trio, settings(setting, "chunked"), scene, weights.weight)
    for name, value in losses.items():
        assert blocks[name] == pytest.approx(value, rel=2e-5, abs=1e-6), name
    for role, wanted in exact.items():
        assert float((ours[role] - wanted).norm() / wanted.norm()) < 1e-5, role
    for field in dataclasses.fields(weights):
        a, b = (getattr(w, field.name) for w in (weights, dense["weights"]))
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert blocks.keys() == dense.keys() - {"weights"}
    for name, value in blocks.items():
        assert value == pytest.approx(dense[name], rel=2e-4, abs=1e-6), name


def test_p_ref_of_both_models_is_that_of_a_plain_forward_pass(scene):
    """Scored before several updates, in microbatches, with U' from blocks."""
    batch, trio = scene[0], models("tied")
    setting = "--actor.correction.type tis --rollout.max-staleness 1 "
    setting += "--optim.microbatch.type tokens --optim.microbatch.tokens 60"
    contexts = [world(settings(setting, kind), trio[:2]) for kind in ("chunked", "dense")]
    (ref, of_actor), (dense, _) = (
        score_before_updates(c, batch, CorrectionState()) for c in contexts
    )
    real = batch.is_completion
    for found, model in ((ref.logp, trio[0]), (of_actor, trio[1])):
        full = full_logprobs(model, batch.ids, batch.is_real, real.shape[1], 1.0)[real]
        exact = full.gather(1, batch.token_ids[:, None])[:, 0]
        torch.testing.assert_close(found, exact.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ref.topk_logp, dense.topk_logp)
    torch.testing.assert_close(ref.tail_bound, dense.tail_bound, rtol=1e-4, atol=2e-4)
    assert not torch.equal(ref.logp, dense.logp)  # another way of summing


ALONE = "--actor.type self --correction.type none "


def rows_multiplied(monkeypatch) -> dict[int, int]:
    """Rows of logits' gradients that went into products, by weight, counted once each."""
    seen: dict[int, int] = {}
    add = head_blocks.HeadBlocks.add

    def counting(self, rows, cols, dl, pick):
        if cols.start == 0:
            n = len(dl) if pick is None else len(pick)
            key = self.weight.data_ptr()
            seen[key] = seen.get(key, 0) + n
        add(self, rows, cols, dl, pick)

    monkeypatch.setattr(head_blocks.HeadBlocks, "add", counting)
    return seen


@pytest.mark.parametrize("micro", ["", "--optim.microbatch.sequences 3"])
@pytest.mark.parametrize("setting", ["alone", "distilled", "held"])
def test_rejected_tokens_and_those_without_advantage_cost_the_policys_head_nothing(
    monkeypatch, scene, setting, micro
):
    """Unless a KL trains the policy there. (That it is exact is in the test above.)"""
    seen, trio, batch = rows_multiplied(monkeypatch), models("untied"), scene[0]
    text = {"alone": ALONE, "distilled": "", "held": "--loss.initial-kl-coef 0.3"}[setting]
    made = []
    original = forward.forward

    def noting(ctx, model, mb):
        side = original(ctx, model, mb)
        made.append((model is ctx.policy, not_none(side.head).weight.data_ptr()))
        return side

    monkeypatch.setattr(forward, "forward", noting)
    found, _ = updated(trio, settings(f"{text} {micro}", "chunked"), scene)
    real = batch.is_completion
    advantage = batch.advantage[:, None].expand(real.shape)[real]
    useful = int((found["weights"].weight * advantage != 0).sum())
    assert useful < 0.8 * int(real.sum())
    of_policy = {key for is_policy, key in made if is_policy}
    counted = {key in of_policy: n for key, n in seen.items()}
    wanted = {True: int(real.sum()) if setting == "held" else useful}
    if setting != "alone":
        wanted[False] = int(real.sum())
    assert counted == wanted


def test_blocks_are_refused_with_a_loss_that_needs_whole_logits():
    with pytest.raises(ConfigError, match=r"optim.head chunked cannot compute.*distill.top_k"):
        actor = SeparateActor(distill=Distillation(top_k=3))
        config.Config(optim=OptimConfig(head="chunked"), actor=actor)


def test_auto_means_blocks_only_for_large_vocabularies_and_losses_that_allow_it():
    plain, coarse = (config.load([], x) for x in ([], ["--actor.distill.top_k", "3"]))
    assert [in_blocks(plain, v) for v in (48, 1_023, 1_024)] == [False, False, True]
    assert not in_blocks(coarse, 1_024)
    assert in_blocks(settings("", "chunked"), 48)
    assert not in_blocks(settings("", "dense"), 10**6)


@pytest.mark.parametrize("head_kind", ["chunked", "dense"])
@pytest.mark.parametrize("lam", ["fixed", "state"])
def test_nan_logits_reach_the_guard_without_their_tail_being_counted(
    head_kind, lam, scene, monkeypatch
):
    policy, actor, _ = models("untied")
    cfg = settings(f"--correction.lam.type {lam}", head_kind)
    ctx = world(cfg, (policy, actor))
    assert ctx.chunked == (head_kind == "chunked")
    policy.lm_head.weight.data[3] = float("nan")  # as an update would leave it

    def counted(*args):
        raise AssertionError("U' of NaN")

    monkeypatch.setattr(forward, "forward_tail", counted)
    optimizers = {k: torch.optim.SGD(m.parameters(), lr=0.0) for k, m in ctx.trained.items()}
    with pytest.raises(NonFinite, match="logp_new"):
        update(ctx, learner(cfg, optimizers), whole(*scene), 0)


@pytest.mark.parametrize("bits", ["8", "4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_quantised_actors_kls_come_from_blocks_and_are_those_of_whole_logits(
    bits, dtype, scene, monkeypatch
):
    policy = models("tied")[0].to(dtype)
    flags = f"--actor.type quantized --actor.bits {bits}"
    found = {}
    for way in ("chunked", "dense"):
        actor = actors.quantized(policy, int(bits))
        ctx = world(settings(flags, way), (policy, actor), "quantized")
        assert ctx.chunked == (way == "chunked")
        with torch.no_grad():
            sides = [forward.forward(ctx, m, scene[0]) for m in (policy, actor)]
        with monkeypatch.context() as patch:
            if way == "chunked":
                assert all(side.head is not None for side in sides)
                weight = not_none(sides[1].head).weight
                assert weight.dtype == dtype
                assert not weight.requires_grad
                patch.setattr(chunked, "dense_logprobs", None)
            found[way] = forward.exact_kls(sides[0], sides[1], 1.0)
    for name, kl_whole in found["dense"].items():
        assert kl_whole > 1e-6
        error = 1e-5 if dtype == torch.float32 else 0.3  # whole logits are rounded to bfloat16
        assert found["chunked"][name] == pytest.approx(kl_whole, rel=error, abs=1e-6)


def test_both_exact_kls_have_the_direction_of_their_name():
    """By hand: p = (1/2, 1/2), q = (1/4, 3/4)."""
    p, q = (HeadInput(torch.tensor([x]).log()) for x in ([0.5, 0.5], [0.25, 0.75]))
    found = forward.exact_kls(p, q, 1.0)
    assert found["kl_policy_actor"] == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5
    )
    assert found["kl_actor_policy"] == pytest.approx(
        0.25 * np.log(0.5) + 0.75 * np.log(1.5), rel=1e-5
    )
