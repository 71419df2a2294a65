"""Kept rows that are made up, for tests of the studies."""

from __future__ import annotations

import numpy as np

from paper_figures.experiments import kept_rows, rival_lists, studies
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.studies import Entry, Study

COMMIT = "0123456789" * 4


def made(entry: Entry, gain: float = 0.0, noise: float = 0.02) -> Row:
    """A run whose pass rate rises from .4 by gain + .2, with noise of its own."""
    rng = np.random.default_rng(int(kept_rows.key(entry), 16) % 2**32)
    rates = 0.4 + (0.2 + gain) * np.linspace(0, 1, 8) + noise * rng.standard_normal(8)
    curve = tuple((10.0 * i, round(float(y), 4)) for i, y in enumerate(np.clip(rates, 0, 1)))
    kl = tuple((x, 0.03) for x, _ in curve)
    summary = kept_rows.summary(curve, 0)
    return Row(
        kept_rows.key(entry),
        *entry[:6],
        commit=COMMIT,
        code="0" * 12,
        exit=0,
        final=round(summary["final"], 6),
        lowest_late=round(summary["lowest_late"], 6),
        area=round(summary["area"], 6),
        kl_last=0.03,
        seconds=30.0,
        curve=curve,
        kl=kl,
    )


def whole(
    gains: dict[str, float] | None = None, noise: float = 0.02, study: Study = rival_lists.STUDY
) -> dict[str, Row]:
    """A row of every run of a study, the rate of the sweep being the middle one."""
    rows = []
    for setting in study.settings:
        rates = dict.fromkeys(setting.methods, setting.rates[len(setting.rates) // 2])
        entries = [*studies.sweep(setting), *studies.judged(setting, rates)]
        rows += [made(e, (gains or {}).get(e.method, 0.0), noise) for e in entries]
    return {r.key: r for r in rows}
