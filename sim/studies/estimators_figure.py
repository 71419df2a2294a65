"""The picture of `python -m sim estimators`: drawn from the studies' rows, nothing is computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from .estimator_studies import BASIC, C1, JACKPOT, KL_SHOWN, LAM, TIS_CAP, Row
from .pictures import save

# Okabe and Ito's colours; line styles and markers repeat what the colours say
STYLE: dict[str, Any] = {
    "none": ("#999999", ":", "v"),
    "importance": ("#000000", "--", "s"),
    "TIS": ("#0072B2", "-", "o"),
    "IcePop": ("#009E73", "-.", "D"),
    "sequence importance": ("#56B4E9", "--", "P"),
    "Jackpot (coin)": ("#D55E00", "-", "^"),
    "Jackpot (expected)": ("#E69F00", "-", "X"),
    "Jackpot (coin, batch Z)": ("#882255", "-.", "<"),
    "Jackpot (expected, batch Z)": ("#CC79A7", "--", "*"),
}
KL_STYLE: dict[float, Any] = {0.03: ("#AAAAAA", ":"), 0.3: ("#666666", "-"), 1.0: ("#000000", "--")}
FONT = 9
PATHS_SHOWN = 1024  # trajectories in panel 8; a column of the rows
NO_BEND = 1e-12  # below it 1 - cosine is rounding


def draw(results: dict[str, list[Row]], folder: Path) -> list[Path]:
    """Draw the eight panels as estimators.png and estimators.pdf in `folder`."""
    figure = Figure(figsize=(17.0, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    _plane(axes[0, 0], results["caps"])
    _lam(axes[0, 1], results["lam"])
    _paths(axes[0, 2], results["paths"])
    _tuning(axes[0, 3], results["equal_tuning"])
    _cost(axes[1, 0], results["cost"])
    _money(axes[1, 1], results["equal_money"])
    _bend(axes[1, 2], results["mismatch"])
    _mismatch(axes[1, 3], results["mismatch"])
    worlds = len({r["seed"] for r in results["caps"]})
    figure.suptitle(
        "What does Jackpot do that TIS does not, and when does it help?\n"
        f"Exact means over {worlds} small trees. Expected: the coin replaced by its probability. "
        "Batch Z: one Z for the batch, not one per state.",
        fontsize=FONT + 2,
    )
    handles = [
        Line2D([], [], color=c, linestyle=s, marker=m, label=name)
        for name, (c, s, m) in STYLE.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5, fontsize=FONT, frameon=False
    )
    return save(figure, folder / "estimators", dpi=150)


def _plane(ax: Axes, rows: list[Row]) -> None:
    for name in ("TIS", *(e.name for e in JACKPOT[:4])):
        caps = sorted({float(r["cap"]) for r in rows})
        noise = [_mean(rows, "noise", estimator=name, cap=c) for c in caps]
        angle = [_off(_mean(rows, "cos_token", estimator=name, cap=c)) for c in caps]
        _line(ax, name, noise, angle, markevery=3)
    _finish(
        ax,
        "1  With batch Z it is TIS; state Z bends away",
        f"noise of one trajectory (mismatch {KL_SHOWN:g} nats)",
        "direction error of the mean, token target",
    )
    loose, tight = max(caps), min(caps)
    for label, cap, offset in (("tight cap", tight, (10, -3)), ("no cap", loose, (-6, -13))):
        x = _mean(rows, "noise", estimator="TIS", cap=cap)
        y = _off(_mean(rows, "cos_token", estimator="TIS", cap=cap))
        ax.annotate(label, (x, y), xytext=offset, textcoords="offset points", fontsize=FONT - 1)
    ax.set_ylim(bottom=-0.05)


def _lam(ax: Axes, rows: list[Row]) -> None:
    some = [r for r in rows if r["c1"] == C1]
    lams = sorted({float(r["lam"]) for r in some})
    for est in JACKPOT[:2]:
        _line(ax, est.name, lams, [_mean(some, "noise", estimator=est.name, lam=x) for x in lams])
    ax.set_xscale("log")
    ticks = lams[::2]
    accepted = [_mean(some, "accepted", estimator=JACKPOT[0].name, lam=x) for x in ticks]
    labels = [f"{x:.2g}\n{a:.0%}" for x, a in zip(ticks, accepted, strict=True)]
    _ticks(ax.xaxis, ticks, labels)
    ax.set_ylim(bottom=0)
    _finish(
        ax,
        "2  The coin only adds noise, more as lam grows",
        f"lam, and the share of tokens it accepts (c1 = {C1:g})",
        "noise of one trajectory",
    )


def _paths(ax: Axes, rows: list[Row]) -> None:
    for est in (*BASIC, *JACKPOT[:2]):
        ns = sorted({float(r["n_paths"]) for r in rows})
        error = [_mean(rows, "mse_best_step_true", estimator=est.name, n_paths=n) for n in ns]
        _line(ax, est.name, ns, error, markevery=3)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    _finish(
        ax,
        "3  No token weight reaches the true gradient",
        f"trajectories N (mismatch {KL_SHOWN:g} nats, TIS cap {TIS_CAP:g}, c1 = {C1:g})",
        "squared error / |g|², after the best step",
    )


def _tuning(ax: Axes, rows: list[Row]) -> None:
    some = [r for r in rows if r["kl"] == KL_SHOWN and r["spread"] == 0 and r["n_paths"] <= 4096]
    ns = sorted({int(r["n_paths"]) for r in some})
    for est in JACKPOT[:4]:
        mean = [_mean(some, f"{est.name}_token", n_paths=n) for n in ns]
        _line(ax, est.name, ns, mean)
    ax.axhline(1, color=STYLE["TIS"][0], linewidth=1.2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _ticks(ax.xaxis, ns, [str(n) for n in ns])
    _ticks(ax.yaxis, [1, 1.5, 2, 3], ["1 = TIS", "1.5", "2", "3"])
    _finish(
        ax,
        "4  Each at its best cap, per trajectory: no gain",
        f"trajectories N (mismatch {KL_SHOWN:g} nats)",
        "error / TIS's error, token target",
    )


def _cost(ax: Axes, rows: list[Row]) -> None:
    for kl in sorted({float(r["kl"]) for r in rows}):
        color, style = KL_STYLE[kl]
        ratios = sorted({float(r["cost_ratio"]) for r in rows})
        lam = [_mean(rows, "lam", kl=kl, cost_ratio=c) for c in ratios]
        ax.plot(ratios, lam, color=color, linestyle=style, label=f"{kl:g}")
    ax.axhline(1, color="#999999", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _ticks(ax.yaxis, [0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
    ax.legend(title="mismatch, nats", title_fontsize=FONT - 1, fontsize=FONT - 1, frameon=False)
    _finish(
        ax,
        "5  The lam that buys most precision for the money",
        "cost of generating a token / of training on it",
        "cost-optimal lam, unbiased weights",
    )


def _money(ax: Axes, rows: list[Row]) -> None:
    name = {"batch": JACKPOT[2].name, "state": JACKPOT[0].name}
    some = [r for r in rows if r["kl"] == KL_SHOWN]
    ratios = sorted({float(r["cost_ratio"]) for r in some})
    for z in ("state", "batch"):
        cells = [[r[f"{z}_true"] for r in some if r["cost_ratio"] == c] for c in ratios]
        mean = np.mean(cells, axis=1)
        _line(ax, name[z], ratios, mean)
        if z == "batch":  # all worlds lie in the band
            low, high = np.min(cells, axis=1), np.max(cells, axis=1)
            ax.fill_between(ratios, low, high, color=STYLE[name[z]][0], alpha=0.15, linewidth=0)
    ax.axhline(1, color=STYLE["TIS"][0], linewidth=1.2)
    ax.set_xscale("log")
    _finish(
        ax,
        "6  For the same money: it gains on dear updates",
        "cost of generating a token / of training on it",
        f"error / TIS's error, true gradient, {KL_SHOWN:g} nats",
    )
    ax.annotate(
        "band: all worlds, batch Z", (0.42, 0.3), xycoords="axes fraction", fontsize=FONT - 1
    )


def _bend(ax: Axes, rows: list[Row]) -> None:
    kls = sorted({float(r["kl"]) for r in rows})
    for est in (*BASIC, JACKPOT[0], JACKPOT[2]):  # the coin does not move the mean
        off = [1 - _mean(rows, "cos_token", estimator=est.name, kl=x) for x in kls]
        if max(off) > NO_BEND:  # importance sampling has none
            _line(ax, est.name, kls, [y if y > NO_BEND else math.nan for y in off])
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(1e-7, 2)
    _ticks(ax.xaxis, kls, [f"{x:g}" for x in kls])
    ax.annotate(
        "importance: 0\ncoin and expected: the same\nsequence: the true gradient",
        (0.98, 0.03),
        xycoords="axes fraction",
        ha="right",
        fontsize=FONT - 1,
    )
    _finish(
        ax,
        "7  State Z bends however small the mismatch",
        f"mismatch, nats (TIS cap {TIS_CAP:g}, c1 = {C1:g}, lam = {LAM:g})",
        "1 - cosine of the mean, token target",
    )


def _mismatch(ax: Axes, rows: list[Row]) -> None:
    kls = sorted({float(r["kl"]) for r in rows})
    key = f"mse_best_step_true_{PATHS_SHOWN}"
    # the rows of the token target have no error
    error = {(r["seed"], r["kl"], r["estimator"]): float(r.get(key, math.nan)) for r in rows}
    seeds = sorted({int(r["seed"]) for r in rows})
    for est in (*BASIC, *JACKPOT[:4]):
        if est.name != "TIS":
            ratio = [
                np.mean([error[s, x, est.name] / error[s, x, "TIS"] for s in seeds]) for x in kls
            ]
            _line(ax, est.name, kls, ratio)
    ax.axhline(1, color=STYLE["TIS"][0], linewidth=1.2)
    ax.set_xscale("log")
    ax.set_yscale("log")
    _ticks(ax.xaxis, kls, [f"{x:g}" for x in kls])
    _ticks(ax.yaxis, [0.4, 0.6, 0.8, 1, 1.5, 2], ["0.4", "0.6", "0.8", "1 = TIS", "1.5", "2"])
    _finish(
        ax,
        "8  At these caps Jackpot is near TIS up to 0.1",
        f"mismatch, nats (TIS cap {TIS_CAP:g}, c1 = {C1:g}, lam = {LAM:g})",
        f"error / TIS's error, true gradient, N = {PATHS_SHOWN}",
    )


def _line(ax: Axes, name: str, x, y, markevery: int = 1) -> None:
    color, style, marker = STYLE[name]
    ax.plot(
        x, y, color=color, linestyle=style, marker=marker, markersize=5, markevery=markevery, lw=1.5
    )


def _finish(ax: Axes, title: str, xlabel: str, ylabel: str) -> None:
    ax.set_title(title, fontsize=FONT + 1, loc="left")
    ax.set_xlabel(xlabel, fontsize=FONT)
    ax.set_ylabel(ylabel, fontsize=FONT)
    ax.tick_params(labelsize=FONT - 1)
    ax.spines[["top", "right"]].set_visible(False)


def _ticks(axis, places: list, labels: list[str]) -> None:
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _mean(rows: list[Row], key: str, **where: float | str) -> float:
    """Mean of a column over the rows (worlds) that match."""
    return float(np.mean([r[key] for r in rows if all(r[k] == v for k, v in where.items())]))


def _off(cosine: float) -> float:
    """Sine of the angle: the relative bias left after the best step."""
    return math.sqrt(max(0.0, 1.0 - cosine**2))
