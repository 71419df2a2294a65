"""A TrainContext of random models over the character alphabet, without files."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from jackpot.torch.control import Controls
from llm.models import loading
from llm.models.actors import Actor
from llm.models.lm_head import support
from llm.rewards import scorers
from llm.rollout.engines.in_process import HfEngine
from llm.rollout.sampling import sample
from llm.runs.nonfinite_guard import Guard
from llm.settings.loading import Config, ModelConfig
from llm.tasks import factory
from llm.tasks.problem import Problem
from llm.tokenizers.character import CharTokenizer
from llm.training.context import TrainContext
from llm.training.optimizer import Learner

TOKENIZER = CharTokenizer()
PROBLEMS = [
    Problem(*pair)
    for pair in [
        ("12=", "13"),
        ("90417=", "99044"),
        ("5=", "5"),
        ("8812=", "8679"),
        ("333=", "369"),
    ]
]
NOWHERE = Guard(Path("nowhere"))


def random_pair():
    """Policy and actor. Random models are nearly uniform: sharpened so that they differ."""
    policy = loading.build(ModelConfig(layers=2, width=32), seed=1)
    actor = loading.build(ModelConfig(layers=1, width=16), seed=2)
    with torch.no_grad():
        policy.lm_head.weight.mul_(30.0)
        actor.lm_head.weight.mul_(30.0)
    return policy, actor


def world(cfg: Config, pair, kind: str = "separate") -> TrainContext:
    """The pair as they are, not copied."""
    policy, actor = pair
    initial = copy.deepcopy(policy).requires_grad_(False) if cfg.loss.initial_kl_coef > 0 else None
    task = factory.open_task(cfg.task, TOKENIZER)
    scorer = scorers.open_scorer(cfg.task, TOKENIZER)
    held = Actor(kind, actor)
    device = torch.device("cpu")
    engine = HfEngine(cfg, TOKENIZER, device, policy)
    engine.update(actor, version=0)
    chunked = support.chunked(cfg, policy, actor)
    parts = (cfg, TOKENIZER, task, scorer, policy, held, initial, device, engine)
    return TrainContext(*parts, chunked=chunked)


def rollout(model, **settings):
    """A flat batch of the model's samples."""
    return samples(model, **settings).flat()


def samples(model, problems=PROBLEMS, seed=0, temperature=1.0, top_k=5, width=7, group=1):
    """The same, padded as they are sampled."""
    return sample(
        model,
        TOKENIZER,
        problems,
        np.random.default_rng(seed),
        max_new_tokens=width,
        temperature=temperature,
        top_k=top_k,
        group=group,
    )


def full_logprobs(model, ids, is_real, width, temperature):
    """The distribution of every completion position, (b, width, v), by a plain forward pass."""
    position = (is_real.long().cumsum(1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=is_real.long(), position_ids=position)
    return torch.log_softmax(out.logits[:, -width - 1 : -1].float() / temperature, dim=-1)


def learner(cfg: Config, optimizers=None, guard=NOWHERE) -> Learner:
    """Controls and correction state as at step 0."""
    return Learner(optimizers or {}, guard, Controls(cfg.actor.distill.coef))
