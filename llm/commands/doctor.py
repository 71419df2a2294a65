"""python -m llm doctor: what would go wrong with these settings, before anything is trained."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .doctor_checks import Line

_USAGE = """python -m llm doctor CONFIG.toml [MORE.toml ...] [--section.key value ...] [--json]

Checks settings, run folder, device, tokenizers, data, memory, models, sampling against scoring, one
step in memory, and disk. Says which line of docs/choosing.md, "Which setting should I use?", fits
the settings. It prints a table: verdict, check, what was seen, and what to do. --json
prints the same as one JSON object with the keys problems, warnings and checks; a check has the keys
verdict (ok, warning or problem), check, seen and remedy. Nothing is written into the run folder.
Exit code 0: no problem found; 1: at least one; 2: nothing was given.
"""


def main(argv: list[str]) -> int:
    """Exit codes: 0 no problem, 1 at least one, 2 nothing to check was given."""
    if not argv or "-h" in argv or "--help" in argv:
        sys.stdout.write(_USAGE)
        return 0 if argv else 2
    from .doctor_checks import PROBLEM, WARNING, diagnose  # loads torch

    lines: list[Line] = []
    for line in diagnose([word for word in argv if word != "--json"]):
        lines.append(line)
        if "--json" not in argv:  # as the checks end: some take a while
            sys.stdout.write(_text(line))
            sys.stdout.flush()
    verdicts = [line.status for line in lines]
    problems, warnings = verdicts.count(PROBLEM), verdicts.count(WARNING)
    if "--json" in argv:
        sys.stdout.write(_json(lines, problems, warnings))
    else:
        sys.stdout.write(f"{problems} problem(s), {warnings} warning(s)\n")
    return 1 if problems else 0


def _text(line: Line) -> str:
    mark = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}[line.status]
    remedy = f"\n{'':22}-> {line.remedy}" if line.remedy else ""
    return f"{mark}  {line.check:<12} {line.seen}{remedy}\n"


def _json(lines: list[Line], problems: int, warnings: int) -> str:
    checks = [
        {"verdict": x.status, "check": x.check, "seen": x.seen, "remedy": x.remedy} for x in lines
    ]
    return (
        json.dumps({"problems": problems, "warnings": warnings, "checks": checks}, indent=1) + "\n"
    )
