"""Held-out evaluation: the share of prompts that one sampled completion solves."""

from __future__ import annotations

import torch

from . import data
from .config import Config
from .rewards import exact_match
from .rollout import Batch, sample


def rewards(batch: Batch) -> torch.Tensor:
    """Score of each completion, (b,) float32."""
    pairs = zip(batch.completions(), batch.answers, strict=True)
    return torch.tensor([exact_match(c, a) for c, a in pairs])


def pass_rate(model: torch.nn.Module, cfg: Config) -> float:
    """Share of the run's held-out prompts solved, one sample each, at the training temperature.

    Prompts and random numbers are the same at every call, so that evaluations of a run, and of runs
    with the same seed, differ only by the model.
    """
    r, seed = cfg.rollout, cfg.run.seed
    problems = data.problems(
        cfg.task, data.stream(seed, "evaluation prompts"), cfg.run.eval_prompts, held_out=True
    )
    batch = sample(
        model,
        problems,
        data.stream(seed, "evaluation sampling"),
        max_new_tokens=r.max_new_tokens,
        temperature=r.temperature,
        top_k=1,
    )
    return float(rewards(batch).mean())
