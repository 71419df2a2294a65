"""Import by dotted name, as Python itself does it."""

from __future__ import annotations

import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def imported(name: str):
    """The object that Python itself finds under a dotted name."""
    parts = name.split(".")
    n = len(parts) - 1
    while n > 1 and not (ROOT / "/".join(parts[:n])).with_suffix(".py").is_file():
        n -= 1
    found = importlib.import_module(".".join(parts[:n]))
    for part in parts[n:]:
        found = getattr(found, part)
    return found
