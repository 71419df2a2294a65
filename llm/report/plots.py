"""Pictures of the report, of comparisons and of evaluations, each a PNG in memory.

What is drawn comes from files that anyone may have written. Labels are literal: a `$` or a
backslash means itself. Numbers are brought into a range that axes can show (`drawable`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .panels import Panel, series

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
WINE = "#882255"

# those of paper_figures/drawing/style.py, which a test compares: a method has one colour everywhere
METHOD_COLOURS = {
    "on-policy": BLACK,
    "none": GREY,
    "tis": SKY,
    "tis+distill": BLUE,
    "icepop": ORANGE,
    "importance": PURPLE,
    "jackpot": VERMILION,
    "jackpot expected mask": GREEN,
    "jackpot on prefixes": WINE,
}
_CYCLE = (BLUE, ORANGE, GREEN, PURPLE, GREY, VERMILION)
_LINES = ("-", "--", "-.", ":", "-", "--")

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "savefig.dpi": 160,
    "text.parse_math": False,
}
POINTS = 200  # of a drawn curve; more steps than this are averaged in windows
COLUMNS = 200  # of a drawn histogram; of more evaluations, as many are drawn, evenly spread
# a float64 reaches 1.8e308, but an axis also needs its range, margins and ticks beyond the values
LARGEST, SMALLEST = 1e100, 1e-100


def drawable(values: Sequence[float]) -> np.ndarray:
    """Values as an axis can show them: NaN and inf are gaps, and no size is beyond LARGEST."""
    y = np.asarray(values, dtype=float)
    return np.where(np.isfinite(y), np.clip(y, -LARGEST, LARGEST), np.nan)


def windows(
    steps: Sequence[float], values: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal windows of the steps' range, where there are more than `points` values.

    A window without a finite value is NaN.
    """
    x, y = np.asarray(steps, dtype=float), drawable(values)
    if len(x) <= points:
        return x, y
    which = ((x - x[0]) / (x[-1] - x[0]) * points).astype(int).clip(0, points - 1)
    count = np.bincount(which, minlength=points)
    some, good = count > 0, np.isfinite(y)
    finite = np.bincount(which[good], minlength=points)[some]
    middle = np.bincount(which, weights=x, minlength=points)[some] / count[some]
    total = np.bincount(which[good], weights=y[good], minlength=points)[some]
    return middle, np.where(finite > 0, total / np.maximum(finite, 1), np.nan)


def curve(rows: Sequence[dict[str, Any]], panel: Panel) -> bytes:
    """One panel against the step."""
    with figure(4.4, 2.7) as fig:
        ax = fig.subplots()
        drawn, odd = [], 0
        for (name, label), colour, line in zip(panel.series.items(), _CYCLE, _LINES, strict=False):
            every, raw = series(rows, name)
            odd += int(np.sum(~np.isfinite(raw)))
            steps, values = windows(every, raw)
            marker = "o" if len(steps) <= 40 else ""
            ax.plot(
                steps, values, line, color=colour, marker=marker, markersize=3, label=key(label)
            )
            drawn.append(values)
        finite = np.concatenate(drawn)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            scale(ax, panel, float(finite.min()), float(finite.max()))
        else:
            say_nothing(ax, "no finite value")
        gaps = f"; {odd} NaN or inf, not drawn" if odd else ""
        ax.set(title=panel.title, xlabel=f"step{gaps}")
        if len(panel.series) > 1:
            legend_below(fig, ax)
        return png(fig)


def say_nothing(ax: Any, words: str) -> None:
    """Axes without a curve say why."""
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
    ax.set_yticks([])


def scale(ax: Any, panel: Panel, low: float, high: float) -> None:
    """The vertical axis of a panel whose curves lie between `low` and `high`, as `drawable`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if panel.limits and panel.limits[0] <= low and high <= panel.limits[1]:
        ax.set_ylim(panel.limits[0] - 0.02, panel.limits[1] + 0.02)
    if panel.scale != "log":
        return
    if low <= 0:
        ax.set_yscale("symlog", linthresh=1e-3)
    elif high > 3 * low:  # within less, a logarithmic axis has hardly a tick
        ax.set_yscale("log")
        ax.set_ylim(max(low, SMALLEST) / 1.2, max(high, 2 * SMALLEST) * 1.2)
        subs = (1, 2, 5) if high < 100 * low else (1,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs))
    else:
        return
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def histograms(rows: Sequence[dict[str, Any]], name: str, title: str, label: str) -> bytes:
    """Top: share of the tokens in each bin, against the step. Bottom: first and last evaluation."""
    from matplotlib.ticker import FuncFormatter

    by_step = sorted({r["step"]: r for r in rows}.values(), key=lambda r: r["step"])
    edges = np.asarray(by_step[-1][name]["edges"], dtype=float)
    same = [r for r in by_step if len(r[name]["counts"]) == len(edges) + 1]
    if len(same) > COLUMNS:
        same = [same[i] for i in np.linspace(0, len(same) - 1, COLUMNS).round().astype(int)]
    shares = np.array([np.array(r[name]["counts"]) / max(1, r["tokens"]) for r in same])
    used = np.flatnonzero(shares.sum(axis=0))
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, len(edges) + 1)
    first, last = max(0, first - 1), min(len(edges) + 1, last + 1)
    names = _bin_names(edges)[first:last]
    shown = shares[:, first:last]
    with figure(4.4, 4.2) as fig:
        top, bottom = fig.subplots(2, 1, height_ratios=[1.3, 1])
        steps = [r["step"] for r in same]
        bounds = _bounds(steps)
        floor = 0.5 / max(1, max(r["tokens"] for r in same))
        mesh = top.pcolormesh(
            bounds,
            np.arange(shown.shape[1] + 1) - 0.5,
            np.maximum(shown.T, floor),
            cmap="Blues",
            norm="log",
            vmin=floor,
            vmax=1,
        )
        bar = fig.colorbar(mesh, ax=top, pad=0.02)
        bar.set_label("share of tokens")
        bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
        ticks = np.unique(np.linspace(0, len(names) - 1, min(5, len(names))).round().astype(int))
        top.set(title=title, xlabel="step", ylabel=label)
        top.set_yticks(ticks, [names[i] for i in ticks])
        ends = ((0, GREY, "--"), (len(same) - 1, BLUE, "-"))
        for i, colour, line in ends if len(same) > 1 else ends[1:]:
            bottom.plot(
                shown[i], line, color=colour, drawstyle="steps-mid", label=f"step {steps[i]}"
            )
        bottom.set(xlabel=label, ylabel="share of tokens", ylim=(0, None))
        bottom.set_xticks(ticks, [names[i] for i in ticks])
        bottom.legend()
        return png(fig)


def _bin_names(edges: np.ndarray) -> list[str]:
    """What a bin stands for: its middle, geometric where its edges have one sign."""
    inner = [
        np.sign(b) * np.sqrt(abs(a)) * np.sqrt(abs(b))
        if (a > 0) == (b > 0) and a and b
        else a / 2 + b / 2
        for a, b in itertools.pairwise(edges)
    ]
    named = [f"{m:.2g}" if abs(m) > 1e-9 else "0" for m in inner]
    return [f"<{edges[0]:.2g}", *named, f">{edges[-1]:.2g}"]


def _bounds(steps: Sequence[float]) -> np.ndarray:
    """Column bounds: halfway between evaluations, the first and the last half as wide."""
    x = np.asarray(steps, dtype=float)
    if len(x) == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    middle = (x[:-1] + x[1:]) / 2
    return np.concatenate([x[:1], middle, x[-1:]])


def pass_at_k(entries: Sequence[tuple[str, list[dict[str, float]]]]) -> bytes:
    """pass@k with its 95 % band for each named model; k is on a logarithmic axis."""
    from matplotlib.ticker import NullFormatter

    with figure(4.4, 3.0) as fig:
        ax = fig.subplots()
        for (name, points), colour, line in zip(
            entries, (BLUE, ORANGE), ("-o", "--s"), strict=False
        ):
            k = [p["k"] for p in points]
            ax.fill_between(
                k, [p["low"] for p in points], [p["high"] for p in points], color=colour, alpha=0.2,
                linewidth=0,
            )  # fmt: skip
            if len(k) == 1:  # a band of no width
                ax.vlines(k, [p["low"] for p in points], [p["high"] for p in points], color=colour)
            ax.plot(k, [p["value"] for p in points], line, color=colour, markersize=4, label=name)
        ax.set_xscale("log", base=2)
        ax.set_xticks(k, [str(int(x)) for x in k])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set(title="pass@k and 95 % interval", xlabel="k samples", ylabel="share of prompts")
        ax.set_ylim(-0.02, 1.02)
        ax.legend()
        return png(fig)


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Any]:
    """A figure of our style, in inches, drawn without a display."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(RC):
        yield Figure(figsize=(width, height), layout="constrained")


def key(label: str) -> str:
    """A label as a legend shows it: matplotlib leaves out one that begins with an underscore."""
    return f" {label}" if label.startswith("_") else label


def legend_below(fig: Any, ax: Any) -> None:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3)


def png(fig: Any) -> bytes:
    """The picture; a character that the font lacks is drawn as a box, without a word."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        fig.savefig(file, format="png")
    return file.getvalue()
