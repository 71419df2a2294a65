"""Numbers of finished runs: curves over steps, summaries of runs, paired comparisons."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from paper_figures.experiments import kept_rows
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_store import HOME, folder, outcome, resolved

SEEDS_MIN = 3  # below this there is no interval


class Interval(NamedTuple):
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int = 3) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def signed(self, digits: int = 3) -> str:
        return f"{self.value:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


@functools.cache
def rows(run: RunSpec, home: Path = HOME) -> list[dict[str, Any]]:
    """All rows of a run's metrics.jsonl."""
    text = (folder(run, home) / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def curve(run: RunSpec, column: str, home: Path = HOME) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which a column was measured, and its values.

    A pass rate measured between the updates of a step stands at a fraction of a step.
    """
    updates = dict(run.extra).get("loss.updates_per_rollout", 1)
    points = []
    for r in rows(run, home):
        if r.get(column) is not None:
            points.append((r["step"], r[column]))
        if column == "pass_rate":
            points += [(r["step"] + n / updates, y) for n, y in r.get("pass_rate_updates", ())]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, dtype=float), np.asarray(values, dtype=float)


def diverged(run: RunSpec, home: Path = HOME) -> bool:
    """Whether an alarm stopped it; in the figures only one on NaN or inf is set."""
    return bool(outcome(run, home)["exit"] != 0)


def pass_rates(run: RunSpec, home: Path = HOME) -> tuple[np.ndarray, np.ndarray]:
    """The curve that runs are judged by: held-out pass rates, 0 at evaluations never reached.

    A run that diverged has no policy at the steps after, and no answer of it counts as right.
    """
    steps, values = curve(run, "pass_rate", home)
    if not diverged(run, home):
        return steps, values
    cfg = resolved(run, home).run
    every, last = cfg.eval_every, steps[-1] if len(steps) else -1
    missed = [s for s in (*range(0, cfg.steps, every), cfg.steps) if s > last]
    zeros = np.zeros(len(missed))
    return np.append(steps, np.asarray(missed, dtype=float)), np.append(values, zeros)


# What a comparison is of: a run -> one number, higher is better unless it says otherwise
def final(run: RunSpec, home: Path = HOME) -> float:
    """Mean held-out pass rate of the last three evaluations; 0 if the run diverged."""
    if diverged(run, home):
        return 0.0
    return kept_rows.mean_of_last(pass_rates(run, home)[1])


def area(run: RunSpec, home: Path = HOME) -> float:
    """Mean height of the curve of held-out pass rates (its area over its length)."""
    return kept_rows.mean_height(*pass_rates(run, home))


def lowest_late(run: RunSpec, home: Path = HOME) -> float:
    """Lowest held-out pass rate after the first third of the steps."""
    return kept_rows.lowest_after_start(*pass_rates(run, home))


def drop(run: RunSpec, home: Path = HOME) -> float:
    """Largest fall of the held-out pass rate below its own earlier best; lower is better."""
    return kept_rows.largest_fall(pass_rates(run, home)[1])


def kl_last(run: RunSpec, home: Path = HOME) -> float:
    """KL(policy || actor), mean of the last three evaluations, nats per token."""
    return kept_rows.mean_of_last(curve(run, "kl_policy_actor", home)[1])


def kl_highest(run: RunSpec, home: Path = HOME) -> float:
    """Highest KL(policy || actor) of any evaluation, nats per token."""
    return float(curve(run, "kl_policy_actor", home)[1].max())


def lasts(run: RunSpec, home: Path = HOME) -> float:
    """Last step at which the pass rate was at least LASTING of its best so far; the last step of
    all if it never fell below for good."""
    return kept_rows.last_near_best(*pass_rates(run, home))


def seconds_rollout(run: RunSpec, home: Path = HOME) -> float:
    """Median over steps of the seconds of sampling; lower is better."""
    return float(np.median(curve(run, "seconds_rollout", home)[1]))


def seconds_update(run: RunSpec, home: Path = HOME) -> float:
    """Median over steps of the seconds of all updates; lower is better."""
    return float(np.median(curve(run, "seconds_update", home)[1]))


METRICS: dict[str, Callable[..., float]] = {
    f.__name__: f
    for f in (
        *(final, area, lowest_late, drop, kl_last, kl_highest, lasts),
        *(seconds_rollout, seconds_update),
    )
}


def mean(values: Sequence[float]) -> Interval:
    """Mean and bootstrap interval (BCa); with fewer than three values, smallest to largest."""
    x = np.asarray(values, dtype=float)
    if len(x) < SEEDS_MIN or np.ptp(x) == 0:
        return Interval(float(x.mean()), float(x.min()), float(x.max()))
    interval = stats.bootstrap(
        (x,), np.mean, n_resamples=9999, method="BCa", random_state=np.random.default_rng(0)
    ).confidence_interval
    return Interval(float(x.mean()), float(interval.low), float(interval.high))


def student(values: Sequence[float]) -> Interval:
    """Mean and Student's t interval, wider than `mean`'s for few values; below three the same."""
    x = np.asarray(values, dtype=float)
    if len(x) < SEEDS_MIN or np.ptp(x) == 0:
        return mean(values)
    low, high = stats.t.interval(0.95, len(x) - 1, x.mean(), stats.sem(x))
    return Interval(float(x.mean()), float(low), float(high))


def paired(
    a: Iterable[RunSpec],
    b: Iterable[RunSpec],
    metric: str,
    home: Path = HOME,
    interval: Callable[[Sequence[float]], Interval] = mean,
) -> Interval:
    """Mean difference a - b of a metric over runs of the same seeds, with its interval.

    Runs of one seed start from the same models, so the difference is taken within seeds.

    Raises:
        ValueError: the seeds are not the same ones.
    """
    left = {r.seed: METRICS[metric](r, home) for r in a}
    right = {r.seed: METRICS[metric](r, home) for r in b}
    if left.keys() != right.keys():
        raise ValueError(f"seeds {sorted(left)} and {sorted(right)} cannot be paired")
    return interval([left[s] - right[s] for s in left])


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    """Rows with the same columns, in the order of the first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def plotted(
    runs: Iterable[RunSpec], columns: Sequence[str], home: Path = HOME
) -> list[dict[str, Any]]:
    """One row for each evaluation of each run, with the run it came from."""
    table = []
    for r in runs:
        where = {"run": folder(r, home).name, "world": r.world, "method": r.method, "seed": r.seed}
        where["extra"] = " ".join(f"{k}={v}" for k, v in r.extra)
        for row in rows(r, home):
            if "pass_rate" in row:
                table.append({**where, "step": row["step"], **{c: row.get(c, "") for c in columns}})
    return table
