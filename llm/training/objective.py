"""What the policy's objective is computed from: the tokens of a microbatch, and its bounds."""

from __future__ import annotations

from typing import Any

import torch

from jackpot.torch.correction import TokenWeights
from jackpot.torch.objectives import NEEDS_ALL_TOKENS, ObjectiveTokens, bounds_of
from llm.settings.loading import Config
from llm.settings.schema import WholeCompletionObjective

from .context import TrainContext
from .forward import ModelOutputs, PolicyLogprobs
from .keywords import actor_ppo_keywords, objective_keywords
from .minibatches import Minibatch
from .optimizer import Learner
from .weights import PolicyFactors, own_factors
from .whole_completions import completion_factors


def policy_factors(
    ctx: TrainContext,
    learner: Learner,
    minibatch: Minibatch,
    p_ref: PolicyLogprobs,
    p_new: PolicyLogprobs,
    weights: TokenWeights,
    step: int,
) -> PolicyFactors:
    """Weight and scale of this rank's tokens, the objective's settings, and what stays idle.

    p_ref, p_new: at this rank's tokens, (n,). weights: of all ranks', (N,). What is of a whole
    update (denominators, bounds that adapt, whole completions) is of the tokens of all ranks.
    """
    if isinstance(ctx.cfg.objective, WholeCompletionObjective):
        return completion_factors(ctx, learner, minibatch, p_new, step)
    keywords = bounded_objective(ctx.cfg, minibatch, p_ref, p_new, weights)
    return PolicyFactors(*own_factors(ctx.cfg, minibatch, weights), keywords)


def bounded_objective(
    cfg: Config,
    minibatch: Minibatch,
    p_ref: PolicyLogprobs,
    p_new: PolicyLogprobs,
    weights: TokenWeights,
) -> dict[str, Any]:
    """Keywords of `policy_loss_sum`: the objective's settings, with the bounds that adapt to an
    update in the place of the settings that they come from."""
    keywords = objective_keywords(cfg)
    if keywords["type"] not in NEEDS_ALL_TOKENS:
        return keywords
    batch, gather = minibatch.batch, minibatch.all_ranks.all_gather
    tokens = ObjectiveTokens(  # (n,) -> (N,)
        logp_new=gather(p_new.logp),
        logp_ref=gather(p_ref.logp),
        logp_inf=gather(batch.logp_inf),
        advantage=gather(batch.token_advantage),
        sequence=minibatch.all_ranks.sequence,
    )
    bounds = bounds_of(tokens, weights.weight, **keywords)
    return {name: keywords[name] for name in ("type", "ratio", "opsm_delta")} | bounds


def objective_tokens(
    minibatch: Minibatch, p_ref: PolicyLogprobs, out: ModelOutputs, at: torch.Tensor
) -> ObjectiveTokens:
    """Advantage and log-probabilities of some tokens, whose places are `at`, (m,) each.

    p_ref: at all tokens of the minibatch. out: of the models as they are now, at these.
    """
    batch = minibatch.batch
    topk: dict[str, torch.Tensor] = {}
    if out.topk_logp is not None:  # (m, k)
        topk["topk_logp_new"], topk["topk_logp_inf"] = out.topk_logp, batch.topk_logp_inf[at]
        topk["in_topk"] = batch.in_topk[at]
    return ObjectiveTokens(
        logp_new=out.logp_policy,
        logp_ref=p_ref.logp[at],
        logp_inf=batch.logp_inf[at],
        advantage=batch.token_advantage[at],
        sequence=batch.sequence[at],
        **topk,
    )


def actor_ppo_inputs(
    cfg: Config,
    minibatch: Minibatch,
    tokens: ObjectiveTokens,
    out: ModelOutputs,
    at: torch.Tensor,
) -> dict[str, Any]:
    """What `actor_ppo_sum` takes of a microbatch: log-probabilities, advantages (m,), settings.

    tokens, out: of the tokens whose places among the minibatch's are `at`, (m,).
    """
    return {
        "logp_actor": out.logp_actor,
        "logp_inf": tokens.logp_inf,
        "logp_actor_ref": minibatch.actor_ref_at(at),
        "advantage": tokens.advantage,
        **actor_ppo_keywords(cfg),
    }
