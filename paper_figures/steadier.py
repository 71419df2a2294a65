"""A setting of our own against TIS with the same actor losses, where the learning rate is hot.

Chosen on other seeds (`tune`), judged on eight that no choice has seen, paired by checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from . import command, curves, draw, fig1, studies, style
from .curves import Interval
from .studies import Scale
from .worlds import Run

METRICS = ("lowest_late", "drop", "final", "area")


def runs(scale: Scale) -> list[Run]:
    return [r for own in studies.steadier(scale).values() for r in own]


def effects(scale: Scale) -> dict[str, dict[str, Interval]]:
    """By setting and metric: its paired difference to TIS with the same actor losses."""
    own = studies.steadier(scale)
    base = own[studies.BASE]
    return {
        name: {m: curves.paired(found, base, m) for m in METRICS}
        for name, found in own.items()
        if name != studies.BASE
    }


def figure(scale: Scale, out: Path) -> str:
    by_name, plt = studies.steadier(scale), draw.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.9), layout="constrained")
        for ax, column in zip(axes, ("pass_rate", "kl_policy_actor"), strict=True):
            for name, own in by_name.items():
                look = style.method_style(own[0].method) | {"label": name}
                draw.seeds_and_mean(ax, own, column, **look)
        axes[0].set(xlabel="step", ylabel="held-out pass rate", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token")
        draw.kl_axis(axes[1], top=3)
        rate = studies.HOT["optim__policy_lr"]
        style.panel_title(
            axes[0], "a", f"learning rate {rate:g}, {len(by_name[studies.BASE])} seeds"
        )
        style.panel_title(axes[1], "b", "distance of policy and actor")
        draw.legend(fig, axes[0], 3)
        draw.save(fig, out, "steadier")
    curves.write_csv(out / "steadier.csv", curves.plotted(runs(scale), fig1.COLUMNS))
    return text(scale)


def text(scale: Scale) -> str:
    lines = [f"{'against TIS + the same actor losses':42}" + "".join(f"{m:>26}" for m in METRICS)]
    for name, found in effects(scale).items():
        lines.append(f"{name:42}" + "".join(f"{found[m].signed():>26}" for m in METRICS))
    own = studies.steadier(scale)
    chosen = own[studies.CHOSEN]
    for other in (o for o in ("TIS + KL", "only KL") if o in own):
        cells = [curves.paired(chosen, own[other], m).signed() for m in METRICS]
        name = f"{studies.CHOSEN} against {other}"
        lines.append(f"{name:42}" + "".join(f"{c:>26}" for c in cells))
    wide = [
        curves.paired(chosen, own[studies.BASE], m, interval=curves.student).signed()
        for m in METRICS
    ]
    name = f"{studies.CHOSEN}, Student's t"
    lines.append(f"{name:42}" + "".join(f"{c:>26}" for c in wide))
    return "\n".join([*lines, "drop: lower is better; paired by seed, 95 % intervals", ""])


FIGURE = command.Figure(
    "steadier", "a setting of our own where learning rates are hot", runs, figure
)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
