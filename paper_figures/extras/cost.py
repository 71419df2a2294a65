"""Beyond the paper (a): pass rate against training time and against FLOPs, and where it pays.

Time is what the steps took, evaluations left out. FLOPs: two per weight and token sampled, six per
weight and token trained on; attention, the optimiser and the loss are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.drawing import plots, style
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import WORLDS, RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import HOME, flat, folder

LEVELS = (0.8, 0.95)  # of the way from where it starts to where on-policy training ends
TITLES = {
    "chain long": "decoding dominates: policy 8 x 64,\n16 sequences of 17 tokens",
    "chain": "it does not: policy 2 x 64,\n64 sequences of 9 tokens",
}


def weights(run: RunSpec, role: str, home: Path = HOME) -> int:
    """Weights of a model that every token is multiplied with: all matrices, the head once."""
    file = sorted(folder(run, home).glob(f"checkpoints/step_*/{role}.safetensors"))[-1]
    with file.open("rb") as data:
        header = json.loads(data.read(int.from_bytes(data.read(8), "little")))
    shapes = {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
    tied = not any("lm_head" in k for k in shapes)
    return sum(
        math.prod(s) for k, s in shapes.items() if len(s) == 2 and (tied or "embed" not in k)
    )


def spent(run: RunSpec, unit: str, home: Path = HOME) -> tuple[np.ndarray, np.ndarray]:
    """At each evaluation: seconds or FLOPs spent before it, and the pass rate."""
    wanted, total, points = flat(run, home), 0.0, []
    alone, counted = "on-policy" in run.method, unit == "FLOPs"
    policy = weights(run, "policy", home) if counted else 0
    actor = policy if alone or not counted else weights(run, "actor", home)
    prompts = wanted["rollout.prompts_per_step"]
    sequences = prompts * wanted["rollout.rollouts_per_prompt"]
    prompt_tokens = wanted["task.digits_max"] + 1
    for row in run_statistics.rows(run, home):
        if "pass_rate" in row:
            points.append((total, row["pass_rate"]))
        if "tokens" not in row:
            continue
        if unit == "seconds":
            total += row["seconds_rollout"] + row["seconds_update"]
        else:
            total += 2 * actor * (row["tokens"] + prompts * prompt_tokens)
            trained = row["tokens"] + sequences * prompt_tokens
            total += 6 * trained * (policy + (0 if alone else actor))
    x, y = np.asarray(points, dtype=float).T
    return x, y


def reached(run: RunSpec, level: float, unit: str, home: Path = HOME) -> float:
    """What was spent when the pass rate first came to a level, between evaluations by a straight
    line; inf if it never did."""
    return first_reached(*spent(run, unit, home), level)


def first_reached(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """Where a curve first comes to a level, between its points by a straight line; inf if never."""
    (over,) = np.nonzero(y >= level)
    if not len(over):
        return math.inf
    i = int(over[0])
    if i == 0:
        return float(x[0])
    return float(np.interp(level, (y[i - 1], y[i]), (x[i - 1], x[i])))


def factor(
    base: RunSpec, other: RunSpec, share: float, unit: str, home: Path = HOME
) -> float | None:
    """What on-policy training (base) spends to a share of its way over what the other run spends; 0
    if that one never comes there, None if on-policy training learnt nothing or does not either."""
    start = run_statistics.curve(base, "pass_rate", home)[1][0]
    learnt = run_statistics.final(base, home) - start
    if learnt <= 0:
        return None
    spent_by = [reached(r, start + share * learnt, unit, home) for r in (base, other)]
    return None if math.isinf(spent_by[0]) else float(spent_by[0] / spent_by[1])


def gain(
    own: Sequence[RunSpec],
    method: str,
    share: float,
    unit: str,
    home: Path = HOME,
    mean: Callable[[Sequence[float]], Interval] = run_statistics.mean,
) -> Interval | None:
    """On-policy's cost of a level over a method's, geometric mean over seeds; above 1 it pays.

    None if some seed of either never reached it, or on-policy training learnt nothing.
    """
    log_gains = []
    for base in (r for r in own if r.method == "on-policy"):
        other = next(r for r in own if r.method == method and r.seed == base.seed)
        quotient = factor(base, other, share, unit, home)
        if not quotient:
            return None
        log_gains.append(math.log(quotient))
    return Interval(*(math.exp(x) for x in mean(log_gains)))


def runs(scale: Scale) -> list[RunSpec]:
    return [r for own in run_lists.cost(scale).values() for r in own]


def figure(scale: Scale, out: Path) -> str:
    by_world, plt = run_lists.cost(scale), plots.plt()
    with plt.rc_context(style.RC):
        size = (style.TEXT_WIDTH, 4.2)
        fig, axes = plt.subplots(
            len(by_world), 2, figsize=size, layout="constrained", sharey="row", squeeze=False
        )
        letters = iter("abcd")
        for i, (world, own) in enumerate(by_world.items()):
            for ax, unit in zip(axes[i], ("seconds", "FLOPs"), strict=True):
                for method in run_lists.COST[world]:
                    mine = [spent(r, unit) for r in own if r.method == method]
                    look = style.method_style(method)
                    for x, y in mine:
                        ax.plot(x, y, **look, linewidth=0.5, alpha=0.35)
                    means = np.mean(mine, axis=0)
                    ax.plot(*means, **look, linewidth=1.6, label=style.method_label(method))
                ax.set(xlabel=f"{unit} of training", ylim=(0, 1))
                style.panel_title(ax, next(letters), TITLES[world])
            axes[i, 0].set_ylabel("held-out pass rate")
        plots.legend(fig, axes, 4)
        plots.save(fig, out, "beyond_cost")
    run_statistics.write_csv(out / "beyond_cost.csv", table(scale))
    return text(scale)


def table(scale: Scale) -> list[dict]:
    """Every point that is drawn."""
    rows = []
    for r in runs(scale):
        (seconds, rate), (flops, _) = spent(r, "seconds"), spent(r, "FLOPs")
        where = {"run": folder(r).name, "world": r.world, "method": r.method, "seed": r.seed}
        rows += [
            {**where, "seconds": s, "flops": f, "pass_rate": y}
            for s, f, y in zip(seconds, flops, rate, strict=True)
        ]
    return rows


def text(scale: Scale) -> str:
    """How much sooner a method reaches a level than on-policy training does."""
    lines = [f"{'gain over on-policy (above 1: cheaper)':70}{'80 % of the way':>22}{'95 %':>22}"]
    for world, own in run_lists.cost(scale).items():
        parts = WORLDS[world]["policy.layers"], WORLDS[world]["task.digits_max"]
        for method in run_lists.COST[world][1:]:
            for unit in ("seconds", "FLOPs"):
                cells = [gain(own, method, share, unit) for share in LEVELS]
                shown = [f"{c.text(2) if c else 'not reached':>22}" for c in cells]
                name = f"{parts[0]} layers, {parts[1]} digits: {style.method_label(method)}, {unit}"
                lines.append(f"{name:70}{''.join(shown)}")
    return "\n".join([*lines, ""])


FIGURE = command.Figure("beyond_cost", "pass rate against time and FLOPs", runs, figure)
