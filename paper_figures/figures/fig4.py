"""Figure 4: the same for three pairs of models, and for a task with 2,048 token ids."""

from __future__ import annotations

from pathlib import Path

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import WORLDS, RunSpec
from paper_figures.experiments.run_lists import Scale

from . import fig1

TITLES = {
    "chain small": "actor 1 x 16",
    "chain": "actor 1 x 32",
    "chain near": "actor 2 x 48",
    "chain forms": "actor 1 x 32, 2,048 ids",
}


def runs(scale: Scale) -> list[RunSpec]:
    return [r for own in run_lists.fig4(scale).values() for r in own]


def figure(scale: Scale, out: Path) -> str:
    by_world, plt = run_lists.fig4(scale), plots.plt()
    with plt.rc_context(style.RC):
        size = (style.TEXT_WIDTH, 3.6)
        fig, axes = plt.subplots(
            2, len(by_world), figsize=size, layout="constrained", sharex="col", sharey="row"
        )
        for i, (world, own) in enumerate(by_world.items()):
            examples = WORLDS[world]["rollout.prompts_per_step"]
            plots.methods(axes[0, i], own, "pass_rate", examples)
            apart = [r for r in own if "on-policy" not in r.method]
            plots.methods(axes[1, i], apart, "kl_policy_actor", examples)
            style.panel_title(axes[0, i], "abcd"[i], TITLES[world])
            axes[0, i].set_ylim(0, 1)
            axes[1, i].set_xlabel("examples")
            plots.kl_axis(axes[1, i], top=3)
        axes[0, 0].set_ylabel("pass rate of the policy")
        axes[1, 0].set_ylabel("KL(policy || actor), nats")
        plots.legend(fig, axes, 3)
        plots.save(fig, out, "fig4")
    run_statistics.write_csv(out / "fig4.csv", run_statistics.plotted(runs(scale), fig1.COLUMNS))
    parts = [f"{TITLES[w]}\n{fig1.table(own)}" for w, own in by_world.items()]
    return "\n".join(parts)


FIGURE = command.Figure("fig4", __doc__.splitlines()[0], runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
