"""Table 2: where rejection should make no difference, the PPO clip kept or a small mismatch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paper_figures import figure as command
from paper_figures.analysis import run_statistics
from paper_figures.drawing import style, tables
from paper_figures.experiments import run_lists
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import HOME, folder

# by part: heading, the method that others are compared with, the paper's block
PARTS = {
    "stale": (
        f"one rollout batch for {run_lists.KEPT_STALENESS} updates, PPO clip kept",
        "clipped",
        "Qwen3-4B DeepScaleR (rollout 2048; train 32; 64x; clip kept)",
    ),
    "int8": (
        "rollouts of the policy's own int8 copy, 2 updates, PPO clip kept (paper: FP8 KV cache)",
        "int8",
        "Qwen3-4B DeepScaleR (rollout 128; train 64; FP8 KV)",
    ),
}
PAPER = {
    "clipped": "Off-policy",
    "jackpot clipped": "Jackpot",
    "int8 tis": "TIS",
    "int8 jackpot": "Jackpot",
}
PAPER_METRICS = (
    *("GSM8K mean@4", "MATH-500 mean@4", "AMC22/23 mean@4", "AMC12-2024 mean@4"),
    *("AIME24 mean@16", "AIME24 pass@16", "AIME25 mean@16", "AIME25 pass@16"),
)


def runs(scale: Scale) -> list[RunSpec]:
    return [r for own in run_lists.table2(scale).values() for r in own]


def column_mean(run: RunSpec, column: str, home: Path = HOME) -> float:
    """Mean over the steps of a metric of the updates."""
    return float(np.mean(run_statistics.curve(run, column, home)[1]))


def numbers(scale: Scale, home: Path = HOME) -> list[dict[str, Any]]:
    """One row per method: final pass rate, its paired difference to the plain one, the paper's."""
    rows = []
    for part, own in run_lists.table2(scale).items():
        _, plain, block = PARTS[part]
        base = [r for r in own if r.method == plain]
        for method in dict.fromkeys(r.method for r in own):
            mine = [r for r in own if r.method == method]
            final = run_statistics.mean([run_statistics.final(r, home) for r in mine])
            effect = run_statistics.paired(mine, base, "final", home)
            row: dict[str, Any] = {"part": part, "method": method}
            row |= {"label": style.method_label(method)}
            row |= {"final": final.value, "final low": final.low, "final high": final.high}
            ends = {"": effect.value, " low": effect.low, " high": effect.high}
            row |= {f"minus plain{k}": v if method != plain else "" for k, v in ends.items()}
            row["area"] = run_statistics.mean([run_statistics.area(r, home) for r in mine]).value
            for name, column in (("KL", "kl_inf_target_k3"), ("clipped", "clip_fraction")):
                row[name] = run_statistics.mean([column_mean(r, column, home) for r in mine]).value
            name = PAPER.get(method, "")
            theirs = tables.paper(2, block, name) if name else {}
            row |= {"paper method": name, **tables.paper_columns(theirs, PAPER_METRICS)}
            row |= {"seeds": len(mine), "runs": " ".join(folder(r, home).name for r in mine)}
            rows.append(row)
    return rows


def table(entries: list[dict[str, Any]]) -> tables.Table:
    rows: list[tuple[str, ...]] = []
    for part, (heading, plain, _) in PARTS.items():
        rows.append((heading,))
        for row in (r for r in entries if r["part"] == part):
            ends = ("", " low", " high")
            final = run_statistics.Interval(*(row[f"final{e}"] for e in ends))
            effect = ""
            if row["method"] != plain:
                interval = run_statistics.Interval(*(row[f"minus plain{e}"] for e in ends))
                effect = tables.cell(interval, row["seeds"], signed=True)
            theirs = {m: row[f"paper {m}"] for m in PAPER_METRICS if row[f"paper {m}"] != ""}
            cells = (tables.cell(final, row["seeds"]), effect, f"{row['area']:.3f}")
            more = (f"{row['KL']:.1e}", f"{100 * row['clipped']:.2f} %")
            rows.append((row["label"], *cells, *more, *tables.paper_cells(theirs)))
    seeds = entries[0]["seeds"]
    head = ("final\npass rate", "minus\nfirst row", "area", "KL\nnats", "tokens\nclipped")
    return tables.Table(
        "table2",
        "Table 2: where rejection should make no difference",
        ("", *head, *tables.paper_head()),
        tuple(rows),
        (
            f"Ours: {seeds} seed{'s' * (seeds > 1)}; brackets: 95 % interval over seeds, "
            "differences paired by seed. KL(sampler || target of the ratio), mean over steps.",
            "Paper: mean@4 of Qwen3-4B, its Table 2; int8 weights stand in for its FP8 KV cache.",
        ),
    )


def figure(scale: Scale, out: Path, home: Path = HOME) -> str:
    rows = numbers(scale, home)
    return tables.write(table(rows), rows, out)


FIGURE = command.Figure("table2", (__doc__ or "").splitlines()[0], runs, figure)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
