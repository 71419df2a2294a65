"""The claims of the paper judged again where completions are longer, by rows that are kept.

Each entry `[[again]]` of claims.toml names a claim, whose metric and threshold hold as they were
fixed for completions of nine tokens, settings of the study `evidence`, and two methods there.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from paper_figures.analysis import run_statistics
from paper_figures.experiments import evidence_lists
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.studies import JUDGED, Setting

from . import verdicts
from .verdicts import FILE, EmpiricalClaim, Judgement
from .verdicts import load as claims_of
from .words import NOT_SETTLED

METRICS: Mapping[str, Callable[[Row], float]] = {
    "final": lambda row: row.final,
    "area": lambda row: row.area,
    "kl_last": lambda row: row.kl_last,
    "kl_highest": lambda row: max(kl for _, kl in row.kl),
}


class ClaimAgain(NamedTuple):
    """One entry, in one setting. b: the method that is subtracted; empty for a level."""

    claim: EmpiricalClaim
    setting: str
    a: str
    b: str


def load(file: Path = FILE) -> list[ClaimAgain]:
    """The entries, each setting apart, in the order of the file.

    Raises:
        ValueError: an entry lacks a field or has another one, or names a claim, a setting, a method
            or a metric that is not there.
    """
    claims = {c.id: c for c in claims_of(file)}
    settings = {s.name: s for s in evidence_lists.STUDY.settings}
    entries = []
    for entry in tomllib.loads(file.read_text(encoding="utf-8")).get("again", []):
        wanted = {"claim", "settings", "a"} | ({"b"} if "b" in entry else set())
        if entry.keys() != wanted or entry["claim"] not in claims:
            raise ValueError(f"claim again: {entry} has not {sorted(wanted)} of a known claim")
        claim, b = claims[entry["claim"]], entry.get("b", "")
        for name in entry["settings"]:
            _check(claim, settings.get(name), name, entry["a"], b)
            entries.append(ClaimAgain(claim, name, entry["a"], b))
    return entries


def _check(claim: EmpiricalClaim, setting: Setting | None, name: str, a: str, b: str) -> None:
    """Raises ValueError unless the claim can be judged in the setting."""
    methods = {a, b} - {""}
    if setting is None or not methods <= setting.methods.keys():
        raise ValueError(f"claim {claim.id} again: {name} is no setting with {sorted(methods)}")
    if claim.metric not in METRICS or claim.kind != ("difference" if b else "level"):
        raise ValueError(f"claim {claim.id} again: {claim.kind} of {claim.metric} is not kept")


def judge(entry: ClaimAgain, rows: Iterable[Row]) -> Judgement:
    """The verdict by the rule of all claims, from the seeds that both methods have."""
    values: dict[str, dict[int, float]] = {entry.a: {}, entry.b: {}}
    commits = set()
    for row in rows:
        place = (row.study, row.setting, row.stage)
        if place == ("evidence", entry.setting, JUDGED) and row.method in values:
            values[row.method][row.seed] = METRICS[entry.claim.metric](row)
            commits.add(row.commit)
    a, b = values[entry.a], values[entry.b]
    seeds = sorted(a.keys() & b.keys()) if entry.b else sorted(a)
    differences = [a[s] - b[s] if entry.b else a[s] for s in seeds]
    claim = entry.claim._replace(test=words(entry), seeds=len(seeds))
    if not differences:
        return Judgement(claim, NOT_SETTLED, "no runs are kept", None, 0, (), None, math.inf)
    intervals = (run_statistics.mean(differences), run_statistics.student(differences))
    judged = verdicts.of_intervals(claim, *intervals, len(seeds))
    return judged._replace(commit=", ".join(sorted(c[:7] for c in commits)))


def words(entry: ClaimAgain) -> str:
    """What is compared, and where."""
    compared = f"{entry.a} less {entry.b}" if entry.b else entry.a
    return f"{entry.setting}: {compared}"


def summary(judgements: Iterable[Judgement]) -> list[str]:
    """One line for each: the claim, what is compared, the effect, the verdict."""
    lines = []
    for j in judgements:
        c = j.claim
        effect = f"{j.student.signed()} ({c.metric}, {j.seeds} seeds)" if j.student else j.detail
        least = f", could show {j.could_show:.3f}" if math.isfinite(j.could_show) else ""
        lines.append(f"{c.id}, {c.test}: {effect}, wanted {c.wanted}: {j.verdict}{least}")
    return lines
