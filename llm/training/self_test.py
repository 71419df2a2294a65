"""Before training: are the log-probabilities that sampling noted those that training will compute?

The policy samples a few completions as an actor would, then scores them as training does. With
actor = policy, p_inf and p_ref are one distribution, so log p_inf and log p_ref differ by rounding
alone: the sampler works token by token with a cache, the scorer on whole padded sequences. A wrong
temperature, mask, position, padding side or log-prob mode on either side shows here, and would
otherwise look like a mismatch of actor and policy, to be "corrected" by the weights.

Both also use a token in the same way whatever else a pass holds. So a prompt is scored alone, as
the start of a long sequence, where a rotary table that depends on the length shows, and behind
padding, where positions that are counted from the first column show. The end of a sequence of the
largest length is read with a cache too: a sliding window may be longer than what is sampled here.

An engine other than hf is then tried in the same way: it samples from its own copy of the actor's
model, and the trainer scores the actor's model. Weights that were not taken over, log-probabilities
before the temperature or without their normalisation, and a coarse arithmetic all show here.

Where completions are drafted, the engine drafts some too. Its log p must be the scorer's, and its
log s must be where the scorer's p and q allow it to be.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from llm import randomness
from llm.models.loading import Model, plain
from llm.phases import during
from llm.rollout import sampling
from llm.rollout.batch import Batch, positions
from llm.settings.loading import ConfigError, ModelConfig
from llm.settings.rollout_rules import drafts
from llm.tasks.problem import Problem

from .adapter_check import compare_adapters
from .context import TrainContext
from .forward import at_sampled_tokens, forward, logprobs_and_kls

_POSITIONS = 8  # tokens that are compared between two passes
_PROMPTS = 4
_GROUP = 2
_TOKENS_MAX = 64
_TOP_K_MAX = 5  # log-probabilities of very unlikely tokens are rounded too coarsely in bfloat16


# why two passes differ, and what to do
_LENGTH = (
    "its arithmetic depends on the longest sequence of a batch (a rotary embedding of the type "
    "longrope or dynamic, or attention to later tokens), so sampler and scorer compute different "
    "distributions. Lower --rollout.max_new_tokens below the length at which it switches, or take "
    "another model"
)
_PADDING = (
    "it counts positions from the first column, pays attention to padding, or mixes the sequences "
    "of a batch, so what it says depends on the other prompts. Take another model"
)
_CACHE = (
    "its cache does not keep what a pass over the whole sequence sees (a sliding window, or "
    "attention in chunks). Lower --rollout.max_new_tokens, or take another model"
)


class SelfTestError(ConfigError):
    """Sampling and training disagree about the policy's probabilities."""


class Limits(NamedTuple):
    """What rounding may do: to one token, nats; to the mean; to the scale of log-probabilities.

    In bfloat16 single tokens round by up to a nat, which would hide a wrong temperature; over all
    tokens rounding averages out, and a temperature does not.
    """

    token: float
    mean: float = math.inf
    scale: float = math.inf


def limits(ctx: TrainContext, dtype: str = "") -> Limits:
    """run.self_test_max for a token, or by the precision, the policy's unless given."""
    if ctx.cfg.run.self_test_max:
        return Limits(ctx.cfg.run.self_test_max)
    by_dtype = {"float32": Limits(1e-3), "bfloat16": Limits(2.0, 0.1, 0.03)}
    return by_dtype[dtype or ctx.cfg.policy.dtype]


@during("in the self-test")
@torch.no_grad()
def self_test(ctx: TrainContext) -> dict[str, Any]:
    """Compare log p_inf with log p_ref on completions that the policy itself samples.

    Returns:
        max, mean (absolute difference of sampled tokens, nats), max_topk (of the likeliest tokens),
        scale (of log p_ref's differences between likeliest tokens over those of log p_inf),
        tolerance (for one token), tokens, and worst: {prompt, position, token} of the largest;
        `engine`: the same of the engine and the actor's model, unless the engine is hf;
        `drafting`: the same differences of log p and log s, where completions are drafted;
        `adapters`: an `AdapterCheck` where adapters are merged or sent, else None.

    Raises:
        AdapterCheckError: see `compare_adapters`.
        SelfTestError: a difference above the tolerance, or NaN; log-probabilities that depend on
            the rest of the pass; no completion can end. Says where and what to look at.
    """
    cfg, width = ctx.cfg, min(ctx.cfg.rollout.max_new_tokens, _TOKENS_MAX)
    samples = sampling.sample(
        ctx.policy,
        ctx.tokenizer,
        _of_unequal_lengths(ctx),
        randomness.stream(cfg.run.seed, "self-test"),
        max_new_tokens=width,
        temperature=cfg.rollout.temperature,
        top_k=min(cfg.rollout.top_k, _TOP_K_MAX),
        group=_GROUP,
    )
    result = _compared(ctx, ctx.policy, samples.flat(), limits(ctx), "")
    result["passes"] = _compare_passes(ctx, ctx.policy, "policy", limits(ctx))
    if isinstance(cfg.actor, ModelConfig):
        _compare_passes(ctx, ctx.actor.model, "actor", limits(ctx, cfg.actor.dtype))

    def of_engine() -> Batch:
        assert ctx.engine is not None
        k = min(cfg.rollout.top_k, _TOP_K_MAX)
        return ctx.engine.probe(_of_unequal_lengths(ctx), _GROUP, width, k).flat()

    other = ctx.engine is not None and cfg.rollout.engine.type != "hf"
    if other:
        own = cfg.actor if isinstance(cfg.actor, ModelConfig) else cfg.policy
        allowed = limits(ctx, own.dtype)
        name = f" (engine {cfg.rollout.engine.type}, the actor's model)"
        result["engine"] = _compared(ctx, ctx.actor.model, of_engine(), allowed, name)
    if drafts(cfg):
        result["drafting"] = _compare_drafts(ctx, width)
    result["adapters"] = compare_adapters(ctx, of_engine if other else samples.flat)
    return result


def _compared(
    ctx: TrainContext, model: Model, batch: Batch, allowed: Limits, name: str
) -> dict[str, Any]:
    ends = torch.tensor(sorted(ctx.tokenizer.eos), device=batch.ids.device)  # (e,)
    ids = torch.cat([batch.topk_ids, ends.expand(len(batch.token_ids), -1)], dim=1)  # (n, k + e)
    asked = at_sampled_tokens(forward(ctx, model, batch), batch)._replace(ids=ids, entropy=True)
    (scored,), _ = logprobs_and_kls([asked], ctx.cfg.rollout.temperature)
    logp_ids = scored.logp_ids  # (n, k + e)
    # (n, k), (n, e)
    topk_ref, logp_ends = logp_ids[:, : -len(ends)], logp_ids[:, -len(ends) :]
    sampled = _distance(batch.logp_inf, scored.logp)  # (n,)
    topk = _distance(batch.topk_logp_inf, topk_ref).amax(dim=-1)  # (n,)
    worst = int(torch.maximum(sampled, topk).argmax())
    result: dict[str, Any] = {
        "max": float(sampled.max()),
        "mean": float(sampled.mean()),
        "max_topk": float(topk.max()),
        "scale": _scale(batch.topk_logp_inf, topk_ref),
        "tolerance": allowed.token,
        "tokens": len(sampled),
        "worst": {
            "prompt": batch.prompts[int(batch.sequence[worst])],
            "position": int(batch.position[worst]),
            "token": ctx.tokenizer.pieces([int(batch.token_ids[worst])])[0],
        },
    }
    far = torch.maximum(sampled, topk)
    scaled = abs(result["scale"] - 1.0) > allowed.scale
    if bool((far > allowed.token).any()) or result["mean"] > allowed.mean or scaled:
        wrong = torch.zeros_like(batch.is_completion)  # (b, t)
        # (n,) back to (b, t), so that the message can tell first tokens and padded rows apart
        wrong[batch.is_completion] = far > min(allowed.token, 2.0 * allowed.mean)
        right = result["mean"] <= min(allowed.token, allowed.mean)
        raise SelfTestError(_message(result, wrong, ~batch.is_real[:, 0], scaled, right, name))
    if not bool(scored.entropy.isfinite().all()):
        raise SelfTestError(
            f"self-test{name}: log-probabilities of sampled tokens agree, and the entropy is not "
            "finite: a probability of 0 (a logit of -inf) is computed wrongly by --optim.head "
            f"{ctx.cfg.optim.head}; try the other one"
        )
    if bool(torch.isneginf(logp_ends).all()):
        raise SelfTestError(
            f"self-test{name}: no completion can end: every end-of-sequence id "
            f"({', '.join(map(str, ends.tolist()))}) has probability 0. Name others in "
            "generation_config.json (eos_token_id), or take another model"
        )
    return result


def _compare_drafts(ctx: TrainContext, width: int) -> dict[str, float]:
    """The largest difference of log p, and of log s from where it may be, nats.

    s = clip(q, p / mu, p / lam) lies between p and q. Where q is above p it is the smaller of q and
    p / lam, so a fixed lam leaves no room; a bonus follows p.

    Raises:
        SelfTestError: it is above the tolerance.
    """
    assert ctx.engine is not None
    allowed = limits(ctx)
    k = min(ctx.cfg.rollout.top_k, _TOP_K_MAX)
    batch = ctx.engine.probe(_of_unequal_lengths(ctx), _GROUP, width, k, drafted=True).flat()
    verified = batch.verification
    assert verified is not None
    of_policy, of_actor = (
        at_sampled_tokens(forward(ctx, model, batch), batch)._replace(ids=batch.topk_ids)
        for model in (ctx.policy, ctx.actor.model)
    )
    (p, q), _ = logprobs_and_kls([of_policy, of_actor], ctx.cfg.rollout.temperature)
    # (n, 1 + k): the sampled token, then the likeliest ones
    log_p, log_q = (torch.cat([x.logp[:, None], x.logp_ids], dim=1) for x in (p, q))
    log_s = torch.cat([batch.logp_inf[:, None], batch.topk_logp_inf], dim=1)
    own_p = torch.cat([verified.logp[:, None], verified.topk_logp], dim=1)
    most = log_q.minimum(log_p - verified.lam.log()[:, None])  # of s, where q is above p
    high = torch.where(log_q > log_p, most, log_p)
    low = torch.where(log_q > log_p, most, log_q)
    bonus = verified.is_bonus[:, None]
    low, high = (torch.where(bonus, log_p, x) for x in (low, high))
    gaps = {"log p": _distance(own_p, log_p), "log s": _distance(log_s, log_s.clamp(low, high))}
    for name, gap in gaps.items():
        if float(gap.max()) > allowed.token or float(gap.mean()) > allowed.mean:
            raise SelfTestError(
                f"self-test (drafting): {name} of the engine and of the trainer differ by up to "
                f"{float(gap.max()):.3g} nats (mean {float(gap.mean()):.3g}, allowed for one token "
                f"{allowed.token:g}) at completions that the actor drafted and the policy "
                "verified. Training would correct for this as if it were a mismatch: use "
                "--rollout.mode.type plain. If it is rounding, raise --run.self_test_max"
            )
    return {name: float(gap.max()) for name, gap in gaps.items()}


def _compare_passes(ctx: TrainContext, model: Model, role: str, allowed: Limits) -> float:
    """The largest difference, nats, that the rest of a pass makes to the same tokens.

    A prompt is scored alone; followed by as many tokens as a completion may have; and behind
    padding, beside another sequence. The last tokens of the long sequence are also read one by one
    with a cache, as sampling reads them: what the self-test samples is shorter.

    Raises:
        SelfTestError: it is above the tolerance.
    """
    problems = _of_unequal_lengths(ctx)
    prompt, longest = (ctx.tokenizer.prompt(problems[i].prompt) for i in (0, -1))
    length, padding = len(longest) + ctx.cfg.rollout.max_new_tokens, len(longest) - len(prompt) + 1
    whole = (prompt * (length // len(prompt) + 1))[:length]
    beside = [[ctx.tokenizer.pad] * padding + prompt, (longest * 2)[: padding + len(prompt)]]
    p = min(len(prompt), _POSITIONS)
    start, end = torch.arange(len(prompt))[-p:], torch.arange(length)[-p:]

    def logp(rows: list[list[int]], at: torch.Tensor, padding: int = 0) -> torch.Tensor:
        """(p, v) of tokens `at` in the first row, which begins with padding."""
        ids = torch.tensor(rows, device=ctx.device)
        is_real = torch.ones_like(ids)
        is_real[0, :padding] = 0
        inputs = {"input_ids": ids, "attention_mask": is_real, "position_ids": positions(is_real)}
        out = model(**inputs, use_cache=False, logits_to_keep=at.to(ctx.device))
        return torch.log_softmax(out.logits[0].float() / ctx.cfg.rollout.temperature, dim=-1)

    alone, both = logp([prompt], start), logp([whole], torch.cat([start, end]))
    pairs = {
        f"a pass over {len(prompt)} tokens and one over {length}": (alone, both[:p], _LENGTH),
        "a pass over one sequence and one where it stands behind padding, beside another": (
            *(alone, logp(beside, start + padding, padding)),
            _PADDING,
        ),
        f"a pass over {length} tokens and the last {p} of them one by one with a cache": (
            *(both[p:], _with_cache(ctx, model, whole, p)),
            _CACHE,
        ),
    }
    if all(bool(x.isnan().any()) for x, _, _ in pairs.values()):
        return 0.0  # in any pass: the guard of the first step says so by the model's name
    most = 0.0
    for passes, (one, other, why) in pairs.items():
        # (p, k), the same ids on both sides; unlikely ones are rounded too coarsely to compare
        best = one.topk(min(_TOP_K_MAX, one.shape[-1]), dim=-1).indices
        gap = _distance(one.gather(-1, best), other.gather(-1, best))  # (p, k)
        most = max(most, float(gap.max()))
        if float(gap.max()) > allowed.token or float(gap.mean()) > allowed.mean:
            raise SelfTestError(
                f"self-test: the {role}'s log-probabilities of the same tokens differ by up to "
                f"{float(gap.max()):.3g} nats between {passes}, allowed {allowed.token:g}: {why}"
            )
    return most


def _with_cache(ctx: TrainContext, model: Model, sequence: list[int], last: int) -> torch.Tensor:
    """Log-probabilities after each of the last tokens, (last, v), each a pass with a cache."""
    ids = torch.tensor([sequence], device=ctx.device)
    cache, seen, rows = DynamicCache(config=plain(model).config), 0, []
    for end in range(len(sequence) - last, len(sequence) + 1):
        if end == seen:
            continue  # no token before the last ones
        out = model(
            input_ids=ids[:, seen:end],
            attention_mask=torch.ones_like(ids[:, :end]),
            position_ids=torch.arange(seen, end, device=ctx.device)[None],
            use_cache=True,
            logits_to_keep=1,
            **{sampling.CACHE_KEYWORD: cache},
        )
        seen = end
        rows.append(out.logits[0, -1].float() / ctx.cfg.rollout.temperature)
    return torch.log_softmax(torch.stack(rows[-last:]), dim=-1)


def _scale(topk_inf: torch.Tensor, topk_ref: torch.Tensor) -> float:
    """Regression slope through 0 of differences within each row, (n, k) each; 1 where k is 1."""
    # (n, k) less each row's mean: log Z cancels, and logits / T remain up to a constant. float64,
    # for differences of nearly equal numbers are squared below.
    a, b = (x.double() - x.double().mean(dim=-1, keepdim=True) for x in (topk_inf, topk_ref))
    # a probability of 0 has no difference, and would make the whole slope NaN
    finite = (torch.isfinite(a) & torch.isfinite(b)).all(dim=-1)
    a, b = a[finite], b[finite]
    total = float((a * a).sum())
    return float((a * b).sum()) / total if total > 1e-6 else 1.0


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """NaN is as far away as can be; two tokens of probability 0 agree."""
    return torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _of_unequal_lengths(ctx: TrainContext) -> list[Problem]:
    """Training prompts from the shortest to the longest of 32, so that there is padding."""
    some = ctx.task.batch(ctx.cfg.run.seed, 0, 32)
    some = sorted(some, key=lambda p: len(ctx.tokenizer.prompt(p.prompt)))
    return [some[round(i * (len(some) - 1) / (_PROMPTS - 1))] for i in range(_PROMPTS)]


def _message(
    result: dict[str, Any],
    wrong: torch.Tensor,
    padded: torch.Tensor,
    scaled: bool,
    right: bool,
    name: str,
) -> str:
    """wrong: tokens too far off, (b, t). padded: padding before the prompt, (b,). right: the
    sampled tokens agree, so only the likeliest ones do not. name: of what was tested."""
    where = result["worst"]
    if scaled:
        hint = (
            f"log-probabilities are scaled by {result['scale']:.3g} between the two sides: look at "
            "the temperature"
        )
    elif right:
        hint = "sampled tokens are right: look at how the likeliest tokens are noted"
    elif bool(padded.any()) and not bool(padded.all()) and not bool(wrong[~padded].any()):
        hint = (
            "only sequences with padded prompts are wrong: look at the padding side, the attention "
            "mask and the position ids"
        )
    elif not bool(wrong[:, 0].any()):
        hint = (
            "the first token of every completion is right: look at what sampling with a cache "
            "does differently (position ids, attention mask)"
        )
    else:
        hint = (
            "even first tokens are wrong: look at the temperature and the log-probabilities (of "
            "raw logits, or after temperature?) on both sides, the chat template, and dropout "
            "(is the model in train mode?)"
        )
    return (
        f"self-test{name}: log p_inf and log p_ref of the same tokens under the same model differ "
        f"by up to {max(result['max'], result['max_topk']):.3g} nats (mean {result['mean']:.3g}; "
        f"{int(wrong.sum())} of {result['tokens']} tokens too far off; allowed for one "
        f"{result['tolerance']:g}), most at token {where['position']} ({where['token']!r}) after "
        f"{where['prompt']!r}. Training would correct for this as if it were a mismatch: {hint}. "
        "If it is rounding, raise --run.self_test_max"
    )
