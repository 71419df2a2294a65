"""The allocators and selectors of a large step, beside slower ways to the same result.

    python benchmarks/allocation.py [--prompts 512] [--rollouts 8192] [--repeats 3] [--json FILE]

Prints the time of each allocator over the 50 ms that it may take, the time of dynamic programming
over that of `coba`, and the time of one argmax per rollout over that of `vip`; each gives the same
total value. Medians over the turns, with their range; processor seconds on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from jackpot.allocation import coba, coba_value, rloo_variance, vip
from jackpot.selection import horvitz_thompson, pods
from llm.settings.paths import path_of

LIMIT = 0.05  # seconds
ALPHA, TAU, LOW, HIGH = 6.0, 8.0, 3, 128


def dynamic_programming(value: np.ndarray, spare: int) -> float:
    """The largest sum of value[i, n_i] with sum n_i = spare, value (prompts, 1 + most of one)."""
    best = np.full(spare + 1, -np.inf)
    best[0] = 0.0
    for row in value:
        new = np.full(spare + 1, -np.inf)
        for n, gain in enumerate(row[: spare + 1]):
            np.maximum(new[n:], best[: spare + 1 - n] + gain, out=new[n:])
        best = new
    return float(best[spare])


def argmax_per_rollout(p: np.ndarray, total: int) -> np.ndarray:
    """VIP for RLOO: all prompts' decreases are computed anew for each rollout."""
    counts = np.full(len(p), LOW)
    weight = p * (1 - p)
    for _ in range(total - LOW * len(p)):
        gain = np.where(counts < HIGH, weight / (counts * (counts - 1)), -1.0)
        counts[np.argmax(gain)] += 1
    return counts


def timed(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each in every turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return seconds


def check(p: np.ndarray, total: int, optimum: float) -> None:
    """Both slower ways have the totals of ours, up to rounding."""
    mine = float(np.sum(coba_value(coba(p, total, ALPHA, tau=TAU, low=LOW), p, ALPHA, tau=TAU)))
    least = float(np.sum(rloo_variance(p, vip(p, total, LOW, HIGH))))
    other = float(np.sum(rloo_variance(p, argmax_per_rollout(p, total))))
    if not (math.isclose(mine, optimum, rel_tol=1e-12) and math.isclose(least, other)):
        raise SystemExit(f"error: totals differ: {mine} and {optimum}, {least} and {other}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--rollouts", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--json", type=path_of, help="write {name, ratio, target, met, spread} there"
    )
    args = parser.parse_args()
    n, total, rng = args.prompts, args.rollouts, np.random.default_rng(0)
    p = rng.beta(0.7, 0.7, n)
    groups = rng.integers(0, 2, (n, max(2, total // n))).astype(float)
    counts = np.arange(LOW, HIGH + 1)
    value = np.stack([coba_value(counts, rate, ALPHA, tau=TAU) for rate in p])
    ours: dict[str, Callable[[], Any]] = {
        "vip rloo": partial(vip, p, total, LOW, HIGH),
        "vip dr_grpo": partial(vip, p, total, LOW, HIGH, "dr_grpo"),
        "coba": partial(coba, p, total, ALPHA, tau=TAU, low=LOW, high=HIGH),
        "pods, every group": lambda: [pods(r, groups.shape[1] // 2) for r in groups],
        "horvitz_thompson": lambda: horvitz_thompson(groups.ravel(), 0.5, 0.5, rng),
    }
    slower: dict[str, Callable[[], Any]] = {
        "dynamic programming": partial(dynamic_programming, value, total - LOW * n),
        "argmax per rollout": partial(argmax_per_rollout, p, total),
    }
    print(f"{n} prompts, {total} rollouts, one thread, {args.repeats} turns")
    check(p, total, slower["dynamic programming"]())
    seconds = timed(ours | slower, args.repeats)
    rows: list[tuple[str, list[float], float | None]] = [
        (f"time of {name} over 50 ms", [s / LIMIT for s in seconds[name]], 1.0) for name in ours
    ]
    for name, mine in (("dynamic programming", "coba"), ("argmax per rollout", "vip rloo")):
        pairs = zip(seconds[name], seconds[mine], strict=True)
        rows.append((f"time of {name} over {mine}", [a / b for a, b in pairs], None))
    entries = []
    for what, ratios, target in rows:
        ratio, spread = statistics.median(ratios), [min(ratios), max(ratios)]
        print(f"{what:45} {ratio:8.3f} ({spread[0]:.3f} to {spread[1]:.3f})")
        met = None if target is None else ratio <= target
        entries.append(
            {"name": what, "ratio": ratio, "target": target, "met": met, "spread": spread}
        )
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
