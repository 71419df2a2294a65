"""Objectives of whole completions: what they are computed from."""

from __future__ import annotations

from typing import Any

import torch

from jackpot.torch.sequence_objectives import (
    SequenceCoefficients,
    a_star_po,
    alpha_dpo,
    dmpo,
    per_sequence,
)
from llm.settings.schema import AlphaDpoObjective, AStarPoObjective, DmpoObjective, WeightBaseline

from .context import TrainContext
from .forward import PolicyLogprobs
from .minibatches import Minibatch
from .optimizer import Learner
from .weights import PolicyFactors

_RIGHT = 0.5  # a reward above it makes a completion a right one


def completion_factors(
    ctx: TrainContext, learner: Learner, minibatch: Minibatch, p_new: PolicyLogprobs, step: int
) -> PolicyFactors:
    """Weight and scale of this rank's tokens; the policy is idle where no completion has a term.

    A token's weight is the coefficient of its completion, which is of those of all ranks.

    Raises:
        NonFinite: a completion's log-probability under p_new or p_pre is not finite.
    """
    tokens, batch = minibatch.all_ranks, minibatch.batch
    assert minibatch.logp_init is not None
    b = tokens.n_sequences  # of all ranks

    def summed(logp: torch.Tensor) -> torch.Tensor:  # (n,) -> (N,) -> (b,)
        return per_sequence(tokens.all_gather(logp), tokens.sequence, b)

    def of_each(values: torch.Tensor) -> torch.Tensor:  # (this rank's completions,) -> (b,)
        everywhere = tokens.all_gather(values[batch.sequence])  # (N,): every one has a token
        return values.new_zeros(b).index_copy(0, tokens.sequence, everywhere)

    new, start = summed(p_new.logp), summed(minibatch.logp_init)
    learner.guard.finite(step, **{"log-probability of a completion": new})
    learner.guard.finite(step, **{"log-probability of a completion at the start": start})
    reward = of_each(batch.reward)
    objective = ctx.cfg.objective
    assert isinstance(objective, AStarPoObjective | DmpoObjective | AlphaDpoObjective)
    own = {k: v for k, v in vars(objective).items() if k not in ("type", "value_beta")}
    if isinstance(objective, AStarPoObjective):
        value = of_each(batch.value)
        made = a_star_po(new, start, reward, value, beta=objective.beta)
    elif isinstance(objective, DmpoObjective):
        base = own["baseline"]
        coef = base.coef if isinstance(base, WeightBaseline) else 0.0
        own |= {"baseline": base.type, "baseline_coef": coef}
        made = dmpo(new, start, summed(batch.logp_inf), reward, of_each(batch.group), **own)
    else:
        pairs_of = (of_each(batch.lengths), reward > _RIGHT, of_each(batch.group))
        made, learner.gaps.statistics = alpha_dpo(
            new, start, *pairs_of, learner.gaps.statistics, **own
        )
    weight = tokens.local(made.coefficient.to(batch.logp_inf.dtype)[tokens.sequence])
    # The KL to the initial policy moves it too. All ranks have the same coefficients.
    skipped = not bool(made.coefficient.any()) and ctx.cfg.loss.initial_kl_coef == 0
    idle = ("policy",) if skipped else ()
    return PolicyFactors(weight, torch.ones_like(weight), _keywords(made, skipped), idle)


def _keywords(made: SequenceCoefficients, skipped: bool) -> dict[str, Any]:
    # the sum over tokens has the loss's gradient, and another value
    metrics = {**made.metrics, "loss_policy": float(made.loss)}
    metrics["policy_steps_skipped"] = float(skipped)
    return {"type": "whole_completion", "metrics": metrics}
