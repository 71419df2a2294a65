"""What of a model's config is read and set here, so that sampler and scorer compute the same.

A config may keep the settings of its text model in a config of its own (`text_of`). It may ask for
outputs that nobody here reads (`without_outputs`), and for arithmetic that depends on the longest
sequence of a batch (`with_one_rope`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LAYERS_MAX = 1000  # the deepest published language models have fewer than 200
_LIMITS = ("max_position_embeddings", "max_seq_len", "max_target_positions")  # of positions
_ROPE_PAIRS = (("short_factor", "long_factor"), ("short_mscale", "long_mscale"))


def text_of(config: Any) -> Any:
    """The config of the model that reads and writes tokens: its own, or the part for text."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def positions_in(config: Any) -> int | None:
    """Tokens that a sequence may have; None where the config sets no limit."""
    limits = (getattr(text_of(config), name, None) for name in _LIMITS)
    return next((limit for limit in limits if limit is not None), None)


def ids_in(config: Any) -> int | None:
    """Rows of the embedding, as the config gives them."""
    return getattr(text_of(config), "vocab_size", None)


def check_depth(config: Any) -> None:
    """Raises ValueError for more layers than LAYERS_MAX: building them would take hours."""
    for part in parts_of(config):
        layers = getattr(part, "num_hidden_layers", None)
        if isinstance(layers, int) and layers > LAYERS_MAX:
            raise ValueError(f"its config.json asks for {layers} layers, more than {LAYERS_MAX}")


def parts_of(config: Any) -> Iterator[Any]:
    """The config and all those inside it."""
    yield config
    for name in getattr(config, "sub_configs", {}):
        inner = getattr(config, name, None)
        if inner is not None and inner is not config:
            yield from parts_of(inner)


def without_outputs(config: Any) -> Any:
    """The config, changed to give logits alone and a cache when asked for.

    Router logits change the number of outputs, tuples their access; without a cache the sampler
    would see one token at a time.
    """
    for part in parts_of(config):
        for name in ("output_hidden_states", "output_attentions", "output_router_logits"):
            if getattr(part, name, False):
                setattr(part, name, False)
        for name in ("use_cache", "return_dict"):
            if not getattr(part, name, True):
                setattr(part, name, True)
    return config


def rope_switches(config: Any) -> list[int]:
    """Lengths beyond which a forward pass uses other rotary angles for all its positions.

    longrope has two tables, and transformers takes one by the longest sequence of the pass: the
    sampler's early tokens and the scorer would use different ones. The type dynamic changes with
    every token beyond max_position_embeddings, which `check_positions` refuses.
    """
    return [
        int(table["original_max_position_embeddings"])
        for part in parts_of(config)
        for table in _rope_tables(part)
        if any(table.get(a) != table.get(b) for a, b in _ROPE_PAIRS)
        and table.get("original_max_position_embeddings")
    ]


def with_one_rope(config: Any, longest: int) -> Any:
    """The config, changed so that every pass uses the rotary table for `longest` tokens.

    longest: of prompt and completion in this run; the long table if it lies beyond the switch.
    vLLM chooses once, in the same way.
    """
    for part in parts_of(config):
        for table in _rope_tables(part):
            original = table.get("original_max_position_embeddings")
            for short, long in _ROPE_PAIRS:
                if original and short in table and long in table:
                    table[short] = table[long] = table[long if longest > original else short]
    return config


def _rope_tables(config: Any) -> list[dict[str, Any]]:
    """The rotary parameters of a config: one set, or one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        return []
    inner = [x for x in parameters.values() if isinstance(x, dict)]
    return [parameters] if "rope_type" in parameters else inner
