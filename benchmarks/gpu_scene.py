"""What gpu_check.py measures on: two random bfloat16 models, a batch, one optimiser step."""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from overhead import IdPrompts, model

from jackpot.torch.correction import TokenWeights
from llm import settings as config
from llm.models.actors import Actor
from llm.rollout.batch import Batch
from llm.rollout.engines.factory import open_engine
from llm.runs.nonfinite_guard import Guard
from llm.settings.loading import Config
from llm.tasks.problem import Problem
from llm.train import update
from llm.training.context import TrainContext
from llm.training.minibatches import split_minibatches
from llm.training.optimizer import Learner, open_learner


class GpuWorkload(NamedTuple):
    """head: (tokens, vocabulary, hidden) of its check; the others are of the training step."""

    head: tuple[int, int, int] = (1024, 151_936, 1024)
    vocabulary: int = 151_936
    width: int = 1024
    layers: int = 8
    prompts: int = 4
    group: int = 4
    new: int = 32
    repeats: int = 5


QUICK = GpuWorkload((64, 3000, 64), 1000, 64, 2, 2, 2, 12, 1)
PROMPT_TOKENS = 16
# Standard deviation of the logits, nats. Errors are measured on flat distributions. Of time peaked
# ones are asked, as language models have: the bound on the tail counts the likely tokens of each.
FLAT, PEAKED = 2.0, 6.4


def settings(
    size: GpuWorkload, device: torch.device, correction: str = "jackpot", engine: str = "hf"
) -> Config:
    """Nothing is drawn, clipped or moved, so that results of two precisions can be compared."""
    own = {
        "correction.type": correction, "rollout.engine.type": engine, "run.device": device.type,
        "optim.policy-lr": 1e-9, "actor.lr": 1e-9, "optim.grad-clip": 1e9,
        "policy.dtype": "bfloat16", "actor.dtype": "bfloat16",
        "rollout.prompts-per-step": size.prompts, "rollout.rollouts-per-prompt": size.group,
        "rollout.max-new-tokens": size.new,
    } | ({"correction.mask": "expected"} if correction == "jackpot" else {})  # fmt: skip
    return config.load([], [f"--{name}={value}" for name, value in own.items()])


def pair(size: GpuWorkload, device: torch.device, spread: float = FLAT) -> tuple[Any, Any]:
    """A policy with logits of that spread, and an actor that differs by some noise, in bfloat16."""
    policy = model(size.vocabulary, size.width, size.layers, seed=0)
    with torch.no_grad():
        policy.lm_head.weight.mul_(spread / policy.lm_head.weight.std() / size.width**0.5)
        actor = copy.deepcopy(policy)
        for x in actor.parameters():
            x.add_(0.1 * x.square().mean().sqrt() * torch.randn_like(x))
    place: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
    return policy.to(**place).eval(), actor.to(**place).eval()


def context(
    cfg: Config, policy: Any, actor: Any, device: torch.device, head: str = "dense"
) -> TrainContext:
    parts = cfg, IdPrompts(), None, None, policy, Actor("separate", actor), None, device
    return TrainContext(*parts, chunked=head == "chunked")  # type: ignore[arg-type]


def sampled(
    cfg: Config, size: GpuWorkload, actor: Any, device: torch.device
) -> tuple[Batch, float]:
    """A batch of the actor with random advantages; seconds of it."""
    rng = np.random.default_rng(0)
    asked = rng.integers(size.vocabulary, size=(size.prompts, PROMPT_TOKENS))
    problems = [Problem(" ".join(map(str, ids)), "") for ids in asked]
    engine = open_engine(cfg, IdPrompts(), actor, device)  # type: ignore[arg-type]
    try:
        wait(device)
        clock = time.perf_counter()
        samples = engine.probe(problems, size.group, size.new, cfg.rollout.top_k)
        wait(device)
        taken = time.perf_counter() - clock
    finally:
        engine.close()
    batch = samples.flat()
    batch.advantage.copy_(torch.from_numpy(rng.standard_normal(len(batch.answers))))
    return batch, taken


def learner_of(ctx: TrainContext) -> Learner:
    return open_learner(ctx, Guard(Path("nowhere")))


def stepped(
    ctx: TrainContext, learner: Learner, batch: Batch
) -> tuple[TokenWeights, dict[str, float]]:
    (minibatch,) = split_minibatches(ctx, batch, learner, 0)
    return update(ctx, learner, minibatch, 0)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
