"""Run folders whose models can be exported, and folders opened by transformers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from toy_tokenizers import save_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llm import settings
from llm.checkpoints.checkpoint import save_best, save_state
from llm.models import loading, roles
from llm.settings.loading import Config

IDS = torch.arange(2, 14).reshape(2, 6)


def moved(model: loading.Model, seed: int = 3) -> loading.Model:
    """As if trained: every weight that is trained is another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator).to(weight.dtype))
    return model


def run_of(folder: Path, flags: str) -> tuple[Config, dict[str, loading.Model]]:
    """A run folder with checkpoints after 3 and 5 steps and the best after 3, and the models of
    step 5."""
    cfg = settings.load([], flags.split())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(settings.dump(cfg))
    parts = {"policy": roles.open_policy(cfg, folder)}
    if cfg.actor.trained:
        parts["actor"] = roles.open_model(cfg, "actor", folder)
    kept = folder / "checkpoints"
    save_state(kept, 3, parts, {})
    save_best(kept, 3, parts, {})
    for model in parts.values():
        moved(model)
    save_state(kept, 5, parts, {})
    return cfg, parts


def logits(model: loading.Model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def opened(folder: Path, dtype: str = "auto") -> loading.Model:
    with loading.quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)


def save_base(path: Path) -> Path:
    """A model folder with tokenizer and tied weights."""
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads: dict[str, Any] = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=261, tie_word_embeddings=True, **shape, **heads)
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path)
    return path


def with_base(base: Path) -> str:
    return f"--task.type arithmetic --policy.path {base} --actor.type self --correction.type none "
