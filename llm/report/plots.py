"""Pictures of the report, of comparisons and of evaluations, each a PNG in memory."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

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
_CYCLE = (BLUE, ORANGE, GREEN, PURPLE, GREY)

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
}
POINTS = 200  # of a drawn curve; more steps than this are averaged in windows


class Panel(NamedTuple):
    """Metrics drawn on one pair of axes: name in metrics.jsonl -> label."""

    title: str
    series: dict[str, str]
    scale: str = "linear"  # or "log", which becomes symlog where a value is not above 0
    limits: tuple[float, float] | None = None


PANELS = (
    Panel(
        "Held-out pass rate",
        {"pass_rate": "policy", "pass_rate_actor": "actor"},
        limits=(0, 1),
    ),
    Panel("Reward", {"reward_mean": "mean of the step's completions"}),
    Panel(
        "Exact KL, nats per token",
        {"kl_policy_actor": "KL(policy, actor)", "kl_actor_policy": "KL(actor, policy)"},
        "log",
    ),
    Panel(
        "KL from sampled ratios, nats per token",
        {"kl_inf_target_k3": "KL(q, p)", "kl_target_inf_est": "KL(p, q)"},
        "log",
    ),
    Panel(
        "Acceptance",
        {"accept_rate": "accepted share", "accept_prob_mean": "mean a(x)", "z_mean": "mean Z"},
    ),
    Panel(
        "Effective sample size, share",
        {"ess_applied": "applied weights", "ess_raw": "raw ratios"},
        limits=(0, 1),
    ),
    Panel("Entropy of the policy, nats per token", {"entropy_policy": "policy"}),
    Panel("Applied weight", {"weight_mean": "mean", "weight_max": "largest"}),
    Panel(
        "Ratio p/q, before any cap",
        {"ratio_mean": "mean", "ratio_p99": "99th percentile", "ratio_max": "largest"},
        "log",
    ),
    Panel("Log ratio, log p/q", {"log_ratio_mean": "mean", "log_ratio_max": "largest"}),
    Panel(
        "Tokens capped and clipped, share",
        {"cap_fraction": "weight capped", "clip_fraction": "PPO-clipped"},
    ),
    Panel(
        "Gradient norm, before clipping",
        {"grad_norm_policy": "policy", "grad_norm_actor": "actor"},
        "log",
    ),
    Panel(
        "Loss of the policy",
        {"loss_policy": "PPO, weighted (Eq. 5)", "loss_anchor": "KL to the anchor"},
    ),
    Panel(
        "Losses of the actor",
        {"loss_actor_ppo": "PPO (Eq. 6)", "loss_distill": "distillation (Eq. 7)"},
    ),
    Panel("Calibration of Z, kappa", {"kappa": "kappa"}),
    Panel("Tokens per completion", {"length_mean": "mean"}),
    Panel("Learning rate", {"lr_policy": "policy", "lr_actor": "actor"}, "log"),
    Panel("Coefficient of distillation", {"distill_coef": "distill_coef"}, "log"),
    Panel("Threshold lam", {"lam_mean": "mean over tokens"}),
    Panel("Tokens whose budget is out of reach, share", {"budget_infeasible_fraction": "share"}),
    Panel("Updates skipped (NaN or inf)", {"updates_skipped": "updates"}),
    Panel(
        "Groups and endings, share",
        {"groups_informative": "informative groups", "finished": "completions ended"},
        limits=(0, 1),
    ),
    Panel("Tokens per second", {"tokens_per_second": "rollout and update"}),
    Panel(
        "Seconds per step",
        {"seconds_rollout": "rollout", "seconds_update": "update", "seconds_eval": "evaluation"},
        "log",
    ),
)
_NOT_DRAWN = {"step", "tokens"}
_SHOWN_IF_NOT_0 = {
    "budget_infeasible_fraction",
    "updates_skipped",
    "score_timeouts",
    "score_crashes",
}


def panels_for(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """The panels that have something to show; a metric that none names gets one of its own."""
    names = {
        k: True for r in rows for k, v in r.items() if isinstance(v, int | float) and v is not True
    }
    idle = {k for k in _SHOWN_IF_NOT_0 if not any(r.get(k) for r in rows)}
    names = {k: v for k, v in names.items() if k not in idle}
    listed = {k for p in PANELS for k in p.series}
    kept = [p._replace(series={k: v for k, v in p.series.items() if k in names}) for p in PANELS]
    others = [Panel(k, {k: k}) for k in names if k not in listed | _NOT_DRAWN]
    return [p for p in kept if p.series] + others


def windows(
    steps: Sequence[float], values: Sequence[float], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal windows of the steps' range, where there are more than `points` values."""
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if len(x) <= points:
        return x, y
    which = ((x - x[0]) / (x[-1] - x[0]) * points).astype(int).clip(0, points - 1)
    count = np.bincount(which, minlength=points)
    some = count > 0
    mean = [np.bincount(which, weights=v, minlength=points)[some] / count[some] for v in (x, y)]
    return mean[0], mean[1]


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, of the rows that have it."""
    points = [(r["step"], r[name]) for r in rows if isinstance(r.get(name), int | float)]
    return [s for s, _ in points], [float(v) for _, v in points]


def curve(rows: Sequence[dict[str, Any]], panel: Panel) -> bytes:
    """One panel against the step."""
    with figure(4.4, 2.7) as fig:
        ax = fig.subplots()
        low, high = np.inf, -np.inf
        for (name, label), colour, line in zip(
            panel.series.items(), _CYCLE, ("-", "--", "-.", ":", "-"), strict=False
        ):
            steps, values = windows(*series(rows, name))
            marker = "o" if len(steps) <= 40 else ""
            ax.plot(steps, values, line, color=colour, marker=marker, markersize=3, label=label)
            low, high = min(low, float(np.min(values))), max(high, float(np.max(values)))
        scale(ax, panel, low, high)
        ax.set(title=panel.title, xlabel="step")
        if len(panel.series) > 1:
            legend_below(fig, ax)
        return png(fig)


def scale(ax: Any, panel: Panel, low: float, high: float) -> None:
    """The vertical axis of a panel whose curves lie between `low` and `high`."""
    if panel.limits and panel.limits[0] <= low and high <= panel.limits[1]:
        ax.set_ylim(panel.limits[0] - 0.02, panel.limits[1] + 0.02)
    if panel.scale == "log" and low > 0:
        if high > 3 * low:  # within less, a logarithmic axis has hardly a tick
            from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
    elif panel.scale == "log":
        ax.set_yscale("symlog", linthresh=1e-3)


def histograms(rows: Sequence[dict[str, Any]], name: str, title: str, label: str) -> bytes:
    """Top: share of the tokens in each bin, against the step. Bottom: first and last evaluation."""
    edges = np.asarray(rows[-1][name]["edges"])
    same = [r for r in rows if len(r[name]["counts"]) == len(edges) + 1]
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
        np.sign(b) * np.sqrt(a * b) if a * b > 0 else (a + b) / 2
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


def legend_below(fig: Any, ax: Any) -> None:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower left", ncols=3)


def png(fig: Any) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="png")
    return file.getvalue()
