"""Families of comparisons as `claims.toml` fixes them, and what kept rows say of each."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from paper_figures.analysis import run_statistics
from paper_figures.analysis.comparisons import holm, p_value
from paper_figures.analysis.run_statistics import Interval
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.rival_lists import JUDGED, SETTINGS

from .verdicts import FILE

BETTER, WORSE, OPEN = "better", "worse", "not settled"
LEVEL = 0.05  # of a family
METRICS = ("area", "lowest_late", "final")


class ComparisonFamily(NamedTuple):
    """Methods that are compared with a baseline by one metric; fields as in claims.toml."""

    id: str
    asks: str
    study: str
    setting: str
    metric: str
    baseline: str
    methods: tuple[str, ...]
    seeds: int


class Comparison(NamedTuple):
    """method - baseline. differences: by seed; p, adjusted: two-sided, before and after Holm."""

    method: str
    differences: dict[int, float]
    effect: Interval | None
    p: float
    adjusted: float
    verdict: str


def load(file: Path = FILE) -> list[ComparisonFamily]:
    """The families, in the order of the file.

    Raises:
        ValueError: an entry lacks a field or has another one, repeats an id, or asks for what no
            setting of rival_lists.py has.
    """
    families: list[ComparisonFamily] = []
    for entry in tomllib.loads(file.read_text(encoding="utf-8")).get("family", []):
        name = entry.get("id", "?")
        if entry.keys() != set(ComparisonFamily._fields):
            raise ValueError(
                f"family {name}: fields {sorted(entry)}, not {sorted(ComparisonFamily._fields)}"
            )
        family = ComparisonFamily(**(entry | {"methods": tuple(entry["methods"])}))
        there = {m for s in SETTINGS if s[:2] == family[2:4] for m in s.methods}
        missing = {family.baseline, *family.methods} - there
        if missing or family.metric not in METRICS or family.id in {f.id for f in families}:
            raise ValueError(
                f"family {name}: methods {sorted(missing)} are not in {family.setting}, its metric "
                f"{family.metric} is none of {METRICS}, or it stands twice"
            )
        families.append(family)
    return families


def judge(family: ComparisonFamily, rows: Iterable[Row]) -> list[Comparison]:
    """Every method of a family, in its order. One whose seeds are not all there counts as p = 1."""
    values: dict[str, dict[int, float]] = {m: {} for m in (family.baseline, *family.methods)}
    for row in rows:
        if (row.study, row.setting, row.stage) == (family.study, family.setting, JUDGED):
            values.get(row.method, {})[row.seed] = getattr(row, family.metric)
    base = values[family.baseline]
    differences = []
    for method in family.methods:
        own = values[method]
        differences.append({s: own[s] - base[s] for s in sorted(own.keys() & base.keys())})
    p_values = [p_value([*d.values()]) if len(d) >= family.seeds else 1.0 for d in differences]
    both = zip(family.methods, differences, p_values, holm(p_values), strict=True)
    return [_comparison(m, d, p, adjusted) for m, d, p, adjusted in both]


def _comparison(
    method: str, differences: dict[int, float], p: float, adjusted: float
) -> Comparison:
    effect = run_statistics.student([*differences.values()]) if differences else None
    verdict = OPEN
    if effect and adjusted < LEVEL:
        verdict = BETTER if effect.value > 0 else WORSE
    return Comparison(method, differences, effect, p, adjusted, verdict)


def summary(judged: Sequence[tuple[ComparisonFamily, list[Comparison]]]) -> list[str]:
    """One line for each family: what was settled, and how many seeds are there."""
    lines = []
    for family, comparisons in judged:
        settled = [f"{c.method} {c.verdict}" for c in comparisons if c.verdict != OPEN]
        fewest = min(len(c.differences) for c in comparisons)
        lines.append(
            f"{family.id} ({family.metric} against {family.baseline}, {fewest} of {family.seeds} "
            f"seeds): {', '.join(settled) or 'nothing settled'}; "
            f"{sum(c.verdict == OPEN for c in comparisons)} of {len(comparisons)} not settled"
        )
    return lines
