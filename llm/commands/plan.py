"""python -m llm plan: what a run would take on GPUs, before there are any.

Memory by part from llm/planning/memory.py, time from llm/planning/cost.py. Shapes come from
config.json or from the table below; no weights are read, nothing is downloaded.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig

from llm.distributed.launch import check_groups
from llm.models import loading
from llm.models.lm_head.support import in_blocks
from llm.models.loading import Model
from llm.planning import cost, memory
from llm.planning.memory import Layout
from llm.planning.model_shapes import KNOWN_SHAPES
from llm.settings.loading import Config, ConfigError, ModelConfig, load, split_arguments

_USABLE = 0.9  # of a GPU's memory: the rest goes to the allocator's gaps, kernels and buffers
_VLLM, _HF = 30e-6, 700e-6  # seconds of a layer per token: CUDA graphs; kernels launched one by one
_UNITS = {"GB": 10**9, "GIB": 2**30, "MB": 10**6, "MIB": 2**20}


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


def main(argv: list[str]) -> int:
    """Exit codes: 0 fits, 1 does not, 2 a setting, a flag or an unknown model."""
    args, files, flags = _arguments(argv)
    cfg = load(files, flags, prog="python -m llm plan")
    pair = open_shapes(cfg, args.model_sizes)
    choice = choice_of(cfg, pair, args)
    usable = int(args.gpu_memory * _USABLE)
    found = memory_of(cfg, pair, choice, usable, args.prompt_tokens)
    device = cost.Device(
        flops=args.tflops * 1e12, bandwidth=args.bandwidth * 1e9, link=args.link * 1e9,
        mfu=args.mfu, read_share=args.read_share,
        layer_seconds=_VLLM if choice.engine == "vllm" else _HF,
    )  # fmt: skip
    timed = times_of(cfg, pair, choice, found, device, args)
    name = " + ".join(files) or "default settings"
    out = [_heading(name, cfg, choice), _models_table(pair, cfg), _memory_table(found)]
    out += [_verdict(cfg, pair, choice, found, args), _time_table(cfg, timed, found)]
    out += [_assumed(cfg, device, args, choice)]
    sys.stdout.write("\n\n".join(out) + "\n")
    return 0 if found.peak <= usable and found.at_once >= 1 else 1


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m llm plan",
        usage="python -m llm plan CONFIG.toml [MORE.toml ...] --gpus N --gpu-memory 80GB "
        "[options] [--section.key value ...]",
        description="Memory per GPU by part, time of a step by part, and whether it fits.",
    )
    add = parser.add_argument
    add("--gpus", type=int, required=True, help="one process each")
    add("--gpu-memory", type=_bytes_of, required=True, help="of one: 80GB, 24GiB")
    add(
        "--model-sizes",
        nargs="+",
        default=[],
        metavar="ROLE=MODEL",
        help=f"shapes of models that are not local: a folder, or {', '.join(KNOWN_SHAPES)}",
    )
    add("--sharding", choices=["none", "fsdp"], help="default: the setting, else fsdp if N > 1")
    add("--engine", choices=["hf", "process", "vllm"], help="default: the setting, else hf")
    add("--head", choices=["dense", "chunked"], help="default: as optim.head")
    add("--checkpointing", choices=["on", "off"], help="of activations; default: the setting")
    add("--tokens-per-microbatch", type=int, help="default: the setting, else sequences")
    add("--prompt-tokens", type=int, help="longest; default: task.prompt_tokens_max, or few")
    add("--mean-prompt-tokens", type=int, default=256, help="for the time (default 256)")
    add("--mean-new-tokens", type=int, help="for the time; default half of max_new_tokens")
    add("--tflops", type=float, default=989, help="peak, bfloat16 (default 989: H100 SXM)")
    add("--bandwidth", type=float, default=3350, help="of its memory, GB/s (default 3350)")
    add("--link", type=float, default=450, help="to other GPUs, GB/s (default 450: NVLink)")
    add("--mfu", type=float, default=0.4, help="share of the peak reached (default 0.4)")
    add("--read-share", type=float, default=0.7, help="share of the bandwidth (default 0.7)")
    files, rest = split_arguments(argv)
    args, flags = parser.parse_known_args(rest)
    for name in ("gpus", "tflops", "bandwidth", "link", "mfu", "read_share", "prompt_tokens",
                 "mean_prompt_tokens", "mean_new_tokens", "tokens_per_microbatch"):  # fmt: skip
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{name.replace('_', '-')} must be greater than 0, got {value:g}")
    for name in ("mfu", "read_share"):
        if getattr(args, name) > 1:
            parser.error(f"--{name.replace('_', '-')} is a share, at most 1")
    return args, files, flags


def _bytes_of(text: str) -> int:
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) *([KMGT]i?B)", text.strip(), re.IGNORECASE)
    if not found or found[2].upper() not in _UNITS or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 80GB or 24GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def choice_of(cfg: Config, pair: ModelPair, args: argparse.Namespace) -> Choice:
    """From the flags, else from the settings.

    Raises ConfigError for GPUs that the trainer would refuse as ranks."""
    checkpointing = cfg.run.activation_checkpointing
    choice = Choice(
        gpus=args.gpus,
        sharding=args.sharding or ("fsdp" if args.gpus > 1 else cfg.run.sharding),
        checkpointing=args.checkpointing == "on" if args.checkpointing else checkpointing,
        head=args.head or ("dense", "chunked")[in_blocks(cfg, memory.vocabulary(pair.policy))],
        engine=args.engine or cfg.rollout.engine,
        sequences_per_microbatch=cfg.optim.sequences_per_microbatch,
        tokens_per_microbatch=args.tokens_per_microbatch or cfg.optim.tokens_per_microbatch,
    )
    check_groups(cfg, args.gpus, "--gpus")
    return choice


def open_shapes(cfg: Config, sizes: list[str]) -> ModelPair:
    """Raises ConfigError for a model whose shape is not known, or a role that is none."""
    given = dict(word.partition("=")[::2] for word in sizes)
    other = cfg.actor.kind in ("separate", "frozen")
    roles: dict[str, ModelConfig] = {"policy": cfg.policy} | ({"actor": cfg.actor} if other else {})
    for role, name in given.items():
        if role not in roles or not name:
            raise ConfigError(
                f"--model-sizes {role}{'=' * bool(name)}{name}: write ROLE=MODEL, ROLE one of "
                f"{', '.join(roles)}"
            )
    found: dict[str, Model] = {}
    source = {}
    with loading.quiet():
        for role, part in roles.items():
            config, source[role] = _config_of(role, part, given.get(role, ""))
            found[role] = memory.shape(part, config, cfg.task.forms)
    widths = {role: memory.vocabulary(m) for role, m in found.items()}
    if len(set(widths.values())) > 1:
        raise ConfigError(f"the models' vocabularies differ: {widths}")
    return ModelPair(found["policy"], found.get("actor"), source)


def _config_of(role: str, part: ModelConfig, given: str) -> tuple[Any, str]:
    path = given or part.path
    if not path:
        return None, "built"
    if (Path(path) / "config.json").is_file():
        try:
            config = AutoConfig.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as e:
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
        foreach=True,
    )
    optim = replace(cfg.optim, sequences_per_microbatch=choice.sequences_per_microbatch)
    cfg = replace(cfg, optim=optim)
    prompt = prompt_tokens or longest_prompt(cfg)
    share = _per_gpu(cfg, choice)
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
    if cfg.task.name in ("problems", "gym"):
        return cfg.task.prompt_tokens_max
    return 2 * cfg.task.digits_max + 2 if cfg.task.name != "arithmetic" else 128


def _per_gpu(cfg: Config, choice: Choice) -> int:
    return -(-cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt // choice.gpus)


def times_of(
    cfg: Config,
    pair: ModelPair,
    choice: Choice,
    found: Memory,
    device: cost.Device,
    args: argparse.Namespace,
) -> Times:
    loss, rollout = cfg.loss, cfg.rollout
    widths = {"float32": 4, "bfloat16": 2}
    policy = cost.shape_of(pair.policy, widths[cfg.policy.dtype])
    actor = cost.shape_of(pair.actor, widths[cfg.actor.dtype]) if pair.actor else None
    sampler = actor or policy
    work = cost.Work(
        prompts=rollout.prompts_per_step / choice.gpus,
        group=rollout.rollouts_per_prompt,
        prompt_tokens=min(args.mean_prompt_tokens, args.prompt_tokens or longest_prompt(cfg)),
        new_tokens=min(args.mean_new_tokens or rollout.max_new_tokens / 2, rollout.max_new_tokens),
        longest=rollout.max_new_tokens,
        at_once=max(1, found.at_once),
    )
    micro = microbatches(cfg, choice, work)
    trained = actor is not None and cfg.actor.kind == "separate"
    several = loss.updates_per_rollout > 1
    forwards = (micro > loss.updates_per_rollout) + several

    def training(shape: cost.Shape, model: Model, forwards: int) -> float:
        computing = cost.training_seconds(
            shape, work, device, forwards=forwards, recompute=choice.checkpointing, backward=True
        )
        count = sum(p.numel() for p in model.parameters())
        shards = choice.gpus if choice.sharding == "fsdp" else 1
        moving = 0.0
        if shards > 1:
            each = count * shape.bytes_each * (1 - 1 / shards)
            moving = cost.sharding_seconds(each, micro, 2 + forwards, device)
        stepping = loss.updates_per_rollout * 28 * count / shards / device.bandwidth
        return max(computing, moving) + stepping

    own = training(policy, pair.policy, forwards)
    if loss.anchor_coef > 0:
        own += cost.training_seconds(
            policy, work, device, forwards=1, recompute=False, backward=False
        )
    of_actor = 0.0
    if trained and actor is not None:
        of_actor = training(actor, pair.actor, int(several and loss.actor_correction != "none"))
    sampled = (
        cost.prefill_seconds(sampler, work, device),
        cost.decode_seconds(sampler, work, device),
    )
    parts = {
        "rollouts: prompts": sampled[0],
        "rollouts: new tokens": sampled[1],
        "policy: scoring and update": own,
    }
    if trained:
        parts["actor: update"] = of_actor
    if actor is None:
        return Times(parts, None, 1.0, 0.0)
    room = max(1, int(work.at_once * sampler.layers * sampler.kv / (policy.layers * policy.kv)))
    as_policy = work._replace(at_once=room if choice.engine == "vllm" else work.at_once)
    alone = cost.prefill_seconds(policy, work, device)
    alone += cost.decode_seconds(policy, as_policy, device)
    return Times(parts, alone / own, sum(sampled) / alone, of_actor / own)


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
    usable = int(args.gpu_memory * _USABLE)
    ways: dict[str, dict[str, Any]] = {
        "--head chunked": {"head": "chunked"},
        "--checkpointing on": {"checkpointing": True},
        "--optim.sequences_per_microbatch 1": {
            "sequences_per_microbatch": 1, "tokens_per_microbatch": 0,
        },
        "--engine vllm": {"engine": "vllm"},
    }  # fmt: skip
    if choice.gpus > 1:
        ways = {"--sharding fsdp": {"sharding": "fsdp"}} | ways
    ways = {k: w for k, w in ways.items() if choice._replace(**w) != choice}

    def tried(choice: Choice) -> Memory | None:
        found = memory_of(cfg, pair, choice, usable, args.prompt_tokens)
        return found if found.peak <= usable and found.at_once >= 1 else None

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


# Text


def _heading(name: str, cfg: Config, choice: Choice) -> str:
    r = cfg.rollout
    on = "on" if choice.checkpointing else "off"
    return (
        f"{name}\n{choice.gpus} GPU{'s' * (choice.gpus > 1)}, sharding {choice.sharding}, engine "
        f"{choice.engine}, head {choice.head}, checkpointing {on}\n"
        f"a step: {r.prompts_per_step:,} prompts x {r.rollouts_per_prompt} completions of up to "
        f"{r.max_new_tokens:,} tokens, {cfg.loss.updates_per_rollout} update"
        f"{'s' * (cfg.loss.updates_per_rollout > 1)}"
    )


def _models_table(pair: ModelPair, cfg: Config) -> str:
    lines = [
        f"{'model':<8}{'parameters':>12}{'layers':>8}{'hidden':>8}{'vocabulary':>12}  shape from"
    ]
    for role, model in (("policy", pair.policy), ("actor", pair.actor)):
        if model is None:
            lines.append(f"{role:<8}{'derived from the policy: ' + cfg.actor.kind:>40}")
            continue
        count, c = sum(p.numel() for p in model.parameters()), model.config
        lines.append(
            f"{role:<8}{_count(count):>12}{c.num_hidden_layers:>8}{c.hidden_size:>8}"
            f"{memory.vocabulary(model):>12,}  {pair.source[role]}"
        )
    return "\n".join(lines)


def _memory_table(found: Memory) -> str:
    total = {name: sum(parts.values()) for name, parts in found.phases.items()}
    lines = [f"{'memory of a GPU, GB':<28}{'always':>8}" + "".join(f"{p:>16}" for p in total)]
    lines += [f"{name:<28}{n / 1e9:>8.2f}" for name, n in found.held.items() if n]
    for i, parts in enumerate(found.phases.values()):
        blank = " " * (8 + 16 * i)
        lines += [f"{k:<28}{blank}{n / 1e9:>16.2f}" for k, n in parts.items() if n]
    held = sum(found.held.values())
    sums = "".join(f"{(held + n) / 1e9:>16.2f}" for n in total.values())
    return "\n".join([*lines, f"{'in all':<28}{held / 1e9:>8.2f}{sums}"])


def _verdict(
    cfg: Config, pair: ModelPair, choice: Choice, found: Memory, args: argparse.Namespace
) -> str:
    usable = int(args.gpu_memory * _USABLE)
    of = f"{found.peak / 1e9:.1f} GB of {usable / 1e9:.1f} ({_USABLE:.0%} of a GPU's memory)"
    share = _per_gpu(cfg, choice)
    if found.peak <= usable and found.at_once >= 1:
        waves = f"; samples {found.at_once} of its {share} sequences at once"
        return f"FITS: {of}{waves if found.at_once < share else ''}"
    lines = [f"DOES NOT FIT: {of}"]
    for change, _, fits in remedies(cfg, pair, choice, args):
        waves = f", {fits.at_once} sequences at once" if fits.at_once < share else ""
        lines.append(f"  {change}: {fits.peak / 1e9:.1f} GB{waves}, fits")
    if len(lines) == 1:
        lines.append(
            "  nothing here makes it fit: lower --rollout.max_new_tokens, train adapters "
            "(--policy.lora_rank), or use bfloat16 (--policy.dtype, --actor.dtype)"
        )
    return "\n".join(lines)


def _time_table(cfg: Config, timed: Times, found: Memory) -> str:
    total = sum(timed.parts.values())
    lines = [f"{'time of a step':<28}{'seconds':>10}{'share':>8}"]
    lines += [f"{k:<28}{s:>10.1f}{s / total:>8.0%}" for k, s in timed.parts.items()]
    lines.append(f"{'in all':<28}{total:>10.1f}")
    lines.append(f"rollouts take {timed.rollout_share:.0%} of a step")
    if timed.g is not None:
        s = cost.gain(timed.g, timed.rollout_cost, timed.update_cost)
        over = cost.break_even(timed.rollout_cost, timed.update_cost)
        lines.append(
            f"against the policy as its own actor: S = {s:.2f} (g = {timed.g:.2f}, the actor's "
            f"rollouts cost {timed.rollout_cost:.2f},\nits update adds {timed.update_cost:.2f}; it "
            f"gains where g > {over:.2f})"
        )
    return "\n".join(lines)


def _assumed(cfg: Config, device: cost.Device, args: argparse.Namespace, choice: Choice) -> str:
    new = args.mean_new_tokens or cfg.rollout.max_new_tokens / 2
    lines = [
        f"Assumed, not measured: {device.flops / 1e12:g} TFLOP/s at {device.mfu:.0%}, "
        f"{device.bandwidth / 1e9:g} GB/s at {device.read_share:.0%}, {device.link / 1e9:g} GB/s "
        "between GPUs,",
        f"{device.layer_seconds * 1e6:g} us a layer at least ({choice.engine}); mean completion "
        f"{new:,.0f} tokens, mean prompt at most {args.mean_prompt_tokens}. Memory is",
        "for the longest. Not counted: scoring answers, evaluation, copying weights to the engine.",
    ]
    return "\n".join(lines)


def _count(n: int) -> str:
    return f"{n / 1e9:.2f}B" if n >= 1e9 else f"{n / 1e6:.2f}M" if n >= 1e6 else f"{n:,}"
