"""Every study that keeps its rows."""

from __future__ import annotations

from . import drafted_lists, evidence_lists, rival_lists, smollm2_lists
from .studies import Setting

STUDIES = (rival_lists.STUDY, drafted_lists.STUDY, evidence_lists.STUDY, smollm2_lists.STUDY)


def settings() -> list[Setting]:
    """The settings of all studies."""
    return [setting for study in STUDIES for setting in study.settings]
