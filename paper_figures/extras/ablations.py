"""Beyond the paper (b), (c): each factor of the weight changed alone; and what long runs do."""

from __future__ import annotations

from pathlib import Path

from paper_figures import figure
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import folder
from paper_figures.figures import fig1

METRICS = {
    "area": "mean pass rate of the curve",
    "lowest_late": "lowest pass rate, last two thirds",
}


def ablation_runs(scale: Scale) -> list[RunSpec]:
    return [r for own in run_lists.ablation(scale).values() for r in own]


def differences(scale: Scale) -> list[dict]:
    """Each change against Jackpot as it is (against p_ref where there are two updates), paired."""
    own, rows = run_lists.ablation(scale), []
    for name, changed in own.items():
        base = "2 updates, p_ref" if name.startswith("2 updates") else ""
        if name == base:
            continue
        for metric in METRICS:
            effect = run_statistics.paired(changed, own[base], metric)
            rows.append(
                {
                    "change": name,
                    "metric": metric,
                    **effect._asdict(),
                    "seeds": len(changed),
                    "runs": " ".join(folder(r).name for r in changed),
                    "against": " ".join(folder(r).name for r in own[base]),
                }
            )
    return rows


def ablation_figure(scale: Scale, out: Path) -> str:
    table, plt = differences(scale), plots.plt()
    names = list(dict.fromkeys(row["change"] for row in table))
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(
            1, 2, figsize=(style.TEXT_WIDTH, 3.4), layout="constrained", sharey=True
        )
        titles = ("mean of the curve", "lowest point")
        for i, (ax, metric) in enumerate(zip(axes, METRICS, strict=True)):
            ax.axvline(0, color=style.GREY, linewidth=0.6)
            for row in (r for r in table if r["metric"] == metric):
                y = -names.index(row["change"])
                ax.plot((row["low"], row["high"]), (y, y), color=style.VERMILION, linewidth=1.2)
                ax.plot(row["value"], y, "o", color=style.VERMILION)
            ax.set_xlabel(f"difference in {METRICS[metric]}")
            style.panel_title(ax, "ab"[i], f"{titles[i]}: right of 0 is better")
        axes[0].set_yticks([-i for i in range(len(names))], names)
        plots.save(fig, out, "beyond_ablation")
    run_statistics.write_csv(out / "beyond_ablation.csv", table)
    lines = [f"{'change of one factor':34}{'area':>26}{'lowest late':>26}"]
    for name in names:
        cells = [r for r in table if r["change"] == name]
        shown = [run_statistics.Interval(c["value"], c["low"], c["high"]).signed() for c in cells]
        lines.append(f"{name:34}" + "".join(f"{c:>26}" for c in shown))
    return "\n".join(
        [
            *lines,
            f"{len(scale.few)} seeds, paired with Jackpot as it is (2 updates: with p_ref)",
            "",
        ]
    )


def long_figure(scale: Scale, out: Path) -> str:
    own = run_lists.long_runs(scale)
    title, paper = "grey: where the paper saw runs diverge", (300, 500)
    return _two_panels(own, out, "beyond_long", title, paper) + _kept(own)


def without_figure(scale: Scale, out: Path) -> str:
    own = run_lists.without_kl(scale)
    title = f"no distillation, learning rate {run_lists.HOT['optim__policy_lr']:g}"
    return _two_panels(own, out, "beyond_without_kl", title) + _kept(own)


def _two_panels(
    own: list[RunSpec], out: Path, name: str, title: str, paper: tuple[float, float] | None = None
) -> str:
    """Pass rate and KL against step; paper: steps that the paper speaks of, in grey."""
    plt = plots.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.8), layout="constrained")
        plots.methods(axes[0], own, "pass_rate")
        plots.methods(axes[1], own, "kl_policy_actor")
        if paper:
            axes[0].axvspan(*paper, color="#eeeeee", zorder=0)
        axes[0].set(xlabel="step", ylabel="held-out pass rate", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token")
        plots.kl_axis(axes[1], top=10)
        style.panel_title(axes[0], "a", title)
        style.panel_title(axes[1], "b", "distance of policy and actor")
        plots.legend(fig, axes[0], 3)
        plots.save(fig, out, name)
    run_statistics.write_csv(out / f"{name}.csv", run_statistics.plotted(own, fig1.COLUMNS))
    return fig1.table(own)


def _kept(own: list[RunSpec]) -> str:
    """How long each method's runs kept LASTING of their best, and how far they fell below it."""
    lines = [f"{'':38}{'last step at 80 % of its best':>34}{'largest fall below it':>26}"]
    for name in dict.fromkeys(r.method for r in own):
        mine = [r for r in own if r.method == name]
        kept, fall = (
            run_statistics.mean([f(r) for r in mine])
            for f in (run_statistics.lasts, run_statistics.drop)
        )
        lines.append(f"{style.method_label(name):38}{kept.text(0):>34}{fall.text():>26}")
    return "\n".join([*lines, ""])


ABLATION = figure.Figure(
    "beyond_ablation", "each factor of the weight changed alone", ablation_runs, ablation_figure
)
LONG = figure.Figure("beyond_long", "what long runs do", run_lists.long_runs, long_figure)
WITHOUT_KL = figure.Figure(
    "beyond_without_kl",
    "without distillation: who lasts longer",
    run_lists.without_kl,
    without_figure,
)
