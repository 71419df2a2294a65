"""What every figure made of training runs shares: its arguments, and train, evaluate, draw."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from paper_figures.experiments import provenance, run_store, runner
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import FULL, QUICK, Scale

from . import paths


class Figure(NamedTuple):
    """runs, evaluations: what it needs at a scale; draw: writes its files, returns its table."""

    name: str
    about: str
    runs: Callable[[Scale], Iterable[RunSpec]]
    draw: Callable[[Scale, Path], str]
    evaluations: Callable[[Scale], Iterable[runner.Evaluation]] = lambda scale: ()


def arguments(
    name: str,
    about: str,
    argv: list[str] | None,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """--quick, --out, --workers and what `more` adds; `scale` is set from the first."""
    parser = argparse.ArgumentParser(prog=f"python -m paper_figures {name}", description=about)
    parser.add_argument("--quick", action="store_true", help="one seed, an eighth of the steps")
    parser.add_argument(
        "--out", type=paths.out_dir, default=str(paths.OUT), help="folder to write into"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    if more:
        more(parser)
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    args.scale = QUICK if args.quick else FULL
    return args


class Unusable(ValueError):
    """A file that says what a figure is of cannot be used."""


def make(figures: Iterable[Figure], scale: Scale, out: Path, workers: int) -> int:
    """Train what is missing for all figures, then draw each; returns the exit code."""
    figures = list(figures)
    try:
        runner.train([r for f in figures for r in f.runs(scale)], workers)
        runner.evaluate((e for f in figures for e in f.evaluations(scale)), workers)
    except (runner.Failed, Unusable) as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from what is kept\n")
        return 130
    own = {run_store.folder(r): r for f in figures for r in f.runs(scale)}
    minutes = sum(run_store.outcome(r)["seconds"] for r in own.values()) / 60
    sys.stderr.write(f"{len(own)} runs, {minutes / 2:.1f} minutes of two cores when trained\n")
    for figure in figures:
        text = figure.draw(scale, out)
        sys.stdout.write(text)
        (out / f"{figure.name}.txt").write_text(text, encoding="utf-8")
        provenance.note(out, figure.name, scale, figure.runs(scale))
    return 0


def main(figure: Figure, argv: list[str] | None) -> int:
    args = arguments(figure.name, figure.about, argv)
    return make([figure], args.scale, args.out, args.workers)
