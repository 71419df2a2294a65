"""Drafted rollouts beside plain ones of policy and actor, at 9 and at 49 tokens a completion."""

from __future__ import annotations

from paper_figures.experiments.drafted_lists import STUDY

from . import kept_study


def main(argv: list[str] | None = None) -> int:
    return kept_study.main(STUDY, __doc__ or "", argv)
