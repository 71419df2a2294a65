"""Evaluation samples the same in any chunks and at every call."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import torch

from llm import settings
from llm.models import loading
from llm.tasks.problem import Problem
from llm.tokenizers import character
from llm.training import evaluation
from llm.training.context import TrainContext


class EvenSums:
    """Scores 1 where the ids add up to an even number; remembers how many it saw at a time."""

    def __init__(self):
        self.sizes = []

    def score(self, completions, answers, prompts, extras):
        self.sizes.append(len(completions))
        return [float(sum(c) % 2 == 0) for c in completions]


def small_context(prompts_per_step):
    cfg = settings.load(
        [],
        ["--rollout.prompts_per_step", str(prompts_per_step), "--rollout.rollouts_per_prompt", "2"],
    )
    task = SimpleNamespace(held_out=lambda seed, n: [Problem(f"{i}=", "1") for i in range(n)])
    return SimpleNamespace(
        cfg=cfg, tokenizer=character.CharTokenizer(), task=task, scorer=EvenSums()
    )


@torch.no_grad()
def test_chunks_do_not_change_what_is_sampled():
    """Correctness of every sample is that of one large batch, and no chunk exceeds a training
    step's sequences."""
    model = loading.build(settings.ModelConfig(layers=1, width=32), seed=0)
    problems = [Problem(f"{i}{i}=", "1") for i in range(9)]
    large, small = small_context(64), small_context(3)
    whole = evaluation.evaluate_many(model, large, problems, 3, seed=7)
    parts = evaluation.evaluate_many(model, small, problems, 3, seed=7)
    assert whole.shape == (9, 3)
    assert 0 < whole.mean() < 1
    assert (whole == parts).all()
    assert large.scorer.sizes == [27]
    assert max(small.scorer.sizes) == 6
    assert (evaluation.evaluate_many(model, large, problems, 3, seed=8) != whole).any()


@torch.no_grad()
def test_a_training_evaluation_is_the_same_at_every_call():
    model = loading.build(settings.ModelConfig(layers=1, width=32), seed=0)
    ctx = small_context(64)
    assert evaluation.pass_rate(model, ctx) == evaluation.pass_rate(model, ctx)
    assert sum(ctx.scorer.sizes) == 2 * ctx.cfg.run.eval_prompts


def test_each_evaluation_set_has_its_own_mean_and_pass():
    """Two sets of 1 and 2 problems with 2 samples each; one set with one sample has no more."""
    sets = {"a": [Problem("1=", "")], "b_2": [Problem("2=", ""), Problem("3=", "")]}
    task = SimpleNamespace(held_out_sets=lambda seed, n: sets)
    cfg = settings.resolve({"run.eval_completions": 2})
    scores = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    ctx = cast(TrainContext, SimpleNamespace(cfg=cfg, task=task))
    assert evaluation.set_metrics(ctx, scores) == {
        **{"mean_at_k_a": 0.5, "pass_at_k_a": 1.0},
        **{"mean_at_k_b_2": 0.5, "pass_at_k_b_2": 0.5},
    }
    del sets["b_2"]
    one = cast(TrainContext, SimpleNamespace(cfg=settings.resolve({}), task=task))
    assert evaluation.set_metrics(one, scores[:1, :1]) == {}
