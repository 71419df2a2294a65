"""All that `report` shows, in the order of the page; `all` draws it but for what is APART."""

from __future__ import annotations

import importlib
from pathlib import Path

from paper_figures.commands import FIGURES as COMMANDS
from paper_figures.experiments.run_lists import FULL, Scale
from paper_figures.figure import Figure

# modules with a FIGURE, several FIGURES, or a `main` alone that draws without any training
ALL = (
    "fig1",
    "fig2",
    "fig3",
    "fig4",
    "fig5",
    "table1",
    "table2",
    "table3",
    "beyond",
    "prefix_rejection",
    "claims",
)
APART = ("prefix_rejection",)  # not the paper's: has its own command and its own minutes
QUICK_OPTIONS = {"fig2": ["--quick"]}  # what the last kind takes at a smaller scale


def figures() -> dict[str, list[Figure]]:
    """By command, what it draws."""
    by_command = {}
    for name in ALL:
        module = importlib.import_module(COMMANDS[name][0])
        if hasattr(module, "FIGURES"):
            by_command[name] = list(module.FIGURES)
        else:
            by_command[name] = [
                module.FIGURE if hasattr(module, "FIGURE") else _plain(name, module)
            ]
    return by_command


def _plain(name: str, module) -> Figure:
    def draw(scale: Scale, out: Path) -> str:
        quick = QUICK_OPTIONS.get(name, []) if scale.length < FULL.length else []
        code = module.main(["--out", str(out), *quick])
        if code:
            raise RuntimeError(f"{name} ended with code {code}")
        return ""

    return Figure(name, (module.__doc__ or "").splitlines()[0], lambda scale: (), draw)
