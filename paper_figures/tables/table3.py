"""Table 3: stale training without the PPO clip, by updates per rollout batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.drawing import style, tables
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import HOME, folder
from paper_figures.figures import fig5

# The paper's row for a method, and its block by staleness; on-policy stands in the first alone
PAPER = {
    "on-policy": "On-policy",
    "clipped": "Off-policy",
    "no clip": "No-clip",
    "jackpot new": "Jackpot",
}
BLOCKS = {
    1: "Qwen3-4B DeepScaleR (rollout 2048; train 32; 64x; no clip)",
    64: "Qwen3-4B DeepScaleR (rollout 2048; train 32; 64x; no clip)",
    128: "Qwen3-4B DeepScaleR (rollout 4096; train 32; 128x; no clip)",
}
PAPER_METRICS = (
    *("GSM8K mean@4", "MATH-500 mean@4", "AMC22/23 mean@4", "AMC12-2024 mean@4"),
    *("AIME24 mean@16", "AIME24 pass@16", "AIME25 mean@16", "AIME25 pass@16"),
)
OURS = ("final", "area", "lowest_late")


def groups(scale: Scale) -> dict[int, list[RunSpec]]:
    """Runs by updates per rollout batch; 1: on-policy."""
    return {1: fig5.on_policy(scale, max(run_lists.STALENESS)), **run_lists.fig5(scale)}


def numbers(scale: Scale, home: Path = HOME) -> list[dict[str, Any]]:
    """One row per staleness and method."""
    rows = []
    for updates, own in groups(scale).items():
        for method in dict.fromkeys(r.method for r in own):
            mine = [r for r in own if r.method == method]
            row: dict[str, Any] = {"updates per rollout": updates, "method": method}
            row["label"] = style.method_label(method)
            for metric in OURS:
                got = run_statistics.mean([run_statistics.METRICS[metric](r, home) for r in mine])
                row |= {metric: got.value, f"{metric} low": got.low, f"{metric} high": got.high}
            row["diverged"] = sum(run_statistics.diverged(r, home) for r in mine)
            block, name = BLOCKS.get(updates, ""), PAPER.get(method, "")
            theirs = tables.paper(3, block, name) if block and name else {}
            row |= {"paper method": name if theirs else ""}
            row |= tables.paper_columns(theirs, PAPER_METRICS)
            row |= {"seeds": len(mine), "runs": " ".join(folder(r, home).name for r in mine)}
            rows.append(row)
    return rows


def table(entries: list[dict[str, Any]]) -> tables.Table:
    rows: list[tuple[str, ...]] = []
    for updates in dict.fromkeys(row["updates per rollout"] for row in entries):
        heading = f"one rollout batch for {updates} updates"
        rows.append((heading if updates > 1 else "one rollout batch for every update",))
        for row in (r for r in entries if r["updates per rollout"] == updates):
            theirs = {m: row[f"paper {m}"] for m in PAPER_METRICS if row[f"paper {m}"] != ""}
            got = (
                run_statistics.Interval(*(row[f"{metric}{e}"] for e in ("", " low", " high")))
                for metric in OURS
            )
            cells = (tables.cell(x, row["seeds"]) for x in got)
            rows.append((row["label"], *cells, *tables.paper_cells(theirs)))
    seeds, gone = entries[0]["seeds"], sum(row["diverged"] for row in entries)
    return tables.Table(
        "table3",
        "Table 3: stale training without the PPO clip",
        ("", "final\npass rate", "area", "lowest\nlate", *tables.paper_head()),
        tuple(rows),
        (
            f"Ours: {seeds} seed{'s' * (seeds > 1)}; brackets: 95 % interval over seeds; area: "
            f"mean height of the curve; {gone} runs diverged and count as 0 from there on.",
            "Paper: mean@4 of Qwen3-4B, its Table 3, for 64 and 128 updates; its Off-policy row is "
            "the one with the clip.",
        ),
    )


def figure(scale: Scale, out: Path, home: Path = HOME) -> str:
    rows = numbers(scale, home)
    return tables.write(table(rows), rows, out)


FIGURE = command.Figure("table3", (__doc__ or "").splitlines()[0], fig5.runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
