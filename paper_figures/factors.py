"""Beyond the paper (b), (c): each factor of the weight changed alone; and what long runs do."""

from __future__ import annotations

from pathlib import Path

from . import command, curves, draw, fig1, studies, style
from .runs import folder
from .studies import Scale
from .worlds import Run

METRICS = {
    "area": "mean pass rate of the curve",
    "lowest_late": "lowest pass rate, last two thirds",
}


def ablation_runs(scale: Scale) -> list[Run]:
    return [r for own in studies.ablation(scale).values() for r in own]


def differences(scale: Scale) -> list[dict]:
    """Each change against Jackpot as it is (against p_ref where there are two updates), paired."""
    own, found = studies.ablation(scale), []
    for name, changed in own.items():
        base = "2 updates, p_ref" if name.startswith("2 updates") else ""
        if name == base:
            continue
        for metric in METRICS:
            effect = curves.paired(changed, own[base], metric)
            found.append(
                {
                    "change": name,
                    "metric": metric,
                    **effect._asdict(),
                    "seeds": len(changed),
                    "runs": " ".join(folder(r).name for r in changed),
                    "against": " ".join(folder(r).name for r in own[base]),
                }
            )
    return found


def ablation_figure(scale: Scale, out: Path) -> str:
    table, plt = differences(scale), draw.plt()
    names = list(dict.fromkeys(row["change"] for row in table))
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(
            1, 2, figsize=(style.TEXT_WIDTH, 3.4), layout="constrained", sharey=True
        )
        for i, (ax, metric) in enumerate(zip(axes, METRICS, strict=True)):
            ax.axvline(0, color=style.GREY, linewidth=0.6)
            for row in (r for r in table if r["metric"] == metric):
                y = -names.index(row["change"])
                ax.plot((row["low"], row["high"]), (y, y), color=style.VERMILION, linewidth=1.2)
                ax.plot(row["value"], y, "o", color=style.VERMILION)
            ax.set_xlabel(f"difference in {METRICS[metric]}")
            style.panel_title(ax, "ab"[i], "worse than Jackpot as it is <- 0 -> better")
        axes[0].set_yticks([-i for i in range(len(names))], names)
        draw.save(fig, out, "beyond_ablation")
    curves.write_csv(out / "beyond_ablation.csv", table)
    lines = [f"{'change of one factor':34}{'area':>26}{'lowest late':>26}"]
    for name in names:
        cells = [r for r in table if r["change"] == name]
        shown = [curves.Interval(c["value"], c["low"], c["high"]).signed() for c in cells]
        lines.append(f"{name:34}" + "".join(f"{c:>26}" for c in shown))
    return "\n".join([*lines, f"{len(scale.few)} seeds, paired with Jackpot as it is", ""])


def long_figure(scale: Scale, out: Path) -> str:
    own, plt = studies.long_runs(scale), draw.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.8), layout="constrained")
        draw.methods(axes[0], own, "pass_rate")
        draw.methods(axes[1], [r for r in own if r.method != "on-policy"], "kl_policy_actor")
        axes[0].axvspan(300, 500, color="#eeeeee", zorder=0)
        axes[0].set(xlabel="step", ylabel="held-out pass rate", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token")
        draw.kl_axis(axes[1], top=3)
        style.panel_title(axes[0], "a", "grey: where the paper saw runs diverge")
        style.panel_title(axes[1], "b", "distance of policy and actor")
        draw.legend(fig, axes[0], 4)
        draw.save(fig, out, "beyond_long")
    curves.write_csv(out / "beyond_long.csv", curves.plotted(own, fig1.COLUMNS))
    return fig1.table(own, out / "beyond_long.png")


ABLATION = command.Figure(
    "beyond_ablation", "each factor of the weight changed alone", ablation_runs, ablation_figure
)
LONG = command.Figure("beyond_long", "what long runs do", studies.long_runs, long_figure)
