"""The runs of a study: trained where no row is kept of them, at rates that a sweep finds.

Each finished run leaves a row in kept/STUDY.csv. What is kept there is not trained again.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from paper_figures.analysis import run_statistics
from paper_figures.experiments import kept_rows, run_store, runner, studies
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.studies import Entry, Setting, Study


def row(entry: Entry, home: Path = run_store.HOME) -> Row:
    """What is kept of a finished run."""
    run = entry.run
    where = run_store.folder(run, home)
    start = json.loads((where / "provenance.json").read_text(encoding="utf-8"))[-1]
    outcome = run_store.outcome(run, home)
    curve = _points(*run_statistics.pass_rates(run, home))
    kl = _points(*run_statistics.curve(run, "kl_policy_actor", home))
    summary = kept_rows.summary(curve, outcome["exit"])
    _, stepped = run_statistics.curve(run, "seconds_update", home)  # none if it diverged at once
    return Row(
        kept_rows.key(entry),
        *entry[:6],
        commit=start["commit"],
        code=outcome["code"],
        exit=outcome["exit"],
        final=summary["final"],
        lowest_late=summary["lowest_late"],
        area=summary["area"],
        kl_last=run_statistics.kl_last(run, home) if kl else 0.0,
        seconds=outcome["seconds"],
        curve=curve,
        kl=kl,
        seconds_rollout=run_statistics.seconds_rollout(run, home) if stepped.size else None,
        seconds_update=run_statistics.seconds_update(run, home) if stepped.size else None,
    )


def _points(steps: Iterable[float], values: Iterable[float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in zip(steps, values, strict=True))


def train(
    entries: Iterable[Entry], file: Path, workers: int, *, checkpoints_stay: bool = True
) -> None:
    """Train the entries that have no row, and keep theirs as each ends. The checkpoints of a run
    whose row is kept are removed, unless they stay."""
    entries = list(entries)
    kept = kept_rows.matching(kept_rows.read(file), entries)
    by_run = {e.run: e for e in entries if e not in kept}
    if not by_run:
        return
    sys.stderr.write(f"{len(kept)} of {len(entries)} runs are kept; training {len(by_run)}\n")

    def ended(run: RunSpec) -> None:
        kept_rows.append(file, row(by_run[run]))
        if not checkpoints_stay:
            shutil.rmtree(run_store.folder(run) / "checkpoints", ignore_errors=True)

    runner.train(by_run, workers, ended=ended)


def best_rates(study: Study, setting: Setting, rows: dict[str, Row]) -> dict[str, float]:
    """By method, the rate of the largest area in the sweep; the lower one of two equal ones.

    Raises:
        KeyError: a run of the sweep is not kept yet.
    """
    if setting.rates_of:
        wanted = (setting.study, setting.rates_of)
        (other,) = (s for s in study.settings if (s.study, s.name) == wanted)
        return best_rates(study, other, rows)
    if len(setting.rates) == 1:
        return dict.fromkeys(setting.methods, setting.rates[0])
    areas: dict[str, dict[float, float]] = {}
    for e in studies.sweep(setting):
        areas.setdefault(e.method, {})[e.rate] = rows[kept_rows.key(e)].area
    return {m: max(sorted(by), key=by.__getitem__) for m, by in areas.items()}


def train_all(study: Study, file: Path, workers: int) -> None:
    """The sweep of each setting, then its judged runs at the rates that it found."""
    for setting in study.settings:
        train(studies.sweep(setting), file, workers, checkpoints_stay=not study.long)
        rates = best_rates(study, setting, kept_rows.read(file))
        train(studies.judged(setting, rates), file, workers, checkpoints_stay=not study.long)


def checked(study: Study, file: Path, quick: bool = False) -> dict[str, Row]:
    """The rows of a file by key, each of a run of the study.

    Raises:
        kept_rows.Damaged: a row that cannot be read, or is of no run of the study.
    """
    rows = kept_rows.read(file)
    known = kept_rows.distinct(studies.quick(study)) if quick else []
    for setting in () if quick else study.settings:
        known += studies.sweep(setting)
        for rate in setting.rates:
            known += studies.judged(setting, dict.fromkeys(setting.methods, rate))
    of_study = {row.key for row in kept_rows.matching(rows, known).values()}
    strangers = [row for key, row in rows.items() if key not in of_study]
    if strangers:
        raise kept_rows.Damaged(
            f"{file}: {len(strangers)} rows are of no run of the study {study.name}, the first "
            f"{strangers[0].key} ({strangers[0].study}, {strangers[0].setting}, "
            f"{strangers[0].method}); delete them, or restore the settings that they are of"
        )
    return rows
