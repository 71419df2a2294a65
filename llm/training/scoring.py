"""p_ref and p_actor_ref of a whole batch, before any update."""

from __future__ import annotations

import torch

from jackpot.torch.correction import CorrectionState
from llm.models.loading import Model
from llm.rollout.batch import Batch, in_order
from llm.settings.rollout_rules import reuses_logp
from llm.settings.schema import DraftedMode, SeparateActor

from .context import TrainContext
from .forward import PolicyLogprobs, at_sampled_tokens, forward, logprobs_and_kls, policy_logprobs
from .microbatches import Microbatch, microbatches


def score(
    ctx: TrainContext, micro: list[Microbatch], state: CorrectionState, *, is_target: bool
) -> PolicyLogprobs:
    """The policy's log-probabilities of a whole batch, one microbatch after the other.

    is_target: the policy as it is now is the target p, so the bound of Z's tail is computed too.
    """
    parts = [policy_logprobs(ctx, mb.batch, state, is_target=is_target) for mb in micro]
    return in_batch_order(parts, micro)


def in_batch_order(parts: list[PolicyLogprobs], micro: list[Microbatch]) -> PolicyLogprobs:
    """Those of microbatches, as the batch has its tokens."""
    places = [mb.tokens for mb in micro]
    bounds = [p.tail_bound for p in parts]
    return PolicyLogprobs(
        in_order([p.logp for p in parts], places),
        in_order([p.topk_logp for p in parts], places),
        None if bounds[0] is None else in_order(bounds, places),  # type: ignore[arg-type]
    )


@torch.no_grad()
def score_before_updates(
    ctx: TrainContext, batch: Batch, state: CorrectionState
) -> tuple[PolicyLogprobs, torch.Tensor | None]:
    """p_ref and, where Eq. 6 has a correction, log p_actor_ref (n,), on a whole batch."""
    cfg, micro = ctx.cfg, microbatches(ctx.cfg, batch)
    # The tail's bound belongs to the target p alone: with target = new it is computed of p_new.
    p_ref = of_verification(ctx, batch) or score(
        ctx, micro, state, is_target=cfg.correction.target.type == "ref"
    )
    if not isinstance(cfg.actor, SeparateActor) or cfg.actor.correction.type == "none":
        return p_ref, None
    # F(p_actor_ref / q) of Eq. 6 needs the actor as it is before its first update of the step.
    return p_ref, _sampled_logprobs(ctx, ctx.trained["actor"], micro)


def of_verification(ctx: TrainContext, batch: Batch) -> PolicyLogprobs | None:
    """p_ref as the policy gave it when it verified drafted tokens, with the weights that it still
    has; None where that is not so, where more is needed of p, or rollout.mode.reuse_logp is off."""
    mode, verified = ctx.cfg.rollout.mode, batch.verification
    wanted = isinstance(mode, DraftedMode) and mode.reuse_logp and reuses_logp(ctx.cfg)
    if verified is None or not wanted:
        return None
    return PolicyLogprobs(verified.logp, verified.topk_logp, None)


@torch.no_grad()
def score_initial(ctx: TrainContext, batch: Batch) -> torch.Tensor | None:
    """log p of the initial policy, of a whole batch, (n,), where the objective takes it."""
    if not ctx.cfg.objective.needs_initial:
        return None
    assert ctx.initial_policy is not None
    return _sampled_logprobs(ctx, ctx.initial_policy, microbatches(ctx.cfg, batch))


def _sampled_logprobs(ctx: TrainContext, model: Model, micro: list[Microbatch]) -> torch.Tensor:
    """log p of the sampled tokens under a model, in the order of the batch, (n,)."""
    logp = []
    for mb in micro:
        head_input = at_sampled_tokens(forward(ctx, model, mb.batch), mb.batch)
        (scores,), _ = logprobs_and_kls([head_input], ctx.cfg.rollout.temperature)
        logp.append(scores.logp)
    return in_order(logp, [mb.tokens for mb in micro])
