"""Shapes of a tiny model, and a preset with its flags as the plan command has them."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm import settings
from llm.commands import plan
from llm.planning import estimate

ROOT = Path(__file__).resolve().parents[2]
EIGHT_B = str(ROOT / "llm/configs/qwen3_1.7b_8b_deepscaler.toml")
ON_8 = ["--gpus", "8", "--gpu-memory", "80GB"]
LEAN = ["--head", "chunked", "--checkpointing", "on", "--engine", "vllm"]
TINY = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip


def tiny(**changes):
    with torch.device("meta"):
        return Qwen3ForCausalLM(Qwen3Config(**{**TINY, **changes}))


def of_preset(*flags: str, file: str = EIGHT_B):
    """(settings, shapes, choice, arguments) as `main` has them."""
    args, files, rest = plan._arguments([file, *ON_8, *flags])
    cfg = settings.load(files, rest)
    pair = estimate.open_shapes(cfg, args.model_sizes)
    return cfg, pair, estimate.choice_of(cfg, pair, args), args
