"""The policy and other models of a run, loaded, or built and pretrained."""

from __future__ import annotations

from pathlib import Path

import torch

from llm.settings.loading import Config, ConfigError, ModelConfig
from llm.tokenizers.pretrained import tokenizer_for

from .loading import Model, build, check_cache, load, logits_width, seed_of, with_lora


def open_policy(cfg: Config, run_folder: Path) -> Model:
    """The policy: loaded, or built and pretrained; with adapters if it has a LoRA rank.

    Raises:
        ConfigError: see `load` and `check_cache`; a vocabulary smaller than its tokenizer's, or for
            another number of forms of a digit.
    """
    return open_model(cfg, "policy", run_folder)


def open_model(cfg: Config, role: str, run_folder: Path) -> Model:
    """The model of a role ("policy" or "actor"), as `open_policy`."""
    part: ModelConfig = getattr(cfg, role)
    model = open_base(cfg, role, run_folder)
    folder = part.path or model.name_or_path
    check_cache(model)
    width, wanted = logits_width(model), tokenizer_for(part.path, cfg.task).vocab_size
    if width < wanted:
        raise ConfigError(
            f"the model in {folder} has a vocabulary of {width} ids, its tokenizer one of {wanted}:"
            " they do not belong together"
        )
    forms = getattr(model.config, "digit_forms", cfg.task.digit_synonyms)
    if forms != cfg.task.digit_synonyms:
        raise ConfigError(
            f"the model in {folder} has a vocabulary of {width} ids, for --task.digit_synonyms "
            f"{forms}, and task.digit_synonyms is {cfg.task.digit_synonyms}: set it to {forms} or "
            "choose another model"
        )
    return with_lora(model, part, seed=seed_of(cfg, role)) if part.lora_rank else model


def open_base(cfg: Config, role: str, run_folder: Path) -> Model:
    """The model that a role starts from, without adapters."""
    from .pretraining import pretrained

    part: ModelConfig = getattr(cfg, role)
    return load(part.path or pretrained(cfg, role, run_folder), part.dtype)


def open_shell(cfg: Config, role: str, run_folder: Path) -> Model:
    """The model of a role for a checkpoint to be loaded into: as `open_model`, but a built one
    without adapters, whose weights are all in the checkpoint, is not pretrained."""
    part: ModelConfig = getattr(cfg, role)
    if part.path or part.lora_rank:
        return open_model(cfg, role, run_folder)
    return build(part, 0, cfg.task.digit_synonyms).to(getattr(torch, part.dtype)).eval()
