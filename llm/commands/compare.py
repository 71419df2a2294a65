"""`python -m llm compare RUN RUN ...`: runs over each other, seeds of one setting as a band."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm.errors import ConfigError
from llm.report import html
from llm.report.comparison_plots import (
    BOUNDS,
    PANELS,
    Group,
    draw,
    interval,
    label,
    looks,
    seed_numbers,
)
from llm.report.html import Html, counted, facts, paragraph, picture, table
from llm.report.panels import series
from llm.report.run_files import RunData, read_run, write
from llm.settings.loading import refuse_old
from llm.settings.paths import path_of
from llm.settings.sections import flat_table

# two runs that differ in these alone are two seeds of one setting; the rest of them changes what
# is kept and shown, not what is learnt
NOT_COMPARED = set(
    "run.seed run.folder pretrain.folder run.tracker run.threads run.checkpoint_every "
    "run.checkpoints_kept run.keep_best run.samples_kept".split()
)
NAMED = 3  # runs in the default file's name


def main(argv: list[str]) -> int:
    """Write the comparison and print its table; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m llm compare",
        description="Overlay runs. Runs whose settings differ by the seed only become one curve "
        "with a band: a 95 % interval of the mean from 3 seeds on, smallest to largest for 2.",
    )
    parser.add_argument("runs", type=path_of, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument(
        "--out",
        type=path_of,
        help=".html page or .png picture (default runs/compare_NAMES.html, by the runs' names)",
    )
    parser.add_argument("--force", action="store_true", help="compare even if their tasks differ")
    args = parser.parse_args(argv)
    out: Path = args.out or default_out(args.runs)
    if out.suffix not in (".html", ".png"):
        raise ConfigError(f"--out {out} must end in .html or .png")
    runs = [read_run(r) for r in args.runs]
    for run in runs:
        refuse_old(run.folder / "config.toml", run.config)
    groups = grouped(runs, force=args.force)
    for run in runs:
        for note in run.notes:
            if note.startswith("metrics.jsonl"):
                sys.stderr.write(f"{run.folder}: {note}\n")
    write(out, draw(groups) if out.suffix == ".png" else document(groups))
    print(table_text(groups))
    print(f"wrote {out}")
    return 0


def default_out(runs: Sequence[Path]) -> Path:
    """Where the comparison of these folders is written, whatever their order; that of others is
    another file."""
    folders = sorted(run.resolve() for run in runs)
    names = [re.sub(r"[^\w.-]", "-", folder.name)[:30] for folder in folders]
    shown = [*names[:NAMED], *([f"{len(names) - NAMED}-more"] if len(names) > NAMED else [])]
    mark = hashlib.sha256("\n".join(map(os.fsdecode, folders)).encode("utf-8", "replace"))
    return Path("runs") / f"compare_{'_'.join(shown)}_{mark.hexdigest()[:6]}.html"


def grouped(runs: Sequence[RunData], force: bool = False) -> list[Group]:
    """Runs in groups of equal settings, in the order given.

    Raises:
        ConfigError: a run without settings or measurements; the same seed twice in a group; and,
            unless forced, different tasks, since their rewards do not compare.
    """
    flat = [_flat(r) for r in runs]
    for run in runs:
        if not run.config or not run.rows:
            raise ConfigError(
                f"{run.folder} cannot be compared yet: its "
                f"{'metrics.jsonl' if run.config else 'config.toml'} is empty or missing"
            )
    tasks = _varying([{k: v for k, v in f.items() if k.startswith("task.")} for f in flat])
    if tasks and not force:
        raise ConfigError(
            f"these runs have different tasks (they differ in {', '.join(tasks)}), so their rates "
            "do not compare. Leave some out, or give --force"
        )
    keys = [{k: v for k, v in f.items() if k not in NOT_COMPARED} for f in flat]
    distinct: list[dict[str, Any]] = []
    for key in keys:
        if key not in distinct:
            distinct.append(key)
    differing = _varying(distinct)
    groups = []
    for key, (colour, line) in zip(distinct, looks([method(k) for k in distinct]), strict=True):
        members = [r for r, k in zip(runs, keys, strict=True) if k == key]
        _check_seeds(members)
        groups.append(Group(_name(key, differing, members), members, colour, line))
    return groups


def method(flat: dict[str, Any]) -> str:
    """The key of METHOD_COLOURS for flat settings."""
    name = str(flat.get("correction.type", "none"))
    if flat.get("actor.type") == "self" or flat.get("rollout.source") == "policy":
        return "on-policy"
    if name == "jackpot" and flat.get("correction.scope") == "prefix":
        return "jackpot on prefixes"
    if name == "jackpot" and flat.get("correction.mask") == "expected":
        return "jackpot expected mask"
    distilled = flat.get("actor.distill.type", "none") != "none"
    return "tis+distill" if name == "tis" and distilled else name


def _flat(run: RunData) -> dict[str, Any]:
    return flat_table({k: part for k, part in run.config.items() if isinstance(part, dict)})


def _varying(flats: Sequence[dict[str, Any]]) -> list[str]:
    """Settings that differ among the runs in which they have an effect; others lack them."""
    names = dict.fromkeys(k for f in flats for k in f)
    return [k for k in names if len({repr(f[k]) for f in flats if k in f}) > 1]


def _name(key: dict[str, Any], differing: list[str], members: list[RunData]) -> str:
    if not key.keys() & set(differing):
        return members[0].folder.resolve().name if len(members) == 1 else "all runs"
    return ", ".join(f"{_short(k)} {key[k]}" for k in differing if k in key)


def _short(key: str) -> str:
    """correction.type says it all as 'correction'."""
    return key.removesuffix(".type")


def _check_seeds(members: list[RunData]) -> None:
    seen: dict[Any, RunData] = {}
    for run in members:
        seed = str(_flat(run).get("run.seed"))
        if seed in seen:
            raise ConfigError(
                f"{seen[seed].folder} and {run.folder} have the same settings and the same seed "
                f"{seed}: they are one measurement, not two. Leave one out"
            )
        seen[seed] = run


def final_rows(groups: Sequence[Group]) -> list[list[str]]:
    """One row per group: name, count of seeds, steps, final values with their interval, and which
    seeds."""
    rows = []
    for g in groups:
        lasts = sorted({r.rows[-1]["step"] for r in g.runs})
        steps = str(lasts[0]) if len(lasts) == 1 else f"{lasts[0]} to {lasts[-1]}"
        if not all(r.finished for r in g.runs):
            steps += " (not complete)"
        cells = [g.name, str(len(g.runs)), steps]
        for name, share in (
            ("pass_rate", 0.0),
            ("reward_mean", 0.1),
            ("kl_policy_actor", 0.0),
            ("accept_rate", 0.1),
        ):
            values = [_final(r, name, share) for r in g.runs]
            known = np.array([v for v in values if v is not None])
            cells.append(_value(known, BOUNDS[name]) if len(known) == len(values) else "-")
        cells.append(seed_numbers(g))
        rows.append(cells)
    return rows


def _final(run: RunData, name: str, share: float) -> float | None:
    """The last value, or the mean over the last `share` of the steps."""
    _, values = series(run.rows, name)
    if not values:
        return None
    with np.errstate(all="ignore"):
        return float(np.mean(values[-max(1, round(share * len(values))) :]))


def _value(values: np.ndarray, bounds: tuple[float, float]) -> str:
    with np.errstate(all="ignore"):  # of NaN and inf, and of what overflows, the mean is no number
        mean, low, high = (float(x[0]) for x in interval(values[:, None], bounds))
    return f"{mean:.3g}" if len(values) == 1 else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


HEAD = (
    "settings that differ",
    "seeds",
    "last step",
    "pass rate, last",
    "reward of rollouts, last tenth",
    "KL(policy, actor), last",
    "accepted, last tenth",
    "which seeds",
)


def table_text(groups: Sequence[Group]) -> str:
    """The table of final values for a terminal."""
    lines = [list(HEAD), *final_rows(groups)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def document(groups: Sequence[Group]) -> str:
    """The page."""
    lead = paragraph(
        "Curves are means over seeds; curves of more than 60 steps are means over equal windows. "
        "Bands, and brackets in the table: a 95 % interval of the mean (Student's t) from 3 seeds "
        "on (cut off where the quantity cannot be), smallest to largest for 2 seeds; with one seed "
        "there is neither, and a difference may be chance. On a logarithmic axis a band that "
        "reaches 0, or almost, leaves at the bottom. The pass rate is the policy's, on held-out "
        "prompts; the reward is that of what the actor sampled for training prompts."
    )
    names = "; ".join(label(g) for g in groups)
    plots = "".join(
        picture(draw(groups, [p]), f"{p.title} against the step for {names}") for p in PANELS
    )
    values = table(HEAD, final_rows(groups), ["", *["number"] * (len(HEAD) - 1)])
    folders = facts(
        (f"{g.name}: {counted(len(g.runs), 'run')}", ", ".join(_folder(r) for r in g.runs))
        for g in groups
    )
    sections = [
        ("curves", "Curves", Html(f'<div class="plots two">{plots}</div>')),
        ("values", "Final values", values),
        ("runs", "Runs", folders),
    ]
    count = sum(len(g.runs) for g in groups)
    return html.page(f"Comparison of {counted(count, 'run')}", lead, sections)


def _folder(run: RunData) -> str:
    return f"{run.folder} (seed {_flat(run).get('run.seed', '?')})"
