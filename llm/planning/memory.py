"""What a run will need in memory and on disk, from its settings and the models' shapes alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llm.hub import is_local, require_on_hub
from llm.models import loading
from llm.models.configs import text_of
from llm.models.lm_head.blocks import default_chunk
from llm.models.lm_head.support import in_blocks
from llm.models.loading import Model
from llm.settings.loading import Config, ModelConfig
from llm.settings.schema import DraftedMode, SeparateActor, StaleActor

_BYTES = {"float32": 4, "bfloat16": 2}
# Fitted to peaks of real runs on the CPU (benchmarks/memory_model.py), in float32 arrays of
# (tokens, vocabulary); all else here is counted.
_LOGIT_COPIES = 5.2  # of a model in its backward pass
_WAITING_COPIES = 3.1  # of another trained model meanwhile
_ROUNDED_COPIES = 0.1  # more of each in bfloat16: its logits before they are float32
_DISTILL_COPIES = 17.0  # more, of Eq. 7
_INITIAL_COPIES = 14.1  # more, of the KL to the initial policy
_SAMPLING_COPIES = 6  # of the logits after one token; not fitted


class ModelSize(NamedTuple):
    """A model's parameters: all, those that are trained, and bytes of one."""

    total: int
    trained: int
    width: int


class Layout(NamedTuple):
    """How a run lies on its devices; the defaults are one process with its own sampler.

    ranks: processes, each with a device and an equal share of the sequences.
    sharded: weights, gradients and optimiser state of what is trained are divided among the ranks
        (fully_shard); a whole copy of its weights, which samples, stays on each (sharding.py).
    checkpointing: a layer keeps only its input, and is computed again in the backward pass.
    blocks: whether the head works in blocks; None: by the settings.
    engine_copy: the engine is a process with a copy of the sampler of its own, one on every rank.
    keeps_cache: the sampler's key-value cache stays in memory during updates.
    at_once: sequences that a rank samples at once; 0: all of its share.
    tokens_per_microbatch: 0: by optim.microbatch.
    gpu: blocks of the head are larger, and the optimiser works on all parameters at once.
    """

    ranks: int = 1
    sharded: bool = False
    checkpointing: bool | None = None
    blocks: bool | None = None
    engine_copy: bool = False
    keeps_cache: bool = False
    at_once: int = 0
    tokens_per_microbatch: int = 0
    gpu: bool = False


Parts = dict[str, int]


def shape(part: ModelConfig, config: Any = None, synonyms: int = 1) -> Model:
    """The model without its weights; of a transformers `config`, if one is given; a built one with
    so many synonyms of a digit (task.digit_synonyms)."""
    with torch.device("meta"):
        if config is None and not part.path:
            return loading.build(part, 0, synonyms)
        if config is None and not is_local(part.path):
            require_on_hub(part.path)
        config = config or AutoConfig.from_pretrained(
            part.path, local_files_only=is_local(part.path), trust_remote_code=False
        )
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def size(model: Model, part: ModelConfig) -> ModelSize:
    total = sum(p.numel() for p in model.parameters())
    if not part.lora.rank:
        return ModelSize(total, total, _BYTES[part.dtype])
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    adapters = sum(part.lora.rank * (m.in_features + m.out_features) for m in linear)
    return ModelSize(total, adapters, _BYTES[part.dtype])


def estimate(
    cfg: Config,
    policy: Model,
    actor: Model | None,
    prompt_tokens: int,
    layout: Layout | None = None,
) -> Parts:
    """Bytes by part, per rank, at the peak of a step: what is always held, and the largest phase.

    Args:
        policy, actor: from `shape`; None for an actor that is derived from the policy.
        prompt_tokens: of the longest prompt.
        layout: None: one process, its engine as set.
    """
    if layout is None:
        engine = cfg.rollout.engine.type
        layout = Layout(engine_copy=engine != "hf", keeps_cache=engine == "vllm")
    held, phases = by_phase(cfg, policy, actor, prompt_tokens, layout)
    largest = max(phases.values(), key=lambda parts: sum(parts.values()))
    return {k: n for k, n in (held | largest).items() if n > 0}


def by_phase(
    cfg: Config, policy: Model, actor: Model | None, prompt_tokens: int, layout: Layout
) -> tuple[Parts, dict[str, Parts]]:
    """(bytes always held, bytes more in each phase: sampling, update, optimiser step), per rank."""
    trained: list[tuple[str, Model, ModelConfig]] = [("policy", policy, cfg.policy)]
    if actor is not None and isinstance(cfg.actor, SeparateActor):
        trained.append(("actor", actor, cfg.actor))
    its = _own(cfg) or cfg.policy
    sampler = policy if actor is None else actor
    held = _always_held(cfg, policy, actor, layout)
    share = -(-cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt // layout.ranks)
    at_once = min(layout.at_once or share, share)
    length = prompt_tokens + cfg.rollout.max_new_tokens
    cache = {"key-value cache": at_once * length * cache_bytes(sampler, its)}
    sampling = {"logits of sampling": 4 * _SAMPLING_COPIES * at_once * vocabulary(sampler)}
    if isinstance(mode := cfg.rollout.mode, DraftedMode):
        cache["policy's key-value cache"] = at_once * length * cache_bytes(policy, cfg.policy)
        rows = 2 * mode.block.longest + 1  # log q and log p of a block, and of the bonus
        sampling["distributions of a block"] = 4 * at_once * rows * vocabulary(sampler)
    if layout.keeps_cache:
        held |= cache
    else:
        sampling = cache | sampling
    phases = {
        "sampling": sampling,
        "update": _update(cfg, trained, share, prompt_tokens, layout),
        "optimiser step": _optimiser_step(trained, layout),
    }
    return held, phases


def _own(cfg: Config) -> ModelConfig | None:
    """The actor's own model, where it is not derived from the policy."""
    return cfg.actor if isinstance(cfg.actor, ModelConfig) else None


def _always_held(cfg: Config, policy: Model, actor: Model | None, layout: Layout) -> Parts:
    held = {f"policy {k}": n for k, n in _held(size(policy, cfg.policy), cfg.policy).items()}
    whole = held["policy weights"]
    sampler = whole
    part = _own(cfg)
    if actor is not None and part is not None:
        of_actor = _held(size(actor, part), part)
        sampler = of_actor["weights"]
        if cfg.actor.trained:
            held |= {f"actor {k}": n for k, n in of_actor.items()}
    if layout.sharded and layout.ranks > 1:
        trained = sum(n for k, n in held.items() if k.endswith(" weights"))
        held = {k: -(-n // layout.ranks) for k, n in held.items()} | {"whole copies": trained}
    if cfg.actor.type == "frozen":
        held["actor weights"] = sampler
    if actor is None:
        copies = {"noisy": 2, "quantized": 2}.get(cfg.actor.type, 0)
        if isinstance(cfg.actor, StaleActor):
            copies = cfg.actor.lag + 2
        each = whole
        if cfg.policy.lora.rank and cfg.actor.type in ("noisy", "quantized"):
            each = 4 * size(policy, cfg.policy).total  # merged, in float32 (`loading.frozen_copy`)
        held["actor weights"] = copies * each
    if cfg.loss.initial_kl_coef > 0 or cfg.objective.needs_initial:
        held["initial policy's weights"] = whole
    if layout.engine_copy:
        held["engine's copy"] = sampler + whole * isinstance(cfg.rollout.mode, DraftedMode)
    return held


def _update(
    cfg: Config,
    trained: list[tuple[str, Model, ModelConfig]],
    share: int,
    prompt_tokens: int,
    layout: Layout,
) -> Parts:
    """Logits and activations of a micro-batch, all at the longest length."""
    new = cfg.rollout.max_new_tokens
    length = prompt_tokens + new
    micro = min(cfg.optim.microbatch.sequences or share, -(-share // cfg.loss.updates_per_rollout))
    budget = layout.tokens_per_microbatch or cfg.optim.microbatch.tokens
    if budget:
        micro = min(micro, max(1, budget // length))
    recomputed = layout.checkpointing
    if recomputed is None:
        recomputed = cfg.run.activation_checkpointing
    policy = trained[0][1]
    blocks = in_blocks(cfg, vocabulary(policy)) if layout.blocks is None else layout.blocks
    if not blocks:
        copies = _LOGIT_COPIES + _WAITING_COPIES * (len(trained) - 1)
        copies += _ROUNDED_COPIES * sum(part.dtype == "bfloat16" for _, _, part in trained)
        copies += _DISTILL_COPIES * (len(trained) > 1 and cfg.actor.distill.coef > 0)
        copies += _INITIAL_COPIES * (cfg.loss.initial_kl_coef > 0)
        logits = int(4 * copies * micro * (new + 1) * vocabulary(policy))
    else:
        several = micro * cfg.loss.updates_per_rollout < share and not layout.sharded
        logits = _in_blocks(cfg, trained, micro * new, several, layout.gpu)
    parts = {
        "logits of a micro-batch": logits,
        "activations of a micro-batch": sum(
            micro * length * activation_bytes(model, part, length, recomputed)
            for _, model, part in trained
        ),
    }
    if layout.sharded and layout.ranks > 1:
        parts["gathered layers"] = sum(
            _gathered(m, part) + blocks * _gathered_head(m, part) for _, m, part in trained
        )
    return parts


def _in_blocks(cfg: Config, trained: list, tokens: int, several: bool, gpu: bool) -> int:
    """Two blocks for each model and two more; hidden states and their gradients, in
    bfloat16 widened, too; `several`: a head's gradient besides that of earlier micro-batches."""
    held = len(trained) + (cfg.loss.initial_kl_coef > 0)
    chunk = default_chunk("cuda" if gpu else "cpu")
    rows, cols = min(chunk.tokens, tokens), min(chunk.vocab, vocabulary(trained[0][1]))
    total = 4 * (2 * held + 2) * rows * cols
    for _, model, part in trained:
        width, w = layers_and_width(model.config)[1], _BYTES[part.dtype]
        total += width * (tokens * (8 if w == 4 else 12) + 4 * cols)
        total += w * width * vocabulary(model) * (several and not part.lora.rank)
    return total


def _gathered_head(model: Model, part: ModelConfig) -> int:
    """The whole weight of a head in blocks besides a tied embedding, and its float32 gradient."""
    weight, trained = model.get_output_embeddings().weight, not part.lora.rank
    tied = weight is model.get_input_embeddings().weight
    return weight.numel() * (_BYTES[part.dtype] * (1 + trained) * tied + 4 * trained)


def _optimiser_step(trained: list[tuple[str, Model, ModelConfig]], layout: Layout) -> Parts:
    """One model after the other: float32 gradients of masters, and Adam's two temporaries, on
    GPUs one of all parameters at once (foreach), on the CPU two of the largest."""
    shards = layout.ranks if layout.sharded else 1
    costs = []
    for _, model, part in trained:
        n = size(model, part).trained
        largest = n if part.lora.rank else max(p.numel() for p in model.parameters())
        grads = 4 * n * (_kept_width(part) == 2) // shards
        costs.append((grads, (4 * n if layout.gpu else 8 * min(n, largest)) // shards))
    grads, temporaries = max(costs, key=sum)
    return {"gradients of masters": grads, "Adam's temporaries": temporaries}


def _gathered(model: Model, part: ModelConfig) -> int:
    """Whole layers on a rank while shards are gathered: embedding and head throughout, of the
    layers the present and the next one; gradients of the former, and of one layer."""
    layers = layers_and_width(model.config)[0]
    outer = {id(p): p.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())
             for p in m.parameters()}  # fmt: skip
    total = sum(p.numel() for p in model.parameters())
    layer = (total - sum(outer.values())) // layers
    gradients = sum(outer.values()) + layer if not part.lora.rank else 0
    return _BYTES[part.dtype] * (sum(outer.values()) + 2 * layer + gradients)


def checkpoint_bytes(cfg: Config, policy: Model, actor: Model | None) -> int:
    """One checkpoint: what is trained, its optimisers' state, and versions of a stale actor."""
    parts: list[tuple[Model, ModelConfig]] = [(policy, cfg.policy)]
    if actor is not None and isinstance(cfg.actor, SeparateActor):
        parts.append((actor, cfg.actor))
    total = 0
    for model, part in parts:
        sized = size(model, part)
        total += sized.trained * _kept_width(part) + _held(sized, part)["optimiser"]
    if isinstance(cfg.actor, StaleActor):
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
    return 4 if part.lora.rank else _BYTES[part.dtype]  # adapters are float32


def _held(size: ModelSize, part: ModelConfig) -> dict[str, int]:
    masters = 4 if _kept_width(part) == 2 else 0
    adapters = 4 * size.trained if part.lora.rank else 0
    return {
        "weights": size.total * size.width + adapters,
        "gradients": size.trained * _kept_width(part),
        "optimiser": size.trained * (8 + masters),
    }


def vocabulary(model: Model) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def layers_and_width(config: Any) -> tuple[int, int]:
    """Decoder layers and hidden size; architectures name them differently."""
    config = text_of(config)
    layers = _first(config, "num_hidden_layers", "num_layers", "n_layer", "n_layers")
    return layers, _first(config, "hidden_size", "n_embd", "d_model")


def _first(config: Any, *names: str) -> int:
    return next((n for x in names if (n := getattr(config, x, None))), 1)


def attention_widths(config: Any) -> tuple[int, int]:
    """Width of the queries, and of the keys (or values), of a layer."""
    config = text_of(config)
    heads = _first(config, "num_attention_heads", "n_head", "n_heads")
    each = getattr(config, "head_dim", None) or layers_and_width(config)[1] // heads
    return heads * each, (getattr(config, "num_key_value_heads", None) or heads) * each


def cache_bytes(model: Model, part: ModelConfig) -> int:
    """Of keys and values, per token."""
    layers, _ = layers_and_width(model.config)
    return 2 * layers * attention_widths(model.config)[1] * _BYTES[part.dtype]


def activation_bytes(model: Model, part: ModelConfig, length: int, checkpointing: bool) -> int:
    """Kept per token for the backward pass, in a sequence of `length` tokens.

    Counted in the graphs of Llama, Qwen2 and Qwen3: two RMS norms (in float32 whatever the
    weights), queries, repeated keys and values, the output of attention, four arrays of the MLP,
    norms of queries and keys where there are any, and the mask that sdpa makes a number in every
    layer. Kernels for attention are assumed that hold no (length, length) scores.
    """
    c, w = text_of(model.config), _BYTES[part.dtype]
    q, kv = attention_widths(c)
    layers, width = layers_and_width(c)
    inner = getattr(c, "intermediate_size", None) or 4 * width
    of_layer = (24 if w == 4 else 16) * width + 4 * w * q + 4 * w * inner + w * length
    if any("q_norm" in name for name, _ in model.named_modules()):
        of_layer += (8 if w == 4 else 6) * (q + kv)
    if checkpointing:
        return int(layers * w * width + of_layer)
    return int(layers * of_layer)
