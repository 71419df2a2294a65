"""The paper's claims again, in worlds of 25 to 97 tokens a completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from paper_figures.experiments.evidence_lists import STUDY
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.studies import Study
from paper_figures.extras import acceptance_at_length

from . import kept_study


def pictures(
    study: Study, rows: Sequence[Row], whole: kept_study.Judged
) -> Iterator[tuple[str, Any]]:
    """Those of the study's parts, and what an acceptance rate means at length."""
    yield from kept_study.pictures_of_parts(study, rows, whole)
    yield acceptance_at_length.NAME, acceptance_at_length.picture()


def main(argv: list[str] | None = None) -> int:
    return kept_study.main(STUDY, __doc__ or "", argv, pictures)
