"""Choices made before any figure: learning rates, and a setting of our own, on seeds of their own.

    python -m paper_figures tune

Every method gets the same sweep. Nothing trained here is drawn or judged in a figure.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from . import command, curves, pool, studies
from .runs import folder
from .worlds import Run

DATA = Path(__file__).parent / "data"
METRICS = ("area", "final", "lowest_late", "drop")


def main(argv: list[str] | None = None) -> int:
    args = command.arguments("tune", (__doc__ or "").splitlines()[0], argv)
    if args.quick:
        sys.stderr.write("error: a sweep has no --quick size\n")
        return 2
    found = studies.candidates()
    own = [r for runs in found.values() for r in runs]
    try:
        pool.train([*studies.tuning(), *own], args.workers)
    except pool.Failed as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    rows = [row("rates", r.method, r) for r in studies.tuning()]
    rows += [row("candidates", name, r) for name, runs in found.items() for r in runs]
    curves.write_csv(DATA / "tuning.csv", rows)
    sys.stdout.write(rates(studies.tuning()) + table(found))
    sys.stdout.write(f"wrote {DATA / 'tuning.csv'}\n")
    return 0


def row(sweep: str, name: str, r: Run) -> dict:
    extra = " ".join(f"{k}={v}" for k, v in r.extra)
    values = {m: curves.METRICS[m](r) for m in METRICS}
    where = {"run": folder(r).name, "sweep": sweep, "name": name, "seed": r.seed}
    return {**where, "extra": extra, **values}


def rates(runs: Sequence[Run]) -> str:
    """Mean area under the curve by method and learning rate of the policy."""
    lines = [f"{'area under the curve':42}" + "".join(f"{p:>9g}" for p, _ in studies.RATES)]
    for method in studies.TUNED:
        cells = []
        for rate, _ in studies.RATES:
            mine = [
                r for r in runs if r.method == method and dict(r.extra)["optim.policy_lr"] == rate
            ]
            cells.append(curves.mean([curves.area(r) for r in mine]).value)
        lines.append(f"{method:42}" + "".join(f"{c:>9.3f}" for c in cells))
    return "\n".join([*lines, ""])


def table(found: dict[str, list[Run]]) -> str:
    """Candidates at the hot learning rate: means over the tuning seeds."""
    lines = [f"{'candidate':42}" + "".join(f"{m:>12}" for m in METRICS)]
    for name, runs in found.items():
        cells = [curves.mean([curves.METRICS[m](r) for r in runs]).value for m in METRICS]
        lines.append(f"{name:42}" + "".join(f"{c:>12.3f}" for c in cells))
    return "\n".join([*lines, ""])
