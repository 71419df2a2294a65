"""`python -m llm compare RUN RUN ...`: runs over each other, seeds of one setting as a band."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import report_page, report_plots
from .config_checks import ConfigError
from .report_files import RunFiles, read_run, write
from .report_page import Html, facts, paragraph, picture, table
from .report_plots import BLACK, METHOD_COLOURS, Panel

# two runs that differ in these alone are two seeds of one setting; the rest of them changes what
# is kept and shown, not what is learnt
NOT_COMPARED = set(
    "run.seed run.folder warmup.folder run.tracker run.threads run.checkpoint_every "
    "run.checkpoints_kept run.keep_best run.samples_kept".split()
)
PANELS = (
    Panel("Held-out pass rate of the policy", {"pass_rate": ""}, limits=(0, 1)),
    Panel("Reward of the completions", {"reward_mean": ""}),
    Panel("Exact KL(policy, actor), nats per token", {"kl_policy_actor": ""}, "log"),
    Panel("Accepted share of tokens", {"accept_rate": ""}),
)
_BOUNDS = {
    "pass_rate": (0.0, 1.0),
    "reward_mean": (0.0, 1.0),
    "kl_policy_actor": (0.0, math.inf),
    "accept_rate": (0.0, 1.0),
}
_LINES = ("-", "--", "-.", ":")
# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom
_T = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157,
    2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922,
    2.093024, 2.085963, 2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831,
    2.048407, 2.045230, 2.042272,
)  # fmt: skip


class Group(NamedTuple):
    """Runs that differ by their seed only."""

    name: str
    runs: list[RunFiles]
    colour: str
    line: Any


class Band(NamedTuple):
    """Mean over seeds, and how far they lie apart: (m,) each."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def main(argv: list[str]) -> int:
    """Write the comparison and print its table; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m llm compare",
        description="Overlay runs. Runs whose settings differ by the seed only become one curve "
        "with a band: a 95 % interval of the mean from 3 seeds on, smallest to largest for 2.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/compare.html"),
        help="a .html page or a .png picture (default runs/compare.html)",
    )
    parser.add_argument("--force", action="store_true", help="even if their tasks differ")
    args = parser.parse_args(argv)
    if args.out.suffix not in (".html", ".png"):
        raise ConfigError(f"--out {args.out} must end in .html or .png")
    groups = grouped([read_run(r) for r in args.runs], force=args.force)
    write(args.out, draw(groups) if args.out.suffix == ".png" else document(groups))
    print(table_text(groups))
    print(f"wrote {args.out}")
    return 0


def grouped(runs: Sequence[RunFiles], force: bool = False) -> list[Group]:
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
    methods = [method(key) for key in distinct]
    groups = []
    for i, key in enumerate(distinct):
        members = [r for r, k in zip(runs, keys, strict=True) if k == key]
        _check_seeds(members)
        line = _LINES[methods[:i].count(methods[i]) % len(_LINES)]
        colour = METHOD_COLOURS.get(methods[i], BLACK)
        groups.append(Group(_name(key, differing, members), members, colour, line))
    return groups


def method(flat: dict[str, Any]) -> str:
    """The key of METHOD_COLOURS for flat settings."""
    name = str(flat.get("correction.name", "none"))
    if flat.get("actor.kind") == "self" or flat.get("rollout.source") == "policy":
        return "on-policy"
    if name == "jackpot" and flat.get("correction.mask") == "expected":
        return "jackpot expected mask"
    distilled = flat.get("loss.distill_coef", 0) > 0 and flat.get("actor.kind") != "frozen"
    return "tis+distill" if name == "tis" and distilled else name


def _flat(run: RunFiles) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, part in run.config.items()
        if isinstance(part, dict)
        for key, value in part.items()
    }


def _varying(flats: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(k for f in flats for k in f)
    return [n for n in names if any(f.get(n) != flats[0].get(n) for f in flats)]


def _name(key: dict[str, Any], differing: list[str], members: list[RunFiles]) -> str:
    if not differing:
        return members[0].folder.resolve().name if len(members) == 1 else "all runs"
    return ", ".join(f"{_short(k)} {key.get(k, 'absent')}" for k in differing)


def _short(key: str) -> str:
    """correction.name says it all as 'correction'."""
    return key.removesuffix(".name")


def _check_seeds(members: list[RunFiles]) -> None:
    seen: dict[Any, RunFiles] = {}
    for run in members:
        seed = _flat(run).get("run.seed")
        if seed in seen:
            raise ConfigError(
                f"{seen[seed].folder} and {run.folder} have the same settings and the same seed "
                f"{seed}: they are one measurement, not two. Leave one out"
            )
        seen[seed] = run


def band(runs: Sequence[RunFiles], name: str) -> Band | None:
    """Mean and band of a metric over seeds, at the steps that all of them have."""
    curves = []
    for run in runs:
        steps, values = report_plots.series(run.rows, name)
        curves.append(dict(zip(steps, values, strict=True)))
    common = sorted(set.intersection(*(set(c) for c in curves)))
    if not common:
        return None
    smoothed = [report_plots.windows(common, [c[s] for s in common], points=60) for c in curves]
    stacked = np.stack([y for _, y in smoothed])
    return Band(smoothed[0][0], *interval(stacked, _BOUNDS[name]))


def interval(
    values: np.ndarray, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seeds, m) -> mean, low, high: Student's 95 % interval from 3 seeds on, else the range.

    What lies outside `bounds`, where the quantity cannot be, is cut off.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < 3:
        return mean, values.min(axis=0), values.max(axis=0)
    t = _T[n - 2] if n - 2 < len(_T) else 1.96
    half = t * values.std(axis=0, ddof=1) / np.sqrt(n)
    return mean, np.maximum(mean - half, bounds[0]), np.minimum(mean + half, bounds[1])


def label(group: Group) -> str:
    n = len(group.runs)
    kind = "one seed" if n == 1 else f"{n} seeds, " + ("range" if n == 2 else "95 % interval")
    return f"{group.name} ({kind})"


def draw(groups: Sequence[Group], panels: Sequence[Panel] = PANELS) -> bytes:
    """One curve and band per group in each panel, two panels to a row, and one legend."""
    labels = [label(g) for g in groups]
    columns = min(2, len(panels))
    legend_columns = columns if max(map(len, labels)) <= 45 else 1
    rows = -(-len(panels) // columns)
    height = 2.6 * rows + 0.2 * (1 + len(groups) / legend_columns)
    with report_plots.figure(4.4 * columns, height) as fig:
        axes = fig.subplots(rows, columns, squeeze=False).flat
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, groups, panel)
        handles = [_handle(g, words) for g, words in zip(groups, labels, strict=True)]
        fig.legend(handles=handles, loc="outside lower left", ncols=legend_columns)
        return report_plots.png(fig)


def _draw_panel(ax: Any, groups: Sequence[Group], panel: Panel) -> None:
    (name,) = panel.series
    low, high = np.inf, -np.inf
    for group in groups:
        found = band(group.runs, name)
        if found is None:
            continue
        if len(group.runs) > 1:
            ax.fill_between(
                found.steps, found.low, found.high, color=group.colour, alpha=0.18, linewidth=0
            )
        ax.plot(found.steps, found.mean, group.line, color=group.colour)
        low, high = min(low, float(found.mean.min())), max(high, float(found.mean.max()))
    ax.set(title=panel.title, xlabel="step")
    if np.isinf(low):
        ax.text(0.5, 0.5, "not measured in these runs", ha="center", transform=ax.transAxes)
        return
    report_plots.scale(ax, panel, low, high)
    if ax.get_yscale() == "log":  # a band that reaches 0 has no lower end there
        ax.set_ylim(low / 1.5, high * 1.5)


def _handle(group: Group, words: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=group.colour, linestyle=group.line, label=words)


def final_rows(groups: Sequence[Group]) -> list[list[str]]:
    """One row per group: name, seeds, steps, and final values with their interval."""
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
            cells.append(_value(known, _BOUNDS[name]) if len(known) == len(values) else "-")
        rows.append(cells)
    return rows


def _final(run: RunFiles, name: str, share: float) -> float | None:
    """The last value, or the mean over the last `share` of the steps."""
    _, values = report_plots.series(run.rows, name)
    if not values:
        return None
    return float(np.mean(values[-max(1, round(share * len(values))) :]))


def _value(values: np.ndarray, bounds: tuple[float, float]) -> str:
    mean, low, high = (float(x[0]) for x in interval(values[:, None], bounds))
    return f"{mean:.3g}" if len(values) == 1 else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


HEAD = (
    "settings that differ",
    "seeds",
    "last step",
    "pass rate, last",
    "reward, last tenth",
    "KL(policy, actor), last",
    "accepted, last tenth",
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
        "there is neither, and a difference may be chance."
    )
    names = "; ".join(label(g) for g in groups)
    plots = "".join(
        picture(draw(groups, [p]), f"{p.title} against the step for {names}") for p in PANELS
    )
    values = table(HEAD, final_rows(groups), ["", *["number"] * (len(HEAD) - 1)])
    folders = facts((g.name, ", ".join(str(r.folder) for r in g.runs)) for g in groups)
    sections = [
        ("curves", "Curves", Html(f'<div class="plots two">{plots}</div>')),
        ("values", "Final values", values),
        ("runs", "Runs", folders),
    ]
    count = sum(len(g.runs) for g in groups)
    return report_page.page(f"Comparison of {count} runs", lead, sections)
