"""The paper's claims again, in worlds of 25 to 97 tokens a completion."""

from __future__ import annotations

from paper_figures.experiments.evidence_lists import STUDY

from . import kept_study


def main(argv: list[str] | None = None) -> int:
    return kept_study.main(STUDY, __doc__ or "", argv)
