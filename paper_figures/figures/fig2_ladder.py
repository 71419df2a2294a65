"""Figure 2's last row: real actors of a real model on the two curves, numbered, with their key.

The numbers are stored (paper_figures/data/ladder_smollm2.csv, benchmarks/smollm2_ladder.py).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_figures.drawing import style
from paper_figures.paths import LADDER
from sim.studies import sweep

Rung = dict[str, str]

# kind of actor: (colour, marker)
KINDS = {
    "staleness": (style.GREEN, "D"),
    "precision": (style.BLUE, "o"),
    "noise": (style.ORANGE, "s"),
    "layers": (style.VERMILION, "^"),
}
X = (1e-7, 20.0)  # nats; must hold every rung
GAP = 0.54  # decades of KL between two labels of one row
KEY_AT = {"number": 0.05, "name": 0.12, "kl_before": 0.80, "z": 0.97, "kl_ratio": 1.12}


def read_rungs() -> list[Rung]:
    """The stored rows, numbered from the smallest KL(p||q), with the name that the key gives."""
    with LADDER.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["kl_before"]))
    return [
        {"rung": str(i), "name": row["actor"] + (" *" if row["prompts"] != "chat" else "")} | row
        for i, row in enumerate(rows, start=1)
    ]


def spread(x: list[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, in the same order, with the mean of each crowd kept."""
    crowds: list[tuple[float, int]] = []  # (mean, members)
    for value in sorted(x):
        mean, members = value, 1
        while crowds and mean - crowds[-1][0] < gap * (members + crowds[-1][1]) / 2:
            before, n = crowds.pop()
            mean = (mean * members + before * n) / (members + n)
            members += n
        crowds.append((mean, members))
    return [mean + gap * (i - (n - 1) / 2) for mean, n in crowds for i in range(n)]


def draw_band(ax: Axes, rows: list[dict], y: str) -> None:
    """What the seven families of the panels above span at each KL."""
    x = np.geomspace(1e-4, 1.0, 60)
    curves = [
        [sweep.interpolate(rows, name, kl, lambda row: row[y]) for kl in x]
        for name in sweep.FAMILIES
    ]
    low, high = np.nanmin(curves, axis=0), np.nanmax(curves, axis=0)
    ax.fill_between(x, low, high, color=style.GREY, alpha=0.22, lw=0)


def point(rung: Rung, name: str) -> tuple[float, list[list[float]]]:
    """A number of a rung, and how far its interval reaches below and above it, as for errorbar."""
    at, low, high = (float(rung[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return at, [[at - low], [high - at]]


def draw_rungs(
    ax: Axes, rungs: list[Rung], y: str, away: Callable[[float, int], float], aside: float = 0.0
) -> None:
    """A marker with its intervals for each rung; its number, in turns above and below it.

    away(y, side): height of the number for side 1 or -1. aside: how far it moves that way, decades.
    """
    for rung in rungs:
        colour, marker = KINDS[rung["kind"]]
        x, xerr = point(rung, "kl_before")
        height, yerr = point(rung, y)
        face = "white" if rung["prompts"] != "chat" else colour
        ax.errorbar(x, height, xerr=xerr, yerr=yerr, color=colour, marker=marker, mfc=face,
                    markersize=3.6, elinewidth=0.7, mew=0.8, label=rung["rung"])  # fmt: skip
    for side in (1, -1):
        mine = [rung for rung in rungs if (-1) ** int(rung["rung"]) == side]
        wanted = [float(np.log10(float(rung["kl_before"]))) + aside * side for rung in mine]
        for rung, decade in zip(mine, spread(wanted, GAP), strict=True):
            at = float(rung["kl_before"]), float(rung[y])
            line = {"arrowstyle": "-", "color": style.GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 2}
            ax.annotate(rung["rung"], at, (10**decade, away(at[1], side)), fontsize=6, ha="center",
                        va="center", arrowprops=line)  # fmt: skip


def draw_settings(ax: Axes, settings: list[Rung]) -> None:
    """The mismatch of the project page's settings, as labelled vertical lines."""
    for row in settings:
        x = float(row["paper_kl_before"])
        ax.axvline(x, color=style.GREY, lw=0.6, ls=(0, (4, 3)), zorder=0)
        text, place = f"{row['paper_label']} (paper)", ("data", "axes fraction")
        ax.annotate(text, (x, 0.02), xycoords=place, rotation=90, ha="right", va="bottom",
                    fontsize=5.5, color=style.GREY)  # fmt: skip


def draw_key(ax: Axes, rungs: list[Rung]) -> None:
    """Number, actor, KL before, Z and the share of the KL that is left, a row for each rung."""
    ax.set(xlim=(0, 1.12), ylim=(len(rungs) + 0.5, -0.6))
    ax.set_axis_off()
    look: dict[str, Any] = {"fontsize": 6, "va": "center"}
    for column, text in (("kl_before", "KL before"), ("z", "Z"), ("kl_ratio", "left")):
        ax.text(KEY_AT[column], -0.1, text, ha="right", color="#444444", **look)
    for i, rung in enumerate(rungs, start=1):
        colour, marker = KINDS[rung["kind"]]
        face = "white" if rung["prompts"] != "chat" else colour
        ax.plot(-0.03, i, color=colour, marker=marker, mfc=face, markersize=3.4, clip_on=False)
        ax.text(KEY_AT["number"], i, rung["rung"], ha="center", **look)
        ax.text(KEY_AT["name"], i, rung["name"], ha="left", **look)
        for column, form in (("kl_before", ".2g"), ("z", ".3f"), ("kl_ratio", ".0%")):
            text = format(float(rung[column]), form)
            ax.text(KEY_AT[column], i, text, ha="right", **look)


def draw_row(axes: list[Axes], rows: list[dict], rungs: list[Rung], settings: list[Rung]) -> None:
    """Acceptance, KL after rejection, and the key."""
    draw_band(axes[0], rows, "z")
    draw_settings(axes[0], settings)
    draw_rungs(axes[0], rungs, "z", lambda z, side: z + 0.06 * side, aside=0.28)
    axes[0].set(xscale="log", xlim=X, ylim=(0.3, 1.1), ylabel="acceptance Z")
    axes[0].set_yticks((0.4, 0.6, 0.8, 1.0))
    style.panel_title(axes[0], "g", "a real model's actors on (d)")
    draw_band(axes[1], rows, "kl_after")
    guide = np.array(X)
    axes[1].plot(guide, guide, color=style.GREY, lw=0.7, ls=":")
    axes[1].plot(guide, guide / 10, color=style.GREY, lw=0.7, ls="-.")
    draw_rungs(axes[1], rungs, "kl_after", lambda kl, side: kl * 8.0**side)
    axes[1].set(xscale="log", yscale="log", xlim=X, ylim=(1e-8, 40), ylabel="KL(p‖q̃), nats")
    style.panel_title(axes[1], "h", "the same actors on (e)")
    for ax in axes[:2]:
        ax.set_xlabel("KL(p‖q) before, nats")
    draw_key(axes[2], rungs)
    style.panel_title(axes[2], "i", "key; left: KL after / KL before")
