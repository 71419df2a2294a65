"""The claims of the paper, each judged by a test whose threshold was fixed before its runs."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from paper_figures import figure as command
from paper_figures import paths
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style, tables
from paper_figures.experiments import kept_rows
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.kept_studies import STUDIES
from paper_figures.experiments.run_lists import Scale
from paper_figures.experiments.run_store import HOME, code_version
from paper_figures.experiments.runner import Evaluation
from paper_figures.extras import kept_runs

from . import families
from . import verdicts as claim_verdicts
from .verdicts import CONTRADICTED, NOT, OPEN, REPRODUCED, Judgement

# how a verdict is drawn: words, colour, marker, whether it is filled
LOOKS = {
    "reproduced": ("reproduced at our scale", style.GREEN, "o", True),
    "contradicted": (
        "not reproduced: wholly short of the threshold",
        style.VERMILION,
        "X",
        True,
    ),
    "undecided": ("not reproduced: straddles the threshold", style.BLUE, "D", False),
    "open": ("no verdict: too few seeds", style.GREY, "s", False),
}
UNITS = {
    "pass rate": "pass rate, or a difference of two",
    "nats": "nats per token",
    "ratio": "ratio",
    "steps": "steps",
    "share": "share",
}
FEW = (
    "Bootstrap intervals of 3, 5 and 8 seeds cover the truth in about 70, 82 and 88 % of cases "
    "(normal values), not in 95 %; those of three reach from the smallest to the largest at most."
)


def kind(judgement: Judgement) -> str:
    """Key of LOOKS."""
    if judgement.verdict == NOT:
        return "contradicted" if judgement.detail == CONTRADICTED else "undecided"
    return {REPRODUCED: "reproduced", OPEN: "open"}[judgement.verdict]


def runs(scale: Scale) -> list[RunSpec]:
    return claim_verdicts.runs(claim_verdicts.load(), scale)


def evaluations(scale: Scale) -> list[Evaluation]:
    return claim_verdicts.evaluations(claim_verdicts.load(), scale)


def row(judgement: Judgement) -> dict[str, Any]:
    """What is written of one claim."""
    c, effect = judgement.claim, judgement.effect
    ends = effect or (None, None, None)
    return {
        **{"id": c.id, "section": c.section, "paper": c.paper, "test": c.test, "kind": c.kind},
        **{"metric": c.metric, "unit": c.unit if effect else "", "a": side(c.a), "b": side(c.b)},
        "wanted": c.wanted if c.kind != "none" else "",
        **dict(zip(("value", "low", "high"), ends, strict=True)),
        **dict(zip(("t low", "t high"), (judgement.student or ends)[1:], strict=True)),
        **{"seeds": judgement.seeds, "verdict": judgement.verdict, "detail": judgement.detail},
        "changed after a first look": c.seen,
        "runs": list(judgement.runs),
    }


def side(wanted: dict[str, Any] | None) -> str:
    """Study, world, method and settings in words."""
    if not wanted:
        return ""
    more = "".join(f", {k} = {v}" for k, v in wanted.get("with", {}).items())
    return f"{wanted['study']}: {wanted['method']} in {wanted['world']}{more}"


def summary(judgements: list[Judgement]) -> str:
    """How many of each verdict."""
    verdicts = (REPRODUCED, NOT, OPEN, claim_verdicts.CANNOT)
    counts = [(v, sum(j.verdict == v for j in judgements)) for v in verdicts]
    contradicted = sum(j.detail == CONTRADICTED for j in judgements)
    parts = [f"{n} {v}" for v, n in counts if n]
    other = f"{contradicted} of those not reproduced lie {CONTRADICTED}"
    return f"{len(judgements)} claims: {', '.join(parts)}; {other}"


def by_student(judgements: list[Judgement]) -> str:
    """Which verdicts `reproduced` rest on the kind of interval."""
    held = [j for j in judgements if j.verdict == REPRODUCED and j.student]
    lost = [j.claim.id for j in held if claim_verdicts.decide(j.claim, j.student)[0] != REPRODUCED]  # type: ignore[arg-type]
    named = f": {', '.join(lost)}" if lost else ""
    return f"By Student's t intervals {len(lost)} of the {len(held)} reproduced would not be{named}"


def text(judgements: list[Judgement]) -> str:
    """For a terminal."""
    lines = [f"{'claim':32}{'wanted':>22}{'judgements':>26}{'seeds':>6}  verdict"]
    for j in judgements:
        wanted = "" if j.claim.kind == "none" else j.claim.wanted
        effect, seeds = (j.effect.text(), str(j.seeds)) if j.effect else ("", "")
        lines.append(
            f"{j.claim.id:32}{wanted:>22}{effect:>26}{seeds:>6}  {j.verdict}"
            + (f": {j.detail}" if j.detail else "")
        )
    return "\n".join([*lines, summary(judgements), by_student(judgements), FEW, ""])


def markdown(judgements: list[Judgement]) -> str:
    rows = []
    for j in judgements:
        c = j.claim
        wanted = f"{c.test}\n{c.wanted}" if c.kind != "none" else ""
        effect = j.effect.text() if j.effect else ""
        seeds = str(j.seeds) if j.effect else ""
        more = f"after a first look: {c.seen}" if c.seen else ""
        verdict = "\n".join(x for x in (j.verdict, j.detail, more) if x)
        rows.append((f"{c.id}\n{c.section}", c.paper, wanted, effect, seeds, verdict))
    head = ("claim", "the paper says", "test, wanted", "found", "seeds", "verdict")
    return tables.markdown(
        tables.Table(
            "claims",
            "Claims of the paper",
            head,
            tuple(rows),
            (summary(judgements), by_student(judgements), FEW),
        )
    )


def picture(judgements: list[Judgement]) -> Any:
    """Each effect with its interval, over the region where it must lie; one panel per unit."""
    plt = plots.plt()
    shown = [j for j in judgements if j.effect]
    units = [u for u in UNITS if any(j.claim.unit == u for j in shown)]
    by_unit = {u: [j for j in shown if j.claim.unit == u] for u in units}
    with plt.rc_context(style.RC):
        sizes = [len(own) + 1.9 for own in by_unit.values()]
        height = 0.165 * sum(sizes) + 0.4
        fig = plt.figure(figsize=(style.TEXT_WIDTH, height))
        bottom = 1 - 0.05 / height
        for (unit, own), size in zip(by_unit.items(), sizes, strict=True):
            share = 0.165 * size / height
            bottom -= share
            inner = 0.165 * len(own) / height
            ax = fig.add_axes((0.40, bottom + share - inner, 0.385, inner))
            panel(ax, own)
            ax.set_xlabel(UNITS[unit], labelpad=1)
        handles = [
            plt.Line2D([], [], label=words, linestyle="none", **_marker(name))
            for name, (words, *_) in LOOKS.items()
            if any(kind(j) == name for j in shown)
        ]
        region = plt.Rectangle((0, 0), 1, 1, color=BACKGROUND, label="where the interval must lie")
        fig.legend(handles=[region, *handles], loc="lower center", ncols=2)
    return fig


BACKGROUND = "#dfe5ea"


def _marker(name: str) -> dict[str, Any]:
    _, colour, marker, filled = LOOKS[name]
    face = colour if filled else "white"
    return {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 4.5}


def panel(ax: Any, own: list[Judgement]) -> None:
    """Rows from top to bottom: the test, its effect, and the numbers at the right."""
    marks = [x for j in own for x in (*(j.effect or ()), *j.claim.range) if math.isfinite(x)]
    low, high = min(marks), max(marks)
    margin = 0.08 * (high - low) or 0.1
    ax.set_xlim(low - margin, high + margin)
    ax.set_ylim(-len(own) + 0.5, 0.5)
    for i, j in enumerate(own):
        left, right = (min(max(x, ax.get_xlim()[0]), ax.get_xlim()[1]) for x in j.claim.range)
        ax.fill_between((left, right), -i - 0.42, -i + 0.42, color=BACKGROUND, linewidth=0)
        for x in (x for x in j.claim.range if math.isfinite(x)):
            ax.plot((x, x), (-i - 0.42, -i + 0.42), color=style.BLACK, linewidth=0.8)
        name, effect = kind(j), j.effect or run_statistics.Interval(0, 0, 0)
        colour = LOOKS[name][1]
        ax.plot((effect.low, effect.high), (-i, -i), color=colour, linewidth=1.4)
        ax.plot(effect.value, -i, **_marker(name), zorder=3)
        numbers = effect.text() if j.seeds >= run_statistics.SEEDS_MIN else f"{effect.value:.3f}"
        ax.annotate(
            numbers, (1.015, -i), xycoords=("axes fraction", "data"), va="center", fontsize=6
        )
    ax.set_yticks([-i for i in range(len(own))], [j.claim.test for j in own], fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", pad=1)


def figure(scale: Scale, out: Path, home: Path = HOME) -> str:
    judgements = [claim_verdicts.judge(c, scale, home) for c in claim_verdicts.load()]
    rows = [row(j) for j in judgements]
    table = [{**r, "runs": " ".join(r["runs"])} for r in rows]
    run_statistics.write_csv(out / "claims.csv", table)
    whole: dict[str, Any] = {
        "code": code_version(),
        "scale": scale.name,
        "summary": summary(judgements),
    }
    whole |= {"student": by_student(judgements), "claims": rows}
    content = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    (out / "claims.json").write_text(content, encoding="utf-8")
    (out / "claims.md").write_text(markdown(judgements), encoding="utf-8")
    plots.save(picture(judgements), out, "claims")
    return text(judgements) + kept_lines()


def kept_lines() -> str:
    """What the kept rows settle of each family of the studies; none of it is trained here."""
    lines = []
    for study in STUDIES:
        rows = kept_runs.checked(study, kept_rows.file_of(study)).values()
        judged = [(f, families.judge(f, rows)) for f in families.of_study(study)]
        lines += [f"The study {study.name}, by {len(rows)} kept runs:", *families.summary(judged)]
    return "\n".join([*lines, ""])


FIGURE = command.Figure("claims", (__doc__ or "").splitlines()[0], runs, figure, evaluations)


def main(argv: list[str] | None = None) -> int:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--json", type=paths.path_of, metavar="FILE", help="also write claims.json here"
        )

    args = command.arguments(FIGURE.name, FIGURE.about, argv, more)
    if args.json and args.json.is_dir():
        raise SystemExit(f"error: --json {args.json} is a folder; give a file")
    if args.json and not args.json.absolute().parent.is_dir():
        raise SystemExit(f"error: there is no folder {args.json.absolute().parent}")
    code = command.make([FIGURE], args.scale, args.out, args.workers)
    if args.json and code == 0:
        args.json.write_text((args.out / "claims.json").read_text(encoding="utf-8"), "utf-8")
    return code
