"""The engine that a configuration names."""

from __future__ import annotations

import torch

from llm.models.loading import Model
from llm.rollout.row_cache import check_cuts
from llm.settings.loading import Config
from llm.settings.rollout_rules import drafts
from llm.tokenizers.pretrained import Tokenizer

from .base import Engine
from .in_process import HfEngine


def open_engine(
    cfg: Config,
    tokenizer: Tokenizer,
    model: Model,
    device: torch.device,
    policy: Model | None = None,
) -> Engine:
    """The engine of a run, with the weights of the actor's model as version 0.

    policy: as for `Engine`.

    Raises:
        ConfigError: a package is missing, or the engine cannot take such a model.
    """
    engine: Engine
    if drafts(cfg):
        assert policy is not None
        for either in (model, policy):
            check_cuts(either)
    if cfg.rollout.engine.type == "process":
        from .subprocess_engine import ProcessEngine

        engine = ProcessEngine(cfg, tokenizer, device, model, policy)
    elif cfg.rollout.engine.type == "vllm":
        from .vllm_engine import VllmEngine

        engine = VllmEngine(cfg, tokenizer, device, model)
    else:
        engine = HfEngine(cfg, tokenizer, device, policy)
    try:
        engine.update(model, version=0)
    except BaseException:
        engine.close()
        raise
    return engine
