"""What the models say at the tokens of a batch: a forward pass of each, and then their heads.

A model's side of it is either states and a head, whose logits then only exist in blocks, or whole
logits (`Setup.chunked`); `read` takes both. Everything here is of real completion tokens, flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from llm.algorithm.control import Controls
from llm.algorithm.correction import CorrectionState, forward_tail, lam_before, needs_tail
from llm.algorithm.losses import bucketed
from llm.algorithm.z_tail import tail_floor
from llm.models.lm_head import chunked
from llm.models.lm_head.chunked import Head, HeadInput, HeadOutput, KLPair
from llm.models.lm_head.support import hidden_states, own_head
from llm.models.loading import Model, recomputing
from llm.models.sharding import gathered
from llm.rollout.batch import Batch, positions
from llm.settings.schema import SeparateActor

from .context import TrainContext


class Tokens(NamedTuple):
    """The policy's view of the real tokens of a batch, flat, without gradient."""

    logp: torch.Tensor  # (n,) of the sampled token
    topk_logp: torch.Tensor  # (n, k) of q's k likeliest tokens
    tail_bound: torch.Tensor | None  # (n,) what the others can add to Z; None where unused


class Weighing(NamedTuple):
    """What `tokens` needs besides the policy. is_target: the policy as it is now is the target."""

    state: CorrectionState
    is_target: bool


class Joint(NamedTuple):
    """All that the losses need of the models at n tokens, (n,) each, with gradient.

    kl: "anchor", "distill" (at the distillation temperature), "control" (no gradient), where used.
    tokens: for the weights, where they were asked for.
    """

    policy: torch.Tensor
    actor: torch.Tensor | None
    entropy: torch.Tensor  # without gradient
    kl: dict[str, torch.Tensor]
    tokens: Tokens | None


def forward(setup: TrainContext, model: Model, batch: Batch) -> HeadInput:
    """One forward pass, up to where `read` goes on."""
    found = own_head(model)[0] if setup.chunked else None
    with recomputing(model):
        width = batch.is_completion.shape[1]
        states = completion_states(model, batch.ids, batch.is_real, width, found is not None)
    states = states[batch.is_completion]
    if found is None:
        return HeadInput(logits=states)
    bias = None if found.bias is None else gathered(found.bias)
    return HeadInput(states, Head(gathered(found.weight), bias, found.softcap))


def completion_states(
    model: Model, ids: torch.Tensor, is_real: torch.Tensor, completion_width: int, split: bool
) -> torch.Tensor:
    """What the law of each completion token is computed from.

    Args:
        ids: prompt (left-padded) then completion (right-padded), shape (b, t_prompt + t).
        is_real: True where `ids` holds a token rather than padding; same shape.
        completion_width: t, the positions wanted.
        split: stop before the head.

    Returns:
        Logits (b, t, v), or with `split` what the head is applied to, (b, t, h), in the model's
        dtype: entry [:, i] belongs to the distribution that completion token i is drawn from.
    """
    inputs = {
        "input_ids": ids,
        "attention_mask": is_real.long(),
        "position_ids": positions(is_real),
        "use_cache": False,
    }
    if split:
        return hidden_states(model, **inputs)[:, -completion_width - 1 : -1]
    return model(**inputs, logits_to_keep=completion_width + 1).logits[:, :-1]


def read(
    sides: list[HeadInput], temperature: float, pairs: Sequence[KLPair] = ()
) -> tuple[list[HeadOutput], list[torch.Tensor]]:
    """`head.chunked_logprobs`, or `head.dense_logprobs` where a side has whole logits."""
    split = all(side.head is not None for side in sides)
    return (chunked.chunked_logprobs if split else chunked.dense_logprobs)(
        sides, pairs, temperature
    )


def taken(side: HeadInput, batch: Batch) -> HeadInput:
    """The side with the sampled tokens, whose log-probability is wanted."""
    return side._replace(tokens=batch.completion_ids[batch.is_completion])


def joint(
    setup: TrainContext, batch: Batch, controls: Controls, weighing: Weighing | None
) -> Joint:
    """One forward pass of each model that has a part in the losses. weighing: also `tokens`."""
    own, role, warm = setup.cfg.actor, setup.trained, setup.cfg.rollout.temperature
    sides, pairs = [taken(forward(setup, role["policy"], batch), batch)], {}
    sides[0] = sides[0]._replace(entropy=True)
    if weighing is not None:
        sides[0] = _weighed(setup, sides[0], batch, weighing)
    if setup.anchor is not None:
        with torch.no_grad():
            sides.append(forward(setup, setup.anchor, batch))
        pairs["anchor"] = KLPair(0, 1, train_q=False)
    actor, distilled, apart = len(sides), controls.distill_coef > 0, False
    if isinstance(own, SeparateActor):
        apart = own.distill_top_k > 0 or own.distill_temperature != 1.0
        sides.append(taken(forward(setup, role["actor"], batch), batch))
        if distilled and not apart:
            pairs["distill"] = _distilling(own, 0, actor)
        if setup.cfg.control.type == "kl":
            pairs["control"] = KLPair(0, actor, train_p=False, train_q=False)
    scores, found = read(sides, warm, list(pairs.values()))
    kl = dict(zip(pairs, found, strict=True))
    if isinstance(own, SeparateActor) and distilled and apart:
        kl["distill"] = distill_kl(own, sides[0], sides[actor], warm)
    if "control" in kl:
        kl["control"] = kl["control"].detach()
    policy = scores[0]
    assert policy.logp is not None and policy.entropy is not None
    return Joint(
        policy.logp,
        scores[actor].logp if setup.actor.trained else None,
        policy.entropy.detach(),
        kl,
        None if weighing is None else tokens(setup, sides[0], policy, batch, weighing),
    )


def _distilling(own: SeparateActor, policy: int, actor: int) -> KLPair:
    """Eq. 7: KL(policy || actor), or the reverse; it trains the actor alone."""
    if own.distill_direction == "forward":
        return KLPair(policy, actor, train_p=False)
    return KLPair(actor, policy, train_q=False)


def distill_kl(
    own: SeparateActor, policy: HeadInput, actor: HeadInput, temperature: float
) -> torch.Tensor:
    """The KL of Eq. 7 in a pass of its own: at its own temperature or of bucketed laws, (n,).

    temperature: of sampling. Laws of k tokens and a bucket need whole logits.
    """
    policy, actor = _alone(_detached(policy)), _alone(actor)
    pair, temperature = [_distilling(own, 0, 1)], temperature * own.distill_temperature
    if not own.distill_top_k:
        return read([policy, actor], temperature, pair)[1][0]
    full = [torch.log_softmax(_logits(side) / temperature, dim=-1) for side in (policy, actor)]
    coarse = bucketed(full[0], full[1], own.distill_top_k)
    return chunked.dense_logprobs([HeadInput(logits=x) for x in coarse], pair)[1][0]


@torch.no_grad()
def policy_tokens(setup: TrainContext, batch: Batch, weighing: Weighing) -> Tokens:
    """`tokens` by a forward pass of the policy alone."""
    side = taken(forward(setup, setup.trained["policy"], batch), batch)
    side = _weighed(setup, side, batch, weighing)
    return tokens(setup, side, read([side], setup.cfg.rollout.temperature)[0][0], batch, weighing)


def _weighed(setup: TrainContext, side: HeadInput, batch: Batch, weighing: Weighing) -> HeadInput:
    """The side with what `tokens` reads of it: q's k likeliest, and p's tail above lam c."""
    cfg, real = setup.cfg.correction, batch.is_completion
    known = weighing.is_target and needs_tail(cfg)
    lam = lam_before(cfg, weighing.state) if known else None
    floor = None if lam is None else tail_floor(batch.topk_logp_inf[real], lam)
    return side._replace(ids=batch.topk_ids[real], floor=floor)


@torch.no_grad()
def tokens(
    setup: TrainContext, side: HeadInput, scores: HeadOutput, batch: Batch, weighing: Weighing
) -> Tokens:
    """What the weights need of the policy's side and its scores."""
    assert scores.logp is not None and scores.logp_ids is not None and side.ids is not None
    logp, topk_logp = scores.logp.detach(), scores.logp_ids.detach()
    bound, cfg = None, setup.cfg

    def counted(floor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = scores
        if side.floor is None:  # lam came only with p: one more pass
            again = _alone(_detached(side))._replace(ids=side.ids, floor=floor)
            (found,), _ = read([again], cfg.rollout.temperature)
        assert found.n_above is not None and found.mass_above is not None
        return found.n_above, found.mass_above

    if weighing.is_target and bool(torch.isfinite(logp).all()):  # else the guard stops at `logp`
        topk_logp_inf = batch.topk_logp_inf[batch.is_completion]
        bound = forward_tail(cfg.correction, weighing.state, topk_logp, topk_logp_inf, counted)
    return Tokens(logp, topk_logp, bound)


@torch.no_grad()
def exact_kls(policy: HeadInput, actor: HeadInput, temperature: float) -> dict[str, float]:
    """Both KLs over the full vocabulary, nats per token, mean over states."""
    forth, back = read([policy, actor], temperature, [KLPair(0, 1), KLPair(1, 0)])[1]
    return {"kl_policy_actor": float(forth.mean()), "kl_actor_policy": float(back.mean())}


def _alone(side: HeadInput) -> HeadInput:
    """Nothing asked of it but a KL."""
    return HeadInput(side.hidden, side.head, logits=side.logits)


def _detached(side: HeadInput) -> HeadInput:
    if side.hidden is None or side.head is None:
        return side if side.logits is None else side._replace(logits=side.logits.detach())
    bias = None if side.head.bias is None else side.head.bias.detach()
    own = Head(side.head.weight.detach(), bias, side.head.softcap)
    return side._replace(hidden=side.hidden.detach(), head=own)


def _logits(side: HeadInput) -> torch.Tensor:
    """Whole ones, (n, v) float32, before the temperature."""
    assert side.logits is not None
    return side.logits.float()
