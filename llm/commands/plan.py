"""python -m llm plan: what a run would take on GPUs, before there are any."""

from __future__ import annotations

import argparse
import re
import sys

from llm.planning.model_shapes import KNOWN_SHAPES
from llm.settings.loading import load, split_arguments

_VLLM, _HF = 30e-6, 700e-6  # seconds of a layer per token: CUDA graphs; kernels launched one by one
_UNITS = {"GB": 10**9, "GIB": 2**30, "MB": 10**6, "MIB": 2**20}


def main(argv: list[str]) -> int:
    """Exit codes: 0 fits, 1 does not, 2 a setting, a flag or an unknown model."""
    args, files, flags = _arguments(argv)
    cfg = load(files, flags, prog="python -m llm plan")
    from llm.planning import cost, estimate  # these load torch

    from . import plan_tables as tables

    pair = estimate.open_shapes(cfg, args.model_sizes)
    choice = estimate.choice_of(cfg, pair, args)
    usable = int(args.gpu_memory * estimate.USABLE)
    needed = estimate.memory_of(cfg, pair, choice, usable, args.prompt_tokens)
    device = cost.Device(
        flops=args.tflops * 1e12, bandwidth=args.bandwidth * 1e9, link=args.link * 1e9,
        mfu=args.mfu, read_share=args.read_share,
        layer_seconds=_VLLM if choice.engine == "vllm" else _HF,
    )  # fmt: skip
    times = estimate.times_of(cfg, pair, choice, needed.at_once, device, args)
    name = " + ".join(files) or "default settings"
    out = [
        tables.heading(name, cfg, choice),
        tables.models_table(pair, cfg),
        tables.memory_table(needed),
    ]
    out += [tables.verdict(cfg, pair, choice, needed, args), tables.time_table(times)]
    drafting = estimate.drafting_of(cfg, pair, choice, needed.at_once, device, args)
    if drafting is not None:
        out += [tables.drafting_table(cfg, choice, *drafting)]
    out += [tables.assumed(cfg, device, args, choice)]
    sys.stdout.write("\n\n".join(out) + "\n")
    return 0 if needed.peak <= usable and needed.at_once >= 1 else 1


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str], list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m llm plan",
        usage="python -m llm plan CONFIG.toml [MORE.toml ...] --gpus N --gpu-memory 80GB "
        "[options] [--section.key value ...]",
        description="Memory per GPU by part, time of a step by part, and whether it fits.",
    )
    add = parser.add_argument
    add("--gpus", type=int, required=True, help="number of GPUs, one process each")
    add("--gpu-memory", type=_bytes_of, required=True, help="memory of one GPU: 80GB, 24GiB")
    add(
        "--model-sizes",
        nargs="+",
        default=[],
        metavar="ROLE=MODEL",
        help=f"shapes of models that are not local: a folder, or {', '.join(KNOWN_SHAPES)}",
    )
    add("--sharding", choices=["none", "fsdp"], help="default: fsdp if N > 1, else none")
    add("--engine", choices=["hf", "process", "vllm"], help="default: the setting, else hf")
    add("--head", choices=["dense", "chunked"], help="default: as optim.head")
    add("--checkpointing", choices=["on", "off"], help="of activations (default: the setting)")
    add("--tokens-per-microbatch", type=int, help="default: the setting, else sequences")
    add("--prompt-tokens", type=int, help="longest prompt (default task.prompt_tokens_max)")
    add("--mean-prompt-tokens", type=int, default=256, help="mean prompt (default 256)")
    add("--mean-new-tokens", type=int, help="mean completion (default: half the longest)")
    add("--tflops", type=float, default=989, help="peak in bfloat16 (default 989: H100 SXM)")
    add("--bandwidth", type=float, default=3350, help="GB/s of GPU memory (default 3350)")
    add("--link", type=float, default=450, help="GB/s between GPUs (default 450: NVLink)")
    add("--mfu", type=float, default=0.4, help="share of the peak that is reached (default 0.4)")
    add("--read-share", type=float, default=0.7, help="share of the bandwidth used (default 0.7)")
    add(
        "--accept-rate",
        type=float,
        default=0.8,
        help="share of drafted tokens that is accepted, for the time of a step (default 0.8)",
    )
    files, rest = split_arguments(argv)
    args, flags = parser.parse_known_args(rest)
    if unknown := [word for word in flags if word.startswith("--") and "." not in word]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name in ("gpus", "tflops", "bandwidth", "link", "mfu", "read_share", "accept_rate",
                 "prompt_tokens", "mean_prompt_tokens", "mean_new_tokens",
                 "tokens_per_microbatch"):  # fmt: skip
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{name.replace('_', '-')} must be greater than 0, got {value:g}")
    for name in ("mfu", "read_share", "accept_rate"):
        if getattr(args, name) > 1:
            parser.error(f"--{name.replace('_', '-')} is a share, at most 1")
    return args, files, flags


def _bytes_of(text: str) -> int:
    size = re.fullmatch(r"([0-9]*\.?[0-9]+) *([KMGT]i?B)", text.strip(), re.IGNORECASE)
    if not size or size[2].upper() not in _UNITS or float(size[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write it like 80GB or 24GiB")
    return int(float(size[1]) * _UNITS[size[2].upper()])
