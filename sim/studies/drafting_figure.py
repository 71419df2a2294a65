"""The picture of `python -m sim drafting`: drawn from its rows, nothing is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullLocator, PercentFormatter

from .pictures import save

# Okabe and Ito's colours; markers and line styles repeat what the colours say
RULES: dict[str, Any] = {
    "clip, common price": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "clip, same share": {"color": "#0072B2", "marker": "s", "linestyle": "-"},
    "clip, same KL (mentored)": {"color": "#0072B2", "marker": "^", "linestyle": "--"},
    "clip, same rate": {"color": "#56B4E9", "marker": "v", "linestyle": "-"},
    "clip, same lam": {"color": "#56B4E9", "marker": "D", "linestyle": "--"},
    "lenient acceptance": {"color": "#E69F00", "marker": "<", "linestyle": "-"},
    "lenience": {"color": "#D55E00", "marker": ">", "linestyle": "-"},
    "mixture": {"color": "#009E73", "marker": "P", "linestyle": "-"},
    "regeneration": {"color": "#CC79A7", "marker": "X", "linestyle": "-"},
    "masked OBRS": {"color": "#777777", "marker": "*", "linestyle": ":"},
}
FONT = 8


def draw(rows: list[dict], folder: Path) -> list[Path]:
    """Draw KL above and its multiple of the least below, as drafting.png and drafting.pdf."""
    worlds = list(dict.fromkeys((row["world"], row["kl_before"]) for row in rows))
    figure = Figure(figsize=(3.6 * len(worlds), 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(worlds), squeeze=False)
    for (upper, lower), (world, kl) in zip(axes.T, worlds, strict=True):
        mine = [row for row in rows if (row["world"], row["kl_before"]) == (world, kl)]
        _curves(upper, mine, "kl", f"{world} states, KL(p‖q) = {kl:.2f} nats")
        upper.set_ylabel("mean KL(p‖s), nats", fontsize=FONT)
        _curves(lower, mine, "excess", "")
        lower.set_ylabel("times the least KL", fontsize=FONT)
        lower.set_ylim(0.94, 40)
        lower.set_yticks([1, 1.5, 2, 3, 5, 10, 20, 40], minor=False)
        lower.yaxis.set_minor_locator(NullLocator())
        lower.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=5, fontsize=FONT, frameon=False
    )
    return save(figure, folder / "drafting", dpi=200)


def _curves(ax: Axes, rows: list[dict], key: str, title: str) -> None:
    for rule, style in RULES.items():
        mine = [row for row in rows if row["rule"] == rule]
        x = [row["spared"] for row in mine]
        ax.plot(x, [row[key] for row in mine], label=rule, markersize=4, linewidth=1.1, **style)
    ax.set_yscale("log")
    ax.set_title(title, loc="left", fontsize=FONT + 1)
    ax.set_xlabel("rejections spared, of the lossless rule's", fontsize=FONT)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.tick_params(labelsize=FONT - 1)
    ax.spines[["top", "right"]].set_visible(False)
