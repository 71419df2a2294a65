"""Before training: are the log-probabilities that sampling noted those that training will compute?

The policy samples a few completions as an actor would, then scores them as training does. With
actor = policy, p_inf and p_ref are one distribution, so log p_inf and log p_ref differ by rounding
alone: the sampler works token by token with a cache, the scorer on whole padded sequences. A wrong
temperature, mask, position, padding side or log-prob mode on either side shows here, and would
otherwise look like a mismatch of actor and policy, to be "corrected" by the weights.

An engine other than hf is then tried in the same way: it samples from its own copy of the actor's
model, and the trainer scores the actor's model. Weights that were not taken over, log-probabilities
before the temperature or without their normalisation, and a coarse arithmetic all show here.
"""

from __future__ import annotations

from typing import Any

import torch

from . import data, logprobs, rollout, update
from .config import ConfigError
from .data import Problem
from .models import Model
from .rollout import Batch
from .setup import Setup

_PROMPTS = 4
_GROUP = 2
_TOKENS_MAX = 64
_TOP_K_MAX = 5  # log-probabilities of very unlikely tokens are rounded too coarsely in bfloat16


class SelfTestError(ConfigError):
    """Sampling and training disagree about the policy's probabilities."""


def tolerance(setup: Setup, dtype: str = "") -> float:
    """Largest difference allowed, nats: run.self_test_max, or by the precision, the policy's."""
    chosen = setup.cfg.run.self_test_max
    return chosen or {"float32": 1e-3, "bfloat16": 0.5}[dtype or setup.cfg.policy.dtype]


@torch.no_grad()
def self_test(setup: Setup) -> dict[str, Any]:
    """Compare log p_inf with log p_ref on completions that the policy itself samples.

    Returns:
        max, mean (absolute difference of sampled tokens, nats), max_topk (of the likeliest tokens),
        tolerance, tokens, and worst: {prompt, position, token} of the largest; `engine`: the same
        of the engine and the actor's model, unless the engine is hf.

    Raises:
        SelfTestError: a difference above the tolerance, or NaN; says where and what to look at.
    """
    cfg, width = setup.cfg, min(setup.cfg.rollout.max_new_tokens, _TOKENS_MAX)
    batch = rollout.sample(
        setup.policy,
        setup.tokenizer,
        _of_unequal_lengths(setup),
        data.stream(cfg.run.seed, "self-test"),
        max_new_tokens=width,
        temperature=cfg.rollout.temperature,
        top_k=min(cfg.rollout.top_k, _TOP_K_MAX),
        group=_GROUP,
    )
    found = _compared(setup, setup.policy, batch, tolerance(setup), "")
    if setup.engine is not None and cfg.rollout.engine != "hf":
        batch = setup.engine.trial(
            _of_unequal_lengths(setup), _GROUP, width, min(cfg.rollout.top_k, _TOP_K_MAX)
        )
        own = cfg.actor.kind in ("separate", "frozen")
        allowed = tolerance(setup, cfg.actor.dtype if own else cfg.policy.dtype)
        name = f" (engine {cfg.rollout.engine}, the actor's model)"
        found["engine"] = _compared(setup, setup.actor.model, batch, allowed, name)
    return found


def _compared(
    setup: Setup, model: Model, batch: Batch, allowed: float, name: str
) -> dict[str, Any]:
    real = batch.is_completion
    logp = update.forward(setup, model, batch)  # (n, v), n sampled tokens
    ref = logprobs.chosen(logp, batch.completion_ids[real])
    sampled = _distance(batch.logp_inf[real], ref)  # (n,)
    topk = _distance(batch.topk_logp_inf[real], logp.gather(-1, batch.topk_ids[real])).amax(dim=-1)
    worst = int(torch.maximum(sampled, topk).argmax())
    row, position = real.nonzero()[worst].tolist()
    found = {
        "max": float(sampled.max()),
        "mean": float(sampled.mean()),
        "max_topk": float(topk.max()),
        "tolerance": allowed,
        "tokens": len(sampled),
        "worst": {
            "prompt": batch.prompts[row],
            "position": position,
            "token": setup.tokenizer.pieces([int(batch.completion_ids[row, position])])[0],
        },
    }
    wrong = torch.zeros_like(real)
    wrong[real] = torch.maximum(sampled, topk) > allowed
    if bool(wrong.any()):
        padded = ~batch.is_real[:, 0]
        raise SelfTestError(_message(found, wrong, padded, name))
    return found


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """NaN is as far away as can be; two tokens of probability 0 agree."""
    return torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _of_unequal_lengths(setup: Setup) -> list[Problem]:
    """Training prompts from the shortest to the longest of 32, so that there is padding."""
    some = setup.task.batch(setup.cfg.run.seed, 0, 32)
    some = sorted(some, key=lambda p: len(setup.tokenizer.prompt(p.prompt)))
    return [some[round(i * (len(some) - 1) / (_PROMPTS - 1))] for i in range(_PROMPTS)]


def _message(found: dict[str, Any], wrong: torch.Tensor, padded: torch.Tensor, name: str) -> str:
    """wrong: tokens beyond the tolerance, (b, t). padded: padding before the prompt, (b,)."""
    where = found["worst"]
    if found["max"] <= found["tolerance"]:
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
        f"by up to {max(found['max'], found['max_topk']):.3g} nats (mean {found['mean']:.3g}; "
        f"{int(wrong.sum())} of {found['tokens']} tokens beyond the tolerance "
        f"{found['tolerance']:g}), most at token {where['position']} ({where['token']!r}) after "
        f"{where['prompt']!r}. Training would correct for this as if it were a mismatch: {hint}. "
        "If it is rounding, raise --run.self_test_max"
    )
