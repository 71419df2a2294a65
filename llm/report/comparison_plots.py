"""Curves and bands of compared runs: how seeds are averaged, how groups look, one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import plots
from .panels import Panel, series
from .plots import BLACK, BLUE, GREEN, METHOD_COLOURS, ORANGE, PURPLE, SKY, VERMILION
from .run_files import RunData

PANELS = (
    Panel("Held-out pass rate of the policy", {"pass_rate": ""}, limits=(0, 1)),
    Panel("Reward of the actor's rollouts", {"reward_mean": ""}),
    Panel("Exact KL(policy, actor), nats per token", {"kl_policy_actor": ""}, "log"),
    Panel("Accepted share of tokens", {"accept_rate": ""}),
)
BOUNDS = {
    "pass_rate": (0.0, 1.0),
    "reward_mean": (0.0, 1.0),
    "kl_policy_actor": (0.0, math.inf),
    "accept_rate": (0.0, 1.0),
}
# told apart by colour-blind readers too (Okabe and Ito); each with each line, that is 42 looks
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
_LINES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)))
_LOWEST = 100  # a band's lower end counts for a logarithmic axis down to 1/100 of all means
# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom
_T = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831,
    2.048407, 2.045230, 2.042272,
)  # fmt: skip


class Group(NamedTuple):
    """Runs that differ by their seed only."""

    name: str
    runs: list[RunData]
    colour: str
    line: Any


class Band(NamedTuple):
    """Mean over seeds, and how far they lie apart: (m,) each."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def looks(methods: Sequence[str]) -> list[tuple[str, Any]]:
    """Colour and line of each group: a method's own colour where no two groups share a method."""
    if len(set(methods)) == len(methods) and all(m in METHOD_COLOURS for m in methods):
        return [(METHOD_COLOURS[m], _LINES[0]) for m in methods]
    n = len(_COLOURS)
    return [(_COLOURS[i % n], _LINES[i // n % len(_LINES)]) for i in range(len(methods))]


def band(runs: Sequence[RunData], name: str) -> Band | None:
    """Mean and band of a metric over seeds, at the steps that all of them have."""
    curves = []
    for run in runs:
        steps, values = series(run.rows, name)
        curves.append(dict(zip(steps, values, strict=True)))
    common = sorted(set.intersection(*(set(c) for c in curves)))
    if not common:
        return None
    smoothed = [plots.windows(common, [c[s] for s in common], points=60) for c in curves]
    stacked = np.stack([y for _, y in smoothed])
    return Band(smoothed[0][0], *interval(stacked, BOUNDS[name]))


def interval(
    values: np.ndarray, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seeds, m) -> mean, low, high: Student's 95 % interval from 3 seeds on, else the range.

    What lies outside `bounds`, where no value is, is cut off.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < 3:
        return mean, values.min(axis=0), values.max(axis=0)
    t = _T[n - 2] if n - 2 < len(_T) else 1.96
    half = t * values.std(axis=0, ddof=1) / np.sqrt(n)
    low, high = mean - half, mean + half
    some = values[np.isfinite(values)]
    if not some.size or (bounds[0] <= some.min() and some.max() <= bounds[1]):
        # rewards need not lie in [0, 1]
        return mean, np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    return mean, low, high


def label(group: Group) -> str:
    """The group's name, how many seeds it has and which, and what its band is."""
    n, which = len(group.runs), seed_numbers(group)
    kind = "one seed" if n == 1 else f"{n} seeds, " + ("range" if n == 2 else "95 % interval")
    return f"{group.name} ({kind}: {which})"


def seed_numbers(group: Group) -> str:
    """The seeds of a group's runs: `0 to 4, 7`, and `?` where a run's settings name none."""
    given = [run.config.get("run") for run in group.runs]
    seeds = [part.get("seed") if isinstance(part, dict) else None for part in given]
    numbers = sorted({s for s in seeds if type(s) is int})
    rows: list[list[int]] = []  # of numbers that follow each other
    for number in numbers:
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    named = [f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows]
    return ", ".join([*named, *["?" for s in seeds if type(s) is not int]])


def draw(groups: Sequence[Group], panels: Sequence[Panel] = PANELS) -> bytes:
    """One curve and band per group in each panel, two panels to a row, and one legend."""
    labels = [label(g) for g in groups]
    columns = min(2, len(panels))
    legend_columns = columns if max(map(len, labels)) <= 45 else 1
    rows = -(-len(panels) // columns)
    height = 2.6 * rows + 0.2 * (1 + len(groups) / legend_columns)
    with plots.figure(4.4 * columns, height) as fig:
        axes = fig.subplots(rows, columns, squeeze=False).flat
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, groups, panel)
        handles = [_handle(g, words) for g, words in zip(groups, labels, strict=True)]
        fig.legend(
            handles=handles, loc="outside lower left", ncols=legend_columns, handlelength=3.5
        )
        return plots.png(fig)


def _draw_panel(ax: Any, groups: Sequence[Group], panel: Panel) -> None:
    (name,) = panel.series
    drawn = []
    faint = min(0.18, 0.4 / len(groups))  # many bands lie over each other
    for group in groups:
        curves = band(group.runs, name)
        if curves is None:
            continue
        if len(group.runs) > 1:
            ax.fill_between(
                curves.steps,
                curves.low,
                curves.high,
                facecolor=(group.colour, faint),
                edgecolor=(group.colour, 0.35),
                linewidth=0.6,
                linestyle=group.line,
            )
        ax.plot(curves.steps, curves.mean, linestyle=group.line, color=group.colour)
        drawn.append(curves)
    ax.set(title=panel.title, xlabel="step")
    if not drawn:
        plots.say_nothing(ax, "not measured in these runs")
        return
    if not any(np.isfinite(curves.mean).any() for curves in drawn):
        plots.say_nothing(ax, "no finite value")
        return
    low, high = limits(drawn)
    plots.scale(ax, panel, low, high)


def limits(bands: Sequence[Band]) -> tuple[float, float]:
    """Between these lie all means and bands, as far as a logarithmic axis can show them.

    A lower end near 0 would leave the curves no room there. If a mean is not above 0, no such
    axis is drawn.
    """
    means, lows, highs = (
        x[np.isfinite(x)] for x in (np.concatenate(y) for y in list(zip(*bands, strict=True))[1:])
    )
    if not len(means):
        return 0.0, 0.0
    lowest = float(means.min())
    if lowest > 0:
        lowest = min(lowest, float(lows[lows > lowest / _LOWEST].min(initial=lowest)))
    return lowest, float(np.concatenate([means, highs]).max())


def _handle(group: Group, words: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=group.colour, linestyle=group.line, label=plots.key(words))
