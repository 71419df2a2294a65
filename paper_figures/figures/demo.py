"""Pass rate and actor-policy KL against step, for the runs in one folder: `make demo`'s picture.

    python -m paper_figures demo runs/demo

Reads each run's metrics.jsonl; writes demo.png, demo.pdf and demo.csv there and prints a table.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from paper_figures import paths
from paper_figures.drawing import style

# folder name: (label in the legend, colour key of style.METHOD_COLOURS, line style)
KNOWN = {
    "none": ("no alignment, actor fixed", "none", ":"),
    "tis_distill": ("TIS + distillation", "tis+distill", "--"),
    "jackpot": ("Jackpot", "jackpot", "-"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures demo",
        description="Draw pass rate and actor-policy KL against step for the runs in a folder.",
    )
    parser.add_argument("folder", type=paths.path_of, help="folder of run folders, e.g. runs/demo")
    folder = parser.parse_args(argv).folder
    runs = read_runs(folder)
    if not runs:
        sys.stderr.write(
            f"error: no evaluated run in {folder}; expected folders such as {folder}/jackpot with "
            "a metrics.jsonl. Train one first (see python -m llm --help), or run make demo\n"
        )
        return 2
    write_csv(folder / "demo.csv", runs)
    draw(folder, runs)
    sys.stdout.write(table(folder, runs))
    return 0


def read_runs(folder: Path) -> dict[str, list[dict]]:
    """Evaluated rows of every run in the folder, known methods in a fixed order, others after."""
    runs = {}
    names = sorted(p.parent.name for p in folder.glob("*/metrics.jsonl"))
    for name in [*(n for n in KNOWN if n in names), *(n for n in names if n not in KNOWN)]:
        lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [r for r in map(json.loads, lines) if "pass_rate" in r]
        if rows:
            runs[name] = rows
    return runs


def write_csv(path: Path, runs: dict[str, list[dict]]) -> None:
    columns = ["pass_rate", "kl_policy_actor", "kl_actor_policy"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "step", *columns])
        for name, rows in runs.items():
            writer.writerows([name, r["step"], *(r.get(c, "") for c in columns)] for r in rows)


def draw(folder: Path, runs: dict[str, list[dict]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(1, 2, figsize=(style.TEXT_WIDTH, 2.6), layout="constrained")
        for name, rows in runs.items():
            label, colour, line = KNOWN.get(name, (style.literal(name), "", "-."))
            look = {"label": label, "linestyle": line}
            if colour:
                look["color"] = style.METHOD_COLOURS[colour]
            steps = [r["step"] for r in rows]
            axes[0].plot(steps, [r["pass_rate"] for r in rows], **look)
            kl = [(r["step"], r["kl_policy_actor"]) for r in rows if "kl_policy_actor" in r]
            axes[1].plot(*zip(*kl, strict=True), **look) if kl else None
        axes[0].set(xlabel="step", ylabel="held-out pass rate of the policy", ylim=(0, 1))
        axes[1].set(xlabel="step", ylabel="KL(policy || actor), nats per token", yscale="log")
        style.panel_title(axes[0], "a", "the policy, trained on the actor's rollouts")
        style.panel_title(axes[1], "b", "distance of actor and policy")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        for suffix in ("png", "pdf"):
            fig.savefig(folder / f"demo.{suffix}")
        plt.close(fig)


def table(folder: Path, runs: dict[str, list[dict]]) -> str:
    lines = [f"{'run':<14}{'pass rate':>18}{'lowest':>9}{'KL(policy||actor)':>22}  folder"]
    for name, rows in runs.items():
        first, last = rows[0], rows[-1]
        passed = f"{first['pass_rate']:.3f} -> {last['pass_rate']:.3f}"
        lowest = f"{min(r['pass_rate'] for r in rows):.3f}"
        kl = "-"
        if "kl_policy_actor" in first:
            kl = f"{first['kl_policy_actor']:.3f} -> {last['kl_policy_actor']:.3f}"
        lines.append(f"{name:<14}{passed:>18}{lowest:>9}{kl:>22}  {folder / name}")
    lines += ["One seed: an illustration, not a comparison.", ""]
    pictures = [p for p in ("demo.png", "fig2.png") if (folder / p).exists()]
    lines += [f"picture  {folder / p}" for p in pictures]
    return "\n".join([*lines, f"numbers  {folder / 'demo.csv'}", ""])
