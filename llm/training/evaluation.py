"""Held-out evaluation: pass rates while training, mean@k and pass@k with intervals after it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm import distributed, randomness
from llm.rollout.batch import Batch
from llm.rollout.sampling import sample
from llm.tasks import problem

from .context import TrainContext
from .forward import exact_kls, forward
from .microbatches import microbatches
from .rollout_phase import rewards


def pass_rate(model: Any, ctx: TrainContext) -> float:
    """Mean score over the run's held-out prompts, at the training temperature.

    Prompts and random numbers are the same at every call, so that evaluations of a run, and of runs
    with the same seed, differ only by the model.
    """
    return float(held_out_scores(model, ctx).mean())


def held_out_scores(model: Any, ctx: TrainContext) -> np.ndarray:
    """Scores of the run's held-out prompts, run.eval_completions samples each, (prompts, k)."""
    run = ctx.cfg.run
    problems = ctx.task.held_out(run.seed, run.eval_prompts)
    return sample_scores(model, ctx, problems, run.eval_completions, run.seed)


def set_metrics(ctx: TrainContext, scores: np.ndarray) -> dict[str, float]:
    """mean@k and pass@k of each evaluation set, from the policy's scores of all sets, (prompts, k).

    Empty for one set with one completion each, where both are the pass rate.
    """
    run = ctx.cfg.run
    sets = ctx.task.held_out_sets(run.seed, run.eval_prompts)
    row: dict[str, float] = {}
    if len(sets) == 1 and run.eval_completions == 1:
        return row
    first = 0
    for name, problems in sets.items():
        own = scores[first : first + len(problems)]  # (prompts of this set, k)
        first += len(problems)
        solved = (own >= 1.0).any(axis=1)  # with k of k samples pass@k needs no estimate
        named = {"mean_at_k_SET": own.mean(), "pass_at_k_SET": solved.mean()}
        row |= {metric.replace("SET", name): float(value) for metric, value in named.items()}
    return row


def evaluate_many(
    model: Any, ctx: TrainContext, problems: Sequence[problem.Problem], k: int, seed: int
) -> np.ndarray:
    """Which of k samples of each problem are right, bool (problems, k). Right is a full score, or
    a reward of at least 1."""
    return sample_scores(model, ctx, problems, k, seed) >= 1.0


def sample_scores(
    model: Any, ctx: TrainContext, problems: Sequence[problem.Problem], k: int, seed: int
) -> np.ndarray:
    """Scores of k samples of each problem, (problems, k) float64. Each rank samples its part.

    As many sequences at a time as a training step samples (or k, if that is more): what is known to
    fit. Random numbers are drawn sequence by sequence, so chunks change none of them.
    """
    r = ctx.cfg.rollout
    size = max(1, r.prompts_per_step * r.rollouts_per_prompt // k)
    rng, own = randomness.stream(seed, "evaluation sampling"), distributed.rank_slice(len(problems))
    # Skip the numbers of the earlier ranks' sequences: one draw for each (sequence, position).
    rng.bit_generator.advance(own.start * k * r.max_new_tokens)  # type: ignore[attr-defined]
    scores = [torch.zeros(0)]  # a rank may have no prompt, and takes part in all_gather
    for start in range(own.start, own.stop, size):
        samples = sample(
            model,
            ctx.tokenizer,
            list(problems[start : min(start + size, own.stop)]),
            rng,
            max_new_tokens=r.max_new_tokens,
            temperature=r.temperature,
            top_k=1,
            group=k,
        )
        scores.append(rewards(samples.flat(), ctx.scorer))
    # (own prompts * k,) -> (all prompts * k,) -> (all prompts, k), in the order of the prompts
    return distributed.all_gather(torch.cat(scores)).double().numpy().reshape(len(problems), k)


@torch.no_grad()
def evaluate(ctx: TrainContext, batch: Batch) -> dict[str, float]:
    """Held-out pass rates, and both exact KLs on the states of this batch."""
    clock = time.perf_counter()
    policy, actor = ctx.policy, ctx.actor.model
    scores = held_out_scores(policy, ctx)
    row = {"pass_rate": float(scores.mean())} | set_metrics(ctx, scores)
    if actor is policy:  # on-policy: one distribution, so no forward pass is needed
        row |= {"kl_policy_actor": 0.0, "kl_actor_policy": 0.0}
    else:
        row["pass_rate_actor"] = pass_rate(actor, ctx)
        row |= mean_kls(ctx, batch)
    counts = distributed.sum_counts(ctx.scorer.counts())
    row |= {f"eval_{name}": count for name, count in counts.items()}
    row["seconds_eval"] = time.perf_counter() - clock
    return row


def mean_kls(ctx: TrainContext, batch: Batch) -> dict[str, float]:
    """KL(policy || actor) and KL(actor || policy), nats per token, over all ranks' states."""
    sums = dict.fromkeys(("kl_policy_actor", "kl_actor_policy", "tokens"), 0.0)
    for mb in microbatches(ctx.cfg, batch):
        n = len(mb.tokens)
        if n:
            policy, actor = (forward(ctx, m, mb.batch) for m in (ctx.policy, ctx.actor.model))
            kls = exact_kls(policy, actor, ctx.cfg.rollout.temperature)
            # kls are means over this microbatch's states: weighted by n they add up to all of them
            sums = {k: v + n * {**kls, "tokens": 1}[k] for k, v in sums.items()}
    *both, total = distributed.all_reduce_sum(list(sums.values()), ctx.device)
    return {name: kl / total for name, kl in zip(sums, both, strict=False)}
