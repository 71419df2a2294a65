"""One self-contained page of all figures, tables and the claims that a folder holds."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper_figures import figure as command
from paper_figures import paths
from paper_figures.analysis import run_statistics
from paper_figures.claims import words
from paper_figures.drawing import tables
from paper_figures.experiments import provenance
from paper_figures.experiments.run_lists import FULL, Scale
from paper_figures.experiments.run_store import code_version
from paper_figures.figure import Figure
from sim.report import html
from sim.report.html import Markup

from . import contents

TITLE = "Jackpot's figures and tables, regenerated"
LEAD = (
    "The paper's figures and tables (arXiv 2602.06107) with small models on a synthetic task, and "
    "its claims, each judged by a test whose threshold was fixed before its runs were made; what "
    "else was changed after a first look at them stands beside the verdict."
)
STYLE = """
figure { overflow-x: auto; }
figure img { min-width: 640px; }
pre { overflow-x: auto; font-size: 0.8rem; }
.part { display: block; white-space: normal; max-width: 18rem; }
"""
BADGES = {words.REPRODUCED: "good", words.CONTRADICTED: "bad", words.NOT_SETTLED: "refuted"}


def heading(figure: Figure) -> str:
    """Figure 1, Table 2, or what it is about."""
    match = re.fullmatch(r"(fig|table)(\d+)", figure.name)
    if match:
        return f"{'Figure' if match[1] == 'fig' else 'Table'} {match[2]}"
    return (
        "Claims"
        if figure.name == "claims"
        else figure.name.replace("_", ": ", 1).replace("_", " ").capitalize()
    )


def about(text: str) -> str:
    """Without the number, which the heading has."""
    return re.sub(r"^(Figure|Table) \d+: ", "", text)


def pictures(name: str, out: Path) -> list[Path]:
    """NAME.png, and others that begin with it."""
    return [p for p in (out / f"{name}.png", *sorted(out.glob(f"{name}_*.png"))) if p.exists()]


def section(figure: Figure, out: Path) -> Markup | None:
    """What a figure left in the folder; None if that is nothing, or not of the present code."""
    shown = pictures(figure.name, out)
    if provenance.fresh(out, figure.name) or not shown:
        return None
    scale = provenance.scale_text(provenance.read(out)[figure.name])
    words = about(figure.about)
    words = words[0].upper() + words[1:]
    parts = [f"<p>{html.text(words)}</p><p><small>{html.text(scale)}</small></p>"]
    if figure.name == "claims":
        parts.append(claims(out / "claims.json"))
    elif (out / f"{figure.name}.md").exists():
        parts.append(table((out / f"{figure.name}.md").read_text(encoding="utf-8")))
        return Markup("\n".join(parts))
    parts += [html.picture(p, f"{heading(figure)}: {words}") for p in shown]
    numbers = out / f"{figure.name}.txt"
    if figure.name != "claims" and numbers.exists() and numbers.stat().st_size:
        parts.append(f"<pre>{html.text(numbers.read_text(encoding='utf-8'))}</pre>")
    return Markup("\n".join(parts))


def table(markdown: str) -> Markup:
    """A table of ours, its cells' second lines small."""
    parsed = tables.read_markdown(markdown)
    classes = ["nowrap", *["number"] * (len(parsed.head) - 1)]
    width = len(parsed.head)
    rows = []
    for row in parsed.rows:
        if len(row) == 1:
            rows.append(
                [Markup(f'<strong class="part">{html.text(row[0])}</strong>'), *[""] * (width - 1)]
            )
        else:
            rows.append([lines(c) for c in row])
    notes = "".join(f"<p><small>{html.text(n)}</small></p>" for n in parsed.notes)
    head = [Markup("<br>".join(html.text(x) for x in h.split("\n"))) for h in parsed.head]
    return Markup(html.table(head, rows, classes, about(parsed.title)) + notes)


def lines(cell: str) -> Markup:
    first, *rest = cell.split("\n")
    return Markup(html.text(first) + "".join(f"<br><small>{html.text(x)}</small>" for x in rest))


def claims(file: Path) -> Markup:
    """All claims, one row for each."""
    whole = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for c in whole["claims"]:
        badge = html.badge(BADGES.get(c["verdict"], "absent"), c["verdict"])
        name = Markup(
            f"<code>{html.text(c['id'])}</code><br><small>{html.text(c['section'])}</small>"
        )
        test = lines("\n".join(x for x in (c["test"], c["wanted"]) if x))
        seen = c["changed after a first look"]
        more = "; ".join(x for x in (c["detail"], seen and f"after a first look: {seen}") if x)
        detail = Markup(f"{badge}<br><small>{html.text(more)}</small>")
        value, seeds = "", ""
        if c["value"] is not None:
            value = f"{c['value']:.3f}\n[{c['low']:.3f}, {c['high']:.3f}]"
            value, seeds = (
                value if c["seeds"] >= run_statistics.SEEDS_MIN else value.split("\n")[0],
                str(c["seeds"]),
            )
        least = "" if c["could show"] is None else f"{c['could show']:.3f}"
        runs = html.folded(f"{len(c['runs'])} runs", "\n".join(c["runs"])) if c["runs"] else ""
        rows.append((name, detail, c["paper"], test, lines(value), seeds, least, runs))
    head = (
        "claim",
        "verdict",
        "the paper says",
        "test, wanted",
        "found",
        "seeds",
        "could show",
        "runs",
    )
    classes = ("claim", "worst", "worst", "worst", "number", "number", "number", "nowrap")
    return Markup(
        f"<p>{html.text(whole['summary'])}. {html.text(whole['bootstrap'])}.</p>"
        + html.table(head, rows, classes)
    )


def page(scale: Scale, out: Path) -> str:
    """The whole document, of what the folder holds."""
    sections: list[tuple[str, str, Markup]] = []
    missing: list[Sequence[Any]] = []
    quick = " --quick" if scale.length < FULL.length else ""
    where = "" if out == paths.OUT else f" --out {out}"
    for name, own in contents.figures().items():
        for figure in own:
            content = section(figure, out)
            if content is None:
                command_line = f"python -m paper_figures {name}{quick}{where}"
                why = provenance.fresh(out, figure.name) or "left out by the command"
                missing.append((heading(figure), why, Markup(f"<code>{command_line}</code>")))
            else:
                sections.append((figure.name, heading(figure), content))
    sections.sort(key=lambda s: s[0] != "claims")  # what was judged comes first
    if missing:
        content = html.table(("what", "why", "the command that makes it"), missing)
        sections.append(("missing", "Not here", content))
    libraries = ("torch", "transformers", "numpy", "scipy", "matplotlib")
    facts = {
        "code version": f"{code_version()} (hash of all code that training can reach)",
        "seeds": f"{', '.join(map(str, FULL.seeds))}, where a section names no others",
        "libraries": ", ".join(f"{x} {importlib.metadata.version(x)}" for x in libraries),
    }
    return html.page(TITLE, Markup(f"<p>{html.text(LEAD)}</p>"), facts, sections, STYLE)


def write(scale: Scale, out: Path) -> str:
    (out / "report.html").write_text(page(scale, out), encoding="utf-8")
    return f"wrote {out / 'report.html'}\n"


FIGURE = command.Figure("report", (__doc__ or "").splitlines()[0], lambda scale: (), write)


def main(argv: list[str] | None = None) -> int:
    return command.main(FIGURE, argv)
