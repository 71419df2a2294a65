"""lam_for_budget against bisection, brentq and a sort, on the same rows in the same process.

    python benchmarks/lam_solver.py [--rows 64] [--vocab 151936] [--repeats 3] [--json FILE]

Prints, per library, the time of each rival over ours (best of the repeats, in turns) and the
largest error |Z(lam) - budget| of ours. Rows are Zipf proposals, ratios log-normal of varied width.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy.optimize import brentq

from jackpot import acceptance_rate, lam_for_budget
from llm.settings.paths import path_of


def rows(n: int, v: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p, log q (n, v) and budgets (n,) in [0.5, 0.99]."""
    rng = np.random.default_rng(seed)
    log_q = -1.1 * np.log(np.arange(1, v + 1)) + 0.5 * rng.standard_normal((n, v))
    log_p = log_q + rng.uniform(0.1, 1.5, (n, 1)) * rng.standard_normal((n, v))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (log_p, log_q))
    return log_p, log_q, rng.uniform(0.5, 0.99, n)


def bisect_numpy(log_p, log_q, budget, steps: int = 60):
    low, high = np.full(len(budget), -60.0), np.full(len(budget), 60.0)
    for _ in range(steps):
        mid = (low + high) / 2
        z = np.exp(np.minimum(log_q, log_p - mid[:, None])).sum(-1)
        low, high = np.where(z > budget, mid, low), np.where(z > budget, high, mid)
    return np.exp((low + high) / 2)


def bisect_torch(log_p, log_q, budget, steps: int = 60):
    low, high = torch.full_like(budget, -60.0), torch.full_like(budget, 60.0)
    for _ in range(steps):
        mid = (low + high) / 2
        z = torch.exp(torch.minimum(log_q, log_p - mid[:, None])).sum(-1)
        low, high = torch.where(z > budget, mid, low), torch.where(z > budget, high, mid)
    return torch.exp((low + high) / 2)


def brentq_rows(log_p, log_q, budget):
    def gap(log_lam, lp, lq, b):
        return np.exp(np.minimum(lq, lp - log_lam)).sum() - b

    return np.exp([brentq(gap, -60, 60, args=a) for a in zip(log_p, log_q, budget, strict=True)])


def sort_rows(log_p, log_q, budget):
    """The closed form on sorted ratios, row by row: lam = P_k / (budget - T_k)."""
    lam = np.empty(len(budget))
    for i, (lp, lq, b) in enumerate(zip(log_p, log_q, budget, strict=True)):
        order = np.argsort(lp - lq)
        p, q = np.exp(lp[order]), np.exp(lq[order])
        prefix = np.cumsum(p)
        suffix = q.sum() - np.cumsum(q)
        z_at = prefix * np.exp((lq - lp)[order]) + suffix  # Z at lam = each ratio, falling
        k = np.nonzero(z_at >= b)[0][-1]
        lam[i] = prefix[k] / (b - suffix[k])
    return lam


def timed(rivals: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each in every turn."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, call in rivals.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--json", type=path_of, help="write {name, ratio, target, met, spread} there"
    )
    args = parser.parse_args()
    entries = []
    torch.set_num_threads(1)
    print(f"{args.rows} x {args.vocab} float64 rows, one thread, {args.repeats} turns")
    arrays = rows(args.rows, args.vocab)
    tensors = tuple(torch.from_numpy(x) for x in arrays)
    for library, (lp, lq, b), bisect in (
        ("numpy", arrays, bisect_numpy),
        ("torch", tensors, bisect_torch),
    ):
        rivals: dict[str, Callable[[], object]] = {
            "ours": partial(lam_for_budget, lp, lq, b),
            "60 bisections": partial(bisect, lp, lq, b),
            "brentq by row": partial(brentq_rows, *arrays),
            "sort by row": partial(sort_rows, *arrays),
        }
        seconds = timed(rivals, args.repeats)
        error = abs(acceptance_rate(lp, lq, lam_for_budget(lp, lq, b)) - b).max()
        for name in list(rivals)[1:]:
            pairs = [a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)]
            ratio, low, high = statistics.median(pairs), min(pairs), max(pairs)
            print(f"{library}: {name:14s} / ours = {ratio:6.1f} ({low:.1f} to {high:.1f})")
            entry = {"name": f"time of {name} over lam_for_budget, {library}", "ratio": ratio}
            entries.append({**entry, "target": None, "met": None, "spread": [low, high]})
        ours = min(seconds["ours"])
        print(f"{library}: ours {ours:.3f} s, largest |Z - budget| = {float(error):.1e}")
    if args.json:
        args.json.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
