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
from paper_figures.drawing.source_names import ROOT, StaleName, check_call, check_carried, find
from paper_figures.paths import OUT, out_dir

HEIGHT = 4.02  # inches
POLICY, ACTOR, OBRS, PLAIN = style.BLUE, style.GREEN, style.VERMILION, style.GREY


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
    ROLLOUT: (0.22, 0.05, 2.32, 3.06),
    UPDATE: (2.62, 0.05, 4.23, 3.06),
    BETWEEN: (0.22, 3.19, 6.63, 0.78),
}

NODES: dict[str, Node] = {
    "sample": Node(
        (
            ("llm.training.rollout_phase.sample_rollouts", "llm.train.train_step"),
            ("llm.rollout.sampling.sample", "llm.rollout.engines.base.generate"),
        ),
        (0.28, 0.40, 1.31, 0.70), ACTOR, ROLLOUT, "the actor q,\nwith its top k",
    ),
    "rewards": Node(
        (("llm.training.rollout_phase.with_rewards", "llm.train.train_step"),),
        (0.28, 1.47, 1.31, 0.46), PLAIN, ROLLOUT, "of each answer",
    ),
    "advantage": Node(
        (
            ("llm.training.selection.with_advantages", "llm.train.train_step"),
            ("jackpot.torch.advantages.group_advantage",
             "llm.training.selection.with_advantages"),
        ),
        (0.28, 2.30, 1.31, 0.58), PLAIN, ROLLOUT, "within its group",
    ),
    "batch": Node(
        (("llm.rollout.batch.Batch", "llm.rollout.batch.Samples.flat"),),
        (1.76, 0.40, 0.70, 2.48), PLAIN, ROLLOUT,
    ),
    "split": Node(
        (
            ("llm.training.minibatches.split_minibatches", "llm.train.train_step"),
            ("llm.training.scoring.score", "llm.training.scoring.score_before_updates"),
        ),
        (2.88, 2.30, 1.24, 0.58), POLICY, UPDATE, "p_ref before updates",
    ),
    "passes": Node(
        (
            ("llm.training.passes.ForwardPasses", "llm.train.update"),
            ("llm.training.forward.forward_all", "llm.training.passes.ForwardPasses._forward"),
            ("llm.training.forward.policy_logprobs", "llm.training.scoring.score"),
        ),
        (2.88, 1.54, 1.24, 0.54), PLAIN, UPDATE, "policy and actor now",
    ),
    "weights": Node(
        (
            ("llm.training.weights.jackpot_weights", "llm.train.update"),
            ("jackpot.torch.correction.token_weights", "llm.training.weights.jackpot_weights"),
            ("jackpot.accept_prob", "jackpot.torch.correction.acceptance"),
            ("jackpot.z_topk", "jackpot.torch.correction.state_z"),
            ("jackpot.z_tail_ratio", "jackpot.torch.correction.state_z"),
            ("jackpot.obrs_weight", "jackpot.torch.correction.obrs_weights"),
        ),
        (2.88, 0.40, 1.24, 0.90), OBRS, UPDATE, "OBRS: mask, Z, weight",
    ),
    "eq5": Node(
        (
            ("jackpot.torch.objectives.policy_loss_sum", "llm.train.update"),
            ("jackpot.torch.objectives.ppo", "jackpot.torch.objectives._objective"),
        ),
        (4.70, 0.46, 1.08, 0.66), POLICY, UPDATE, "policy, Eq. 5",
    ),
    "eq7": Node(
        (("jackpot.torch.losses.distill_sum", "llm.train.update"),),
        (4.70, 1.60, 1.08, 0.42), ACTOR, UPDATE, "distillation, Eq. 7",
    ),
    "eq6": Node(
        (
            ("jackpot.torch.losses.actor_ppo_sum", "llm.train.update"),
            ("jackpot.torch.losses.ppo_clip_sum", "jackpot.torch.losses.actor_ppo_sum"),
        ),
        (4.70, 2.30, 1.08, 0.58), ACTOR, UPDATE, "actor update, Eq. 6",
    ),
    "update": Node(
        (("llm.train.update", "llm.train.train_step"),),
        (5.99, 0.54, 0.82, 1.40), PLAIN, UPDATE, "the terms of\na microbatch",
    ),
    "joint": Node(
        (("jackpot.torch.losses.joint_loss", "llm.train.update"),),
        (5.99, 2.11, 0.82, 0.38), PLAIN, UPDATE, "Eq. 8",
    ),
    "step": Node(
        (("llm.training.optimizer.optimizer_step", "llm.train.update"),),
        (5.99, 2.66, 0.82, 0.38), PLAIN, UPDATE, "of both models",
    ),
    "publish": Node(
        (
            ("llm.training.context.TrainContext.publish_weights", "llm.train.train_step"),
            ("llm.models.actors.Actor.refresh",
             "llm.training.context.TrainContext.publish_weights"),
        ),
        (4.28, 3.37, 1.50, 0.54), ACTOR, BETWEEN, "the actor follows",
    ),
    "engine": Node(
        (("llm.rollout.engines.base.Engine.update",
          "llm.training.context.TrainContext.publish_weights"),),
        (2.52, 3.43, 1.28, 0.42), ACTOR, BETWEEN, "takes the new weights",
    ),
}  # fmt: skip

KEY = (
    (POLICY, "policy p"), (ACTOR, "actor q"), (OBRS, "rejection (OBRS)"),
    (PLAIN, "data, both models"),
)  # fmt: skip
TOP, LEFT = 0.30, 0.11  # lanes around the boxes
EDGES = (
    Edge("sample", "rewards", ("batch",), ((0.94, 1.10), (0.94, 1.47)), (0.99, 1.32)),
    Edge("rewards", "advantage", ("reward",), ((0.94, 1.93), (0.94, 2.30)), (0.99, 2.15)),
    Edge("sample", "batch", ("ids", "token_ids", "logp_inf", "topk_ids", "topk_logp_inf",
                             "version"), ((1.59, 0.75), (1.76, 0.75))),
    Edge("rewards", "batch", ("reward",), ((1.59, 1.70), (1.76, 1.70))),
    Edge("advantage", "batch", ("advantage",), ((1.59, 2.59), (1.76, 2.59))),
    Edge("batch", "split", ("batch",), ((2.46, 2.72), (2.88, 2.72)), (2.49, 2.70)),
    Edge("split", "passes", ("minibatch",), ((3.50, 2.30), (3.50, 2.08)), (3.55, 2.22)),
    Edge("split", "weights", ("p_ref", "minibatch"),
         ((2.88, 2.44), (2.78, 2.44), (2.78, 0.85), (2.88, 0.85)), (2.82, 1.45)),
    Edge("passes", "weights", ("p_new",), ((3.50, 1.54), (3.50, 1.30)), (3.55, 1.45)),
    Edge("split", "eq5", ("advantage", "logp_old"),
         ((2.88, 2.54), (2.70, 2.54), (2.70, TOP), (5.24, TOP), (5.24, 0.46)),
         (4.41, TOP - 0.02)),
    Edge("weights", "eq5", ("weight",), ((4.12, 0.72), (4.70, 0.72)), (4.20, 0.69)),
    Edge("passes", "eq5", ("logp_new",), ((4.12, 1.67), (4.155, 1.67), (4.155, 0.96), (4.70, 0.96)),
         (4.19, 1.07)),
    Edge("passes", "eq7", ("kl",), ((4.12, 1.81), (4.70, 1.81)), (4.27, 1.78)),
    Edge("passes", "eq6", ("logp_actor",),
         ((4.12, 1.95), (4.155, 1.95), (4.155, 2.44), (4.70, 2.44)), (4.175, 2.42)),
    Edge("split", "eq6", ("advantage", "logp_inf", "logp_actor_ref"),
         ((4.12, 2.72), (4.70, 2.72)), (4.17, 2.69)),
    Edge("eq5", "update", ("loss_policy",), ((5.78, 0.82), (5.99, 0.82))),
    Edge("eq7", "update", ("loss_distill",), ((5.78, 1.81), (5.99, 1.81))),
    Edge("eq6", "update", ("loss_actor_ppo",),
         ((5.78, 2.59), (5.89, 2.59), (5.89, 1.90), (5.99, 1.90))),
    Edge("update", "joint", ("terms",), ((6.40, 1.94), (6.40, 2.11)), (6.44, 2.05)),
    Edge("joint", "step", ("learner",), ((6.40, 2.49), (6.40, 2.66)), (6.44, 2.60)),
    Edge("step", "publish", ("policy",), ((6.40, 3.04), (6.40, 3.64), (5.78, 3.64)), (5.92, 3.61)),
    Edge("publish", "engine", ("model",), ((4.28, 3.64), (3.80, 3.64)), (3.90, 3.61)),
    Edge("engine", "sample", ("model",), ((2.52, 3.64), (LEFT, 3.64), (LEFT, 0.75), (0.28, 0.75)),
         (1.30, 3.61)),
)  # fmt: skip


def verify(root: Path = ROOT) -> list[dict[str, str]]:
    """Every name, call and arrow, looked up in the source under `root`: the rows of fig3.csv.

    Raises:
        StaleName: one that the source does not have.
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
    """As it stands in a box: without the folders that its module lies in. A name that the core
    offers itself is whole."""
    first, *parts = name.split(".")
    folder, offered = ROOT / first, first == "jackpot"
    while (folder := folder / parts[0]).is_dir():
        parts.pop(0)
        offered = False
    return name if offered else ".".join(parts)


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
        ax.add_patch(Rectangle((x, 3.24), 0.09, 0.07, fc=tint(colour, 0.13), ec=colour, lw=0.8))
        ax.text(x + 0.13, 3.28, text, fontsize=5.5, va="center")
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
    except StaleName as error:
        sys.stderr.write(
            f"error: figure 3 names what the code does not have: {error}. Correct NODES and EDGES "
            "in paper_figures/figures/fig3.py\n"
        )
        return 2
    with rc_context(style.RC):
        figure = draw()
        figure.savefig(args.out / "fig3.png", metadata={"Software": None})
        figure.set_layout_engine("none")  # it is laid out: not again for the PDF
        figure.savefig(args.out / "fig3.pdf", metadata={"CreationDate": None})
    write_csv(args.out / "fig3.csv", rows)
    names = ("fig3.png", "fig3.pdf", "fig3.csv")
    print("wrote", *(args.out / name for name in names), file=sys.stderr)
    return 0
