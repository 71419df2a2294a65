"""The engine that a configuration names."""

from __future__ import annotations

import torch

from llm.models.loading import Model
from llm.settings.loading import Config
from llm.tokenizers.pretrained import Tokenizer

from .base import Engine
from .in_process import HfEngine


def open_engine(cfg: Config, tokenizer: Tokenizer, model: Model, device: torch.device) -> Engine:
    """The engine of a run, with the weights of the actor's model as version 0.

    Raises:
        ConfigError: a package is missing, or the engine cannot take such a model.
    """
    engine: Engine
    if cfg.rollout.engine.type == "process":
        from .subprocess_engine import ProcessEngine

        engine = ProcessEngine(cfg, tokenizer, device, model)
    elif cfg.rollout.engine.type == "vllm":
        from .vllm_engine import VllmEngine

        engine = VllmEngine(cfg, tokenizer, device, model)
    else:
        engine = HfEngine(cfg, tokenizer, device)
    try:
        engine.update(model, version=0)
    except BaseException:
        engine.close()
        raise
    return engine
