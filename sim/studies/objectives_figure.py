"""The picture of all corrections, objectives, selections and allocations: one line each, drawn from
the summary's rows."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .estimator_studies import Row
from .objective_studies import HORIZON_KL, HORIZON_VOCAB, STALENESS
from .pictures import save

FONT = 9
# column, title, what is coloured from best (dark) to worst (light)
PANELS = (
    ("cosine", "cosine with the true gradient", (1.0, 0.0)),
    ("bias", "bias: |mean - g| / |g|", (0.0, 1.5)),
    ("noise_median", "noise of one sampled trajectory (median)", (5.0, 1000.0)),
    ("error_1024", "error after the best step, N 1024", (0.0, 1.0)),
)


def draw_objectives(rows: list[Row], folder: Path) -> list[Path]:
    """Draw the four panels as objectives.png and objectives.pdf in `folder`."""
    names = list(dict.fromkeys((r["group"], r["estimator"]) for r in rows))
    figure = Figure(figsize=(19.5, 2.6 + 0.235 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(PANELS))
    mismatch = [r for r in rows if r["study"] == "mismatch"]
    for ax, (column, title, ends) in zip(axes, PANELS, strict=True):
        _panel(ax, rows, names, column, ends)
        ax.set_title(title, fontsize=FONT + 2, loc="left", pad=26)
    _names(axes[0], names)
    tree, worlds = mismatch[0], mismatch[0]["worlds"]
    figure.suptitle(
        "Corrections, objectives, selections and allocations on small trees, exactly: means over "
        f"{worlds} worlds. Darker is better.\n"
        f"Left halves: mismatch KL(p_ref || q) in nats per token, trees of {tree['vocab']} tokens "
        f"and {tree['horizon']} positions. Right halves: positions, trees of {HORIZON_VOCAB} "
        f"tokens at {HORIZON_KL:g} nats. p is {STALENESS:g} (sd of logits) away from p_ref.",
        fontsize=FONT + 3,
    )
    return save(figure, folder / "objectives", dpi=130)


def _panel(ax: Axes, rows: list[Row], names: list, column: str, ends: tuple) -> None:
    """One number for each estimator (down) and each mismatch and horizon (across)."""
    kls = sorted({r["kl"] for r in rows if r["study"] == "mismatch"})
    horizons = sorted({r["horizon"] for r in rows if r["study"] == "horizon"})
    cells = [("mismatch", "kl", x) for x in kls] + [("horizon", "horizon", x) for x in horizons]
    # a half column of white between the two studies
    places = [i + 0.5 * (i >= len(kls)) for i in range(len(cells))]
    value = {
        (r["study"], r["horizon"] if r["study"] == "horizon" else r["kl"], r["estimator"]): float(
            r[column]
        )
        for r in rows
    }
    scale = np.log10 if column == "noise_median" else float
    dark, light = np.array([0.03, 0.25, 0.5]), np.array([1.0, 0.97, 0.9])
    picture = np.ones((len(names), 2 * len(cells) + 1, 3))  # in half columns
    for i, (_, name) in enumerate(names):
        for (study, _, x), place in zip(cells, places, strict=True):
            v = value[study, x, name]
            # 0 at the best end, dark, to 1 at the worst, light; noise in logs
            share = float(np.interp(scale(v), *_rising([scale(x) for x in ends])))
            half = round(2 * place)
            picture[i, half : half + 2] = dark * (1 - share) + light * share
            ink = "white" if share < 0.55 else "black"
            ax.text(
                place + 0.5, i + 0.53, _short(v), ha="center", va="center", fontsize=7, color=ink
            ).set_in_layout(False)
    ax.imshow(picture, extent=(0, places[-1] + 1, len(names), 0), aspect="auto")
    for i in _starts(names)[1:]:
        ax.axhline(i, color="white", linewidth=3)
    ax.set_xlim(0, places[-1] + 1)
    ax.set_ylim(len(names), 0)
    ax.xaxis.tick_top()
    ax.set_xticks([p + 0.5 for p in places], [f"{x:g}" for _, _, x in cells])
    ax.tick_params(length=0, labelsize=FONT - 1, pad=2)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    heads = ((len(kls) / 2, "mismatch, nats"), (places[len(kls)] + len(horizons) / 2, "positions"))
    for x, label in heads:
        ax.annotate(
            label, (x, 0), xytext=(0, 15), textcoords="offset points", ha="center", fontsize=FONT
        )


def _names(ax: Axes, names: list) -> None:
    """Estimators at the left of the first panel, and the first of each block with its head."""
    ax.set_yticks([i + 0.5 for i in range(len(names))], [name for _, name in names])
    ax.tick_params(axis="y", labelsize=FONT)
    for start, (group, own) in zip(_starts(names), groupby(names, key=lambda n: n[0]), strict=True):
        middle = start + len(list(own)) / 2
        ax.annotate(
            group.replace(", ", ",\n").replace("whole ", "whole\n"),
            (-0.6, middle),
            xycoords=("axes fraction", "data"),
            rotation=90,
            ha="center",
            va="center",
            fontsize=FONT,
            fontweight="bold",
            annotation_clip=False,
        )


def _rising(ends: list[float]) -> tuple[list[float], list[float]]:
    """The two ends and their shares 0 and 1, in rising order, as interpolation asks."""
    return (ends, [0, 1]) if ends[0] < ends[1] else (ends[::-1], [1, 0])


def _starts(names: list) -> list[int]:
    """Lines at which a new group begins."""
    return [i for i, (group, _) in enumerate(names) if i == 0 or names[i - 1][0] != group]


def _short(x: float) -> str:
    if np.isinf(x):
        return "inf"
    if x >= 9999.5:
        return f"{x:.0e}".replace("e+0", "e")
    return f"{x:.0f}" if x >= 9.95 else f"{x:.1f}" if x >= 2 else f"{x:.2f}".lstrip("0")
