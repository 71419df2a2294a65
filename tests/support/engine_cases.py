"""Engines of tiny models on the CPU."""

from __future__ import annotations

import torch
from tiny_context import TOKENIZER

from llm import settings
from llm.rollout.engines.base import FIELDS
from llm.rollout.engines.factory import open_engine

CPU = torch.device("cpu")
BASE = ["--rollout.prompts-per-step", "5", "--rollout.rollouts-per-prompt", "3"]
BASE += ["--rollout.max-new-tokens", "9", "--rollout.top-k", "4"]
SHORT = ("--run.steps", "6", "--run.checkpoint-every", "2", "--run.eval-every", "3")  # a whole run


def cfg_of(engine: str, *flags: str) -> settings.Config:
    return settings.load([], [*BASE, "--rollout.engine.type", engine, *flags])


def opened(engine: str, model, *flags: str):
    return open_engine(cfg_of(engine, *flags), TOKENIZER, model, CPU)


def moved(model, factor: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


def equal(a, b) -> bool:
    same = all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)
    return same and a.prompts == b.prompts and a.answers == b.answers
