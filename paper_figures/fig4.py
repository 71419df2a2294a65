"""Figure 4: the same for three pairs of models, and for a task with 2,048 token ids."""

from __future__ import annotations

from pathlib import Path

from . import command, curves, draw, fig1, studies, style
from .studies import Scale
from .worlds import WORLDS, Run

TITLES = {
    "chain small": "actor 1 x 16",
    "chain": "actor 1 x 32",
    "chain near": "actor 2 x 48",
    "chain forms": "actor 1 x 32, 2,048 ids",
}


def runs(scale: Scale) -> list[Run]:
    return [r for own in studies.fig4(scale).values() for r in own]


def figure(scale: Scale, out: Path) -> str:
    by_world, plt = studies.fig4(scale), draw.plt()
    with plt.rc_context(style.RC):
        size = (style.TEXT_WIDTH, 3.6)
        fig, axes = plt.subplots(
            2, len(by_world), figsize=size, layout="constrained", sharex="col", sharey="row"
        )
        for i, (world, own) in enumerate(by_world.items()):
            examples = WORLDS[world]["rollout.prompts_per_step"]
            draw.methods(axes[0, i], own, "pass_rate", examples)
            apart = [r for r in own if "on-policy" not in r.method]
            draw.methods(axes[1, i], apart, "kl_policy_actor", examples)
            style.panel_title(axes[0, i], "abcd"[i], TITLES[world])
            axes[0, i].set_ylim(0, 1)
            axes[1, i].set_xlabel("examples")
            draw.kl_axis(axes[1, i], top=3)
        axes[0, 0].set_ylabel("pass rate of the policy")
        axes[1, 0].set_ylabel("KL(policy || actor), nats")
        draw.legend(fig, axes, 3)
        draw.save(fig, out, "fig4")
    curves.write_csv(out / "fig4.csv", curves.plotted(runs(scale), fig1.COLUMNS))
    parts = [f"{TITLES[w]}\n{fig1.table(own)}" for w, own in by_world.items()]
    return "\n".join(parts)


FIGURE = command.Figure("fig4", __doc__.splitlines()[0], runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
