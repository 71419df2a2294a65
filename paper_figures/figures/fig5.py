"""Figure 5: stale training without the PPO clip, one rollout batch for 16, 64 or 128 updates."""

from __future__ import annotations

from pathlib import Path

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import folder


def runs(scale: Scale) -> list[RunSpec]:
    own = run_lists.fig5(scale)
    return [r for n, clipped in own.items() for r in (*clipped, *on_policy(scale, n))]


def on_policy(scale: Scale, staleness: int) -> list[RunSpec]:
    """One update per rollout, and as many of them as the runs of a staleness have."""
    extra = {"rollout__prompts_per_step": run_lists.STALE_PROMPTS}
    steps = run_lists.STALE_UPDATES[staleness]
    return run_lists.group(scale, "chain", ("on-policy",), few=True, run__steps=steps, **extra)


def figure(scale: Scale, out: Path) -> str:
    by_staleness, plt = run_lists.fig5(scale), plots.plt()
    with plt.rc_context(style.RC):
        size = (style.TEXT_WIDTH, 2.6)
        fig, axes = plt.subplots(
            1, len(by_staleness), figsize=size, layout="constrained", sharey=True
        )
        for i, (updates, own) in enumerate(by_staleness.items()):
            plots.methods(axes[i], on_policy(scale, updates), "pass_rate")
            plots.methods(axes[i], own, "pass_rate", updates)
            last = max(run_statistics.curve(r, "pass_rate")[0][-1] for r in own) * updates
            axes[i].set(xlabel="updates", ylim=(0, 1), xlim=(0, last))
            style.panel_title(axes[i], "abc"[i], f"{updates} updates per rollout")
        axes[0].set_ylabel("held-out pass rate")
        plots.legend(fig, axes[0], 4)
        plots.save(fig, out, "fig5")
    run_statistics.write_csv(out / "fig5.csv", plotted(list(dict.fromkeys(runs(scale)))))
    return table(scale)


def plotted(own: list[RunSpec]) -> list[dict]:
    """One row for each point, those between the updates of a step too."""
    rows = []
    for r in own:
        steps, rates = run_statistics.curve(r, "pass_rate")
        updates = dict(r.extra).get("loss.updates_per_rollout", 1)
        where = {"run": folder(r).name, "world": r.world, "method": r.method, "seed": r.seed}
        for step, rate in zip(steps, rates, strict=True):
            row = {"updates_per_rollout": updates, "updates": round(step * updates)}
            rows.append({**where, **row, "pass_rate": rate})
    return rows


def table(scale: Scale) -> str:
    """Final pass rate and area under the curve by staleness."""
    by_staleness = run_lists.fig5(scale)
    lines = [f"{'final / area':32}" + "".join(f"{u:>17}x" for u in by_staleness)]
    for name in run_lists.STALE:
        cells = []
        for own in by_staleness.values():
            mine = [r for r in own if r.method == name]
            both = [
                run_statistics.mean([f(r) for r in mine]).value
                for f in (run_statistics.final, run_statistics.area)
            ]
            cells.append(f"{both[0]:>10.3f} / {both[1]:.3f}")
        lines.append(f"{style.method_label(name):32}" + "".join(f"{c:>18}" for c in cells))
    return "\n".join([*lines, ""])


FIGURE = command.Figure("fig5", __doc__.splitlines()[0], runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
