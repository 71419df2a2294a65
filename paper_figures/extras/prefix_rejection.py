"""A setting of our own against TIS with the same actor losses, where the learning rate is hot.

Chosen on other seeds (`tune`), judged on eight that no choice has seen, paired by checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.drawing import plots, style
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.figures import fig1

METRICS = ("lowest_late", "drop", "final", "area")


def runs(scale: Scale) -> list[RunSpec]:
    return [r for own in run_lists.prefix_rejection(scale).values() for r in own]


def effects(scale: Scale) -> dict[str, dict[str, Interval]]:
    """By setting and metric: its paired difference to TIS with the same actor losses."""
    own = run_lists.prefix_rejection(scale)
    base = own[run_lists.BASE]
    return {
        name: {m: run_statistics.paired(group, base, m) for m in METRICS}
        for name, group in own.items()
        if name != run_lists.BASE
    }


def figure(scale: Scale, out: Path) -> str:
    by_name, plt = run_lists.prefix_rejection(scale), plots.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.9), layout="constrained")
        for ax, column in zip(axes, ("pass_rate", "kl_policy_actor"), strict=True):
            for name, own in by_name.items():
                look = style.method_style(own[0].method) | {"label": name}
                plots.seeds_and_mean(ax, own, column, **look)
        axes[0].set(xlabel="step", ylabel="held-out pass rate", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token")
        plots.kl_axis(axes[1], top=3)
        rate = run_lists.HOT["optim__policy_lr"]
        style.panel_title(
            axes[0], "a", f"learning rate {rate:g}, {len(by_name[run_lists.BASE])} seeds"
        )
        style.panel_title(axes[1], "b", "distance of policy and actor")
        plots.legend(fig, axes[0], 3)
        plots.save(fig, out, "prefix_rejection")
    run_statistics.write_csv(
        out / "prefix_rejection.csv", run_statistics.plotted(runs(scale), fig1.COLUMNS)
    )
    return text(scale)


def text(scale: Scale) -> str:
    lines = [f"{'against TIS + the same actor losses':42}" + "".join(f"{m:>26}" for m in METRICS)]
    for name, effect in effects(scale).items():
        lines.append(f"{name:42}" + "".join(f"{effect[m].signed():>26}" for m in METRICS))
    own = run_lists.prefix_rejection(scale)
    chosen = own[run_lists.CHOSEN]
    for other in (o for o in ("TIS + KL", "only KL") if o in own):
        cells = [run_statistics.paired(chosen, own[other], m).signed() for m in METRICS]
        name = f"{run_lists.CHOSEN} against {other}"
        lines.append(f"{name:42}" + "".join(f"{c:>26}" for c in cells))
    wide = [
        run_statistics.paired(
            chosen, own[run_lists.BASE], m, interval=run_statistics.student
        ).signed()
        for m in METRICS
    ]
    name = f"{run_lists.CHOSEN}, Student's t"
    lines.append(f"{name:42}" + "".join(f"{c:>26}" for c in wide))
    return "\n".join([*lines, "drop: lower is better; paired by seed, 95 % intervals", ""])


FIGURE = command.Figure(
    "prefix_rejection", "a setting of our own where learning rates are hot", runs, figure
)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
