"""What was drawn into a folder, at which scale and by which code: nothing stale is shown."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .configurations import RunSpec
from .run_lists import FULL, Scale
from .run_store import ROOT, code_version

FILE = "made.json"
_SUFFIXES = (".py", ".toml", ".csv")


@functools.cache
def version() -> str:
    """12 hexadecimal digits of the code that trains, the code that draws, and the data it reads."""
    own = [f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in drawn_by()]
    parts = [code_version(), *own]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def drawn_by(root: Path = ROOT) -> list[Path]:
    """The code, settings and data of sim and paper_figures, in folders of any depth; but what was
    drawn, paper_figures/out, is no input."""
    files = [p for top in ("sim", "paper_figures") for p in (root / top).rglob("*")]
    out = root / "paper_figures" / "out"
    return sorted(p for p in files if p.suffix in _SUFFIXES and out not in p.parents)


def note(out: Path, name: str, scale: Scale, runs: Iterable[RunSpec]) -> None:
    """Write down that a figure was drawn now, from these runs."""
    figures = read(out)
    seeds = sorted({r.seed for r in runs})
    figures[name] = {"scale": scale.name, "seeds": seeds, "code": version()}
    text = json.dumps(dict(sorted(figures.items())), indent=1) + "\n"
    draft = out / f"{FILE}.draft"
    draft.write_text(text, encoding="utf-8")
    draft.replace(out / FILE)


def read(out: Path) -> dict[str, dict[str, Any]]:
    """By name: scale, seeds and code version."""
    file = out / FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def fresh(out: Path, name: str) -> str:
    """Empty if the figure is of the present code; else why it is not to be shown."""
    drawn = read(out).get(name)
    if drawn is None:
        return "not made yet"
    if drawn["code"] != version():
        return "made by another version of the code"
    return ""


def scale_text(drawn: dict[str, Any]) -> str:
    """In words, for a caption."""
    words = "full scale" if drawn["scale"] == FULL.name else "quick: an eighth of the steps"
    seeds = ", ".join(str(s) for s in drawn["seeds"])
    many = "s" * (len(drawn["seeds"]) > 1)
    return f"{words}; seed{many} {seeds}" if seeds else ""
