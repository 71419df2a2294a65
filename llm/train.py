"""Algorithm 1 of Jackpot (arXiv 2602.06107): train a policy from the rollouts of another model.

The actor, a cheaper model, samples; q (p_inf in the paper) is its distribution. p_ref is the policy
before this step's updates, p_new the policy as it is being updated. "l.": lines of Algorithm 1.
Shapes: b sequences, n sampled tokens of this rank, N of all ranks, m of a microbatch, k of top k.
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
from llm.training.evaluation import evaluate
from llm.training.keywords import actor_ppo_keywords
from llm.training.minibatches import Minibatch, split_minibatches
from llm.training.objective import objective_tokens, policy_factors
from llm.training.optimal_values import with_optimal_values
from llm.training.optimizer import Learner, optimizer_step, set_learning_rates
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

    Every rank calls it, for its own sequences; rank 0 writes. reward: in the scorer's place.

    Raises:
        Diverged: an alarm stops the run; NonFinite: NaN or inf, on which nothing was trained.
        Stopped: SIGTERM or Ctrl-C, after saving. ValueError: settings, models or files do not fit.
    """
    with open_context(cfg, folder, reward) as ctx, open_run(ctx, folder) as run:
        self_test(ctx)  # sampling and scoring must agree about log p before anything is corrected
        run.claim()  # until here a start changes nothing of a run
        for step in run.steps():  # from the last checkpoint on
            train_step(ctx, run, step)
        with run.at_the_end():
            # Once more, without training: the KLs of an evaluation are of states of completions.
            return run.finish(evaluate(ctx, sample_rollouts(ctx, cfg.run.steps)))


def train_step(ctx: TrainContext, run: Run, step: int) -> None:
    """One step: a rollout of the actor, the updates on it, and what lies between two steps."""
    cfg, learner = ctx.cfg, run.learner
    with run.recorded_step(step) as record:  # record: this step's row of metrics.jsonl
        # Phase 1, l. 3-10. The actor samples; log q and its top k are of the same forward pass.
        with record.timed("rollout"):
            batch = sample_rollouts(ctx, step)  # logp_inf (n,), its top k (n, k)
            batch = with_rewards(batch, ctx.scorer)  # (b,)
            batch = with_optimal_values(ctx, batch, step)  # (b,): V* of A*-PO, else 0
            run.record_rollout(record, batch)
            # (b,) within the group, before any rejection; fewer sequences where some are left out
            batch = with_advantages(batch, cfg, step)
        run.evaluate_if_due(record, batch)  # pass rates on held-out prompts; KLs on this batch

        # Phase 2, l. 11-28. Policy (Eq. 5) and actor (Eq. 6, 7) step together, by minibatches.
        with record.timed("update"):
            record.add(set_learning_rates(cfg, learner, run.alarm_lr_factor, step))
            for minibatch in split_minibatches(ctx, batch, learner, step):  # p_ref: l. 11-13
                run.evaluate_between_updates_if_due(record)
                with run.skipping_nonfinite(record):  # with alarm.action stop it ends the run
                    weights, metrics = update(ctx, learner, minibatch, step)
                    record.add_update(minibatch, weights, metrics)
            run.record_updates(record)

        # Between steps: the models go to the sampler; lam, Z's tail ratio and controls move.
        ctx.publish_weights(step)
        run.move_closed_loops(record)
        run.decide_save(record, batch)
    run.finish_step(record)  # the row is complete: alarms, files, checkpoint; Stopped on SIGTERM


def update(
    ctx: TrainContext, learner: Learner, minibatch: Minibatch, step: int
) -> tuple[TokenWeights, dict[str, float]]:
    """One optimiser step of policy and actor on the joint loss L_Jackpot (Eq. 8).

    Returns weights and metrics, both of the tokens of all ranks. Raises NonFinite at NaN and inf,
    before any optimiser was stepped.
    """
    cfg, passes = ctx.cfg, ForwardPasses(ctx, learner, minibatch)

    # Which tokens count, and by how much (l. 14-24), without gradient, from all ranks' tokens.
    # log p_ref and log p_new: of the sampled tokens, (n,), and of q's top k, (n, k)
    old, new = passes.before_weights()
    correction = jackpot_weights(ctx, learner, minibatch, old, new, step)  # fields (N,)
    # This rank's mask x weight (n,) and denominator, 1 / N by default (n,); the clip bounds of PPO
    weight, scale, bounds = policy_factors(ctx, learner, minibatch, old, new, correction, step)
    n_all = len(correction.weight)  # N

    # The losses (l. 25-27): sums over tokens. One backward pass serves policy and actor, because
    # they share no parameters. Eq. 6 and 7 count rejected tokens too.
    metrics = UpdateMetrics(minibatch.all_ranks, bounds)
    learner.zero_grad()
    for at, out in passes.microbatches():  # at: (m,) places among the n tokens
        tokens = objective_tokens(minibatch, old, out, at)  # log p and advantage, (m,) each
        policy = policy_loss_sum(tokens, weight[at], scale[at], **bounds)
        terms = {"loss_policy": policy.loss}  # Eq. 5; 0 at rejected tokens
        if cfg.actor.ppo and out.logp_actor is not None:  # Eq. 6
            own = (out.logp_actor, tokens.logp_inf, minibatch.actor_ref_at(at), tokens.advantage)
            terms["loss_actor_ppo"] = actor_ppo_sum(*own, **actor_ppo_keywords(cfg)) / n_all
        if "distill" in out.kl:  # Eq. 7
            distill = distill_sum(out.kl["distill"], cfg.actor.distill.temperature)
            terms["loss_distill"] = distill / n_all
        if "initial" in out.kl:  # ours, off by default
            terms["loss_initial_kl"] = out.kl["initial"].sum() / n_all
        # Eq. 8: Eq. 5 and 6 count once, the two KLs by their coefficients.
        total = joint_loss(terms, learner.controls.distill_coef, cfg.loss.initial_kl_coef)
        learner.guard.finite(step, loss=total)  # raises NonFinite
        total.backward()
        metrics.add(at, terms, out, policy)

    norms = optimizer_step(ctx, learner, step)  # l. 28: sum over ranks, clip, step
    return correction, metrics.of_all_ranks() | norms


make_callable(__name__)  # from Python, llm.train(cfg, reward=f) calls `train` of this module
