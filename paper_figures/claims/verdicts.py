"""Claims of the paper, their tests as `claims.toml` states them, and the verdicts.

A claim is reproduced only if both of its 95 % intervals, by the bootstrap and by Student's t, lie
beyond the threshold, and contradicted only if both lie short of it (words.py).
"""

from __future__ import annotations

import functools
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paper_figures.analysis import comparisons, run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import HOME, folder
from paper_figures.experiments.runner import Evaluation
from paper_figures.extras import cost
from paper_figures.figure import Unusable
from paper_figures.figures import fig5
from paper_figures.tables import table1
from sim.studies import sweep

from .words import CANNOT, LEVEL, NOT_SETTLED, word

FILE = Path(__file__).with_name("claims.toml")

STUDIES: dict[str, Callable[[Scale], list[RunSpec]]] = {
    "fig1": run_lists.fig1,
    "own rates": run_lists.own_rates,
    "table1": run_lists.table1,
    "fig4": lambda scale: [r for own in run_lists.fig4(scale).values() for r in own],
    "fig5": lambda scale: [r for own in run_lists.fig5(scale).values() for r in own],
    "on-policy beside 64": lambda scale: fig5.on_policy(scale, 64),
    "on-policy beside 128": lambda scale: fig5.on_policy(scale, 128),
    "table2": lambda scale: [r for own in run_lists.table2(scale).values() for r in own],
    "without kl": run_lists.without_kl,
    "long": run_lists.long_runs,
    "cost": lambda scale: [r for own in run_lists.cost(scale).values() for r in own],
}
UNITS = {"kl_highest": "nats", "kl_last": "nats", "lasts": "steps", "z": "share"}
Mean = Callable[[Sequence[float]], Interval]  # run_statistics.mean or student
WAY = 0.8  # kind gain: share of the way to on-policy's end, as cost.LEVELS
_SOLVED = re.compile(r"mean@4 of (\d+) digits")


class EmpiricalClaim(NamedTuple):
    """One entry of claims.toml; fields as explained there."""

    id: str
    section: str
    paper: str
    kind: str
    test: str = ""
    metric: str = ""
    a: dict[str, Any] | None = None
    b: dict[str, Any] | None = None
    seeds: int = 0
    above: float | None = None
    below: float | None = None
    within: float | None = None
    of: float = 0.0
    family: str = ""
    kl: float = 0.0
    reason: str = ""
    seen: str = ""

    @property
    def unit(self) -> str:
        if self.kind in ("ratio", "gain") or self.metric == "kl_ratio":
            return "ratio"
        return UNITS.get(self.metric, "pass rate")

    @property
    def is_log(self) -> bool:
        """Whether means are taken of logarithms."""
        return self.kind in ("ratio", "gain")

    @property
    def range(self) -> tuple[float, float]:
        """Ends of where the interval must lie."""
        if self.within is not None:
            return self.of - self.within, self.of + self.within
        low = -math.inf if self.above is None else self.above
        return low, math.inf if self.below is None else self.below

    @property
    def wanted(self) -> str:
        """Where the interval must lie, in words."""
        if self.within is not None:
            return f"within {self.within:g} of {self.of:g}"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


class Judgement(NamedTuple):
    """detail: why there is no other verdict; effect: with the bootstrap's interval; seeds: found;
    runs: folders it came from; student: the effect with Student's t interval.

    could_show: how far beyond the threshold a true effect must lie so that four of five such
    studies would reproduce the claim, at the spread that was seen; a factor where the effect is a
    ratio; infinite where no interval is. commit: of the runs, where they are kept rows.
    """

    claim: EmpiricalClaim
    verdict: str
    detail: str
    effect: Interval | None
    seeds: int
    runs: tuple[str, ...]
    student: Interval | None = None
    could_show: float = math.inf
    commit: str = ""


_FIELDS = {  # by kind: what an entry must hold beside id, section, paper and kind
    "difference": {"test", "metric", "a", "b", "seeds"},
    "ratio": {"test", "metric", "a", "b", "seeds"},
    "level": {"test", "metric", "a", "seeds"},
    "gain": {"test", "metric", "a", "seeds"},
    "sweep": {"test", "metric", "family", "kl", "seeds"},
    "none": {"reason"},
}
_SIDES = ({"above"}, {"below"}, {"within"}, {"within", "of"})


class BadClaims(Unusable):
    """claims.toml asks for what cannot be judged."""


_NAMES = ("claim", "family", "again")  # of the tables of claims.toml
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("methods", "settings"), list),
    **dict.fromkeys(("a", "b"), (str, dict)),  # of a family's or a claim's
    **dict.fromkeys(("id", "setting", "baseline", "baseline_setting", "picture", "metric"), str),
    **dict.fromkeys(("study", "claim"), str),
    "elsewhere": dict,
    "seeds": int,
}


def entries_of(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The entries of claims.toml by what they are.

    Raises:
        BadClaims: the file is no TOML, has a table of another name, or a value of another type.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadClaims(f"{file}: {e}") from e
    if strange := found.keys() - set(_NAMES):
        raise BadClaims(f"{file}: tables {sorted(strange)} are none of {', '.join(_NAMES)}")
    for name, entries in found.items():
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise BadClaims(f"{file}: write [[{name}]], with two brackets, before each entry")
        for entry in entries:
            for key, value in entry.items():
                if not isinstance(value, _TYPES.get(key, object)):
                    raise BadClaims(f"{file}: {key} = {value!r} of {name} {_label(entry)}")
    return {name: found.get(name, []) for name in _NAMES}


def _label(entry: dict[str, Any]) -> str:
    return str(entry.get("id", entry.get("claim", "?")))


def load(file: Path = FILE) -> list[EmpiricalClaim]:
    """The claims, in the order of the file.

    Raises:
        BadClaims: an entry lacks a field, has one that its kind does not read, or repeats an id.
    """
    claims: list[EmpiricalClaim] = []
    for entry in entries_of(file)["claim"]:
        name, kind = entry.get("id", "?"), entry.get("kind", "?")
        if kind not in _FIELDS:
            raise BadClaims(f"claim {name}: kind {kind!r} is none of {', '.join(_FIELDS)}")
        rest = entry.keys() - {"id", "section", "paper", "kind", "seen"} - _FIELDS[kind]
        missing = ({"id", "section", "paper"} | _FIELDS[kind]) - entry.keys()
        if missing or rest not in (_SIDES if kind != "none" else (set(),)):
            raise BadClaims(
                f"claim {name}: lacks {sorted(missing)}; beside what its kind needs it has "
                f"{sorted(rest)}, and must have one of above, below, within (none if untestable)"
            )
        if name in {c.id for c in claims}:
            raise BadClaims(f"claim {name} stands twice")
        claims.append(EmpiricalClaim(**entry))
    return claims


def side(claim: EmpiricalClaim, which: str, scale: Scale) -> list[RunSpec]:
    """The runs of one side of a claim, one per seed.

    Raises:
        ValueError: the study has none such, several of a seed, or not as many as stated.
    """
    wanted = getattr(claim, which)
    more = wanted.get("with", {}).items()
    chosen = [
        r
        for r in dict.fromkeys(STUDIES[wanted["study"]](scale))
        if (r.world, r.method) == (wanted["world"], wanted["method"])
        and more <= dict(r.extra).items()
    ]
    seeds = len({r.seed for r in chosen})
    if not chosen or len(chosen) != seeds or (scale.length == 1 and seeds != claim.seeds):
        raise ValueError(
            f"claim {claim.id}: side {which} has {len(chosen)} runs of {seeds} seeds, "
            f"wanted {claim.seeds} of as many"
        )
    return chosen


def runs(claims: list[EmpiricalClaim], scale: Scale) -> list[RunSpec]:
    """All runs that the claims are judged by."""
    needed = [r for c in claims for s in "ab" if getattr(c, s) for r in side(c, s, scale)]
    needed += [r for c in claims if c.kind == "gain" for r in _of_gain(c, scale)]
    return list(dict.fromkeys(needed))


def evaluations(claims: list[EmpiricalClaim], scale: Scale, home: Path = HOME) -> list[Evaluation]:
    """All evaluations on other sets that they need; the runs must be finished."""
    needed = []
    for c in claims:
        at = _SOLVED.fullmatch(c.metric)
        for s in "ab" if at else "":
            own = [r for r in side(c, s, scale) if not run_statistics.diverged(r, home)]
            needed += [table1.evaluation(r, int(at[1])) for r in own]  # type: ignore[index]
    return needed


def judge(claim: EmpiricalClaim, scale: Scale, home: Path = HOME) -> Judgement:
    """The effect and what it says of the claim."""
    if claim.kind == "none":
        return Judgement(claim, CANNOT, claim.reason, None, 0, ())
    own = _runs_of(claim, scale)
    seeds = len({r.seed for r in own}) or claim.seeds
    effect, student = (
        _effect(claim, scale, home, m) for m in (run_statistics.mean, run_statistics.student)
    )
    if effect is None or student is None:
        detail = f"a seed never came {WAY:.0%} of the way"
        return Judgement(claim, NOT_SETTLED, detail, None, seeds, _names(own, home))
    return of_intervals(claim, effect, student, seeds, _names(own, home))


def of_intervals(
    claim: EmpiricalClaim,
    effect: Interval,
    student: Interval,
    seeds: int,
    runs: tuple[str, ...] = (),
) -> Judgement:
    """The verdict by the bootstrap's interval and Student's, and what so many seeds could show."""
    verdict = word((effect, student), claim.range, seeds)
    few = seeds < run_statistics.SEEDS_MIN
    detail = f"{seeds} seed{'s' * (seeds != 1)}" if few else ""
    could_show = (
        math.inf if few else comparisons.detectable_of(_plain(claim, student), seeds, LEVEL)
    )
    if claim.is_log and not few:
        could_show = math.exp(could_show)
    return Judgement(claim, verdict, detail, effect, seeds, runs, student, could_show)


def _plain(claim: EmpiricalClaim, interval: Interval) -> Interval:
    """The interval on the scale on which it was computed: that of logarithms for a ratio."""
    return Interval(*(math.log(x) for x in interval)) if claim.is_log else interval


def _runs_of(claim: EmpiricalClaim, scale: Scale) -> list[RunSpec]:
    """All runs that a claim's effect is of; none for kind sweep."""
    if claim.kind == "sweep":
        return []
    if claim.kind == "gain":
        return _of_gain(claim, scale)
    return [r for s in "ab" if getattr(claim, s) for r in side(claim, s, scale)]


def _effect(claim: EmpiricalClaim, scale: Scale, home: Path, mean: Mean) -> Interval | None:
    """Estimate and interval; None where a gain's level was not reached."""
    if claim.kind == "sweep":
        return _sweep(claim, mean)
    if claim.kind == "gain":
        method, own = (claim.a or {})["method"], _of_gain(claim, scale)
        return cost.gain(own, method, WAY, claim.metric, home, mean)
    return _compare(claim, [side(claim, s, scale) for s in "ab" if getattr(claim, s)], home, mean)


def _measure(claim: EmpiricalClaim, run: RunSpec, home: Path) -> float:
    at = _SOLVED.fullmatch(claim.metric)
    if at:
        return table1.solved(run, int(at[1]), any_of_four=False, home=home)
    return float(run_statistics.METRICS[claim.metric](run, home))


def _compare(claim: EmpiricalClaim, sides: list[list[RunSpec]], home: Path, mean: Mean) -> Interval:
    """Over seeds: the mean, mean difference or geometric mean ratio of a metric."""
    a, *b = ({r.seed: _measure(claim, r, home) for r in own} for own in sides)
    if not b:
        return mean(list(a.values()))
    if a.keys() != b[0].keys():
        raise ValueError(f"claim {claim.id}: seeds {sorted(a)} and {sorted(b[0])} do not pair")
    if claim.kind == "ratio":
        logs = mean([math.log(a[s] / b[0][s]) for s in a])
        return Interval(*(math.exp(x) for x in logs))
    return mean([a[s] - b[0][s] for s in a])


def _of_gain(claim: EmpiricalClaim, scale: Scale) -> list[RunSpec]:
    """The runs of a, and on-policy ones of the same world."""
    base = claim._replace(a={**(claim.a or {}), "method": "on-policy"})
    return side(base, "a", scale) + side(claim, "a", scale)


def _sweep(claim: EmpiricalClaim, mean: Mean) -> Interval:
    """A column of Figure 2 at a KL before rejection, over seeds of the families' states."""

    def at(seed: int) -> float:
        rows = _family(claim.family, seed)
        return sweep.interpolate(rows, claim.family, claim.kl, lambda row: row[claim.metric])

    return mean([at(seed) for seed in range(claim.seeds)])


@functools.cache
def _family(name: str, seed: int) -> list[dict]:
    return sweep.sweep(seed, families=(name,))


def _names(own: list[RunSpec], home: Path) -> tuple[str, ...]:
    return tuple(folder(r, home).name for r in own)
