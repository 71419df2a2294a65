"""The picture of `python -m sim topk`: drawn from its rows, nothing is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from .pictures import save

# Okabe and Ito's colours; line styles and markers repeat what the colours say
STYLE: dict[str, Any] = {
    "Z_K": ("#999999", ":", "v", "dropped tail, Z_K"),
    "union *": ("#CC79A7", ":", "P", "paper's union, q granted"),
    "kappa union *": ("#D55E00", "--", "^", "paper's union times kappa, q granted"),
    "Z_K + U": ("#E69F00", "-.", "s", "lumped tail, Z_K + U"),
    "lognormal tail": ("#56B4E9", "--", "D", "lognormal tail"),
    "Z_K + beta U": ("#009E73", "-", "<", "Z_K + beta U"),
    "Z_K + beta U'": ("#000000", "-", "o", "tail ratio, Z_K + beta U'"),
    "coin": ("#D55E00", "", "X", "mean of the coins"),
    "a": ("#0072B2", "", "*", "mean of a"),
}
STATE = [name for name in STYLE if name not in ("coin", "a")]
MEAN = ("Z_K + U", "coin", "a", "Z_K + beta U'")
FONT = 8


def draw(rows: list[dict], pair_rows: list[dict], folder: Path) -> list[Path]:
    """Write topk.png and topk.pdf: error against k per source, and that of the batch mean."""
    families, actors = _sources(rows), _sources(pair_rows)
    columns = max(len(families), len(actors) + 1)
    figure = Figure(figsize=(2.25 * columns, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    panels = [(axes[0, j], s, rows) for j, s in enumerate(families)]
    panels += [(axes[1, j], s, pair_rows) for j, s in enumerate(actors)]
    for ax, source, some in panels:
        _error(ax, source, [r for r in some if r["source"] == source])
        ax.set_ylim(*_limits(rows + pair_rows))
        _say_what_is_below(ax, [r for r in some if r["source"] == source])
        ax.tick_params(labelleft=ax in (axes[0, 0], axes[1, 0]))
    for row, some in zip(axes, (rows, pair_rows), strict=True):
        what = "families" if some is rows else "SmolLM2-135M and perturbed copies"
        row[0].set_ylabel(f"{what}\nerror of a state's Z (RMS)", fontsize=FONT)
    _means(axes[1, columns - 1], rows + pair_rows)
    figure.suptitle(
        "Z from the actor's k likeliest tokens: estimate the tail, do not drop it and rescale",
        fontsize=FONT + 3,
    )
    handles = [
        Line2D([], [], color=c, linestyle=s or "none", marker=m, label=text)
        for c, s, m, text in STYLE.values()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, fontsize=FONT, frameon=False
    )
    return save(figure, folder / "topk", dpi=150)


def _error(ax: Axes, source: str, rows: list[dict]) -> None:
    ax.set_visible(True)
    ks = sorted({r["k"] for r in rows})
    for name in STATE:
        colour, style, marker, _ = STYLE[name]
        error = [r["rmse_state"] for k in ks for r in rows if (r["k"], r["estimator"]) == (k, name)]
        ax.plot(ks, error, color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(FixedLocator(ks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ks, [str(k) for k in ks], fontsize=FONT - 1)
    ax.tick_params(axis="y", labelsize=FONT - 1)
    ax.set_title(f"{_literal(source)}\nmean Z {rows[0]['z']:.2f}", fontsize=FONT)
    ax.set_xlabel("k", fontsize=FONT)
    ax.grid(True, which="major", linewidth=0.3, color="#DDDDDD")
    ax.spines[["top", "right"]].set_visible(False)


def _say_what_is_below(ax: Axes, rows: list[dict]) -> None:
    low = ax.get_ylim()[0]
    below = [n for n in STATE if any(r["rmse_state"] < low for r in rows if r["estimator"] == n)]
    if below:
        text = "below the axis: " + ", ".join(STYLE[name][3] for name in below)
        ax.text(0.97, 0.03, text, ha="right", fontsize=FONT - 2, transform=ax.transAxes)


def _means(ax: Axes, rows: list[dict]) -> None:
    ax.set_visible(True)
    ks = sorted({r["k"] for r in rows})
    k = 20 if 20 in ks else ks[0]
    sources = _sources(rows)[::-1]
    for name in MEAN:
        colour, _, marker, _ = STYLE[name]
        by_source = {
            r["source"]: r["rmse_mean"] for r in rows if (r["k"], r["estimator"]) == (k, name)
        }
        y = [i for i, s in enumerate(sources) if by_source.get(s, 0) > 1e-6]
        ax.plot([by_source[sources[i]] for i in y], y, marker, color=colour, markersize=5)
    ax.set_xscale("log")
    ax.set_yticks(range(len(sources)), [_literal(s) for s in sources], fontsize=FONT - 2)
    ax.tick_params(axis="x", labelsize=FONT - 1)
    ax.set_title(f"error of the batch mean of Z\nk = {k}", fontsize=FONT)
    ax.set_xlabel("RMS", fontsize=FONT)
    ax.grid(True, axis="y", linewidth=0.3, color="#DDDDDD")
    ax.yaxis.tick_right()
    ax.spines[["top", "left"]].set_visible(False)


def _limits(rows: list[dict]) -> tuple[float, float]:
    errors = [r["rmse_state"] for r in rows if r["estimator"] in STATE and r["rmse_state"] > 1e-4]
    return 0.7 * min(errors), 1.4 * max(errors)


def _literal(name: str) -> str:
    """A name from a file of pairs shows as it is: what stands between `$` is no formula."""
    return name.replace("$", "\\$")


def _sources(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(r["source"] for r in rows))
