"""Algorithm 1 of Jackpot (arXiv 2602.06107): train a policy from the rollouts of another model.

A cheaper model, the actor, samples from q (paper: p_inf). p_ref is the policy before this step's
updates, p_new as it is being updated; the target p is either. "l.": lines of Algorithm 1. Shapes:
b sequences, n tokens of this rank (in `update`: in its minibatch), m of a microbatch, N of all
ranks, k of q's likeliest at each token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jackpot.torch.correction import TokenWeights
from jackpot.torch.losses import actor_ppo_sum, distill_sum, joint_loss
from jackpot.torch.objectives import policy_loss_sum
from llm.settings.loading import Config
from llm.training.context import TrainContext, open_context
from llm.training.minibatches import Minibatch, split_minibatches
from llm.training.objective import actor_ppo_inputs, objective_tokens, policy_factors
from llm.training.optimal_values import with_optimal_values
from llm.training.optimizer import Learner, optimizer_step
from llm.training.passes import ForwardPasses
from llm.training.python_api import make_callable
from llm.training.rollout_phase import sample_rollouts, with_rewards
from llm.training.run import Run, open_run
from llm.training.selection import with_advantages
from llm.training.self_test import self_test
from llm.training.update_metrics import UpdateMetrics
from llm.training.weights import jackpot_weights


def train(cfg: Config, folder: Path, reward: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Run or resume Algorithm 1 in `folder`; returns the summary that it also writes there.

    Every rank calls it, for its own sequences; rank 0 writes. reward: replaces the scorer.

    Raises:
        Diverged: an alarm stops the run; NonFinite: NaN or inf, on which nothing was trained.
        Stopped: SIGTERM or Ctrl-C, after saving. ValueError: settings, models or files do not fit.
    """
    with open_context(cfg, folder, reward) as ctx, open_run(ctx, folder) as run:
        self_test(ctx)  # sampling and scoring must agree about log p before anything is corrected
        run.claim()  # nothing was refused: only now are the files of an earlier start changed
        for step in run.steps():  # from the last checkpoint on
            train_step(ctx, run, step)
        return run.finish()  # evaluates the trained models, and writes the summary


def train_step(ctx: TrainContext, run: Run, step: int) -> None:
    """One step: a rollout of the actor, the updates on it, and what lies between two steps."""
    with run.recorded_step(step) as record:  # record: this step's row of metrics.jsonl
        # Phase 1, l. 3-10. The actor samples; log q and its top k are of the same forward pass.
        with record.timed("rollout"):
            batch = sample_rollouts(ctx, step)  # tokens and log q (n,), q's top k tokens (n, k)
            batch = with_rewards(batch, ctx.scorer)  # one per sequence, (b,)
            batch = with_optimal_values(ctx, batch, step)  # only A*-PO adds V*, (b,)
            run.record_rollout(record, batch)
            batch = with_advantages(batch, ctx.cfg, step)  # of groups, (b,); may drop sequences
        run.evaluate_if_due(record, batch)  # pass rates on held-out prompts; KLs on this batch

        # Phase 2, l. 11-28. Policy (Eq. 5) and actor (Eq. 6, 7) step together, by minibatches.
        with record.timed("update"):
            run.set_learning_rates(record)
            for minibatch in split_minibatches(ctx, batch, run.learner, step):  # p_ref, l. 11-13
                run.evaluate_between_updates_if_due(record)
                with run.skipping_nonfinite(record):  # with alarm.action stop it ends the run
                    weights, metrics = update(ctx, run.learner, minibatch, step)
                    record.add_update(minibatch, weights, metrics)
            run.record_updates(record)

        # Between steps: metrics of this step move lam, Z's tail ratio and the values of [control].
        ctx.publish_weights(step)  # to what samples
        run.move_closed_loops(record)
        run.decide_save(record, batch)  # a checkpoint's models must be finite on this batch
    run.finish_step(record)  # the row is complete: alarms, files, checkpoint; Stopped on SIGTERM


def update(
    ctx: TrainContext, learner: Learner, minibatch: Minibatch, step: int
) -> tuple[TokenWeights, dict[str, float]]:
    """One optimiser step of policy and actor on the joint loss L_Jackpot (Eq. 8).

    learner: optimisers, and what moves between steps. Returns weights and metrics of all ranks'
    tokens. Raises NonFinite before any optimiser step.
    """
    cfg, passes = ctx.cfg, ForwardPasses(ctx, learner, minibatch)

    # Without gradient, from all ranks (l. 18-24): a token is accepted with probability
    # min(1, p / (lam q)). Z is its state's mean. Its weight is Z max(lam, p / q), capped.
    p_ref, p_new = passes.logprobs_for_weights()  # log p: tokens' (n,), of q's likeliest (n, k)
    correction = jackpot_weights(ctx, learner, minibatch, p_ref, p_new, step)  # fields (N,)
    # Of this rank: mask x weight (n,); 1 / N or as loss.denominator says (n,); the objective's type
    # and bounds; idle: the policy's name, if no token of this update gives it a loss.
    factors = policy_factors(ctx, learner, minibatch, p_ref, p_new, correction, step)
    weight, scale, objective_keywords, idle = factors
    n_all = len(correction.weight)  # N

    # Losses (l. 25-27) are sums. No parameter is shared: one backward pass serves both models.
    metrics = UpdateMetrics(minibatch.all_ranks, objective_keywords)
    learner.zero_grad()
    for at, out in passes.microbatches():  # at: indices (m,) into the n tokens; out: with gradient
        tokens = objective_tokens(minibatch, p_ref, out, at)  # log-probabilities, advantages: (m,)
        policy = policy_loss_sum(tokens, weight[at], scale[at], **objective_keywords)
        terms = {"loss_policy": policy.loss}  # Eq. 5; 0 at rejected tokens
        if cfg.actor.ppo:  # Eq. 6, rejected tokens too; by default the ratio is p_actor / q
            inputs = actor_ppo_inputs(cfg, minibatch, tokens, out, at)
            terms["loss_actor_ppo"] = actor_ppo_sum(**inputs) / n_all
        if "distill" in out.kl:  # Eq. 7, rejected tokens too: its KL moves the actor alone
            distill = distill_sum(out.kl["distill"], cfg.actor.distill.temperature)
            terms["loss_distill"] = distill / n_all
        if "initial" in out.kl:  # ours, off by default: KL to the policy at the start of training
            terms["loss_initial_kl"] = out.kl["initial"].sum() / n_all
        # Eq. 8: Eq. 5 and 6 count once, the two KLs by their coefficients.
        total = joint_loss(terms, learner.controls.distill_coef, cfg.loss.initial_kl_coef)
        learner.guard.finite(step, loss=total)  # raises NonFinite
        total.backward()
        metrics.add(at, terms, out, policy)

    # l. 28: sum gradients over ranks, clip, step; models in idle stay
    norms = optimizer_step(ctx, learner, step, idle)
    return correction, metrics.of_all_ranks() | norms


make_callable(__name__)  # `llm.train` is this module: llm.train(cfg, reward=f) trains too
