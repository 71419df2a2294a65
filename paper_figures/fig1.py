"""Figure 1: pass rate against examples, and KL of policy and actor against step, nine methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import command, curves, draw, studies, style
from .studies import Scale
from .worlds import WORLDS, Run

COLUMNS = ("pass_rate", "pass_rate_actor", "kl_policy_actor", "kl_actor_policy")


def runs(scale: Scale) -> list[Run]:
    return studies.fig1(scale)


def figure(scale: Scale, out: Path) -> str:
    own = runs(scale)
    examples = WORLDS["chain"]["rollout.prompts_per_step"]
    plt = draw.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 3.0), layout="constrained")
        draw.methods(axes[0], own, "pass_rate", examples)
        draw.methods(axes[1], [r for r in own if "on-policy" not in r.method], "kl_policy_actor")
        axes[0].set(xlabel="examples", ylabel="held-out pass rate of the policy", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token")
        draw.kl_axis(axes[1], top=3)
        style.panel_title(axes[0], "a", "the policy, trained on the actor's rollouts")
        style.panel_title(axes[1], "b", "distance of policy and actor")
        draw.legend(fig, axes[0], 3)
        draw.save(fig, out, "fig1")
    curves.write_csv(out / "fig1.csv", curves.plotted(own, COLUMNS))
    return table(own, out / "fig1.png")


def table(own: Sequence[Run], picture: Path) -> str:
    """Methods and what their runs came to, mean and 95 % interval over seeds."""
    names = list(dict.fromkeys(r.method for r in own))
    seeds = len({r.seed for r in own})
    lines = [f"{'':32}{'final pass rate':>22}{'area':>8}{'lowest':>8}{'KL last':>9}{'highest':>9}"]
    for name in names:
        mine = [r for r in own if r.method == name]
        found = {k: curves.mean([f(r) for r in mine]) for k, f in curves.METRICS.items()}
        final = found["final"].text() if seeds > 2 else f"{found['final'].value:.3f}"
        lines.append(
            f"{style.method_label(name):32}{final:>22}{found['area'].value:>8.3f}"
            f"{found['lowest_late'].value:>8.3f}{found['kl_last'].value:>9.3f}"
            f"{found['kl_highest'].value:>9.3f}"
        )
    return "\n".join([*lines, f"{seeds} seeds; picture {picture}", ""])


FIGURE = command.Figure("fig1", __doc__.splitlines()[0], runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
