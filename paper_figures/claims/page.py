"""The claims of the paper, each judged by a test whose threshold was fixed before its runs."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paper_figures import figure as command
from paper_figures import paths
from paper_figures.analysis import run_statistics
from paper_figures.drawing import plots, style, tables
from paper_figures.experiments import kept_rows, provenance
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.kept_studies import STUDIES
from paper_figures.experiments.run_lists import FULL, Scale
from paper_figures.experiments.run_store import HOME, code_version
from paper_figures.experiments.runner import Evaluation
from paper_figures.extras import kept_runs

from . import again, families, kept_claims
from . import verdicts as claim_verdicts
from .verdicts import Judgement
from .words import CONTRADICTED, NOT_SETTLED, REPRODUCED, WORDS, word

# how a verdict is drawn: colour, marker, whether it is filled
LOOKS = {
    REPRODUCED: (style.GREEN, "o", True),
    CONTRADICTED: (style.VERMILION, "X", True),
    NOT_SETTLED: (style.BLUE, "D", False),
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
SHOWN = (
    "Could show: how far from the threshold a true effect must lie to be settled in 4 of 5 such "
    "studies, at the spread that was seen; of a ratio, by which factor. What is not settled and "
    "lies nearer cannot be told from no effect"
)


def runs(scale: Scale) -> list[RunSpec]:
    families.load(), again.load()  # what is wrong with these is said before the training
    return claim_verdicts.runs(claim_verdicts.load(), scale)


def evaluations(scale: Scale) -> list[Evaluation]:
    return claim_verdicts.evaluations(claim_verdicts.load(), scale)


def row(judgement: Judgement) -> dict[str, Any]:
    """What is written of one claim."""
    c, effect = judgement.claim, judgement.effect
    blank = (None, None, None)
    return {
        **{"id": c.id, "section": c.section, "paper": c.paper, "test": c.test, "kind": c.kind},
        **{"metric": c.metric, "unit": c.unit if effect else "", "a": side(c.a), "b": side(c.b)},
        "wanted": c.wanted if c.kind != "none" else "",
        **dict(zip(("value", "low", "high"), effect or blank, strict=True)),
        **dict(zip(("t low", "t high"), (judgement.student or blank)[1:], strict=True)),
        **{"seeds": judgement.seeds, "verdict": judgement.verdict, "detail": judgement.detail},
        "could show": judgement.could_show if math.isfinite(judgement.could_show) else None,
        "changed after a first look": c.seen,
        "commit": judgement.commit,
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
    counts = [(v, sum(j.verdict == v for j in judgements)) for v in WORDS]
    return f"{len(judgements)} claims: {', '.join(f'{n} {v}' for v, n in counts if n)}"


def by_bootstrap(judgements: list[Judgement]) -> str:
    """What the bootstrap's intervals alone would say, and of which claims that is more.

    What both intervals settle, each of them settles.
    """
    alone = {
        j.claim.id: word((j.effect,), j.claim.range, j.seeds)
        if j.verdict == NOT_SETTLED
        else j.verdict
        for j in judgements
        if j.effect
    }
    counts = {v: sum(w == v for w in alone.values()) for v in (REPRODUCED, CONTRADICTED)}
    more = [j.claim.id for j in judgements if alone.get(j.claim.id, j.verdict) != j.verdict]
    named = f"; those whose verdict differs: {', '.join(more)}" if more else ""
    return (
        f"By the bootstrap's intervals alone {counts[REPRODUCED]} would be reproduced and "
        f"{counts[CONTRADICTED]} contradicted{named}"
    )


def shown(judgement: Judgement) -> str:
    """What the seeds could show, in words; blank where there is no interval."""
    if not math.isfinite(judgement.could_show):
        return ""
    factor = "factor " if judgement.claim.is_log else ""
    return f"{factor}{judgement.could_show:.3f}"


def text(judgements: list[Judgement]) -> str:
    """For a terminal."""
    lines = [
        f"{'claim':32}{'wanted':>22}{'effect, bootstrap':>26}{'by Student':>18}{'seeds':>6}"
        f"{'could show':>14}  verdict"
    ]
    for j in judgements:
        wanted = "" if j.claim.kind == "none" else j.claim.wanted
        effect, seeds = (j.effect.text(), str(j.seeds)) if j.effect else ("", "")
        lines.append(
            f"{j.claim.id:32}{wanted:>22}{effect:>26}{ends(j):>18}{seeds:>6}{shown(j):>14}  "
            f"{j.verdict}" + (f": {j.detail}" if j.detail else "")
        )
    notes = [summary(judgements), by_bootstrap(judgements), f"{SHOWN}.", FEW]
    return "\n".join([*lines, *notes, ""])


def ends(judgement: Judgement) -> str:
    """Student's interval without its centre; blank where there is none."""
    if judgement.student is None or judgement.seeds < run_statistics.SEEDS_MIN:
        return ""
    return f"[{judgement.student.low:.3f}, {judgement.student.high:.3f}]"


def markdown(judgements: list[Judgement]) -> str:
    rows = []
    for j in judgements:
        c = j.claim
        wanted = f"{c.test}\n{c.wanted}" if c.kind != "none" else ""
        effect = f"{j.effect.text()}\n{ends(j)}".strip() if j.effect else ""
        seeds = str(j.seeds) if j.effect else ""
        more = f"after a first look: {c.seen}" if c.seen else ""
        verdict = "\n".join(x for x in (j.verdict, j.detail, more) if x)
        rows.append((f"{c.id}\n{c.section}", c.paper, wanted, effect, seeds, verdict, shown(j)))
    head = ("claim", "the paper says", "test, wanted", "found\nby Student's t", "seeds", "verdict",
            "could show")  # fmt: skip
    return tables.markdown(
        tables.Table(
            "claims",
            "Claims of the paper",
            head,
            tuple(rows),
            (summary(judgements), by_bootstrap(judgements), SHOWN, FEW),
        )
    )


def picture(judgements: list[Judgement]) -> Any:
    """Each effect with its intervals, the bootstrap's thick and Student's thin, over the region
    where both must lie; one panel per unit."""
    plt = plots.plt()
    with_effect = [j for j in judgements if j.effect]
    units = [u for u in UNITS if any(j.claim.unit == u for j in with_effect)]
    by_unit = {u: [j for j in with_effect if j.claim.unit == u] for u in units}
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
            plt.Line2D([], [], label=name, linestyle="none", **_marker(name))
            for name in LOOKS
            if any(j.verdict == name for j in with_effect)
        ]
        region = plt.Rectangle(
            (0, 0), 1, 1, color=BACKGROUND, label="where both intervals must lie"
        )
        fig.legend(handles=[region, *handles], loc="lower center", ncols=2)
    return fig


BACKGROUND = "#dfe5ea"


def _marker(name: str) -> dict[str, Any]:
    colour, marker, filled = LOOKS[name]
    face = colour if filled else "white"
    return {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 4.5}


def panel(ax: Any, own: list[Judgement]) -> None:
    """Rows from top to bottom: the test, its effect, and the numbers at the right."""
    marks = [
        x
        for j in own
        for x in (*(j.effect or ()), *(j.student or ()), *j.claim.range)
        if math.isfinite(x)
    ]
    low, high = min(marks), max(marks)
    margin = 0.08 * (high - low) or 0.1
    ax.set_xlim(low - margin, high + margin)
    ax.set_ylim(-len(own) + 0.5, 0.5)
    for i, j in enumerate(own):
        left, right = (min(max(x, ax.get_xlim()[0]), ax.get_xlim()[1]) for x in j.claim.range)
        ax.fill_between((left, right), -i - 0.42, -i + 0.42, color=BACKGROUND, linewidth=0)
        for x in (x for x in j.claim.range if math.isfinite(x)):
            ax.plot((x, x), (-i - 0.42, -i + 0.42), color=style.BLACK, linewidth=0.8)
        name, effect = j.verdict, j.effect or run_statistics.Interval(0, 0, 0)
        colour, student = LOOKS[name][0], j.student or effect
        ax.plot((student.low, student.high), (-i, -i), color=colour, linewidth=0.5)
        ax.plot((effect.low, effect.high), (-i, -i), color=colour, linewidth=1.6)
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
    return write(judgements, scale.name, code_version(), out)


def from_kept(out: Path) -> str:
    """The verdicts by the effects that are kept; nothing is trained.

    Raises:
        kept_rows.Damaged: what is kept cannot be trusted as it is.
    """
    kept = kept_claims.read(kept_claims.file())
    judgements = kept_claims.judgements(claim_verdicts.load(), kept)
    return write(judgements, FULL.name, "", out) + of_commits(kept)


def of_commits(kept: Mapping[str, kept_claims.KeptEffect]) -> str:
    """Which code the kept effects are of."""
    commits = ", ".join(sorted({k.commit[:7] for k in kept.values()})) or "none"
    about = "" if all(k.t_low is not None for k in kept.values()) else f"{kept_claims.ABOUT}.\n"
    return (
        f"The verdicts on claims are those of {len(kept)} kept effects, of runs of commit "
        f"{commits}; python -m paper_figures claims --train makes them anew.\n{about}"
    )


def write(judgements: list[Judgement], scale: str, code: str, out: Path) -> str:
    """claims.csv, .json, .md, .png and .pdf, and claims_again.md, .png and .pdf; returns what is
    printed."""
    rows = [row(j) for j in judgements]
    table = [{**r, "runs": " ".join(r["runs"])} for r in rows]
    run_statistics.write_csv(out / "claims.csv", table)
    whole: dict[str, Any] = {"code": code, "scale": scale, "summary": summary(judgements)}
    whole |= {"bootstrap": by_bootstrap(judgements), "claims": rows}
    content = json.dumps(whole, indent=1, allow_nan=False) + "\n"
    (out / "claims.json").write_text(content, encoding="utf-8")
    (out / "claims.md").write_text(markdown(judgements), encoding="utf-8")
    plots.save(picture(judgements), out, "claims")
    return text(judgements) + kept_lines(out)


def kept_lines(out: Path) -> str:
    """What the kept rows settle of each family of the studies, and of the claims that are judged
    again, whose table and picture are written; none of it is trained here."""
    lines = []
    kept = {s.name: kept_runs.checked(s, kept_rows.file_of(s)).values() for s in STUDIES}
    for study in STUDIES:
        rows = kept[study.name]
        judged = [(f, families.judge(f, rows)) for f in families.of_study(study)]
        commits = ", ".join(sorted({row.commit[:7] for row in rows})) or "none"
        lines += [f"The study {study.name}, by {len(rows)} kept runs of commits {commits}:"]
        lines += families.summary(judged)
    lines += ["The paper's claims again, by kept runs of the study evidence:"]
    entries = again.load()
    judged_again = [again.judge(entry, kept["evidence"]) for entry in entries]
    content = tables.markdown(again.table(entries, judged_again))
    (out / "claims_again.md").write_text(content, encoding="utf-8")
    plots.save(picture(again.labelled(entries, judged_again)), out, "claims_again")
    lines += again.summary(judged_again)
    return "\n".join([*lines, ""])


FIGURE = command.Figure("claims", (__doc__ or "").splitlines()[0], runs, figure, evaluations)


def main(argv: list[str] | None = None) -> int:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--train",
            action="store_true",
            help="train the runs that are missing, judge by them, and keep the effects",
        )
        parser.add_argument(
            "--json", type=paths.path_of, metavar="FILE", help="also write claims.json here"
        )

    args = command.arguments(FIGURE.name, FIGURE.about, argv, more)
    if args.train and args.scale != FULL:
        raise SystemExit("error: --quick keeps nothing, and --train keeps what is trained")
    if args.json and args.json.is_dir():
        raise SystemExit(f"error: --json {args.json} is a folder; give a file")
    if args.json and not args.json.absolute().parent.is_dir():
        raise SystemExit(f"error: there is no folder {args.json.absolute().parent}")
    if args.train or args.scale != FULL:
        code = command.make([FIGURE], args.scale, args.out, args.workers)
        if args.train and code == 0:
            judged = [claim_verdicts.judge(c, FULL) for c in claim_verdicts.load()]
            kept_claims.write(judged, kept_claims.file())
    else:
        code = show_kept(args.out)
    if args.json and code == 0:
        args.json.write_text((args.out / "claims.json").read_text(encoding="utf-8"), "utf-8")
    return code


def show_kept(out: Path) -> int:
    """Print the kept verdicts; returns the exit code."""
    try:
        shown = from_kept(out)
    except (kept_rows.Damaged, command.Unusable) as e:
        sys.stderr.write(f"error: {e}\n")
        return 1
    sys.stdout.write(shown)
    (out / f"{FIGURE.name}.txt").write_text(shown, encoding="utf-8")
    provenance.note(out, FIGURE.name, FULL, ())
    return 0
