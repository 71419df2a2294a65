"""Figure 3: the pipeline, drawn from the code's own names.

Every box is a function or class of llm/ or jackpot/, and says where it is called; every arrow
carries a parameter or field. All are looked up in the source before anything is drawn (nothing of
it is imported), and one that is gone ends the command with its name and no picture.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from paper_figures.drawing import style
from paper_figures.drawing.source_names import ROOT, Stale, check_call, check_carried, find
from paper_figures.paths import OUT, out_dir

HEIGHT = 3.74  # inches
POLICY, ACTOR, OBRS, PLAIN = style.BLUE, style.GREEN, style.VERMILION, style.GREY
LOSS = "llm.algorithm.losses.ppo_clip_sum"


class Node(NamedTuple):
    """names: what the box stands for, (name, called in; "" for data). box: x, y, width, height in
    inches from the upper left corner. text: what it does; further names stand below it."""

    names: tuple[tuple[str, str], ...]
    box: tuple[float, float, float, float]
    colour: str
    phase: str
    text: str = ""


class Edge(NamedTuple):
    """carried: parameters or fields of the target, or strings in its file. path: points
    in inches, from the upper left. label: where what is carried is written; None: nowhere."""

    source: str
    target: str
    carried: tuple[str, ...]
    path: tuple[tuple[float, float], ...]
    label: tuple[float, float] | None = None


ROLLOUT, UPDATE, BETWEEN = "Phase 1: rollout", "Phase 2: updates", "between steps: weights back"
# phase: the frame behind its boxes, x, y, width, height
FRAMES = {
    ROLLOUT: (0.22, 0.05, 2.30, 2.86),
    UPDATE: (2.60, 0.05, 4.25, 2.86),
    BETWEEN: (0.22, 2.99, 6.63, 0.70),
}

NODES: dict[str, Node] = {
    "sample": Node(
        (("llm.rollout.sampling.sample", "llm.rollout.engines.base.generate"),),
        (0.32, 0.40, 1.12, 0.56), ACTOR, ROLLOUT, "the actor q,\nwith its top k",
    ),
    "rewards": Node(
        (("llm.training.rollout_phase.rewards", "llm.training.rollout_phase.rollout"),),
        (0.32, 1.36, 1.12, 0.42), PLAIN, ROLLOUT, "of each answer",
    ),
    "advantage": Node(
        (("llm.algorithm.advantages.group_advantage", "llm.training.rollout_phase.rollout"),),
        (0.32, 2.18, 1.12, 0.54), PLAIN, ROLLOUT, "within its group",
    ),
    "batch": Node(
        (("llm.rollout.batch.Batch", "llm.rollout.sampling.sample"),),
        (1.68, 0.40, 0.75, 2.32), PLAIN, ROLLOUT,
    ),
    "weights": Node(
        (
            ("llm.algorithm.correction.token_weights", "llm.training.update.update"),
            ("jackpot.accept_prob", "llm.algorithm.correction._obrs"),
            ("jackpot.z_topk", "llm.algorithm.correction._state_z"),
            ("jackpot.z_tail_ratio", "llm.algorithm.correction._state_z"),
            ("jackpot.obrs_weight", "llm.algorithm.correction._obrs"),
        ),
        (3.02, 0.40, 1.28, 0.92), OBRS, UPDATE, "OBRS: mask, Z, weight",
    ),
    "score": Node(
        (
            ("llm.training.scoring.score", "llm.training.update.update"),
            ("llm.training.forward.forward", "llm.training.forward.joint"),
        ),
        (3.02, 1.54, 1.28, 0.50), POLICY, UPDATE, "the policy's p",
    ),
    "actor": Node(
        (("llm.training.forward.forward", "llm.training.forward.joint"),),
        (3.02, 2.30, 1.28, 0.42), ACTOR, UPDATE, "the actor's law",
    ),
    "eq5": Node(
        ((LOSS, "llm.training.update.update"),),
        (4.90, 0.54, 1.08, 0.56), POLICY, UPDATE, "policy update,\nEq. 5",
    ),
    "eq7": Node(
        (
            ("llm.algorithm.losses.distill_sum", "llm.training.update.actor_terms"),
            ("llm.training.forward.read", "llm.training.forward.joint"),
        ),
        (4.90, 1.52, 1.08, 0.56), ACTOR, UPDATE, "distillation, Eq. 7",
    ),
    "eq6": Node(
        ((LOSS, "llm.training.update.actor_terms"),),
        (4.90, 2.30, 1.08, 0.42), ACTOR, UPDATE, "actor update, Eq. 6",
    ),
    "update": Node(
        (("llm.training.update.update", "llm.train._train"),),
        (6.19, 0.54, 0.58, 2.18), PLAIN, UPDATE, "joint loss,\nEq. 8;\na step of\nboth",
    ),
    "refresh": Node(
        (("llm.models.actors.Actor.refresh", "llm.train._train"),),
        (4.70, 3.20, 1.28, 0.42), ACTOR, BETWEEN, "follows the policy",
    ),
    "engine": Node(
        (("llm.rollout.engines.base.Engine.update", "llm.train._train"),),
        (3.02, 3.20, 1.28, 0.42), ACTOR, BETWEEN, "takes the new weights",
    ),
}  # fmt: skip

KEY = ((POLICY, "policy p"), (ACTOR, "actor q"), (OBRS, "rejection (OBRS)"), (PLAIN, "data, step"))
TOP, BOTTOM, LEFT = 0.30, 2.82, 0.11  # lanes around the boxes
EDGES = (
    Edge("sample", "rewards", ("batch",), ((0.88, 0.96), (0.88, 1.36)), (0.93, 1.19)),
    Edge("rewards", "advantage", ("reward",), ((0.88, 1.78), (0.88, 2.18)), (0.93, 2.01)),
    Edge("sample", "batch", ("ids", "logp_inf", "topk_ids", "topk_logp_inf", "version"),
         ((1.44, 0.68), (1.68, 0.68))),
    Edge("rewards", "batch", ("reward",), ((1.44, 1.57), (1.68, 1.57))),
    Edge("advantage", "batch", ("advantage",), ((1.44, 2.45), (1.68, 2.45))),
    Edge("batch", "weights", ("logp_inf", "topk_logp_inf"), ((2.43, 0.86), (3.02, 0.86)),
         (2.62, 0.83)),
    Edge("batch", "score", ("batch",), ((2.43, 1.79), (3.02, 1.79)), (2.62, 1.76)),
    Edge("batch", "actor", ("batch",), ((2.43, 2.51), (3.02, 2.51)), (2.62, 2.48)),
    Edge("batch", "eq5", ("advantage",), ((2.06, 0.40), (2.06, TOP), (5.44, TOP), (5.44, 0.54)),
         (4.41, TOP - 0.02)),
    Edge("batch", "eq6", ("advantage",),
         ((2.06, 2.72), (2.06, BOTTOM), (5.44, BOTTOM), (5.44, 2.72)), (4.41, BOTTOM - 0.01)),
    Edge("score", "weights", ("logp_ref", "topk_logp_target"), ((3.66, 1.54), (3.66, 1.32)),
         (3.71, 1.46)),
    Edge("weights", "eq5", ("weight",), ((4.30, 0.72), (4.90, 0.72)), (4.40, 0.69)),
    Edge("score", "eq5", ("logp_new",), ((4.30, 1.68), (4.35, 1.68), (4.35, 0.92), (4.90, 0.92)),
         (4.375, 1.02)),
    Edge("score", "eq7", ("sides",), ((4.30, 1.82), (4.90, 1.82)), (4.375, 1.79)),
    Edge("actor", "eq7", ("sides",),
         ((4.30, 2.40), (4.35, 2.40), (4.35, 1.96), (4.90, 1.96)), (4.375, 2.06)),
    Edge("actor", "eq6", ("logp_new",), ((4.30, 2.56), (4.90, 2.56)), (4.375, 2.53)),
    Edge("eq5", "update", ("loss_policy",), ((5.98, 0.82), (6.19, 0.82))),
    Edge("eq7", "update", ("loss_distill",), ((5.98, 1.80), (6.19, 1.80))),
    Edge("eq6", "update", ("loss_actor_ppo",), ((5.98, 2.51), (6.19, 2.51))),
    Edge("update", "refresh", ("policy",), ((6.48, 2.72), (6.48, 3.41), (5.98, 3.41)),
         (6.06, 3.38)),
    Edge("refresh", "engine", ("model",), ((4.70, 3.41), (4.30, 3.41)), (4.35, 3.38)),
    Edge("engine", "sample", ("model",), ((3.02, 3.41), (LEFT, 3.41), (LEFT, 0.68), (0.32, 0.68)),
         (1.50, 3.38)),
)  # fmt: skip


def verify(root: Path = ROOT) -> list[dict[str, str]]:
    """Every name, call and arrow, looked up in the source under `root`: the rows of fig3.csv.

    Raises:
        Stale: one that the source does not have.
    """
    rows = []
    for key, node in NODES.items():
        for name, caller in node.names:
            place = find(name, root).place
            check_call(name, caller, root)
            rows.append({"kind": "node", "box": key, "name": name, "called_in": caller,
                         "phase": node.phase, "defined_at": place})  # fmt: skip
    for edge in EDGES:
        takers = [name for name, _ in NODES[edge.target].names]
        by = {x: check_carried(x, takers, root) for x in edge.carried}
        target = next(iter(by.values()))
        rows.append({"kind": "edge", "from": edge.source, "to": edge.target, "name": target,
                     "carries": " ".join(edge.carried), "phase": NODES[edge.target].phase,
                     "defined_at": find(target, root).place})  # fmt: skip
    return rows


def shown(name: str) -> str:
    """As it stands in a box: a name of `llm` without the folders that its module lies in."""
    first, *parts = name.split(".")
    folder = ROOT / first
    while first == "llm" and (folder := folder / parts[0]).is_dir():
        parts.pop(0)
    return ".".join(parts) if first == "llm" else name


def tint(colour: str, share: float) -> tuple[float, ...]:
    """The colour mixed with white."""
    return tuple(1 - share * (1 - x) for x in to_rgb(colour))


def draw_box(ax: Axes, node: Node, fields: tuple[str, ...] = ()) -> None:
    """A box: its name, what it does, and further names or fields, from the top down."""
    x, y, width, height = node.box
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.05",
                                fc=tint(node.colour, 0.13), ec=node.colour, lw=0.9))  # fmt: skip
    name = shown(node.names[0][0])
    if len(name) * 0.0505 > width:  # inches per letter
        name = name.replace(".", ".\n", 1)
    mono: dict[str, Any] = {"family": "DejaVu Sans Mono", "ha": "center", "linespacing": 1.15}
    inner: list[tuple[str, float, dict[str, Any]]] = [(name, 6.0, mono | {"weight": "bold"})]
    inner += [(node.text, 6.0, {"ha": "center", "linespacing": 1.15})] if node.text else []
    below = [*(shown(n) for n, _ in node.names[1:]), *fields]
    inner += [("\n".join(below), 5.5, mono | {"linespacing": 1.3})] if below else []
    heights = [(text.count("\n") + 1) * size * 1.22 / 72 for text, size, _ in inner]
    top = y + (height - sum(heights) - 0.03 * (len(inner) - 1)) / 2
    for (text, size, look), tall in zip(inner, heights, strict=True):
        ax.text(x + width / 2, top + tall / 2, text, fontsize=size, va="center", **look)
        top += tall + 0.03


def draw_edge(ax: Axes, edge: Edge) -> None:
    """The path, an arrow head at its end, and what is carried (the first of it)."""
    colour = "#444444"
    x, y = zip(*edge.path, strict=True)
    ax.plot(x, y, color=colour, lw=0.8, solid_joinstyle="round", zorder=1)
    ax.annotate("", edge.path[-1], edge.path[-2], zorder=1, arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 0,
        "mutation_scale": 6})  # fmt: skip
    if edge.label:
        ax.text(*edge.label, edge.carried[0], fontsize=5.5, family="DejaVu Sans Mono",
                color="#444444", va="bottom", ha="left")  # fmt: skip


def draw() -> Figure:
    """The whole figure. `verify` first: this draws what the tables say."""
    figure = Figure(figsize=(style.TEXT_WIDTH, HEIGHT))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, style.TEXT_WIDTH), ylim=(HEIGHT, 0))
    ax.set_axis_off()
    for title, (x, y, width, height) in FRAMES.items():
        ax.add_patch(FancyBboxPatch((x, y), width, height, fc="#f4f4f4", ec="none", zorder=0,
                                    boxstyle="round,pad=0,rounding_size=0.06"))  # fmt: skip
        ax.text(x + 0.08, y + 0.03, title, fontsize=7, weight="bold", va="top")
    for i, (colour, text) in enumerate(KEY):
        x = 2.95 + (0.0, 0.62, 1.18, 2.10)[i]
        ax.add_patch(Rectangle((x, 3.07), 0.09, 0.07, fc=tint(colour, 0.13), ec=colour, lw=0.8))
        ax.text(x + 0.13, 3.11, text, fontsize=5.5, va="center")
    for edge in EDGES:
        draw_edge(ax, edge)
    for key, node in NODES.items():
        fields = [name for e in EDGES if e.target == key == "batch" for name in e.carried]
        draw_box(ax, node, tuple(fields))
    return figure


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    columns = ("kind", "box", "from", "to", "name", "called_in", "carries", "phase", "defined_at")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m paper_figures fig3", description=__doc__)
    p.add_argument("--out", type=out_dir, default=str(OUT), metavar="DIR", help=f"default {OUT}")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    try:
        rows = verify()
    except Stale as error:
        sys.stderr.write(
            f"error: figure 3 names what the code does not have: {error}. Correct NODES and EDGES "
            "in paper_figures/figures/fig3.py\n"
        )
        return 2
    with rc_context(style.RC):
        figure = draw()
        figure.savefig(args.out / "fig3.png", metadata={"Software": None})
        figure.savefig(args.out / "fig3.pdf", metadata={"CreationDate": None})
    write_csv(args.out / "fig3.csv", rows)
    names = ("fig3.png", "fig3.pdf", "fig3.csv")
    print("wrote", *(args.out / name for name in names), file=sys.stderr)
    return 0
