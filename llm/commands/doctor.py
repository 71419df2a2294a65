"""python -m llm doctor: what would go wrong with these settings, before anything is trained."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .doctor_checks import Line

_USAGE = """python -m llm doctor CONFIG.toml [MORE.toml ...] [--section.key value ...]

Checks settings, run folder, device, tokenizers, data, memory, models, sampling against scoring, one
step in memory, and disk. Exit code 0: no problem found; 1: at least one.
"""


def main(argv: list[str]) -> int:
    if not argv or "-h" in argv or "--help" in argv:
        sys.stdout.write(_USAGE)
        return 0 if argv else 2
    from .doctor_checks import PROBLEM, WARNING, diagnose  # loads torch

    seen = []
    for line in diagnose(argv):
        seen.append(line.status)
        sys.stdout.write(_text(line))
        sys.stdout.flush()
    problems, warnings = seen.count(PROBLEM), seen.count(WARNING)
    sys.stdout.write(f"{problems} problem(s), {warnings} warning(s)\n")
    return 1 if problems else 0


def _text(line: Line) -> str:
    mark = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}[line.status]
    remedy = f"\n{'':21}-> {line.remedy}" if line.remedy else ""
    return f"{mark}  {line.check:<11} {line.seen}{remedy}\n"
