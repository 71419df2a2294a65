"""How the cost of a joint step grows: slopes of time and memory on logarithmic axes.

    python benchmarks/slopes.py [--quick] [--repeats 2] [--json FILE] [--png FILE]

A step of a small random policy and an actor of its size: the actor samples, then one optimiser step
with OBRS, both PPO losses and distillation, the vocabulary's head in blocks. From one base each
size is varied alone: sequences, tokens of each, vocabulary (with whole logits, too), k, layers,
width; and ranks, which share the largest batch of sequences out (gloo, weights replicated). Each
point is a process of its own, and the points take turns.

rollout, update: processor seconds of the process, all its threads, of a rank for ranks: on a
machine with fewer cores than ranks wall-clock time would say more of the machine. memory: peak
resident memory of the update above weights and Adam's state, so gradients count. A slope is fitted
by least squares through all points of a turn; the ratio is its median over turns, the spread its
smallest and largest; "last" is the slope between the two largest sizes. --png also writes the
points as CSV beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import gc
import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MALLOC_MMAP_THRESHOLD_"] = "262144"  # what is freed leaves the resident memory at once
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from memory_model import resident
from overhead import IdPrompts, context, model, step

from llm import distributed, settings
from llm.rollout.batch import Batch
from llm.rollout.sampling import sample
from llm.runs.nonfinite_guard import Guard
from llm.settings.paths import path_of
from llm.tasks.problem import Problem
from llm.training.optimizer import open_learner

PROMPT_TOKENS, GROUP = 16, 4
WHOLE = "vocabulary (whole logits)"


class SlopeWorkload(NamedTuple):
    """tokens: of each completion."""

    sequences: int = 8
    tokens: int = 16
    vocabulary: int = 8192
    k: int = 20
    layers: int = 4
    width: int = 256
    ranks: int = 1
    head: str = "chunked"


AXES = {
    "sequences": [8, 16, 32, 64],
    "tokens": [8, 16, 32, 64],
    "vocabulary": [2048, 8192, 32_768, 131_072],
    WHOLE: [2048, 8192, 32_768],
    "k": [5, 20, 80, 320],
    "layers": [2, 4, 8, 16],
    "width": [64, 128, 256, 512],
    "ranks": [1, 2, 4],
}
QUICK = {
    "sequences": [8, 16], "tokens": [8, 16], "vocabulary": [2048, 8192], WHOLE: [2048, 8192],
    "k": [5, 20], "layers": [2, 4], "width": [128, 256], "ranks": [1, 2],
}  # fmt: skip
MEASURES = {"rollout": "seconds", "update": "seconds", "memory": "MB"}


def size_of(axis: str, value: int, axes: dict[str, list[int]]) -> SlopeWorkload:
    if axis == WHOLE:
        return SlopeWorkload(vocabulary=value, head="dense")
    changed: dict[str, Any] = {axis: value}
    if axis == "ranks":  # a batch that every number of ranks divides into whole groups
        changed["sequences"] = max(axes["sequences"])
    return SlopeWorkload()._replace(**changed)


def rollout(size: SlopeWorkload, rank: int, actor: Any) -> Batch:
    """This rank's share of the batch, with random advantages."""
    own = size.sequences // GROUP // size.ranks
    rng = np.random.default_rng(0)
    asked = rng.integers(size.vocabulary, size=(size.sequences // GROUP, PROMPT_TOKENS))
    batch = sample(
        actor,
        IdPrompts(),  # type: ignore[arg-type]
        [Problem(" ".join(map(str, ids)), "") for ids in asked[rank * own : (rank + 1) * own]],
        rng,
        max_new_tokens=size.tokens,
        temperature=1.0,
        top_k=size.k,
        group=GROUP,
        place=(rank * own * GROUP, size.sequences),
    ).flat()
    batch.advantage.copy_(torch.from_numpy(rng.standard_normal(len(batch.answers))))
    return batch


def measure(size: SlopeWorkload, rank: int) -> dict[str, float]:
    """What one step takes in this process, the second of two."""
    policy = model(size.vocabulary, size.width, size.layers, seed=0)
    actor = copy.deepcopy(policy)
    with torch.no_grad():
        for x in actor.parameters():
            x.mul_(1.02)
    cfg = settings.load(
        [], ["--optim.head", size.head, "--optim.policy-lr", "1e-9", "--actor.lr", "1e-9"]
    )
    ctx = context(cfg, policy, actor, initial=None)
    learner = open_learner(ctx, Guard(Path("nowhere")))
    for optimizer in learner.optimizers.values():  # Adam's state exists before anything is measured
        for group in optimizer.param_groups:
            for x in group["params"]:
                x.grad = torch.zeros_like(x)
        optimizer.step()
    small = size._replace(sequences=GROUP * size.ranks, tokens=2)
    step(ctx, learner, rollout(small, rank, actor))  # what is allocated once
    distributed.barrier()
    clock = time.process_time()
    batch = rollout(size, rank, actor)
    sampling = time.process_time() - clock
    learner.zero_grad()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    distributed.barrier()
    clock = time.process_time()
    step(ctx, learner, batch)
    updating = time.process_time() - clock
    held = resident("VmHWM") - before
    return {"rollout": sampling, "update": updating, "memory": held / 1e6}


def child(size: SlopeWorkload, rank: int, port: int, sender: Any) -> None:
    torch.set_num_threads(1)
    if size.ranks > 1:
        names = {"RANK": rank, "WORLD_SIZE": size.ranks, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {k: str(n) for k, n in names.items()}
    with distributed.process_group("cpu") if size.ranks > 1 else contextlib.nullcontext():
        sender.send(measure(size, rank))


def in_processes(size: SlopeWorkload, processes: Any) -> dict[str, float]:
    """The mean over ranks."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    receiver, sender = processes.Pipe(duplex=False)
    started = [
        processes.Process(target=child, args=(size, rank, port, sender))
        for rank in range(size.ranks)
    ]
    for process in started:
        process.start()
    sender.close()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        sys.exit(f"a process failed at {size}")
    measured = [receiver.recv() for _ in started]
    return {name: statistics.fmean(x[name] for x in measured) for name in MEASURES}


def slope(sizes: list[int], values: list[float]) -> float:
    """Of log(value) over log(size), by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def rows(
    axes: dict[str, list[int]], turns: list[dict[SlopeWorkload, dict[str, float]]]
) -> list[dict]:
    entries = []
    for axis, sizes in axes.items():
        for name in MEASURES:
            points = [[turn[size_of(axis, n, axes)][name] for n in sizes] for turn in turns]
            fitted = [slope(sizes, line) for line in points]
            last = statistics.median(slope(sizes[-2:], line[-2:]) for line in points)
            entries.append(
                {
                    "name": f"slope of {name} with {axis}, {sizes[0]} to {sizes[-1]}",
                    "ratio": round(statistics.median(fitted), 3),
                    "target": None,
                    "met": None,
                    "spread": [round(min(fitted), 3), round(max(fitted), 3)],
                    "last": round(last, 3),
                }
            )
    return entries


def draw(path: Path, axes: dict, turns: list[dict], entries: list[dict]) -> None:
    """Small multiples: sizes across, measures down; medians, with the range over turns."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, NullLocator

    shape = (len(MEASURES), len(axes))
    figure, panels = plt.subplots(
        *shape, figsize=(14, 5.6), sharey="row", sharex="col", layout="constrained"
    )
    table, slopes = ["axis,size,measure,turn,value"], iter(entries)
    for column, (axis, sizes) in enumerate(axes.items()):
        for row, (name, unit) in enumerate(MEASURES.items()):
            panel, entry = panels[row][column], next(slopes)
            points = [[turn[size_of(axis, n, axes)][name] for n in sizes] for turn in turns]
            for i, line in enumerate(points):
                table += [
                    f"{axis},{n},{name},{i},{y:.6g}" for n, y in zip(sizes, line, strict=True)
                ]
            middle = [statistics.median(y) for y in zip(*points, strict=True)]
            panel.loglog(sizes, middle, "o-", color="#1f5f8b", markersize=4, linewidth=1.5)
            low, high = [min(y) for y in zip(*points)], [max(y) for y in zip(*points)]  # noqa: B905
            panel.fill_between(sizes, low, high, color="#1f5f8b", alpha=0.25, linewidth=0)
            guide = [middle[-1] * (n / sizes[-1]) ** (-1 if axis == "ranks" else 1) for n in sizes]
            panel.loglog(sizes, guide, ":", color="0.6", linewidth=1)
            text = f"{entry['ratio']:.2f}\nlast {entry['last']:.2f}"
            panel.text(0.05, 0.95, text, transform=panel.transAxes, va="top", fontsize=8)
            panel.set_xticks(sizes, [f"{n // 1024}k" if n > 1024 else str(n) for n in sizes])
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.tick_params(labelsize=8)
            panel.grid(color="0.92", linewidth=0.6)
            if column == 0:
                panel.set_ylabel(f"{name}, {unit}")
            if row == len(MEASURES) - 1:
                panel.set_xlabel(axis.replace(" (", "\n("))
    for row in range(len(MEASURES)):  # room for the numbers, and for the steepest line
        values = [turn[s][list(MEASURES)[row]] for turn in turns for s in turn]
        panels[row][0].set_ylim(min(values) / 2, max(values) * 6)
    figure.suptitle(
        "Cost of a step; numbers are slopes, dotted is slope 1 (ranks: -1)", fontsize=10
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    path.with_suffix(".csv").write_text("\n".join(table) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two sizes each, one turn")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--json", type=path_of)
    parser.add_argument("--png", type=path_of)
    args = parser.parse_args()
    axes = {axis: sizes for axis, sizes in (QUICK if args.quick else AXES).items()}
    points = dict.fromkeys(size_of(a, n, axes) for a in args.only for n in axes[a])
    processes = multiprocessing.get_context("forkserver")  # fresh processes without new imports
    processes.set_forkserver_preload(["__main__", "transformers.models.qwen3.modeling_qwen3"])
    turns = [
        {size: in_processes(size, processes) for size in points}
        for _ in range(1 if args.quick else args.repeats)
    ]
    axes = {axis: axes[axis] for axis in args.only}
    entries = rows(axes, turns)
    base = ", ".join(f"{name} {n}" for name, n in SlopeWorkload()._asdict().items())
    print(f"base: {base}; ranks share {size_of('ranks', 1, axes).sequences} sequences")
    for entry in entries:
        low, high = entry["spread"]
        fitted = f"{entry['ratio']:6.2f} ({low:.2f} to {high:.2f})"
        print(f"{fitted}, last {entry['last']:5.2f}   {entry['name']}")
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")
    if args.png:
        draw(args.png, axes, turns, entries)


if __name__ == "__main__":
    main()
