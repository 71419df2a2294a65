"""Choices made before any figure: learning rates, and a setting of our own, on seeds of their own.

    python -m paper_figures tune [rates|stale|caps|long|candidates ...]

Every method of a sweep gets the same runs. Nothing trained here is drawn or judged in a figure.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from paper_figures.analysis import run_statistics
from paper_figures.experiments import run_lists, runner
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_store import folder

DATA = Path(__file__).parents[1] / "data"
METRICS = ("area", "final", "lowest_late", "drop")


def main(argv: list[str] | None = None) -> int:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m paper_figures tune", description=about)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help=f"{', '.join(SWEEPS)}; all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    unknown = set(args.sweeps) - set(SWEEPS)
    if unknown:
        parser.error(f"no sweep {', '.join(sorted(unknown))}; there are {', '.join(SWEEPS)}")
    for name in args.sweeps or SWEEPS:
        by_name = SWEEPS[name]()
        try:
            runner.train((r for own in by_name.values() for r in own), args.workers)
        except runner.Failed as e:
            sys.stderr.write(f"error: {e}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; the same command goes on from what is kept\n")
            return 130
        file = DATA / f"tuning_{name}.csv"
        run_statistics.write_csv(file, [row(k, r) for k, own in by_name.items() for r in own])
        sys.stdout.write(f"{name}\n{table(by_name)}wrote {file}\n")
    return 0


def by_rate(runs: Sequence[RunSpec]) -> dict[str, list[RunSpec]]:
    """Runs by method and learning rate of the policy."""
    groups: dict[str, list[RunSpec]] = {}
    for r in runs:
        groups.setdefault(f"{r.method}, {dict(r.extra)['optim.policy_lr']:g}", []).append(r)
    return groups


SWEEPS = {
    "rates": lambda: by_rate(run_lists.tuning()),
    "stale": lambda: by_rate([r for own in run_lists.stale_tuning().values() for r in own]),
    "caps": run_lists.cap_tuning,
    "long": lambda: by_rate(run_lists.long_tuning()),
    "candidates": run_lists.candidates,
}


def row(name: str, r: RunSpec) -> dict:
    extra = " ".join(f"{k}={v}" for k, v in r.extra)
    values = {m: run_statistics.METRICS[m](r) for m in METRICS}
    return {"run": folder(r).name, "name": name, "seed": r.seed, "extra": extra, **values}


def table(by_name: Mapping[str, Sequence[RunSpec]]) -> str:
    """Means over the seeds."""
    lines = [f"{'':42}" + "".join(f"{m:>12}" for m in METRICS)]
    for name, runs in by_name.items():
        cells = [
            run_statistics.mean([run_statistics.METRICS[m](r) for r in runs]).value for m in METRICS
        ]
        lines.append(f"{name:42}" + "".join(f"{c:>12.3f}" for c in cells))
    return "\n".join([*lines, ""])
