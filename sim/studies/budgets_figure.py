"""The picture of `python -m sim budgets`: drawn from its rows, nothing is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .pictures import save

# Okabe and Ito's colours; markers and line styles repeat what the colours say
WAYS: dict[str, Any] = {
    "budget per state": {"color": "#0072B2", "marker": "s", "linestyle": "--"},
    "common lam": {"color": "#D55E00", "marker": "o", "linestyle": "-"},
    "common lam, sampled": {"color": "#000000", "marker": "x", "linestyle": "none"},
}
STEPS: dict[str, Any] = {
    "lam of the first step": {"color": "#777777", "linestyle": ":"},
    "lam of the last step": {"color": "#56B4E9", "linestyle": "--"},
    "tracked lam": {"color": "#D55E00", "linestyle": "-"},
}
FONT = 8


def draw(results: dict[str, list[dict]], folder: Path) -> list[Path]:
    """Draw three panels as budgets.png and budgets.pdf in `folder`."""
    figure = Figure(figsize=(10.5, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    rows = results["budgets"]
    _curves(left, rows, "kl_states", "(a) mean over states of KL(p‖q̃)")
    _curves(middle, rows, "kl_pairs", "(b) KL of (state, token) pairs")
    _steps(right, results["drift"])
    return save(figure, folder / "budgets", dpi=200)


def _curves(ax: Axes, rows: list[dict], key: str, title: str) -> None:
    for way, style in WAYS.items():
        mine = [row for row in rows if row["way"] == way]
        z = [row["acceptance"] for row in mine]
        ax.plot(z, [row[key] for row in mine], label=way, markersize=4, linewidth=1.2, **style)
    mine = [row for row in rows if row["way"] == "common lam"]
    budgets = [row["budget"] for row in mine]
    before = mine[0]["kl_before"]
    ax.axhline(before, color="#999999", linewidth=0.8)
    ax.annotate(
        "before",
        (budgets[0], before),
        xytext=(0, -8),
        textcoords="offset points",
        fontsize=FONT - 1,
    )
    if key == "kl_pairs":  # the floor holds for pairs, whatever the rule
        floor = [row["floor"] for row in mine]
        ax.plot(budgets, floor, color="#999999", linestyle=":", label="floor of any rule")
    ax.set_ylim(bottom=0)
    _finish(ax, title, "mean acceptance", "nats")


def _steps(ax: Axes, rows: list[dict]) -> None:
    for way, style in STEPS.items():
        mine = [row for row in rows if row["way"] == way]
        x = [row["step"] for row in mine]
        ax.plot(x, [row["acceptance"] for row in mine], label=way, linewidth=1.0, **style)
    ax.set_ylim(top=1.16)
    _finish(ax, "(c) a drifting policy, 0.9 wanted", "step", "mean acceptance")


def _finish(ax: Axes, title: str, xlabel: str, ylabel: str) -> None:
    ax.set_title(title, loc="left", fontsize=FONT + 1)
    ax.set_xlabel(xlabel, fontsize=FONT)
    ax.set_ylabel(ylabel, fontsize=FONT)
    ax.tick_params(labelsize=FONT - 1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=FONT - 1, frameon=False)
