"""The weights of an update's tokens, computed from those of all ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from jackpot.torch.correction import CorrectionInputs, TokenWeights, token_weights
from jackpot.torch.losses import token_scale
from llm import distributed
from llm.rollout.batch import Batch
from llm.rollout.engines.base import EngineError
from llm.settings.loading import Config

from .context import TrainContext
from .forward import PolicyLogprobs
from .keywords import correction_keywords
from .minibatches import Minibatch
from .optimizer import Learner
from .self_test import limits


def jackpot_weights(
    ctx: TrainContext,
    learner: Learner,
    minibatch: Minibatch,
    p_ref: PolicyLogprobs,
    p_new: PolicyLogprobs,
    step: int,
) -> TokenWeights:
    """Mask x SG(F(p / q~) p_ref / p) of the tokens of all ranks (Alg. 1, l. 18-24), (N,).

    q~ is the distribution after rejection, SG the stop-gradient. The types none, importance, tis
    and icepop have no mask and take p / q.

    Args:
        p_ref, p_new: the policy before and after this rollout's earlier updates, at this rank's
            tokens; p_ref is p_new where there is a single update per rollout.

    Raises:
        NonFinite: NaN or inf in a log-probability, ratio or weight. Only log q must not be -inf.
        EngineError: a ratio of a drafted token outside the bounds of its state.
    """
    batch, gather = minibatch.batch, minibatch.all_ranks.all_gather
    # Before anything is computed from them: the message then names the first quantity at fault.
    learner.guard.finite(step, logp_inf=batch.logp_inf)  # of sampled tokens: q > 0
    learner.guard.logprobs(step, logp_new=p_new.logp)
    if minibatch.p_ref is not None:
        learner.guard.logprobs(step, logp_ref=p_ref.logp)
    # a rank that raised alone would leave the others waiting
    if batch.verification is not None and ctx.cfg.rollout.max_staleness == 0:
        distributed.raise_on_all_ranks(lambda: _check_bounds(ctx, batch, p_ref), EngineError)
    target = p_new if minibatch.new_is_target(ctx.cfg) else p_ref
    # (n,) -> (N,): lam, kappa and denominators are of the tokens of all ranks, in one order.
    weights = token_weights(
        CorrectionInputs(
            logp_inf=gather(batch.logp_inf),
            logp_ref=gather(p_ref.logp),
            logp_new=gather(p_new.logp),
            topk_logp_inf=gather(batch.topk_logp_inf),
            topk_logp_target=gather(target.topk_logp),
            in_topk=gather(batch.in_topk),
            uniform=gather(minibatch.uniform),
            sequence=minibatch.all_ranks.sequence,
            tail_bound=None if target.tail_bound is None else gather(target.tail_bound),
        ),
        learner.correction,
        **correction_keywords(ctx.cfg),
    )
    # float64: exp overflows a float32 from log r = 88 on, which a legitimate ratio may reach.
    learner.guard.finite(step, ratio=weights.log_ratio.double().exp(), weight=weights.weight)
    return weights


def _check_bounds(ctx: TrainContext, batch: Batch, p_ref: PolicyLogprobs) -> None:
    """p / s of drafted tokens lies in [lam, mu] where p is what verified them, but for rounding.

    Raises:
        EngineError: it does not.
    """
    verified = batch.verification
    if verified is None or not len(batch.token_ids):
        return
    log_r, allowed = p_ref.logp - batch.logp_inf, limits(ctx).token
    beyond = torch.maximum(verified.lam.log() - log_r, log_r - verified.mu.log())  # (n,)
    worst = int(beyond.argmax())
    if float(beyond[worst]) > allowed:
        raise EngineError(
            f"log p_ref - log s of a drafted token is {float(log_r[worst]):.4g}, outside "
            f"[{float(verified.lam[worst].log()):.4g}, {float(verified.mu[worst].log()):.4g}] by "
            f"more than the {allowed:g} nats that rounding may do: the policy that verified is not "
            "the one that is trained. Use --rollout.mode.type plain, or raise --run.self_test_max"
        )


class PolicyFactors(NamedTuple):
    """What the policy's loss takes of an update, of this rank's tokens.

    weight, scale: (n,) each. objective: keywords of `policy_loss_sum`. idle: the models that the
    update leaves as they are, because nothing of their loss is there.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    objective: dict[str, Any]
    idle: tuple[str, ...] = ()


def own_factors(
    cfg: Config, minibatch: Minibatch, weights: TokenWeights
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and scale of this rank's tokens, (n,) each, from those of all ranks, (N,).

    The scale makes the sum over all tokens the mean that loss.denominator names.
    """
    tokens = minibatch.all_ranks
    scale = token_scale(  # (N,)
        cfg.loss.denominator, weights.accepted, tokens.sequence, tokens.n_sequences
    )
    return tokens.local(weights.weight), tokens.local(scale)
