"""The policy and other models of a run, loaded, or built and pretrained."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from llm.hub import is_local, require_model
from llm.runs.run_folder import first_date
from llm.settings.loading import Config, ConfigError, ModelConfig
from llm.settings.validation import check_vocabulary
from llm.tokenizers.pretrained import (
    HubTokenizer,
    Tokenizer,
    differences,
    tokenizer_for,
)

from .configs import ids_in
from .loading import (
    Model,
    build,
    check_cache,
    load,
    logits_width,
    restrict_ids,
    seed_of,
    with_lora,
)


def open_policy(cfg: Config, run_folder: Path) -> Model:
    """The policy: loaded, or built and pretrained; with adapters if it has a LoRA rank.

    Raises:
        ConfigError: see `load` and `check_cache`; a vocabulary smaller than its tokenizer's, or for
            another number of synonyms of a digit.
    """
    return open_model(cfg, "policy", run_folder)


def open_model(cfg: Config, role: str, run_folder: Path) -> Model:
    """The model of a role ("policy" or "actor"), as `open_policy`."""
    part: ModelConfig = getattr(cfg, role)
    model = open_base(cfg, role, run_folder)
    folder = part.path or model.name_or_path
    check_cache(model)
    tokenizer = open_tokenizer(cfg, run_folder)
    width, wanted = logits_width(model), tokenizer.vocab_size
    if width > wanted and isinstance(tokenizer, HubTokenizer):
        restrict_ids(model, wanted)
    if width < wanted:
        raise ConfigError(
            f"the model in {folder} has a vocabulary of {width} ids, its tokenizer one of {wanted}:"
            " they do not belong together"
        )
    synonyms = getattr(model.config, "digit_forms", cfg.task.digit_synonyms)
    if synonyms != cfg.task.digit_synonyms:
        raise ConfigError(
            f"the model in {folder} has a vocabulary of {width} ids, for --task.digit_synonyms "
            f"{synonyms}, and task.digit_synonyms is {cfg.task.digit_synonyms}: set it to "
            f"{synonyms}, or choose another model"
        )
    return with_lora(model, part, seed=seed_of(cfg, role)) if part.lora.rank else model


def open_tokenizer(cfg: Config, run_folder: Path) -> Tokenizer:
    """The tokenizer of both models, for the ids that both of them and their tokenizers have.

    Its date, which chat templates may ask for, is that of the first start in `run_folder`.

    Raises:
        ConfigError: the tokenizers differ, no end-of-sequence id is among those ids, or a setting
            does not fit their number (`check_vocabulary`).
    """
    for part in (cfg.policy, cfg.actor):
        if isinstance(part, ModelConfig) and part.path:
            require_model(part.path)
    tokenizer = tokenizer_for(cfg.policy.path, cfg.task)
    sizes = [_rows(cfg.policy.path), tokenizer.vocab_size]
    if isinstance(cfg.actor, ModelConfig) and cfg.actor.path != cfg.policy.path:
        other = tokenizer_for(cfg.actor.path, cfg.task)
        sizes += [_rows(cfg.actor.path), other.vocab_size]
        differs = differences(tokenizer, other, min(n for n in sizes if n is not None))
        if differs:
            raise ConfigError(
                f"policy {cfg.policy.path or '(built)'} and actor {cfg.actor.path or '(built)'} "
                f"must share a tokenizer, and differ in: {'; '.join(differs)}. Rejection compares "
                "their probabilities of the same token ids: choose models of one family"
            )
    if isinstance(tokenizer, HubTokenizer):
        tokenizer.restrict(min(n for n in sizes if n is not None))
        tokenizer.today = first_date(run_folder) or tokenizer.today
    check_vocabulary(cfg, tokenizer.vocab_size)
    return tokenizer


def _rows(path: str) -> int | None:
    """Rows of a model's embedding, as its config says; None where that cannot be read, which
    whoever loads the model reports."""
    if not path:
        return None
    try:
        config = AutoConfig.from_pretrained(
            path, local_files_only=is_local(path), trust_remote_code=False
        )
    except Exception:  # whatever the library raises at a file that anybody may have made
        return None
    return ids_in(config)


def open_base(cfg: Config, role: str, run_folder: Path) -> Model:
    """The model that a role starts from, without adapters."""
    from .pretraining import pretrained

    part: ModelConfig = getattr(cfg, role)
    path = part.path or pretrained(cfg, role, run_folder)
    return load(path, part.dtype, longest_sequence(cfg))


def longest_sequence(cfg: Config) -> int:
    """Tokens of the longest prompt and completion that a run may have."""
    return cfg.task.prompt_tokens_max + cfg.rollout.max_new_tokens


def open_shell(cfg: Config, role: str, run_folder: Path) -> Model:
    """The model of a role for a checkpoint to be loaded into: as `open_model`, but a built one
    without adapters, whose weights are all in the checkpoint, is not pretrained."""
    part: ModelConfig = getattr(cfg, role)
    if part.path or part.lora.rank:
        return open_model(cfg, role, run_folder)
    return build(part, 0, cfg.task.digit_synonyms).to(getattr(torch, part.dtype)).eval()
