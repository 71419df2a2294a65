"""What a run takes on GPUs, from its settings and the shapes of its models.

Memory by part is of memory.py, time by part of cost.py; here they are asked for a choice of GPUs,
sharding, head and engine, and for the changes that would make it fit. Shapes come from config.json
or from model_shapes.py; no weights are read, nothing is downloaded.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from llm.distributed.launch import check_groups
from llm.errors import ConfigError
from llm.models import loading
from llm.models.lm_head.support import in_blocks
from llm.models.loading import Model
from llm.settings.loading import Config, ModelConfig
from llm.settings.paths import expanded
from llm.settings.rollout_rules import drafts, reuses_logp
from llm.settings.schema import (
    AddTask,
    DigitTask,
    DraftedMode,
    EarlyExitActor,
    FixedBlock,
    QuantizedActor,
    SeparateActor,
    SequenceMicrobatches,
)

from . import cost, drafting, memory
from .memory import Layout
from .model_shapes import KNOWN_SHAPES

USABLE = 0.9  # of a GPU's memory: the rest goes to the allocator's gaps, kernels and buffers


class Choice(NamedTuple):
    """What can be changed without changing the run's result."""

    gpus: int
    sharding: str
    checkpointing: bool
    head: str
    engine: str
    sequences_per_microbatch: int
    tokens_per_microbatch: int


class ModelPair(NamedTuple):
    """actor: None for one derived from the policy. source: where each shape is from."""

    policy: Model
    actor: Model | None
    source: dict[str, str]


class Memory(NamedTuple):
    """Bytes of a GPU. at_once: sequences it samples together."""

    held: memory.Parts
    phases: dict[str, memory.Parts]
    at_once: int

    @property
    def peak(self) -> int:
        return sum(self.held.values()) + max(sum(x.values()) for x in self.phases.values())


class Times(NamedTuple):
    """Seconds of a step, by part; S against the policy as its own actor, where that is another."""

    parts: dict[str, float]
    g: float | None
    rollout_cost: float
    update_cost: float

    @property
    def rollout_share(self) -> float:
        rollouts = sum(s for name, s in self.parts.items() if name.startswith("rollouts"))
        return rollouts / sum(self.parts.values())


def choice_of(cfg: Config, pair: ModelPair, args: argparse.Namespace) -> Choice:
    """From the flags, else from the settings.

    Raises ConfigError for GPUs that the trainer would refuse as ranks, or an engine that cannot
    draft where the settings ask for it."""
    checkpointing = cfg.run.activation_checkpointing
    choice = Choice(
        gpus=args.gpus,
        sharding=args.sharding or ("fsdp" if args.gpus > 1 else "none"),
        checkpointing=args.checkpointing == "on" if args.checkpointing else checkpointing,
        head=args.head or ("dense", "chunked")[in_blocks(cfg, memory.vocabulary(pair.policy))],
        engine=args.engine or cfg.rollout.engine.type,
        sequences_per_microbatch=cfg.optim.microbatch.sequences,
        tokens_per_microbatch=args.tokens_per_microbatch or cfg.optim.microbatch.tokens,
    )
    check_groups(cfg, args.gpus, "--gpus")
    if drafts(cfg) and choice.engine == "vllm":
        raise ConfigError(
            "--engine vllm does not draft (--rollout.mode.type drafted): use --engine hf or process"
        )
    return choice


def open_shapes(cfg: Config, sizes: list[str]) -> ModelPair:
    """Raises ConfigError for a model whose shape is not known, or a role that is none."""
    given = {role: expanded(model) for role, _, model in (w.partition("=") for w in sizes)}
    roles: dict[str, ModelConfig] = {"policy": cfg.policy}
    if isinstance(cfg.actor, ModelConfig):
        roles["actor"] = cfg.actor
    for role, name in given.items():
        if role not in roles or not name:
            raise ConfigError(
                f"--model-sizes {role}{'=' * bool(name)}{name}: write ROLE=MODEL, ROLE one of "
                f"{', '.join(roles)}"
            )
    models: dict[str, Model] = {}
    source = {}
    with loading.quiet():
        for role, part in roles.items():
            config, source[role] = _config_of(role, part, given.get(role, ""))
            models[role] = memory.shape(part, config, cfg.task.digit_synonyms)
    widths = {role: memory.vocabulary(m) for role, m in models.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(f"the models' vocabularies differ: {widths}")
    return ModelPair(models["policy"], models.get("actor"), source)


def _config_of(role: str, part: ModelConfig, given: str) -> tuple[Any, str]:
    path = given or part.path
    if not path:
        return None, "built"
    if (Path(path) / "config.json").is_file():
        try:
            config = AutoConfig.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
        except Exception as e:  # whatever the library raises at a file that anybody made
            raise ConfigError(f"cannot read {path}/config.json: {e}") from e
        return config, f"{path}/config.json"
    name = re.sub("-(Base|Instruct)$", "", path)
    if name not in KNOWN_SHAPES:
        raise ConfigError(
            f"the shape of {role} {path!r} is not known: there is no folder with a config.json, "
            f"and the table holds {', '.join(KNOWN_SHAPES)}. Give --model-sizes {role}=MODEL"
        )
    fields = dict(KNOWN_SHAPES[name])
    return AutoConfig.for_model(fields.pop("model_type"), **fields), f"table: {name}"


def memory_of(
    cfg: Config, pair: ModelPair, choice: Choice, usable: int, prompt_tokens: int | None = None
) -> Memory:
    """With vllm, the cache is what the rest leaves of `usable`, for as many sequences as fit."""
    several = choice.gpus > 1
    sharded = choice.sharding == "fsdp" and several
    layout = Layout(
        ranks=choice.gpus,
        sharded=sharded,
        checkpointing=choice.checkpointing,
        blocks=choice.head == "chunked",
        engine_copy=choice.engine != "hf",
        keeps_cache=choice.engine == "vllm",
        tokens_per_microbatch=choice.tokens_per_microbatch,
        gpu=True,
    )
    size = SequenceMicrobatches(sequences=choice.sequences_per_microbatch)
    optim = replace(cfg.optim, microbatch=size)
    cfg = replace(cfg, optim=optim)
    prompt = prompt_tokens or longest_prompt(cfg)
    share = sequences_per_gpu(cfg, choice)
    if choice.engine != "vllm":
        return Memory(*memory.by_phase(cfg, pair.policy, pair.actor, prompt, layout), share)
    one, two = (
        Memory(
            *memory.by_phase(cfg, pair.policy, pair.actor, prompt, layout._replace(at_once=n)), n
        )
        for n in (1, 2)
    )
    each = two.peak - one.peak
    at_once = max(0, min(share, 1 + (usable - one.peak) // each))
    layout = layout._replace(at_once=max(1, at_once))
    return Memory(*memory.by_phase(cfg, pair.policy, pair.actor, prompt, layout), at_once)


def longest_prompt(cfg: Config) -> int:
    if isinstance(cfg.task, DigitTask | AddTask):
        return 2 * cfg.task.digits_max + 2
    return 128 if cfg.task.type == "arithmetic" else cfg.task.prompt_tokens_max


def sequences_per_gpu(cfg: Config, choice: Choice) -> int:
    return -(-cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt // choice.gpus)


def times_of(
    cfg: Config,
    pair: ModelPair,
    choice: Choice,
    at_once: int,
    device: cost.Device,
    args: argparse.Namespace,
) -> Times:
    """Seconds of a step on one GPU. at_once: sequences that it samples together."""
    policy, actor = _shapes(cfg, pair)
    work = _work(cfg, choice, at_once, args)
    rooms = _rooms(policy, actor, work, choice)
    policy_update = _policy_update_seconds(cfg, pair, choice, policy, work, device)
    prompts = cost.prefill_seconds(actor, work, device)
    if drafts(cfg):
        prompts += cost.prefill_seconds(policy, work, device)
        place, z = (policy, actor, work, device, rooms), args.accept_rate
        length = _fixed_length(cfg)
        if length is None:  # block lengths that adapt are taken to find the best
            new_tokens = drafting.best(*place, z).seconds - prompts
        else:
            new_tokens = drafting.drafted(*place, z=z, length=length).seconds - prompts
    else:
        new_tokens = cost.decode_seconds(actor, work, device)
    parts = {
        "rollouts: prompts": prompts,
        "rollouts: new tokens": new_tokens,
        "policy: scoring and update": policy_update,
    }
    if pair.actor is None and not drafts(cfg):
        return Times(parts, None, 1.0, 0.0)
    actor_update = 0.0
    if isinstance(cfg.actor, SeparateActor):
        several = cfg.loss.updates_per_rollout > 1
        scored = int(several and cfg.actor.correction.type != "none")
        actor_update = _training_seconds(cfg, pair.actor, actor, choice, scored, work, device)
        parts["actor: update"] = actor_update
    # The same rollouts by the policy, whose longer cache rows leave room for fewer at once
    alone = cost.plain_seconds(policy, work._replace(at_once=rooms.policy), device)
    g, rollout_cost = alone / policy_update, (prompts + new_tokens) / alone
    return Times(parts, g, rollout_cost, actor_update / policy_update)


def _fixed_length(cfg: Config) -> int | None:
    """Tokens of a drafted block, where the settings fix them."""
    mode = cfg.rollout.mode
    if isinstance(mode, DraftedMode) and isinstance(mode.block, FixedBlock):
        return mode.block.length
    return None


def drafting_of(
    cfg: Config,
    pair: ModelPair,
    choice: Choice,
    at_once: int,
    device: cost.Device,
    args: argparse.Namespace,
) -> tuple[list[drafting.Drafted], float | None] | None:
    """Drafting at each of `drafting.RATES`, with the block length of the settings if that is fixed
    and with the best, and the least rate that pays; None if the actor is the policy itself.

    Where the settings do not draft, this is what drafting would take.
    """
    if cfg.actor.type == "self":
        return None
    policy, actor = _shapes(cfg, pair)
    work = _work(cfg, choice, at_once, args)
    place = (policy, actor, work, device, _rooms(policy, actor, work, choice))
    rows = []
    for z in drafting.RATES:
        fastest = drafting.best(*place, z)
        length = _fixed_length(cfg)
        if length not in (None, fastest.length):
            rows.append(drafting.drafted(*place, z=z, length=length))
        rows.append(fastest)
    return rows, drafting.least_rate(*place)


def _shapes(cfg: Config, pair: ModelPair) -> tuple[cost.Shape, cost.Shape]:
    """Of the policy and of the model that samples or drafts."""
    policy = _shape(pair.policy, cfg.policy)
    if pair.actor is not None and isinstance(cfg.actor, ModelConfig):
        return policy, _shape(pair.actor, cfg.actor)
    if isinstance(cfg.actor, EarlyExitActor):
        share = cfg.actor.exit_layers / policy.layers
        return policy, policy._replace(
            layers=cfg.actor.exit_layers, body=round(share * policy.body)
        )
    if isinstance(cfg.actor, QuantizedActor):
        return policy, policy._replace(compressed=cfg.actor.bits / 8 / policy.bytes_each)
    return policy, policy


def _rooms(
    policy: cost.Shape, actor: cost.Shape, work: cost.Work, choice: Choice
) -> drafting.Rooms:
    """How many sequences fit where `work.at_once` of the actor do. Engines other than vllm sample
    all at once."""
    if choice.engine != "vllm":
        return drafting.Rooms(*[work.at_once] * 3)
    of_actor, of_policy = (x.bytes_each * x.layers * x.kv for x in (actor, policy))
    room = of_actor * work.at_once
    return drafting.Rooms(
        work.at_once, *(max(1, int(room / n)) for n in (of_policy, of_policy + of_actor))
    )


def _shape(model: Model, part: ModelConfig) -> cost.Shape:
    return cost.shape_of(model, {"float32": 4, "bfloat16": 2}[part.dtype])


def _work(cfg: Config, choice: Choice, at_once: int, args: argparse.Namespace) -> cost.Work:
    most = cfg.rollout.max_new_tokens
    return cost.Work(
        prompts=cfg.rollout.prompts_per_step / choice.gpus,
        group=cfg.rollout.rollouts_per_prompt,
        prompt_tokens=min(args.mean_prompt_tokens, args.prompt_tokens or longest_prompt(cfg)),
        new_tokens=min(args.mean_new_tokens or most / 2, most),
        longest=most,
        at_once=max(1, at_once),
    )


def _policy_update_seconds(
    cfg: Config,
    pair: ModelPair,
    choice: Choice,
    policy: cost.Shape,
    work: cost.Work,
    device: cost.Device,
) -> float:
    """Scoring, update, and the forward passes of the initial policy that losses ask for."""
    updates = cfg.loss.updates_per_rollout
    forwards = (microbatches(cfg, choice, work) > updates) + (updates > 1)
    mode = cfg.rollout.mode
    if isinstance(mode, DraftedMode) and mode.reuse_logp and reuses_logp(cfg):
        forwards = max(0, forwards - 1)
    seconds = _training_seconds(cfg, pair.policy, policy, choice, forwards, work, device)
    for _ in range((cfg.loss.initial_kl_coef > 0) + cfg.objective.needs_initial):
        seconds += cost.training_seconds(
            policy, work, device, forwards=1, recompute=False, backward=False
        )
    return seconds


def _training_seconds(
    cfg: Config,
    model: Model,
    shape: cost.Shape,
    choice: Choice,
    forwards: int,
    work: cost.Work,
    device: cost.Device,
) -> float:
    """One model's updates of a step; computing and moving shards overlap, stepping does not."""
    computing = cost.training_seconds(
        shape, work, device, forwards=forwards, recompute=choice.checkpointing, backward=True
    )
    count = sum(p.numel() for p in model.parameters())
    shards = choice.gpus if choice.sharding == "fsdp" else 1
    moving = 0.0
    if shards > 1:
        each = count * shape.bytes_each * (1 - 1 / shards)
        passes = microbatches(cfg, choice, work)
        moving = cost.sharding_seconds(each, passes, 2 + forwards, device)
    stepping = cfg.loss.updates_per_rollout * 28 * count / shards / device.bandwidth
    return max(computing, moving) + stepping


def microbatches(cfg: Config, choice: Choice, work: cost.Work) -> int:
    """Of all updates of a step, on one GPU."""
    each = work.sequences / cfg.loss.updates_per_rollout
    size = float(choice.sequences_per_microbatch or each)
    if choice.tokens_per_microbatch:
        size = min(each, choice.tokens_per_microbatch / (work.prompt_tokens + work.new_tokens))
    return cfg.loss.updates_per_rollout * max(1, round(each / max(1.0, size)))


def remedies(
    cfg: Config, pair: ModelPair, choice: Choice, args: argparse.Namespace
) -> list[tuple[str, Choice, Memory]]:
    """Changes that make it fit, one at a time; else more of them; else more GPUs."""
    usable = int(args.gpu_memory * USABLE)
    ways: dict[str, dict[str, Any]] = {
        "--head chunked": {"head": "chunked"},
        "--checkpointing on": {"checkpointing": True},
        "--optim.microbatch.sequences 1": {
            "sequences_per_microbatch": 1, "tokens_per_microbatch": 0,
        },
        "--engine vllm": {"engine": "vllm"},
    }  # fmt: skip
    if choice.gpus > 1:
        ways = {"--sharding fsdp": {"sharding": "fsdp"}} | ways
    if drafts(cfg):
        del ways["--engine vllm"]
    ways = {k: w for k, w in ways.items() if choice._replace(**w) != choice}

    def tried(choice: Choice) -> Memory | None:
        needed = memory_of(cfg, pair, choice, usable, args.prompt_tokens)
        return needed if needed.peak <= usable and needed.at_once >= 1 else None

    single = [(k, c, m) for k, w in ways.items() if (m := tried(c := choice._replace(**w)))]
    if single:
        return single
    every = choice
    names: list[str] = []
    for name, way in ways.items():
        every, names = every._replace(**way), [*names, name]
        if fits := tried(every):
            return [(" ".join(names), every, fits)]
    for gpus in (2, 4, 8, 16, 32, 64, 128):
        more = every._replace(gpus=gpus, sharding="fsdp")
        shared = cfg.rollout.prompts_per_step % gpus == 0
        if choice.gpus < gpus and shared and (fits := tried(more)):
            return [(" ".join([f"--gpus {gpus}", *names]), more, fits)]
    return []
