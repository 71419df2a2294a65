"""Algorithm 1 of Jackpot (arXiv 2602.06107): train a policy from the rollouts of another model.

p_inf (q): the actor, a cheaper model; it sampled the tokens. p_ref: the policy before this step's
updates. p_new: the policy as it is being updated. p, the target, is p_ref or p_new (Sec. 4.3).
"l." are the line numbers of Algorithm 1. b sequences, t positions, n sampled tokens of this rank,
m of a microbatch, k of q's likeliest tokens, v vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm.algorithm.correction import TokenWeights
from llm.algorithm.diagnostics import clip_fraction
from llm.algorithm.losses import actor_ppo_sum, distill_sum, joint_loss, ppo_clip_sum, token_scale
from llm.settings.loading import Config
from llm.training.context import TrainContext, open_context
from llm.training.correction_settings import of_actor_correction
from llm.training.evaluation import evaluate
from llm.training.minibatches import Minibatch, split_minibatches
from llm.training.optimizer import Learner, optimizer_step, set_learning_rates
from llm.training.passes import ForwardPasses
from llm.training.rollout_phase import sample_rollouts, with_advantages, with_rewards
from llm.training.run import Run, open_run
from llm.training.self_test import self_test
from llm.training.update_metrics import UpdateMetrics
from llm.training.weights import jackpot_weights


def train(cfg: Config, folder: Path) -> dict[str, Any]:
    """Run or resume Algorithm 1 in `folder`; returns the summary that it also writes there.

    Under torchrun every rank calls it. Each samples, scores and trains on its own sequences, and
    rank 0 writes.

    Raises:
        Diverged: an alarm, or NaN or inf in a loss, weight or gradient; nothing was trained on it.
        Stopped: SIGTERM or Ctrl-C, after saving.
        ValueError: models, data or checkpoints that do not fit the configuration.
    """
    with open_context(cfg, folder) as ctx, open_run(ctx, folder) as run:
        self_test(ctx)  # sampling and scoring must agree about log p before anything is corrected
        for step in run.steps():  # from the last checkpoint on
            train_step(ctx, run, step)
        return run.finish(evaluate(ctx, sample_rollouts(ctx, cfg.run.steps, run.learner.guard)))


def train_step(ctx: TrainContext, run: Run, step: int) -> None:
    """One step: a rollout of the actor, the updates on it, and what lies between two steps."""
    cfg = ctx.cfg
    with run.recorded_step(step) as record:  # record: this step's row of metrics.jsonl
        # Phase 1, l. 3-10. The actor samples; log q and its top k are of the same forward pass.
        with record.timed("rollout"):
            batch = sample_rollouts(
                ctx, step, run.learner.guard
            )  # (n,) token, log q; (n, k) top-k log q
            batch = with_rewards(batch, ctx.scorer)  # (b,)
            batch = with_advantages(batch, cfg)  # (b,) relative to the group, before any rejection
            run.record_rollout(record, batch)
        run.evaluate_if_due(record, batch)

        # Phase 2, l. 11-28. Policy (Eq. 5) and actor (Eq. 6, 7) step together, by minibatches.
        with record.timed("update"):
            record.add(set_learning_rates(cfg, run.learner, run.lr_factor, step))
            for minibatch in split_minibatches(ctx, batch, run.learner, step):  # scores p_ref
                run.evaluate_within_if_due(record)
                with run.skipping_nonfinite(record):
                    record.add_update(minibatch, *update(ctx, run.learner, minibatch, step))
            run.record_updates(record)

        # Between steps: the new weights go to the sampler, and the closed loops move.
        ctx.publish_weights(step)
        run.next_state(record)  # lam, tail ratio, distillation and learning rates
        run.check_models_if_due(record, batch)
    run.finish_step(record)  # alarms, files, checkpoint; raises Stopped on SIGTERM


def update(
    ctx: TrainContext, learner: Learner, minibatch: Minibatch, step: int
) -> tuple[TokenWeights, dict[str, float]]:
    """One optimiser step of policy and actor on the joint loss L_Jackpot (Eq. 8).

    Returns:
        The weights and the metrics of the update, both of the tokens of all ranks.

    Raises:
        NonFinite: NaN or inf; no optimiser was stepped.
    """
    loss, own, clip = ctx.cfg.loss, ctx.cfg.actor, (ctx.cfg.loss.clip_low, ctx.cfg.loss.clip_high)
    batch, tokens = minibatch.batch, minibatch.tokens
    passes = ForwardPasses(ctx, learner, minibatch)

    # Which tokens count, and by how much (l. 18-24). No gradient.
    p_new = passes.policy_logprobs()  # (n,) of the sampled tokens, (n, k) of q's top k
    p_ref = minibatch.p_ref or p_new  # a single update per rollout: the same distribution
    weights = jackpot_weights(ctx, learner, minibatch, p_ref, p_new, step)
    scale = token_scale(loss.denominator, weights.accepted, tokens.sequence, tokens.n_sequences)
    weight, scale = tokens.local(weights.weight), tokens.local(scale)  # (n,)
    n_proposed = len(weights.weight)  # of all ranks

    # The losses (l. 25-27): sums over tokens. One backward pass serves policy and actor, because
    # they share no parameters.
    metrics = UpdateMetrics(tokens, passes.places)
    learner.zero_grad()
    for at, out in passes.with_gradient():  # a microbatch: its tokens' places, (m,), and outputs
        advantage, logp_ref = batch.token_advantage[at], p_ref.logp[at]
        policy = (out.policy, logp_ref, advantage, weight[at])
        terms = {"loss_policy": ppo_clip_sum(*policy, *clip, scale[at])}  # Eq. 5
        if own.ppo and out.actor is not None:  # Eq. 6
            actor = (out.actor, batch.logp_inf[at], minibatch.actor_ref_at(at), advantage)
            actor_ppo = actor_ppo_sum(*actor, *clip, **of_actor_correction(ctx.cfg))
            terms["loss_actor_ppo"] = actor_ppo / n_proposed
        if "distill" in out.kl:  # Eq. 7
            distill = distill_sum(out.kl["distill"], own.distill_temperature)
            terms["loss_distill"] = distill / n_proposed
        if "anchor" in out.kl:  # ours, off by default
            terms["loss_anchor"] = out.kl["anchor"].sum() / n_proposed
        total = joint_loss(terms, learner.controls.distill_coef, loss.anchor_coef)  # Eq. 8
        learner.guard.finite(step, loss=total)
        total.backward()
        metrics.add(terms, out, clip_fraction(out.policy, logp_ref, advantage, *clip))

    norms = optimizer_step(ctx, learner, step)  # l. 28: sum over ranks, clip, step
    return weights, metrics.of_all_ranks() | norms
