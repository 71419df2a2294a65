"""Effects of the claims' runs that are kept in the repository, so that a verdict needs no training.

A row that is damaged, or is of no claim, is refused.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from paper_figures.analysis import comparisons, run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.experiments import kept_rows
from paper_figures.experiments.kept_rows import Damaged
from paper_figures.experiments.run_store import HOME

from .verdicts import EmpiricalClaim, Judgement, of_intervals
from .words import CANNOT, NOT_SETTLED, WORDS

_SIZE_MAX = 2**20  # bytes
_REMEDY = (
    "restore the file (git checkout), or make it anew (python -m paper_figures claims --train)"
)
_AS_PRINTED = "as the exact Student's interval said; the one shown is an estimate"
ABOUT = (
    "Student's interval is about its width where the values of single seeds are not kept: it is "
    "taken from the bootstrap's, rather too wide than too narrow"
)


class KeptEffect(NamedTuple):
    """value, low, high: the effect with the bootstrap's interval. t_low, t_high: the ends of
    Student's; blank (None) where they are not kept. by_student: the verdict that Student's interval
    gave when it was known; blank where that is not kept either. commit: of the runs."""

    id: str
    value: float
    low: float
    high: float
    t_low: float | None
    t_high: float | None
    by_student: str
    seeds: int
    commit: str


def file() -> Path:
    """Where they are kept."""
    return kept_rows.HERE / "claims.csv"


def read(path: Path) -> dict[str, KeptEffect]:
    """The rows by the id of their claim; none where there is no file.

    Raises:
        Damaged: naming file and line, what was found and what to do.
    """
    return kept_rows.read_table(path, KeptEffect._fields, _parsed, _SIZE_MAX, _REMEDY)


def _parsed(cells: list[str]) -> KeptEffect:
    """Raises ValueError, with what is wrong."""
    if len(cells) != len(KeptEffect._fields):
        raise ValueError(f"it has {len(cells)} cells, not {len(KeptEffect._fields)}")
    name, *numbers = cells[:6]
    value, low, high = (float(x) for x in numbers[:3])
    t_low, t_high = (float(x) if x else None for x in numbers[3:])
    row = KeptEffect(name, value, low, high, t_low, t_high, cells[6], int(cells[7]), cells[8])
    known = [x for x in row[1:6] if x is not None]
    if not all(math.isfinite(x) for x in known) or not low <= value <= high:
        raise ValueError(f"the interval of {name} is {value:g} [{low:g}, {high:g}]")
    if (t_low is None) != (t_high is None) or (t_low or 0) > (t_high or 0):
        raise ValueError(f"Student's interval of {name} is [{t_low}, {t_high}]")
    if row.by_student not in ("", *WORDS[:3]):
        raise ValueError(f"{name} has the verdict {row.by_student!r}, none of {WORDS[:3]}")
    if not kept_rows.COMMIT.fullmatch(row.commit) or row.seeds < 1:
        raise ValueError(f"{name} has {row.seeds} seeds, and its commit is {row.commit!r}")
    return row


def write(judgements: Sequence[Judgement], path: Path, home: Path = HOME) -> None:
    """Keep the effects of claims that were judged by finished runs.

    Raises:
        ValueError: no run says which commit trained it.
    """
    names = {name for j in judgements for name in j.runs}
    starts = [
        json.loads((home / name / "provenance.json").read_text(encoding="utf-8"))[-1]
        for name in sorted(names)
    ]
    if not starts:
        raise ValueError("none of the claims has runs, so no commit can be named")
    commits = {name: start["commit"] for name, start in zip(sorted(names), starts, strict=True)}
    newest = max(starts, key=lambda s: str(s.get("time", "")))["commit"]
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(KeptEffect._fields)
        for j in judgements:
            if j.effect and j.student:
                commit = commits[j.runs[0]] if j.runs else newest
                numbers = (*j.effect, *j.student[1:])
                cells = [f"{x:.6g}" for x in numbers]
                writer.writerow([j.claim.id, *cells, "", j.seeds, commit])


def judgements(claims: Sequence[EmpiricalClaim], kept: dict[str, KeptEffect]) -> list[Judgement]:
    """The verdict of each claim by what is kept of it.

    Raises:
        Damaged: an effect is of no claim, or of a claim that cannot be tested.
    """
    testable = {c.id for c in claims if c.kind != "none"}
    strangers = sorted(kept.keys() - testable)
    if strangers:
        raise Damaged(f"kept effects are of no testable claim: {', '.join(strangers)}; {_REMEDY}")
    return [_judged(c, kept.get(c.id)) for c in claims]


def _judged(claim: EmpiricalClaim, row: KeptEffect | None) -> Judgement:
    if claim.kind == "none":
        return Judgement(claim, CANNOT, claim.reason, None, 0, ())
    if row is None:
        return Judgement(claim, NOT_SETTLED, "no effect is kept", None, 0, ())
    effect = Interval(*row[1:4])
    few = row.seeds < run_statistics.SEEDS_MIN
    if row.t_low is not None and row.t_high is not None:
        student = Interval(effect.value, row.t_low, row.t_high)
    else:
        student = effect if few else _about(claim, effect, row.seeds)
    judged = of_intervals(claim, effect, student, row.seeds)._replace(commit=row.commit)
    if row.by_student and row.by_student != judged.verdict:
        return judged._replace(verdict=row.by_student, detail=_AS_PRINTED)
    return judged


def _about(claim: EmpiricalClaim, effect: Interval, seeds: int) -> Interval:
    """Student's interval, wider by what so many seeds require, on the scale of the means."""
    if not claim.is_log:
        return comparisons.student_of_bootstrap(effect, seeds)
    logs = comparisons.student_of_bootstrap(Interval(*(math.log(x) for x in effect)), seeds)
    return Interval(*(math.exp(x) for x in logs))
