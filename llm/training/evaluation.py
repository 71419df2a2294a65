"""Held-out evaluation: pass rates while training, mean@k and pass@k with intervals after it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llm import distributed, randomness
from llm.distributed import sum_counts
from llm.rollout.batch import Batch
from llm.rollout.sampling import sample
from llm.tasks import problem

from . import evaluation as evaluate
from . import forward
from .context import TrainContext
from .microbatches import microbatches
from .rollout_phase import rewards

if TYPE_CHECKING:
    from .context import TrainContext


def pass_rate(model: Any, setup: TrainContext) -> float:
    """Mean score over the run's held-out prompts, one sample each, at the training temperature.

    Prompts and random numbers are the same at every call, so that evaluations of a run, and of runs
    with the same seed, differ only by the model.
    """
    run = setup.cfg.run
    problems = setup.task.held_out(run.seed, run.eval_prompts)
    return float(_scores(model, setup, problems, 1, run.seed).mean())


def evaluate_many(
    model: Any, setup: TrainContext, problems: Sequence[problem.Problem], k: int, seed: int
) -> np.ndarray:
    """Which of k samples of each problem are right, bool (problems, k). Right is a full score."""
    return _scores(model, setup, problems, k, seed) >= 1.0


def _scores(
    model: Any, setup: TrainContext, problems: Sequence[problem.Problem], k: int, seed: int
) -> np.ndarray:
    """(problems, k) float64. Each rank samples its part of them.

    As many sequences at a time as a training step samples (or k, if that is more): what is known to
    fit. Random numbers are drawn sequence by sequence, so chunks change none of them.
    """
    r = setup.cfg.rollout
    size = max(1, r.prompts_per_step * r.rollouts_per_prompt // k)
    rng, own = randomness.stream(seed, "evaluation sampling"), distributed.rank_slice(len(problems))
    rng.bit_generator.advance(own.start * k * r.max_new_tokens)  # type: ignore[attr-defined]
    found = [torch.zeros(0)]
    for start in range(own.start, own.stop, size):
        batch = sample(
            model,
            setup.tokenizer,
            list(problems[start : min(start + size, own.stop)]),
            rng,
            max_new_tokens=r.max_new_tokens,
            temperature=r.temperature,
            top_k=1,
            group=k,
        )
        found.append(rewards(batch, setup.scorer))
    return distributed.all_gather(torch.cat(found)).double().numpy().reshape(len(problems), k)


@torch.no_grad()
def evaluation(setup: TrainContext, batch: Batch) -> dict[str, float]:
    """Held-out pass rates, and both exact KLs on the states of this batch."""
    clock = time.perf_counter()
    policy, actor = setup.policy, setup.actor.model
    found = {"pass_rate": evaluate.pass_rate(policy, setup)}
    if actor is policy:
        found |= {"kl_policy_actor": 0.0, "kl_actor_policy": 0.0}
    else:
        found["pass_rate_actor"] = evaluate.pass_rate(actor, setup)
        sums = dict.fromkeys(("kl_policy_actor", "kl_actor_policy", "tokens"), 0.0)
        for mb, _ in microbatches(setup.cfg, batch):
            n = int(mb.is_completion.sum())
            if n:
                one, other = (forward.forward(setup, m, mb) for m in (policy, actor))
                kls = forward.exact_kls(one, other, setup.cfg.rollout.temperature)
                sums = {k: v + n * {**kls, "tokens": 1}[k] for k, v in sums.items()}
        *both, total = distributed.all_reduce_sum(list(sums.values()), setup.device)
        found |= {k: kl / total for k, kl in zip(sums, both, strict=False)}
    found |= {f"eval_{k}": v for k, v in sum_counts(setup.scorer.counts()).items()}
    found["seconds_eval"] = time.perf_counter() - clock
    return found
