"""The page of kinds of faults: its tests and lines of the doctor exist, and no kind is left out."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/fault_kinds.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([ABC]\d\d) [^|]+ \| (none|`[^`]+`) \| `([\w/.]+)::(\w+)` \|$", PAGE, re.M)
KINDS = {"A": range(1, 15), "B": range(1, 14), "C": range(1, 19)}


def test_every_kind_has_a_row_and_every_row_is_read():
    assert len(ROWS) == len(re.findall(r"^\| [ABC]\d", PAGE, re.M))
    wanted = {f"{letter}{number:02}" for letter, numbers in KINDS.items() for number in numbers}
    assert {kind for kind, *_ in ROWS} == wanted


def test_every_test_that_a_row_names_exists():
    for kind, _, file, name in ROWS:
        path = ROOT / "tests" / file
        assert path.is_file(), f"{kind}: {file}"
        assert f"def test_{name}(" in path.read_text(encoding="utf-8"), f"{kind}: {name}"


def test_every_line_that_a_row_names_is_one_of_the_doctor():
    files = ("doctor_checks", "doctor_arithmetic")
    source = "".join((ROOT / f"llm/commands/{name}.py").read_text("utf-8") for name in files)
    lines = set(re.findall(r'(?:Line|_attempt|_attempt_lines)\(\s*"([^"]+)"', source))
    assert len(lines) > 15
    assert {line.strip("`") for _, line, *_ in ROWS} - lines == {"none"}
