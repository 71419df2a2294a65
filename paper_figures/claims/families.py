"""Families of comparisons as `claims.toml` fixes them, and what kept rows say of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from paper_figures.analysis import comparisons, run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.experiments import kept_rows
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.kept_studies import settings
from paper_figures.experiments.studies import Study

from .verdicts import FILE, BadClaims, entries_of
from .words import CONTRADICTED, LEVEL, NOT_SETTLED, REPRODUCED, word

BETTER, WORSE, OPEN = "better", "worse", NOT_SETTLED
_WORDS = {REPRODUCED: BETTER, CONTRADICTED: WORSE, NOT_SETTLED: OPEN}  # of "learns more"
METRICS = ("area", "lowest_late", "final")


class ComparisonFamily(NamedTuple):
    """Methods that are compared with a baseline by one metric; fields as in claims.toml.

    picture: the part of the study that it is drawn with, where that is not all of it;
    baseline_setting: the setting of the baseline's runs, where that is another.
    """

    id: str
    title: str
    asks: str
    study: str
    setting: str
    metric: str
    baseline: str
    methods: tuple[str, ...]
    seeds: int
    picture: str = ""
    baseline_setting: str = ""

    @property
    def part(self) -> str:
        """The picture in which it is drawn."""
        return self.picture or self.study


class Comparison(NamedTuple):
    """method - baseline. differences: by seed; effect, bootstrap: their mean with Student's and the
    bootstrap's 95 % interval; p, adjusted: two-sided, before and after Holm; detectable: the
    smallest difference that so many seeds would show, infinite where none would."""

    method: str
    differences: dict[int, float]
    effect: Interval | None
    bootstrap: Interval | None
    p: float
    adjusted: float
    detectable: float
    verdict: str


def load(file: Path = FILE) -> list[ComparisonFamily]:
    """The families, in the order of the file.

    Raises:
        BadClaims: an entry lacks a field or has another one, repeats an id, or asks for what no
            setting of a study has.
    """
    families: list[ComparisonFamily] = []
    for entry in entries_of(file)["family"]:
        name = entry.get("id", "?")
        if entry.keys() | {"picture", "baseline_setting"} != set(ComparisonFamily._fields):
            raise BadClaims(
                f"family {name}: fields {sorted(entry)}, not {sorted(ComparisonFamily._fields)}"
            )
        family = ComparisonFamily(**(entry | {"methods": tuple(entry["methods"])}))
        if name in {f.id for f in families}:
            raise BadClaims(f"family {name} stands twice")
        if family.metric not in METRICS:
            raise BadClaims(f"family {name}: its metric {family.metric} is none of {METRICS}")
        _check_runs(family)
        families.append(family)
    return families


def _check_runs(family: ComparisonFamily) -> None:
    """Raises BadClaims where its settings have no such methods, or too few seeds in common."""
    there = {s[:2]: s for s in settings()}
    base_at = family.baseline_setting or family.setting
    sides = []
    for name, wanted in ((family.setting, set(family.methods)), (base_at, {family.baseline})):
        setting = there.get((family.study, name))
        if setting is None:
            raise BadClaims(f"family {family.id}: {family.study} has no setting {name!r}")
        if missing := wanted - setting.methods.keys():
            raise BadClaims(
                f"family {family.id}: methods {sorted(missing)} are not in {name}; it has "
                f"{', '.join(setting.methods)}"
            )
        sides.append(set(setting.seeds))
    repeated = len(set(family.methods)) < len(family.methods)
    if (
        not family.methods
        or repeated
        or (base_at == family.setting and family.baseline in family.methods)
    ):
        raise BadClaims(
            f"family {family.id}: its methods are none, or one stands twice or is the baseline"
        )
    common = len(set.intersection(*sides))
    if not isinstance(family.seeds, int) or not 2 <= family.seeds <= common:
        raise BadClaims(
            f"family {family.id}: seeds = {family.seeds!r}, and its settings have {common} in "
            "common; give as many or fewer, from 2"
        )


def of_study(study: Study) -> list[ComparisonFamily]:
    """The families of a study's settings."""
    own = {s[:2] for s in study.settings}
    return [f for f in load() if (f.study, f.setting) in own]


def judge(family: ComparisonFamily, rows: Iterable[Row]) -> list[Comparison]:
    """Every method of a family, in its order. One whose seeds are not all there counts as p = 1.

    Raises:
        Damaged: two rows are of one method and seed.
    """
    rows = list(rows)

    def by_seed(setting: str, method: str) -> dict[int, float]:
        own = kept_rows.judged_by_seed(rows, family.study, setting, method)
        return {seed: getattr(row, family.metric) for seed, row in own.items()}

    base = by_seed(family.baseline_setting or family.setting, family.baseline)
    differences = []
    for method in family.methods:
        own = by_seed(family.setting, method)
        differences.append({s: own[s] - base[s] for s in sorted(own.keys() & base.keys())})
    tested = [[*d.values()] if len(d) >= family.seeds else [] for d in differences]
    p_values = [comparisons.p_value(d) for d in tested]
    both = zip(family.methods, differences, p_values, comparisons.holm(p_values), strict=True)
    return [_comparison(m, d, p, adjusted, len(differences)) for m, d, p, adjusted in both]


def _comparison(
    method: str, differences: dict[int, float], p: float, adjusted: float, tests: int
) -> Comparison:
    values = [*differences.values()]
    effect = run_statistics.student(values) if values else None
    intervals = () if effect is None else (effect,)
    verdict = _WORDS[word(intervals, (0.0, math.inf), len(values), adjusted)]
    return Comparison(
        method,
        differences,
        effect,
        comparisons.bootstrap(values),
        p,
        adjusted,
        comparisons.detectable(values, LEVEL / tests),
        verdict,
    )


def summary(judged: Sequence[tuple[ComparisonFamily, list[Comparison]]]) -> list[str]:
    """One line for each family: what was settled, and how many seeds are there."""
    lines = []
    for family, own in judged:
        settled = [f"{c.method} {c.verdict}" for c in own if c.verdict != OPEN]
        fewest = min(len(c.differences) for c in own)
        least = [c.detectable for c in own if c.verdict == OPEN and math.isfinite(c.detectable)]
        could = (
            f", where these seeds could show {min(least):.3f} to {max(least):.3f}" if least else ""
        )
        lines.append(
            f"{family.id} ({family.metric} against {family.baseline}, {fewest} of {family.seeds} "
            f"seeds): {', '.join(settled) or 'nothing settled'}; "
            f"{sum(c.verdict == OPEN for c in own)} of {len(own)} not settled{could}"
        )
    return lines
