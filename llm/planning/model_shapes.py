"""Shapes of well-known models, for plans without network."""

from __future__ import annotations

from typing import Any

# From the models' config.json on the hub; -Base and -Instruct have the same shapes
_QWEN3 = {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
_QWEN25 = {"model_type": "qwen2", "num_key_value_heads": 2, "vocab_size": 151936}
KNOWN_SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-1.5B": _QWEN25 | {
        "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
        "intermediate_size": 8960, "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-3B": _QWEN25 | {
        "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "intermediate_size": 11008, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-1.7B": _QWEN3 | {
        "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
        "intermediate_size": 6144, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-4B": _QWEN3 | {
        "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
        "intermediate_size": 9728, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-8B": _QWEN3 | {
        "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "intermediate_size": 12288, "tie_word_embeddings": False,
    },
}  # fmt: skip
