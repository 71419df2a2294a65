"""The registry of claims on the paper and docs/theory.md, each with a check that can fail.

A claim is a generator function. It gets a `Draw`, draws one random case and yields checks; its
docstring is the statement, with its conditions. Adding one:

    @claim("A0-budget", "docs/theory.md, A0(i)")
    def _(draw):
        "lam Z <= 1 for all p, q that share a token and every lam > 0."
        p, q = draw.pair()
        lam = draw.lam(p, q)
        yield at_most(lam * exact.acceptance_rate(p, q, lam), 1)

The verdict is found from the checks and compared with the verdict declared. "fails" needs a
certified violation; "holds as corrected" needs none, and that the claim it corrects does fail.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from sim.oracle import intervals
from sim.worlds import pairs

HOLDS, CORRECTED, FAILS = "holds", "holds as corrected", "fails"
# found only: an interval comparison that no precision settled, or no case at all; an exception
UNDECIDED, ERROR = "undecided", "error"
EXTRA_DRAWS = 200  # at most, for a conditional claim whose condition no case has met yet


@dataclass(frozen=True)
class Check:
    """One comparison: was it broken, and by how much (<= 0: the margin by which it held)."""

    broken: bool
    excess: float
    note: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    id: str
    source: str
    statement: str
    declared: str
    check: Callable[[Draw], Iterator[Check]]
    corrects: str | None  # the id of the claim, as printed, that this one replaces
    share: float  # of the number of cases asked for; slow claims run fewer
    example: dict[str, Any]  # case 0, by hand


@dataclass
class Finding:
    """What the check of one claim found."""

    claim: Claim
    cases: int = 0
    violations: int = 0
    undecided: int = 0
    error: str = ""
    largest_violation: float = 0.0
    worst_case: dict[str, Any] = field(default_factory=dict)
    verdict: str = UNDECIDED

    def as_dict(self) -> dict[str, Any]:
        """For JSON; Fractions become strings."""
        return {
            "id": self.claim.id,
            "source": self.claim.source,
            "statement": self.claim.statement,
            "declared": self.claim.declared,
            "verdict": self.verdict,
            "cases": self.cases,
            "violations": self.violations,
            "largest_violation": _plain(self.largest_violation),
            "worst_case": _plain(self.worst_case),
        }


class Draw:
    """One random case: what is drawn through it is remembered, for the report."""

    def __init__(self, rng: np.random.Generator, example: dict[str, Any]):
        self.rng = rng
        self.example = example
        self.case: dict[str, Any] = {}

    def keep(self, name: str, value: Any) -> Any:
        """Record a value of this case; the example's value replaces it in case 0."""
        self.case[name] = self.example.get(name, value)
        return self.case[name]

    def pair(self, v: int | None = None, p_zero: bool = True, q_zero: bool = True) -> tuple:
        """Rational (p, q) on 2-6 tokens that share one; ties, and zeros if allowed, are common."""
        v = v or int(self.rng.integers(2, 7))
        p, q = pairs.integer_weights(self.rng, v, p_zero=p_zero, q_zero=q_zero)
        return self.keep("p", p), self.keep("q", q)

    def lam(self, p, q, name: str = "lam") -> Fraction:
        """A threshold: half of the time exactly a ratio p / q, else anything from 0.04 to 12."""
        ratios = sorted({a / b for a, b in zip(p, q, strict=True) if a and b})
        free = Fraction(int(self.rng.integers(1, 25)), int(self.rng.integers(2, 25)))
        at_ratio = ratios[int(self.rng.integers(len(ratios)))]
        return self.keep(name, at_ratio if self.rng.random() < 0.5 else free)

    def fraction(self, name: str, low: Fraction | int = 0, high: Fraction | int = 1) -> Fraction:
        """A rational strictly between low and high."""
        share = Fraction(int(self.rng.integers(1, 100)), 100)
        return self.keep(name, low + (high - low) * share)

    def vector(self, name: str, v: int, low: int = 0, high: int = 9) -> tuple:
        """v rationals in [low, high], in steps of 1/4."""
        steps = self.rng.integers(4 * low, 4 * high + 1, v)
        return self.keep(name, tuple(Fraction(int(x), 4) for x in steps))


CLAIMS: dict[str, Claim] = {}


def claim(
    id: str,
    source: str,
    declared: str = HOLDS,
    *,
    corrects: str | None = None,
    share: float = 1.0,
    example: dict[str, Any] | None = None,
) -> Callable:
    """Register a claim; see the head of this file."""

    def register(check):
        if id in CLAIMS:
            raise ValueError(f"two claims are called {id}")
        statement = " ".join((check.__doc__ or "").split())
        if not statement:
            raise ValueError(f"claim {id} has no docstring, so it states nothing")
        CLAIMS[id] = Claim(id, source, statement, declared, check, corrects, share, example or {})
        return check

    return register


def examine(claim: Claim, cases: int, seed: int) -> Finding:
    """Run a claim's check on its example and on random cases; the verdict is still provisional.

    A draw that does not meet the condition of a claim yields no check. If no draw did, up to
    `EXTRA_DRAWS` more are made, until one does.
    """
    finding = Finding(claim)
    rng = np.random.default_rng([seed, zlib.crc32(claim.id.encode())])
    tightest = (False, -math.inf)
    wanted = max(1, round(cases * claim.share))
    for i in range(wanted + EXTRA_DRAWS):
        if i >= wanted and finding.cases:
            break
        draw = Draw(rng, claim.example if i == 0 else {})
        try:
            checks = list(claim.check(draw))
        except Exception as error:  # the code under test may raise: report it like a verdict
            finding.error = f"{type(error).__name__}: {error}"
            finding.worst_case = {**draw.case, "error": finding.error}
            return finding
        finding.cases += bool(checks)
        finding.violations += sum(bool(check.broken) for check in checks)
        finding.undecided += sum(math.isnan(check.excess) for check in checks)
        for check in checks:
            if (check.broken, check.excess) > tightest:  # any violation outranks every margin
                tightest = (check.broken, check.excess)
                finding.worst_case = {**draw.case, **check.note, "excess": check.excess}
    finding.largest_violation = tightest[1] if tightest[0] else 0.0
    return finding


def verdict(finding: Finding, others: dict[str, Finding]) -> str:
    """What was found, in the words of the declared verdicts."""
    if finding.error:
        return ERROR
    if finding.violations:
        return FAILS
    if finding.undecided or finding.cases == 0:
        return UNDECIDED
    printed = finding.claim.corrects
    return CORRECTED if printed and others[printed].violations else HOLDS


def run(cases: int, seed: int, progress: Callable[[str], None] = lambda line: None) -> list:
    """Examine every claim, in the order of registration."""
    findings: dict[str, Finding] = {}
    for i, c in enumerate(CLAIMS.values(), 1):
        progress(f"[{i}/{len(CLAIMS)}] {c.id}")
        findings[c.id] = examine(c, cases, seed)
    for finding in findings.values():
        finding.verdict = verdict(finding, findings)
    return list(findings.values())


# Checks. Rational ones are exact; `certainly_*` compare logarithms by intervals.


def at_most(lhs, rhs, **note) -> Check:
    """lhs <= rhs, exactly."""
    return Check(lhs > rhs, _gap(lhs, rhs), note)


def below(lhs, rhs, **note) -> Check:
    """lhs < rhs, exactly."""
    return Check(lhs >= rhs, _gap(lhs, rhs), note)


def equal(lhs, rhs, **note) -> Check:
    """lhs = rhs, exactly."""
    return Check(lhs != rhs, abs(_gap(lhs, rhs)), note)


def agree(lhs: bool, rhs: bool, **note) -> Check:
    """lhs if and only if rhs."""
    return Check(lhs != rhs, 1.0 if lhs != rhs else -1.0, note)


def close(value, reference, rel: float = 1e-12, **note) -> Check:
    """Floats against rationals, of one shape: |value - reference| <= rel * reference everywhere.

    A reference of 0 or inf must be met exactly.
    """
    value = np.atleast_1d(np.asarray(value, dtype=float))
    exact = np.atleast_1d(np.array(reference, dtype=object))
    if value.shape != exact.shape:
        raise ValueError(f"the value has shape {value.shape}, the reference {exact.shape}")
    errors = [_relative(f, e) for f, e in zip(value.ravel(), exact.ravel(), strict=True)]
    worst = max(errors)
    return Check(not worst <= rel, worst - rel, {**note, "relative_error": worst})


def certainly_at_most(lhs: Callable, rhs: Callable, **note) -> Check:
    """lhs() <= rhs() for intervals; equality must have been settled before."""
    excess = intervals.excess(lhs, rhs)
    return Check(excess > 0, excess, note)


def to_40_digits(lhs: Callable, rhs: Callable, **note) -> Check:
    """lhs() = rhs() for intervals: they meet, and are narrower than 1e-40."""
    return Check(*intervals.differ(lhs, rhs), note)


def certainly_below(lhs: Callable, rhs: Callable, **note) -> Check:
    """lhs() < rhs() for intervals; both infinite is a violation."""
    excess = intervals.excess(lhs, rhs)
    return Check(excess >= 0, excess, note)


def _gap(lhs, rhs) -> float:
    return 0.0 if lhs == rhs else float(lhs - rhs)


def _relative(value: float, exact: Any) -> float:
    if exact == value:
        return 0.0
    if exact in (0, math.inf) or not abs(value) < math.inf:
        return math.inf
    return float(abs(Fraction(value) - _fraction(exact)) / abs(_fraction(exact)))


def _fraction(x: Any) -> Fraction:
    """A Fraction, int or mpmath number, unrounded."""
    if hasattr(x, "man_exp"):
        man, exp = x.man_exp
        return Fraction(int(man)) * Fraction(2) ** int(exp)
    return Fraction(x)


def _plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, Fraction) or (isinstance(x, float) and not math.isfinite(x)):
        return str(x)  # JSON knows neither 1/3 nor inf
    return x
