"""What the commands of the studies share: pictures, tables and verdicts from kept rows."""

from __future__ import annotations

import argparse
import os
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper_figures import paths
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style, tables
from paper_figures.experiments import kept_rows, runner, smollm2_lists, studies
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.studies import JUDGED, Setting, Study
from paper_figures.extras import kept_runs
from paper_figures.figure import Unusable

from . import families
from .families import BETTER, OPEN, WORSE, Comparison, ComparisonFamily

LABELS = {
    "tis": "TIS",
    "jackpot": "Jackpot",
    "none": "no correction",
    "jackpot expected": "Jackpot, expected mask",
    "jackpot prefixes": "Jackpot on prefixes (ours)",
    "tis prefixes": "TIS on prefixes",
    "icepop": "IcePop",
    "ppo": "PPO clip",
    "cispo": "CISPO",
    "gspo": "GSPO",
    "dppo": "DPPO (binary TV)",
    "minpro": "MinPRO",
    "bapo": "BAPO",
    "m2po": "M2PO",
    "importance": "importance, no cap",
    "cispo opsm": "OPSM on CISPO",
    "ppo opsm": "OPSM on PPO",
    "dppo binary kl": "DPPO (binary KL)",
    "dppo top-k tv": "DPPO (top-k TV)",
    "dppo top-k kl": "DPPO (top-k KL)",
    "grpo": "GRPO with TIS",
    "a_star_po": "A*-PO",
    "dmpo": "DMPO",
    "alpha_dpo": "alpha-DPO",
    "vip": "VIP",
    "coba": "CoBA-RL",
    "pods": "PODS, 32 of 64",
    "random half": "random 32 of 64",
    "pruning": "pruned, 32 of 64",
    "pods of 128": "PODS, 64 of 128",
    "random half of 128": "random 64 of 128",
    "pruning of 128": "pruned, 64 of 128",
    "kl": "no correction, actor distilled alone",
    "tis+kl": "TIS, actor distilled alone",
    "on-policy small": "on-policy, the actor's model",
    "jackpot clipped": "Jackpot, PPO clip",
    "tis+ppo": "TIS, no distillation",
    "jackpot+ppo": "Jackpot, no distillation",
    "int8": "no correction, int8 actor",
    "int8 tis": "TIS, int8 actor",
    "int8 jackpot": "Jackpot, int8 actor",
    "none, frozen actor": "no correction, frozen actor",
    "tis, frozen actor": "TIS, frozen actor",
    "tis prefixes, frozen actor": "TIS on prefixes, frozen actor",
    "none, 4 x completions": "no correction, 4 x completions",
    "jackpot, Z = 1": "Jackpot, Z = 1",
    "jackpot, Z of all ids": "Jackpot, Z of all ids",
    "jackpot, Z of 20 ids": "Jackpot, Z of 20 ids",
    "jackpot, Z of 20 ids, kappa": "Jackpot, Z of 20 ids, kappa",
    "jackpot, distillation driven": "Jackpot, distillation driven",
    "jackpot, policy's rate driven": "Jackpot, policy's rate driven",
    **{
        smollm2_lists.name(how, actor): smollm2_lists.name(named, actor)
        for actor in smollm2_lists.ACTORS
        for how, named in (("tis", "TIS"), ("jackpot", "Jackpot"), ("drafted", "drafted"))
    },
}
METRIC_NAMES = {
    "area": "mean pass rate",
    "lowest_late": "lowest late pass rate",
    "final": "final pass rate",
}
LOOKS = {BETTER: (style.GREEN, "o"), WORSE: (style.VERMILION, "X"), OPEN: (style.GREY, "s")}
ROW = 0.19  # inches of a method
BELOW = 0.3  # rows between an interval and the marks of its seeds
Judged = list[tuple[ComparisonFamily, list[Comparison]]]


def judged(study: Study, rows: Iterable[Row]) -> Judged:
    """The families of a study by its rows."""
    rows = list(rows)
    return [(f, families.judge(f, rows)) for f in families.of_study(study)]


def label(method: str) -> str:
    return LABELS.get(method, method)


def picture(part: str, whole: Judged) -> Any:
    """The families of a part of a study, two in a row: each method's difference from the baseline,
    its interval, and the difference of each seed."""
    plt = plots.plt()
    own = [(f, c) for f, c in whole if f.part == part]
    # families without a run are left out, unless there is nothing else
    own = [(f, cs) for f, cs in own if any(c.effect for c in cs)] or own
    pairs = [own[i : i + 2] for i in range(0, len(own), 2)]
    heights = [max(len(c) for _, c in pair) for pair in pairs]
    with plt.rc_context(style.RC):
        columns = min(2, len(own))
        height = sum(ROW * h + 0.65 for h in heights) + 0.3
        fig, axes = plt.subplots(
            len(pairs),
            columns,
            squeeze=False,
            figsize=(style.TEXT_WIDTH * (1 + columns) / 3, height),
            layout="constrained",
            height_ratios=heights,
        )
        for ax in axes.flat[len(own) :]:
            ax.set_axis_off()
        for i, (ax, (family, comparisons)) in enumerate(zip(axes.flat, own, strict=False)):
            panel(ax, family, comparisons)
            kept = min(len(c.differences) for c in comparisons)
            of = "" if kept == family.seeds else f" of {family.seeds}"
            style.panel_title(ax, string.ascii_lowercase[i], f"{family.title}, {kept}{of} seeds")
        fig.legend(handles=_handles(plt), loc="outside lower center", ncols=4)
    return fig


def panel(ax: Any, family: ComparisonFamily, comparisons: Sequence[Comparison]) -> None:
    """Rows from top to bottom in the order of the family."""
    ax.axvline(0, color=style.BLACK, linewidth=0.6)
    for i, c in enumerate(comparisons):
        colour, marker = LOOKS[c.verdict]
        x = [*c.differences.values()]
        ax.plot(x, np.full(len(x), -i - BELOW), "|", color=colour, markersize=4)
        if c.effect is None:
            style.note(ax, "no runs kept", (0, -i), va="center", xytext=(3, 0),
                       textcoords="offset points")  # fmt: skip
            continue
        if len(x) >= run_statistics.SEEDS_MIN:
            ax.plot((c.effect.low, c.effect.high), (-i, -i), color=colour, linewidth=1.3)
        filled = "white" if c.verdict == OPEN else colour
        ax.plot(c.effect.value, -i, marker, color=colour, markerfacecolor=filled, markersize=4.5)
    names = [label(c.method) for c in comparisons]
    ax.set_yticks([-i for i in range(len(names))], names)
    ax.set_ylim(-len(names) + 0.4, 0.5)
    ax.tick_params(axis="y", length=0)
    metric, base = METRIC_NAMES[family.metric], label(family.baseline)
    apart = "\n" if len(metric + base) > 30 else " "  # a long label is as wide as the panel
    ax.set_xlabel(f"{metric},{apart}less that of {base}")


def _handles(plt: Any) -> list[Any]:
    made = []
    for verdict, (colour, marker) in LOOKS.items():
        face = "white" if verdict == OPEN else colour
        look = {"marker": marker, "color": colour, "markerfacecolor": face}
        made.append(plt.Line2D([], [], linestyle="none", label=verdict, **look))
    seed = {"marker": "|", "color": style.GREY, "linestyle": "none"}
    return [*made, plt.Line2D([], [], label="one seed", **seed)]


def comparisons_table(name: str, whole: Judged) -> tables.Table:
    """What is judged: effect, interval, p-values, verdict."""
    rows: list[tuple[str, ...]] = []
    for family, comparisons in whole:
        metric = METRIC_NAMES[family.metric]
        rows.append((f"{family.title}: {metric}, against {label(family.baseline)}",))
        for c in comparisons:
            few = len(c.differences) < run_statistics.SEEDS_MIN
            effect = "" if c.effect is None else (
                f"{c.effect.value:+.3f}" if few else c.effect.signed()
            )  # fmt: skip
            seeds = f"{len(c.differences)} of {family.seeds}"
            whole_seeds = len(c.differences) >= family.seeds
            p_values = (f"{c.p:.3f}", f"{c.adjusted:.3f}") if whole_seeds else ("", "")
            resampled = (
                "" if c.bootstrap is None else f"{c.bootstrap.low:+.3f}, {c.bootstrap.high:+.3f}"
            )
            least = "" if few else f"{c.detectable:.3f}"
            rows.append((label(c.method), effect, resampled, seeds, *p_values, c.verdict, least))
    head = ("method", "difference, 95 % interval", "bootstrap", "seeds", "p", "p, Holm", "verdict",
            "could show")  # fmt: skip
    notes = (
        "Student's t on differences paired by seed; Holm's adjustment over each family. Bootstrap: "
        "its 95 % interval, too narrow for few seeds.",
        "Could show: the smallest true difference that would be settled in 4 of 5 such studies, at "
        "the spread that was seen. A smaller one cannot be told from none.",
    )
    return tables.Table(name, "Against the baseline", head, tuple(rows), notes)


def levels_table(study: Study, rows: Mapping[str, Row]) -> tables.Table:
    """By setting and method: the rate of the sweep, and means over the judged seeds."""
    shown: list[tuple[str, ...]] = []
    for setting in study.settings:
        own = [r for r in rows.values() if (r.study, r.setting, r.stage) == (*setting[:2], JUDGED)]
        if not own:
            continue
        shown.append((f"{setting.study}, {setting.name}",))
        shown += [_level(m, [r for r in own if r.method == m]) for m in setting.methods]
    head = ("method", "rate", "seeds", "mean", "lowest late", "final", "last KL")
    return tables.Table(f"{study.name}_levels", "Pass rates, means over seeds", head, tuple(shown))


def _level(method: str, own: Sequence[Row]) -> tuple[str, ...]:
    if not own:
        return (label(method), "", "0", "", "", "", "")
    means = [
        f"{np.mean([getattr(r, name) for r in own]):.3f}"
        for name in ("area", "lowest_late", "final", "kl_last")
    ]
    return (label(method), f"{own[0].rate:g}", str(len(own)), *means)


Pictures = Callable[[Study, Sequence[Row], Judged], Iterable[tuple[str, Any]]]


def pictures_of_parts(
    study: Study, rows: Sequence[Row], whole: Judged
) -> Iterator[tuple[str, Any]]:
    """Name and picture of each part of a study."""
    for part in dict.fromkeys(f.part for f, _ in whole):
        yield part if part == study.name else f"{study.name}_{part}", picture(part, whole)


def draw(
    study: Study, rows: Mapping[str, Row], out: Path, pictures: Pictures = pictures_of_parts
) -> str:
    """The pictures as .png and .pdf, STUDY.csv and .md; returns what is printed."""
    whole, name = judged(study, rows.values()), study.name
    for picture_name, figure in pictures(study, [*rows.values()], whole):
        plots.save(figure, out, picture_name)
    numbers = [
        {
            **{"family": f.id, "metric": f.metric, "baseline": f.baseline, "method": c.method},
            **dict(zip(("value", "low", "high"), c.effect or ("", "", ""), strict=True)),
            **dict(zip(("bootstrap_low", "bootstrap_high"), (c.bootstrap or ("", "", ""))[1:],
                       strict=True)),
            **{"seeds": len(c.differences), "p": c.p, "p_holm": c.adjusted, "verdict": c.verdict},
            "could_show": c.detectable if np.isfinite(c.detectable) else "",
        }
        for f, own in whole
        for c in own
    ]  # fmt: skip
    run_statistics.write_csv(out / f"{name}.csv", numbers)
    shown = (comparisons_table(name, whole), levels_table(study, rows))
    text = "\n".join(tables.markdown(t) for t in shown)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    lines = [*(tables.text(t) for t in shown), *families.summary(whole), progress(study, rows), ""]
    return "\n".join(lines)


def progress(study: Study, rows: Mapping[str, Row]) -> str:
    """How many runs are kept, by which code, and what the missing ones would take."""
    known = [r.seconds for r in rows.values()]
    left = sum(_missing(setting, rows) for setting in study.settings)
    commits = ", ".join(sorted({r.commit[:7] for r in rows.values()})) or "none"
    of = "worker" if study.long else "core"  # a real model may be on a GPU
    text = (
        f"{len(rows)} of {studies.planned(study)} runs are kept, of commit {commits}; "
        f"{sum(known):.0f} seconds of one {of}"
    )
    if len(rows) >= studies.planned(study):
        return text
    command = f"python -m paper_figures {study.name} {study.flag}"
    return f"{text}. The others would take about {left:.0f} ({command})"


def _missing(setting: Setting, rows: Mapping[str, Row]) -> float:
    """Seconds of the runs that have no row, each as long as those that have one."""
    own = [r.seconds for r in rows.values() if r[1:3] == setting[:2]]
    all_known = [r.seconds for r in rows.values()] or [0.0]
    return (studies.planned_of(setting) - len(own)) * float(np.mean(own or all_known))


def main(
    study: Study,
    about: str,
    argv: list[str] | None = None,
    pictures: Pictures = pictures_of_parts,
    require: Callable[[], None] = lambda: None,
) -> int:
    """The command of a study. require: raises runner.Failed where training lacks something."""
    args = _arguments(study, about, argv)
    file = args.out / f"{study.name}_quick.csv" if args.quick else kept_rows.file_of(study)
    try:
        if args.quick:
            quick = kept_rows.distinct(studies.quick(study))
            kept_runs.train(quick, file, args.workers)
        elif args.train:
            if len(kept_rows.read(file)) < studies.planned(study):
                require()
            kept_runs.train_all(study, file, args.workers)
        rows = kept_runs.checked(study, file, quick=args.quick)
        sys.stdout.write(draw(study, rows, args.out, pictures))
    except (runner.Failed, kept_rows.Damaged, Unusable) as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from what is kept\n")
        return 130
    return 0


def _arguments(study: Study, about: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m paper_figures {study.name}",
        description=about,
        epilog=f"Drawn and judged from the rows in paper_figures/kept/{study.name}.csv.",
    )
    parser.add_argument(
        study.flag,
        dest="train",
        action="store_true",
        help="first train the runs that no row is kept of",
    )
    parser.set_defaults(quick=False)
    if not study.long:
        parser.add_argument(
            "--quick",
            action="store_true",
            help="train two methods of each setting in a few steps and draw those; nothing is kept",
        )
    parser.add_argument(
        "--out", type=paths.out_dir, default=str(paths.OUT), help="folder to write into"
    )
    cores = os.cpu_count() or 1
    workers, by_default = (1, "one") if study.long else (cores, "all cores")
    parser.add_argument(
        "--workers", type=int, default=workers, help=f"processes (default: {by_default})"
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, got {args.workers}")
    if args.train and args.quick:
        parser.error("--quick keeps nothing, and --train trains what is kept: choose one of them")
    return args
