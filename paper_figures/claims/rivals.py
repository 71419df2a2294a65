"""Corrections, objectives, allocations and selections side by side, at 49 tokens a completion."""

from __future__ import annotations

from paper_figures.experiments.rival_lists import STUDY

from . import kept_study


def main(argv: list[str] | None = None) -> int:
    return kept_study.main(STUDY, __doc__ or "", argv)
