"""What the models say at the tokens of a batch: one forward pass of each, then their heads.

A model's `HeadInput` holds either hidden states and a head, whose logits then exist only in blocks,
or whole logits (`TrainContext.chunked`). `logprobs_and_kls` takes both. Everything from there on is
flat: n sampled tokens, k of q's likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from jackpot.torch.control import Controls
from jackpot.torch.correction import CorrectionState, forward_tail, lam_before, needs_tail
from jackpot.torch.losses import bucketed
from jackpot.torch.z_tail import tail_floor
from llm.models.lm_head import chunked
from llm.models.lm_head.chunked import Head, HeadInput, HeadOutput, KLPair
from llm.models.lm_head.support import hidden_states, own_head
from llm.models.loading import Model, recomputing
from llm.models.sharding import gathered
from llm.rollout.batch import Batch, positions
from llm.settings.schema import SeparateActor

from .context import TrainContext
from .keywords import correction_keywords, lam_keywords, tail_keywords


class PolicyLogprobs(NamedTuple):
    """The policy at the tokens of a batch, without gradient; as p_ref, or as p_new for the weights.

    logp: of the sampled tokens, (n,). topk_logp: of q's k likeliest tokens, (n, k). tail_bound:
    what the other tokens can add to Z, (n,); None where the weights do not use it.
    """

    logp: torch.Tensor
    topk_logp: torch.Tensor
    tail_bound: torch.Tensor | None

    def at(self, tokens: torch.Tensor) -> PolicyLogprobs:
        """Those of some tokens: (m,) places."""
        bound = None if self.tail_bound is None else self.tail_bound[tokens]
        return PolicyLogprobs(self.logp[tokens], self.topk_logp[tokens], bound)


class ModelOutputs(NamedTuple):
    """All that the losses need of the models at m tokens, (m,) each, with gradient.

    logp_policy, logp_actor: of the sampled token; None for an actor that is not trained.
    entropy: of the policy, without gradient.
    kl: "initial" (to the initial policy), "distill" (at the distillation temperature) and
        "control" (without gradient), each where it is used.
    for_weights: the policy's log-probabilities for the weights, where they were asked for.
    topk_logp: log p_new of q's k likeliest tokens, (m, k), without gradient, where the objective's
        mask needs them.
    """

    logp_policy: torch.Tensor
    logp_actor: torch.Tensor | None
    entropy: torch.Tensor
    kl: dict[str, torch.Tensor]
    for_weights: PolicyLogprobs | None
    topk_logp: torch.Tensor | None = None


def forward(ctx: TrainContext, model: Model, batch: Batch) -> HeadInput:
    """One forward pass, up to where `logprobs_and_kls` goes on: states or logits of n tokens."""
    head = own_head(model)[0] if ctx.chunked else None
    with recomputing(model):
        width = batch.is_completion.shape[1]
        states = completion_states(model, batch.ids, batch.is_real, width, head is not None)
    # Flat from here on: no padding can reach a head, a weight or a loss.
    states = states[batch.is_completion]  # (b, t, h or v) -> (n, h or v)
    if head is None:
        return HeadInput(states)
    bias = None if head.bias is None else gathered(head.bias)
    return HeadInput(states, Head(gathered(head.weight), bias, head.softcap))


def completion_states(
    model: Model, ids: torch.Tensor, is_real: torch.Tensor, completion_width: int, split: bool
) -> torch.Tensor:
    """What the distribution of each completion token is computed from.

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
    # The state before a token gives its distribution: shifted by one, so the last is dropped.
    if split:
        return hidden_states(model, **inputs)[:, -completion_width - 1 : -1]
    return model(**inputs, logits_to_keep=completion_width + 1).logits[:, :-1]


def logprobs_and_kls(
    inputs: list[HeadInput], temperature: float, pairs: Sequence[KLPair] = ()
) -> tuple[list[HeadOutput], list[torch.Tensor]]:
    """`chunked.chunked_logprobs`, or `chunked.dense_logprobs` where a model has whole logits."""
    if all(x.head is not None for x in inputs):
        return chunked.chunked_logprobs(inputs, pairs, temperature)
    return chunked.dense_logprobs(inputs, pairs, temperature)


def at_sampled_tokens(head_input: HeadInput, batch: Batch) -> HeadInput:
    """Ask for the log-probability of the sampled tokens."""
    return head_input._replace(tokens=batch.token_ids)


def forward_all(
    ctx: TrainContext,
    batch: Batch,
    controls: Controls,
    state: CorrectionState,
    *,
    for_weights: bool,
    is_target: bool,
) -> ModelOutputs:
    """One forward pass of each model that has a part in the losses.

    Args:
        for_weights: compute what the weights need too.
        is_target: the policy as it is now is the target p of the weights.
    """
    own, trained, temperature = ctx.cfg.actor, ctx.trained, ctx.cfg.rollout.temperature
    policy = at_sampled_tokens(forward(ctx, trained["policy"], batch), batch)
    policy = policy._replace(entropy=True)
    if for_weights:
        policy = _at_top_k(ctx, policy, batch, state, is_target)
    elif ctx.cfg.objective.needs_topk:
        policy = policy._replace(ids=batch.topk_ids)
    inputs, pairs = [policy], {}
    if ctx.initial_policy is not None and ctx.cfg.loss.initial_kl_coef > 0:
        with torch.no_grad():  # frozen: no activations are kept
            inputs.append(forward(ctx, ctx.initial_policy, batch))
        pairs["initial"] = KLPair(0, 1, train_q=False)  # KL(policy || initial) moves the policy
    i_actor, distilled, own_pass = len(inputs), controls.distill_coef > 0, False
    if isinstance(own, SeparateActor):
        # a KL of other distributions (bucketed, or at another temperature) needs its own pass
        own_pass = own.distill.top_k > 0 or own.distill.temperature != 1.0
        inputs.append(at_sampled_tokens(forward(ctx, trained["actor"], batch), batch))
        if distilled and not own_pass:
            pairs["distill"] = _distill_pair(own, 0, i_actor)
        if ctx.cfg.control.type == "kl":
            # What control measures, without gradient: the pass has both models' logits anyway.
            pairs["control"] = KLPair(0, i_actor, train_p=False, train_q=False)
    # One pass of the heads over all models: a KL needs the logits of two of them at once.
    outputs, kls = logprobs_and_kls(inputs, temperature, list(pairs.values()))
    kl = dict(zip(pairs, kls, strict=True))
    if isinstance(own, SeparateActor) and distilled and own_pass:
        kl["distill"] = distill_kl(own, inputs[0], inputs[i_actor], temperature)
    if "control" in kl:
        kl["control"] = kl["control"].detach()
    return ModelOutputs(
        logp_policy=outputs[0].logp,
        logp_actor=outputs[i_actor].logp if ctx.actor.trained else None,
        entropy=outputs[0].entropy.detach(),
        kl=kl,
        for_weights=_for_weights(ctx, policy, outputs[0], batch, state, is_target)
        if for_weights
        else None,
        topk_logp=outputs[0].logp_ids.detach() if ctx.cfg.objective.needs_topk else None,
    )


def _distill_pair(own: SeparateActor, policy: int, actor: int) -> KLPair:
    """Eq. 7: KL(policy || actor), or the reverse; it trains the actor alone."""
    if own.distill.type == "forward":
        return KLPair(policy, actor, train_p=False)
    return KLPair(actor, policy, train_q=False)


def distill_kl(
    own: SeparateActor, policy: HeadInput, actor: HeadInput, temperature: float
) -> torch.Tensor:
    """The KL of Eq. 7 in its own pass: at its own temperature or of bucketed distributions, (n,).

    temperature: of sampling. Those of k tokens and a bucket need whole logits.
    """
    policy, actor = _bare(_detached(policy)), _bare(actor)  # SG(p_new) of Eq. 7
    pair, temperature = [_distill_pair(own, 0, 1)], temperature * own.distill.temperature
    if not own.distill.top_k:
        return logprobs_and_kls([policy, actor], temperature, pair)[1][0]
    full = [torch.log_softmax(_logits(x) / temperature, dim=-1) for x in (policy, actor)]  # (n, v)
    coarse = bucketed(full[0], full[1], own.distill.top_k)  # (n, k + 1) each
    return chunked.dense_logprobs([HeadInput(x) for x in coarse], pair)[1][0]


@torch.no_grad()
def policy_logprobs(
    ctx: TrainContext, batch: Batch, state: CorrectionState, *, is_target: bool
) -> PolicyLogprobs:
    """What the weights need of the policy, by a forward pass of the policy alone."""
    policy = at_sampled_tokens(forward(ctx, ctx.trained["policy"], batch), batch)
    policy = _at_top_k(ctx, policy, batch, state, is_target)
    (output,), _ = logprobs_and_kls([policy], ctx.cfg.rollout.temperature)
    return _for_weights(ctx, policy, output, batch, state, is_target)


def _at_top_k(
    ctx: TrainContext, policy: HeadInput, batch: Batch, state: CorrectionState, is_target: bool
) -> HeadInput:
    """Ask for q's k likeliest tokens and, where lam is known already, for p's tail above lam c."""
    floor = None
    if is_target and needs_tail(**correction_keywords(ctx.cfg)):
        lam = lam_before(state, **lam_keywords(ctx.cfg))
        # (n, k) -> (n,): lam c in logs, c being the smallest of q's k largest probabilities
        floor = None if lam is None else tail_floor(batch.topk_logp_inf, lam)
    return policy._replace(ids=batch.topk_ids, floor=floor)


@torch.no_grad()
def _for_weights(
    ctx: TrainContext,
    policy: HeadInput,
    output: HeadOutput,
    batch: Batch,
    state: CorrectionState,
    is_target: bool,
) -> PolicyLogprobs:
    """What the weights need, from the head's output."""
    # (n,), (n, k). Weights are under SG (Alg. 1, l. 24), though the pass may be with gradient.
    logp, topk_logp = output.logp.detach(), output.logp_ids.detach()

    def count_above(floor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counted = output
        if policy.floor is None:  # lam is known only now that p is: one more pass of the head
            detached = _bare(_detached(policy))._replace(ids=policy.ids, floor=floor)
            (counted,), _ = logprobs_and_kls([detached], ctx.cfg.rollout.temperature)
        return counted.n_above, counted.mass_above

    # where logp holds NaN, the guard stops the run before anything uses the bound
    wanted = is_target and needs_tail(**correction_keywords(ctx.cfg))
    bound = None
    if wanted and not bool(torch.isnan(logp).any()):
        topk_logp_inf = batch.topk_logp_inf
        bound = forward_tail(state, topk_logp, topk_logp_inf, count_above, **tail_keywords(ctx.cfg))
    return PolicyLogprobs(logp, topk_logp, bound)


@torch.no_grad()
def exact_kls(policy: HeadInput, actor: HeadInput, temperature: float) -> dict[str, float]:
    """Both KLs over the full vocabulary, nats per token, mean over states."""
    pairs = [KLPair(0, 1), KLPair(1, 0)]
    kl_policy_actor, kl_actor_policy = logprobs_and_kls([policy, actor], temperature, pairs)[1]
    return {
        "kl_policy_actor": float(kl_policy_actor.mean()),
        "kl_actor_policy": float(kl_actor_policy.mean()),
    }


def _bare(head_input: HeadInput) -> HeadInput:
    """Nothing asked of it but a KL."""
    return HeadInput(head_input.states, head_input.head)


def _detached(head_input: HeadInput) -> HeadInput:
    states, head = head_input.states.detach(), head_input.head
    if head is not None:
        bias = None if head.bias is None else head.bias.detach()
        head = Head(head.weight.detach(), bias, head.softcap)
    return head_input._replace(states=states, head=head)


def _logits(head_input: HeadInput) -> torch.Tensor:
    """Whole ones, (n, v) float32, before the temperature."""
    assert head_input.head is None
    return head_input.states.float()  # softmax in bfloat16 would lose the digits of its sum
