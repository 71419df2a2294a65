"""What a run will need in memory and on disk, from its settings and the models' shapes alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from . import models
from .config import Config, ModelConfig
from .models import Model
from .text import is_local

_BYTES = {"float32": 4, "bfloat16": 2}
_LOGIT_COPIES = 4  # of a trained model in float32, gradients included; measured on the CPU
_DISTILL_COPIES = 12  # more, of the two models' logits in Eq. 7; measured likewise
_ANCHOR_COPIES = 6
_SAMPLING_COPIES = 4  # logits, log-softmax, probabilities and cumulative sums in float64


class Size(NamedTuple):
    """A model's parameters: all, those that are trained, and bytes of one."""

    total: int
    trained: int
    width: int


def shape(part: ModelConfig) -> Model:
    """The model without its weights."""
    with torch.device("meta"):
        if not part.path:
            return models.build(part, seed=0)
        config = AutoConfig.from_pretrained(
            part.path, local_files_only=is_local(part.path), trust_remote_code=False
        )
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def size(model: Model, part: ModelConfig) -> Size:
    total = sum(p.numel() for p in model.parameters())
    if not part.lora_rank:
        return Size(total, total, _BYTES[part.dtype])
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    adapters = sum(part.lora_rank * (m.in_features + m.out_features) for m in linear)
    return Size(total, adapters, _BYTES[part.dtype])


def estimate(cfg: Config, policy: Model, actor: Model | None, prompt_tokens: int) -> dict[str, int]:
    """Bytes by part at the peak of a step; rough (30 %), activations most so.

    Args:
        policy, actor: from `shape`; None for an actor that is derived from the policy.
        prompt_tokens: of the longest prompt.
    """
    found = {f"policy {k}": n for k, n in _held(size(policy, cfg.policy), cfg.policy).items()}
    if actor is not None:
        part = size(actor, cfg.actor)
        held = _held(part, cfg.actor)
        if cfg.actor.kind == "frozen":
            held = {"weights": held["weights"]}
        found |= {f"actor {k}": n for k, n in held.items()}
    else:
        copies = {"stale": cfg.actor.lag + 2, "noisy": 2, "quantized": 2}.get(cfg.actor.kind, 0)
        found["actor weights"] = copies * found["policy weights"]
    if cfg.loss.anchor_coef > 0:
        found["anchor weights"] = found["policy weights"]
    sequences = cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt
    micro = min(
        cfg.optim.sequences_per_microbatch or sequences,
        sequences // cfg.loss.updates_per_rollout,
    )
    new = cfg.rollout.max_new_tokens
    if cfg.optim.tokens_per_microbatch:
        micro = min(micro, max(1, cfg.optim.tokens_per_microbatch // (prompt_tokens + new)))
    trained: list[tuple[Model, ModelConfig]] = [(policy, cfg.policy)]
    trained += [(actor, cfg.actor)] * (cfg.actor.kind == "separate")
    copies = _LOGIT_COPIES * len(trained) + _DISTILL_COPIES * (cfg.loss.distill_coef > 0)
    copies += _ANCHOR_COPIES * (cfg.loss.anchor_coef > 0)
    update = {
        "logits of a micro-batch": 4 * copies * micro * (new + 1) * _vocabulary(policy),
        "activations of a micro-batch": sum(
            micro * (prompt_tokens + new) * _activation(m, its) for m, its in trained
        ),
    }
    sampler, its = (policy, cfg.policy) if actor is None else (actor, cfg.actor)
    sampling = {
        "key-value cache": sequences * (prompt_tokens + new) * _cache(sampler, its),
        "logits of sampling": 6 * _SAMPLING_COPIES * sequences * _vocabulary(sampler),
    }
    larger = update if sum(update.values()) > sum(sampling.values()) else sampling
    return {k: n for k, n in (found | larger).items() if n > 0}


def checkpoint_bytes(cfg: Config, policy: Model, actor: Model | None) -> int:
    """One checkpoint: what is trained, its optimisers' state, and versions of a stale actor."""
    parts: list[tuple[Model, ModelConfig]] = [(policy, cfg.policy)]
    parts += [(actor, cfg.actor)] * (cfg.actor.kind == "separate")
    total = 0
    for model, part in parts:
        sized = size(model, part)
        total += sized.trained * _kept_width(part) + _held(sized, part)["optimiser"]
    if cfg.actor.kind == "stale":
        total += (cfg.actor.lag + 1) * size(policy, cfg.policy).trained * _kept_width(cfg.policy)
    return total


def available(device: torch.device) -> int:
    """Bytes that are free: on the GPU, or in RAM within the limit of the control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [_free_ram()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            limits.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return max(0, min(limits))


def _free_ram() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kept_width(part: ModelConfig) -> int:
    return 4 if part.lora_rank else _BYTES[part.dtype]  # adapters are float32


def _held(size: Size, part: ModelConfig) -> dict[str, int]:
    masters = 4 if _kept_width(part) == 2 else 0
    adapters = 4 * size.trained if part.lora_rank else 0
    return {
        "weights": size.total * size.width + adapters,
        "gradients": size.trained * _kept_width(part),
        "optimiser": size.trained * (8 + masters),
    }


def _vocabulary(model: Model) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _cache(model: Model, part: ModelConfig) -> int:
    """Bytes of keys and values per token."""
    c = model.config
    heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
    each = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return int(2 * c.num_hidden_layers * heads * each * _BYTES[part.dtype])


def _activation(model: Model, part: ModelConfig) -> int:
    """Bytes kept per token for the backward pass, attention matrices apart."""
    c = model.config
    inner = getattr(c, "intermediate_size", None) or 4 * c.hidden_size
    return int(c.num_hidden_layers * (14 * c.hidden_size + 5 * inner) * _BYTES[part.dtype])
