"""Figure 2: what rejection at lam = 1 does to the mismatch, and at what acceptance.

Top row: the paper's three panels at the project page's range. Second row: the same up to a nat, and
KL at a fixed acceptance of 95%. Families, numbers and floors are those of `python -m sim sweep`.
Last row: where cheaper and older versions of a real model lie on these curves (fig2_ladder.py).
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paper_figures.drawing import style
from paper_figures.paths import OUT, PAPER_FIG2, out_dir
from sim.arguments import seed
from sim.studies import sweep

from . import fig2_ladder

PAGE_RANGE = 0.031  # nats, the project page's horizontal axis
WIDE = (1e-4, 1.3)


def paper_rows(panel: str) -> list[dict[str, str]]:
    """The paper's few quoted numbers for a panel: `points` or `settings`."""
    with PAPER_FIG2.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["paper_panel"] == panel]


def draw_toy(ax: Axes, tokens: list[dict]) -> None:
    """(behaviour, target) probability of four tokens, before and after rejection."""
    ax.plot((0, 0.45), (0, 0.45), color=style.GREY, lw=0.7, ls=":")
    ax.annotate("y = x", (0.415, 0.435), ha="right", color=style.GREY)
    for row in tokens:
        before, after, y = row["behaviour"], row["post_rejection"], row["target"]
        arrow = {"arrowstyle": "->", "color": style.GREY, "lw": 0.7, "shrinkA": 3, "shrinkB": 3}
        ax.annotate("", (after, y), (before, y), arrowprops=arrow)
    y = [row["target"] for row in tokens]
    hollow: dict[str, Any] = {"ls": "none", "marker": "o", "markersize": 4.5, "color": style.GREY}
    ax.plot([row["behaviour"] for row in tokens], y, mfc="white", label="before", **hollow)
    after = [row["post_rejection"] for row in tokens]
    filled = hollow | {"color": style.METHOD_COLOURS["jackpot"]}
    ax.plot(after, y, label="after", **filled)
    ax.set(xlim=(0, 0.45), ylim=(0, 0.45), xlabel="behaviour probability")
    ax.set_ylabel("target probability")
    ax.legend(loc="lower right", handletextpad=0.1)


def draw_families(ax: Axes, rows: list[dict], y: str, spread: bool = False) -> None:
    """One line per family: column y against KL before; its 10-90% range over states on request."""
    for name in sweep.FAMILIES:
        mine = [row for row in rows if row["family"] == name]
        x = [row["kl_before"] for row in mine]
        look = style.family_style(name)
        ax.plot(x, [row[y] for row in mine], **look, label=name)
        if spread:
            low, high = ([row[f"{y}_{end}"] for row in mine] for end in ("p10", "p90"))
            ax.fill_between(x, low, high, color=look["color"], alpha=0.12, lw=0)


def draw_paper(ax: Axes, y: str) -> None:
    """The paper's own points, with y the column paper_z or paper_kl_after."""
    rows = paper_rows("points")
    x = [float(row["paper_kl_before"]) for row in rows]
    ax.plot(x, [float(row[y]) for row in rows], label="paper (read off)", **style.PAPER)


def draw_shares(ax: Axes, x: np.ndarray) -> None:
    """Guides: KL unchanged, and a tenth of it."""
    ax.plot(x, x, color=style.GREY, lw=0.7, ls=":")
    ax.plot(x, x / 10, color=style.GREY, lw=0.7, ls="-.")


def draw_floor(ax: Axes) -> None:
    """What any rule of 95% acceptance leaves at least: KL - log(1 / 0.95)."""
    x = np.geomspace(-np.log(sweep.BUDGET) * 1.00001, WIDE[1], 200)
    ax.fill_between(x, x + np.log(sweep.BUDGET), 1e-9, color=style.BLACK, alpha=0.12, lw=0)
    ax.plot(x, x + np.log(sweep.BUDGET), color=style.BLACK, lw=1.0)


def draw_floors_at_z(ax: Axes, rows: list[dict]) -> None:
    """The same floor at the acceptance that each family has at lam = 1, dashed in its colour."""
    for name in sweep.FAMILIES:
        mine = [row for row in rows if row["family"] == name and row["floor_at_z"] > 0]
        x, y = ([row[c] for row in mine] for c in ("kl_before", "floor_at_z"))
        ax.plot(x, y, color=style.FAMILY_STYLES[name][0], lw=0.8, ls="--")


def draw_top(axes: list[Axes], tokens: list[dict], rows: list[dict]) -> None:
    """The paper's three panels."""
    draw_toy(axes[0], tokens)
    style.panel_title(axes[0], "a", "four tokens, λ = 1")
    draw_families(axes[1], rows, "z")
    draw_paper(axes[1], "paper_z")
    axes[1].set(xlim=(0, PAGE_RANGE), ylim=(0.895, 1.003), ylabel="acceptance Z")
    style.panel_title(axes[1], "b", "acceptance at λ = 1")
    draw_families(axes[2], rows, "kl_after")
    draw_paper(axes[2], "paper_kl_after")
    draw_shares(axes[2], np.array((0, PAGE_RANGE)))
    axes[2].set(xlim=(0, PAGE_RANGE), ylim=(0, 0.0162), ylabel="KL(p‖q̃), nats")
    style.note(axes[2], "no change", (0.0125, 0.0148), ha="right")
    style.note(axes[2], "a tenth", (0.0150, 0.0025), va="bottom")
    style.panel_title(axes[2], "c", "KL after rejection, λ = 1")


def draw_bottom(axes: list[Axes], rows: list[dict]) -> None:
    """The wide range, and the fixed budget."""
    draw_families(axes[0], rows, "z", spread=True)
    draw_paper(axes[0], "paper_z")
    axes[0].set(xscale="log", xlim=WIDE, ylim=(0.4, 1.02), ylabel="acceptance Z")
    style.note(axes[0], "shaded: 10–90%\nof states", (1.2, 0.97), ha="right", va="center")
    style.panel_title(axes[0], "d", "as (b), up to a nat")
    guide = np.array(WIDE)
    for ax, column in ((axes[1], "kl_after"), (axes[2], "kl_after_95")):
        draw_families(ax, rows, column)
        draw_shares(ax, guide)
        ax.set(xscale="log", yscale="log", xlim=WIDE, ylim=(1e-6, 2), ylabel="KL(p‖q̃), nats")
    draw_paper(axes[1], "paper_kl_after")
    draw_floors_at_z(axes[1], rows)
    draw_floor(axes[2])
    style.note(axes[1], "dashed: least KL\nat that acceptance", (1.2, 8e-6), ha="right")
    style.note(axes[2], "out of reach\nof any rule", (2.6e-1, 1e-4), ha="center")
    style.note(axes[2], "a tenth", (1.15, 0.006), ha="right")
    style.panel_title(axes[1], "e", "as (c), up to a nat")
    style.panel_title(axes[2], "f", "as (e), but at Z = 0.95")


def draw(tokens: list[dict], rows: list[dict], rungs: list[dict[str, str]]) -> Figure:
    """The whole figure."""
    figure = Figure(figsize=(style.TEXT_WIDTH, 7.05), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.75, 2.3))
    upper, lower = parts
    axes = upper.subplots(2, 3)
    draw_top(list(axes[0]), tokens, rows)
    draw_bottom(list(axes[1]), rows)
    for ax in axes.flat[1:]:
        ax.set_xlabel("KL(p‖q) before, nats")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside lower center", ncols=4)
    fig2_ladder.draw_row(list(lower.subplots(1, 3)), rows, rungs, paper_rows("settings"))
    return figure


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m paper_figures fig2", description=__doc__)
    p.add_argument("--out", type=out_dir, default=str(OUT), metavar="DIR", help=f"default {OUT}")
    p.add_argument("--seed", type=seed, default=0, help="default 0")
    p.add_argument("--quick", action="store_true", help="fewer states and tokens; a second less")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    tokens, rows = sweep.toy(), sweep.sweep(args.seed, args.quick)
    rungs = fig2_ladder.read_rungs()
    with rc_context(style.RC):
        save(draw(tokens, rows, rungs), args.out)
    sweep.write_csv(args.out / "fig2.csv", rows)
    sweep.write_csv(args.out / "fig2_toy.csv", tokens)
    sweep.write_csv(args.out / "fig2_ladder.csv", rungs)
    names = ("fig2.png", "fig2.pdf", "fig2.csv", "fig2_toy.csv", "fig2_ladder.csv")
    print("wrote", *(args.out / name for name in names), file=sys.stderr)
    return 0


def save(figure: Figure, out: Path) -> None:
    """PNG and PDF, without a date in them, so that equal numbers give equal files."""
    figure.savefig(out / "fig2.png", metadata={"Software": None})
    figure.set_layout_engine("none")  # it is laid out: not again for the PDF
    figure.savefig(out / "fig2.pdf", metadata={"CreationDate": None})
