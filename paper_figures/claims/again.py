"""The claims of the paper judged again where completions are longer, by rows that are kept.

Each entry `[[again]]` of claims.toml names a claim, whose metric and threshold hold as they were
fixed for completions of nine tokens unless the entry says another metric, settings of the study
`evidence`, and two methods there or in the settings of `elsewhere`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paper_figures.analysis import run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.drawing import tables
from paper_figures.experiments import evidence_lists, kept_rows
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.studies import Setting
from paper_figures.extras import cost

from . import verdicts
from .kept_study import label
from .verdicts import FILE, BadClaims, EmpiricalClaim, Judgement, entries_of
from .verdicts import load as claims_of
from .words import NOT_SETTLED


def _curve(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Steps and held-out pass rates."""
    steps, rates = (np.asarray(values, dtype=float) for values in zip(*row.curve, strict=True))
    return steps, rates


def _seconds(row: Row, name: str) -> float:
    """Raises kept_rows.Damaged where a row is older than the column."""
    seconds = getattr(row, name)
    if seconds is None:
        raise kept_rows.Damaged(f"the row {row.key} of {row.setting} has no {name}: train it again")
    return float(seconds)


METRICS: Mapping[str, Callable[[Row], float]] = {
    "final": lambda row: row.final,
    "area": lambda row: row.area,
    "kl_last": lambda row: row.kl_last,
    "kl_highest": lambda row: max(kl for _, kl in row.kl),
    "drop": lambda row: kept_rows.largest_fall(_curve(row)[1]),
    "lasts": lambda row: kept_rows.last_near_best(*_curve(row)),
    "seconds_rollout": lambda row: _seconds(row, "seconds_rollout"),
    "seconds_update": lambda row: _seconds(row, "seconds_update"),
}
_NEEDED = {"claim", "settings", "a"}  # fields of an entry
_KNOWN = _NEEDED | {"b", "elsewhere", "metric"}
_TIME = "seconds"  # of the kind gain
_SIDES = {"level": 1, "difference": 2, "ratio": 2, "gain": 2}  # methods, by kind of the claim


class ClaimAgain(NamedTuple):
    """One entry, in one setting.

    b: the method that is subtracted, or divided by; empty for a level. For a gain it is on-policy
    training, whose time is divided by that of a. elsewhere: by method, the setting of its runs
    where it is not this one. seeds: how many both methods are to have; fewer settle nothing.
    """

    claim: EmpiricalClaim
    setting: str
    a: str
    b: str
    elsewhere: Mapping[str, str]
    seeds: int


def load(file: Path = FILE) -> list[ClaimAgain]:
    """The entries, each setting apart, in the order of the file.

    Raises:
        BadClaims: an entry lacks a field or has another one, or names a claim, a setting, a method
            or a metric that is not there.
    """
    claims = {c.id: c for c in claims_of(file)}
    settings = {s.name: s for s in evidence_lists.STUDY.settings}
    entries = []
    for entry in entries_of(file)["again"]:
        if not _NEEDED <= entry.keys() <= _KNOWN or entry["claim"] not in claims:
            raise BadClaims(f"claim again: {entry} has not {sorted(_NEEDED)} of a known claim")
        claim, b = claims[entry["claim"]], entry.get("b", "")
        if "metric" in entry:
            claim = claim._replace(metric=entry["metric"])
        for name in entry["settings"]:
            made = ClaimAgain(claim, name, entry["a"], b, entry.get("elsewhere", {}), 0)
            entries.append(made._replace(seeds=len(_seeds(made, settings))))
    return entries


def _seeds(entry: ClaimAgain, settings: Mapping[str, Setting]) -> set[int]:
    """Seeds that both methods are to have.

    Raises:
        BadClaims: the claim cannot be judged in the settings.
    """
    claim, methods = entry.claim, {entry.a, entry.b} - {""}
    if strangers := sorted(entry.elsewhere.keys() - methods):
        raise BadClaims(f"claim {claim.id} again: it does not compare {strangers} of elsewhere")
    for method in sorted(methods):
        name = entry.elsewhere.get(method, entry.setting)
        if name not in settings or method not in settings[name].methods:
            raise BadClaims(f"claim {claim.id} again: {name} is no setting with {method}")
    places = (settings[entry.elsewhere.get(method, entry.setting)] for method in methods)
    common = set.intersection(*(set(place.seeds) for place in places))
    kept = METRICS.keys() if claim.kind != "gain" else {_TIME}
    if claim.metric not in kept or _SIDES.get(claim.kind) != len(methods):
        raise BadClaims(f"claim {claim.id} again: {claim.kind} of {claim.metric} is not kept")
    if not common:
        raise BadClaims(f"claim {claim.id} again: the seeds of {sorted(methods)} do not pair")
    return common


def judge(entry: ClaimAgain, rows: Iterable[Row]) -> Judgement:
    """The verdict by the rule of all claims, from the seeds that both methods have."""
    rows = list(rows)
    a, b = (
        kept_rows.judged_by_seed(rows, "evidence", entry.elsewhere.get(m, entry.setting), m)
        for m in (entry.a, entry.b)
    )
    seeds = sorted(a.keys() & b.keys()) if entry.b else sorted(a)
    claim = entry.claim._replace(test=words(entry), seeds=len(seeds))
    if not seeds:
        return Judgement(claim, NOT_SETTLED, "no runs are kept", None, 0, (), None, math.inf)
    effects = [_effect(claim, a[s], b.get(s)) for s in seeds]
    commits = {row.commit[:7] for side in (a, b) for row in side.values()}
    commit = ", ".join(sorted(commits))
    if missed := sum(not math.isfinite(x) for x in effects):
        detail = f"{missed} of {len(seeds)} seeds have no time to {verdicts.WAY:.0%} of the way"
        return Judgement(claim, NOT_SETTLED, detail, None, len(seeds), (), commit=commit)
    intervals = [run_statistics.mean(effects), run_statistics.student(effects)]
    if claim.is_log:
        intervals = [Interval(*map(math.exp, interval)) for interval in intervals]
    judged = verdicts.of_intervals(claim, intervals[0], intervals[1], len(seeds))
    judged = judged._replace(commit=commit)
    if len(seeds) < entry.seeds:
        return judged._replace(verdict=NOT_SETTLED, detail=f"{len(seeds)} of {entry.seeds} seeds")
    if len(set(effects)) == 1:  # without a spread there is no interval
        return judged._replace(verdict=NOT_SETTLED, detail="no spread", could_show=math.inf)
    return judged


def _effect(claim: EmpiricalClaim, a: Row, b: Row | None) -> float:
    """Of one seed, the logarithm of a ratio or gain. A gain is not finite where its level was not
    reached, was there at the start, or on-policy training learnt nothing."""
    if b is None:
        return METRICS[claim.metric](a)
    if claim.kind == "gain":
        return _log_gain(a, b)
    one, other = METRICS[claim.metric](a), METRICS[claim.metric](b)
    return math.log(one / other) if claim.kind == "ratio" else one - other


def _log_gain(row: Row, base: Row) -> float:
    """Of base's time to WAY of its way, over the row's time to the same pass rate.

    Every step of a run is taken to last as long as its median step.
    """
    start = base.curve[0][1]
    if base.final <= start:
        return math.nan
    level = start + verdicts.WAY * (base.final - start)
    spent = []
    for r in (base, row):
        each = _seconds(r, "seconds_rollout") + _seconds(r, "seconds_update")
        spent.append(each * cost.first_reached(*_curve(r), level))
    return math.log(spent[0]) - math.log(spent[1]) if all(spent) else math.nan


def words(entry: ClaimAgain) -> str:
    """What is compared, and where."""
    return f"{entry.setting}: {_compared(entry)}"


def _compared(entry: ClaimAgain) -> str:
    between = {"ratio": "over", "gain": "in place of"}.get(entry.claim.kind, "less")
    a, b = label(entry.a), label(entry.b)
    compared = f"{a} {between} {b}" if entry.b else a
    others = ", ".join(f'{label(m)} from "{where}"' for m, where in entry.elsewhere.items())
    return compared + (f" ({others})" if others else "")


def labelled(entries: Sequence[ClaimAgain], judgements: Sequence[Judgement]) -> list[Judgement]:
    """With the claim and the setting in the place of the test, as a picture shows them, and the
    method where the same claim is judged twice in a setting."""
    places = [(entry.claim.id, entry.setting) for entry in entries]
    shown = []
    for entry, place, judgement in zip(entries, places, judgements, strict=True):
        test = ", ".join(place) + (f": {label(entry.a)}" if places.count(place) > 1 else "")
        shown.append(judgement._replace(claim=judgement.claim._replace(test=test)))
    return shown


def _effect_words(judgement: Judgement) -> str:
    if judgement.student is None:
        return judgement.detail
    effect = judgement.student
    interval = effect.text() if judgement.claim.is_log else effect.signed()
    return interval + (f" ({judgement.detail})" if judgement.detail else "")


def summary(judgements: Iterable[Judgement]) -> list[str]:
    """One line for each: the claim, what is compared, the effect, the verdict."""
    lines = []
    for j in judgements:
        c = j.claim
        effect = _effect_words(j) + (f" ({c.metric}, {j.seeds} seeds)" if j.student else "")
        least = f", could show {j.could_show:.3f}" if math.isfinite(j.could_show) else ""
        of = f"; runs of commit {j.commit}" if j.commit else ""
        lines.append(f"{c.id}, {c.test}: {effect}, wanted {c.wanted}: {j.verdict}{least}{of}")
    return lines


MEASURED = {
    "final": "last pass rate",
    "area": "mean pass rate",
    "kl_last": "last KL",
    "kl_highest": "highest KL",
    "drop": "largest fall of the pass rate",
    "lasts": "steps until breakdown",
    "seconds_rollout": "seconds of a rollout",
    "seconds_update": "seconds of an update",
    _TIME: f"time to {verdicts.WAY:.0%} of the way",
}


def table(entries: Sequence[ClaimAgain], judgements: Sequence[Judgement]) -> tables.Table:
    """A row for each: claim, setting, what is compared, effect, threshold, verdict."""
    rows = []
    for entry, j in zip(entries, judgements, strict=True):
        compared = f"{MEASURED[entry.claim.metric]}: {_compared(entry)}"
        factor = "factor " if entry.claim.is_log else ""
        least = f"{factor}{j.could_show:.3f}" if math.isfinite(j.could_show) else ""
        found = (_effect_words(j), j.claim.wanted, least, j.verdict)
        rows.append((entry.claim.id, entry.setting, compared, *found))
    head = ("claim", "setting", "compared", "found", "wanted", "could show", "verdict")
    return tables.Table("claims_again", "The paper's claims again", head, tuple(rows))
