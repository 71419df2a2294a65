"""`rivals`: corrections, objectives, allocations and selections side by side, at 49 tokens.

Each finished run leaves a row in kept/rivals.csv. What is kept there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from paper_figures import paths
from paper_figures.analysis import run_statistics
from paper_figures.experiments import kept_rows, rival_lists, run_store, runner
from paper_figures.experiments.kept_rows import HERE, Row
from paper_figures.experiments.rival_lists import Entry, Setting

KEPT = HERE / "rivals.csv"


def row(entry: Entry) -> Row:
    """What is kept of a finished run."""
    run = entry.run
    where = run_store.folder(run)
    start = json.loads((where / "provenance.json").read_text(encoding="utf-8"))[-1]
    outcome = run_store.outcome(run)
    curve = _points(*run_statistics.pass_rates(run))
    kl = _points(*run_statistics.curve(run, "kl_policy_actor"))
    return Row(
        kept_rows.key(entry),
        *entry[:6],
        start["commit"],
        outcome["code"],
        outcome["exit"],
        kept_rows.final(curve, outcome["exit"]),
        run_statistics.lowest_late(run),
        run_statistics.area(run),
        run_statistics.kl_last(run) if kl else 0.0,
        outcome["seconds"],
        curve,
        kl,
    )


def _points(steps: Iterable[float], values: Iterable[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in zip(steps, values, strict=True))


def train(entries: Iterable[Entry], file: Path, workers: int) -> None:
    """Train the entries that have no row, and keep theirs as each ends."""
    entries = list(entries)
    kept = kept_rows.matching(kept_rows.read(file), entries)
    by_run = {e.run: e for e in entries if e not in kept}
    if not by_run:
        return
    sys.stderr.write(f"{len(kept)} of {len(entries)} runs are kept; training {len(by_run)}\n")
    runner.train(by_run, workers, ended=lambda run: kept_rows.append(file, row(by_run[run])))


def best_rates(setting: Setting, rows: dict[str, Row]) -> dict[str, float]:
    """By method, the rate of the largest area in the sweep; the lower one of two equal ones.

    Raises:
        KeyError: a run of the sweep is not kept yet.
    """
    if setting.rates_of:
        (other,) = (
            s
            for s in rival_lists.SETTINGS
            if (s.study, s.name) == (setting.study, setting.rates_of)
        )
        return best_rates(other, rows)
    areas: dict[str, dict[float, float]] = {}
    for e in rival_lists.sweep(setting):
        areas.setdefault(e.method, {})[e.rate] = rows[kept_rows.key(e)].area
    return {m: max(sorted(by), key=by.__getitem__) for m, by in areas.items()}


def train_all(file: Path, workers: int) -> None:
    """The sweep of each setting, then its judged runs at the rates that it found."""
    for setting in rival_lists.SETTINGS:
        train(rival_lists.sweep(setting), file, workers)
        rates = best_rates(setting, kept_rows.read(file))
        train(rival_lists.judged(setting, rates), file, workers)


def main(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paper_figures rivals", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few short runs; nothing is kept")
    parser.add_argument("--train", action="store_true", help="train the runs that are not kept")
    parser.add_argument("--out", type=paths.out_dir, default=paths.OUT, help="folder to write into")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    try:
        if args.quick:
            train(rival_lists.quick(), args.out / "rivals_quick.csv", args.workers)
        elif args.train:
            train_all(KEPT, args.workers)
    except (runner.Failed, kept_rows.Damaged) as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from what is kept\n")
        return 130
    return 0
