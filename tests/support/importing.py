"""Import by dotted name, as Python itself does it, and by path."""

from __future__ import annotations

import importlib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

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


def module_at(path: Path) -> ModuleType:
    """The module that a file outside the packages holds."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
