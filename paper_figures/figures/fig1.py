"""Figure 1: pass rate against examples, and KL of policy and actor against step, nine methods."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import WORLDS, RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.paths import HERE

RATES = HERE / "data" / "tuning_rates.csv"  # by `tune rates`
COLUMNS = ("pass_rate", "pass_rate_actor", "kl_policy_actor", "kl_actor_policy")


def runs(scale: Scale) -> list[RunSpec]:
    return run_lists.fig1(scale) + run_lists.own_rates(scale)


def figure(scale: Scale, out: Path) -> str:
    own = run_lists.fig1(scale)
    examples = WORLDS["chain"]["rollout.prompts_per_step"]
    plt = plots.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(
            1, 3, figsize=(style.TEXT_WIDTH, 3.0), layout="constrained", width_ratios=(3, 3, 2)
        )
        plots.methods(axes[0], own, "pass_rate", examples)
        plots.methods(axes[1], [r for r in own if "on-policy" not in r.method], "kl_policy_actor")
        axes[0].set(xlabel="examples", ylabel="held-out pass rate of the policy", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token")
        plots.kl_axis(axes[1], top=3)
        _sweep(axes[2])
        style.panel_title(axes[0], "a", "the policy, trained on the actor's rollouts")
        style.panel_title(axes[1], "b", "distance of policy and actor")
        style.panel_title(axes[2], "c", "mean of (a), by rate")
        plots.legend(fig, axes[0], 3)
        plots.save(fig, out, "fig1")
    run_statistics.write_csv(out / "fig1.csv", run_statistics.plotted(runs(scale), COLUMNS))
    return table(own) + _own_rates(scale)


def _sweep(ax: Any) -> None:
    """Mean height of the curves at each learning rate swept, seeds of their own, from RATES."""
    areas: dict[str, dict[float, list[float]]] = {}
    with RATES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            method, rate = row["name"].rsplit(", ", 1)
            areas.setdefault(method, {}).setdefault(float(rate), []).append(float(row["area"]))
    for method, by_rate in areas.items():
        means = [sum(v) / len(v) for v in by_rate.values()]
        ax.plot(list(by_rate), means, **style.method_style(method), marker="o", markersize=2)
    ax.set(xscale="log", xlabel="learning rate of the policy", ylim=(0, 1))
    ax.axvline(WORLDS["chain"]["optim.policy_lr"], color=style.GREY, linewidth=0.5, zorder=0)
    rates = sorted({rate for by_rate in areas.values() for rate in by_rate})
    ax.set_xticks(rates, [f"{1e4 * rate:g}e-4" for rate in rates])
    ax.minorticks_off()


def _own_rates(scale: Scale) -> str:
    """The methods that do better at a lower rate, there."""
    head = f"at the rate of the sweep that is best for them, {run_lists.OWN_RATE:g}:\n"
    return head + table(run_lists.own_rates(scale))


def table(own: Sequence[RunSpec]) -> str:
    """Methods and what their runs came to, mean and 95 % interval over seeds."""
    names = list(dict.fromkeys(r.method for r in own))
    seeds = len({r.seed for r in own})
    lines = [f"{'':32}{'final pass rate':>22}{'area':>8}{'lowest':>8}{'KL last':>9}{'highest':>9}"]
    for name in names:
        mine = [r for r in own if r.method == name]
        means = {
            k: run_statistics.mean([f(r) for r in mine]) for k, f in run_statistics.METRICS.items()
        }
        final = means["final"].text() if seeds > 2 else f"{means['final'].value:.3f}"
        lines.append(
            f"{style.method_label(name):32}{final:>22}{means['area'].value:>8.3f}"
            f"{means['lowest_late'].value:>8.3f}{means['kl_last'].value:>9.3f}"
            f"{means['kl_highest'].value:>9.3f}"
        )
    return "\n".join([*lines, f"{seeds} seed{'s' * (seeds > 1)}", ""])


FIGURE = command.Figure("fig1", __doc__.splitlines()[0], runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
