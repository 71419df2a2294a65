"""The HTML of `python -m sim report`: one file that holds everything it shows.

Text is escaped wherever it enters; only `Markup` made here is taken as it is.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sim.claims.registry import CORRECTED, FAILS, HOLDS


class Markup(str):
    """Text that is HTML already."""


# how a verdict is shown if it is the declared one: class, and the words
VERDICTS = {
    HOLDS: ("good", "holds"),
    CORRECTED: ("mended", "holds as corrected"),
    FAILS: ("refuted", "fails, as declared"),
}

STYLE = """
:root { color-scheme: light; --line: #d5d8dd; --quiet: #5a6270; }
* { box-sizing: border-box; }
html { scroll-padding-top: 3.5rem; }
body { margin: 0; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1c2128;
  background: #fff; }
.frame { max-width: 1240px; margin: 0 auto; padding: 0 16px 48px; }
nav { position: sticky; top: 0; z-index: 2; background: #fff; border-bottom: 1px solid var(--line);
  padding: 8px 0; display: flex; flex-wrap: wrap; gap: 2px 16px; white-space: nowrap;
  font-size: 0.92rem; }
nav a { color: #0a4a8f; text-decoration: none; }
nav a:hover { text-decoration: underline; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 28px 0 8px; }
h2 { font-size: 1.3rem; margin: 44px 0 6px; padding-top: 12px; border-top: 3px solid #1c2128; }
h3 { font-size: 1.05rem; margin: 26px 0 6px; }
p, li { max-width: 78ch; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 10px 0; }
table { border-collapse: collapse; font-size: 0.87rem; width: 100%; }
caption { text-align: left; padding: 8px 10px; color: var(--quiet); caption-side: top; }
th, td { padding: 5px 10px; vertical-align: top; text-align: left; }
th { background: #f1f3f5; font-weight: 600; white-space: nowrap; }
tr + tr td { border-top: 1px solid #e8eaed; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.claim { min-width: 11rem; max-width: 15rem; }
.claim small { color: var(--quiet); }
.statement { min-width: 24rem; overflow-wrap: anywhere; }
.worst { min-width: 5rem; max-width: 26rem; }
.nowrap { white-space: nowrap; }
th.number { white-space: normal; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.84rem; }
code { overflow-wrap: anywhere; }
pre { overflow-x: auto; background: #f6f7f9; border: 1px solid var(--line); border-radius: 6px;
  padding: 10px; margin: 6px 0; line-height: 1.35; }
td pre { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: #0a4a8f; }
.word { display: inline-block; padding: 1px 8px; border-radius: 10px; font-weight: 600;
  white-space: nowrap; }
.good { background: #d9f2df; color: #0f5223; }
.mended { background: #dbe9fb; color: #0d3f7a; }
.refuted { background: #fcebcf; color: #6b4000; }
.bad { background: #b3261e; color: #fff; }
.absent { background: #e8eaed; color: #3c434d; }
figure { margin: 14px 0; }
figure img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--quiet); max-width: 90ch; font-size: 0.92rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; font-size: 0.92rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { nav { flex-wrap: nowrap; overflow-x: auto; scrollbar-width: none; }
  dl { grid-template-columns: 1fr; } dd { margin: 0 0 8px; }
  .statement { min-width: 15rem; } }
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""


def text(value: Any) -> Markup:
    """Anything as HTML text: escaped, unless it is Markup."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def badge(kind: str, words: str) -> Markup:
    """A word on a coloured background."""
    return Markup(f'<span class="word {text(kind)}">{text(words)}</span>')


def table(
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    classes: Sequence[str] = (),
    caption: str = "",
) -> Markup:
    """A table that scrolls sideways; `classes` holds one CSS class per column, or nothing."""
    marks = [f' class="{text(c)}"' if c else "" for c in classes] or [""] * len(head)

    def line(tag: str, cells: Sequence[Any]) -> str:
        pairs = zip(cells, marks, strict=True)
        return "<tr>" + "".join(f"<{tag}{m}>{text(c)}</{tag}>" for c, m in pairs) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return Markup(
        f'<div class="scroll" tabindex="0"><table>{title}<thead>{line("th", head)}</thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def numbers(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Markup:
    """A table whose first column is words and all others numbers."""
    return table(columns, rows, ["nowrap"] + ["number"] * (len(columns) - 1), caption)


def picture(path: Path, caption: str) -> Markup:
    """A PNG, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return Markup(
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def folded(title: str, content: str) -> Markup:
    """Preformatted text behind a title that opens it."""
    return Markup(f"<details><summary>{text(title)}</summary><pre>{text(content)}</pre></details>")


def claims_table(claims: Sequence[dict[str, Any]]) -> Markup:
    """The claims as `sim.claims.registry` writes them to JSON, one row each."""
    head = ("claim", "verdict", "statement", "cases", "largest violation", "worst case")
    classes = ("claim", "nowrap", "statement", "number", "number", "worst")
    return table(head, (_claim(c) for c in claims), classes)


def _claim(c: dict[str, Any]) -> tuple:
    shown = VERDICTS.get(c["declared"], ("absent", c["declared"]))
    if c["verdict"] != c["declared"]:
        shown = ("bad", f"{c['verdict']}, declared: {c['declared']}")
    size = c["largest_violation"]
    violation = f"{size:.3g}" if isinstance(size, float) else str(size)
    if not c["violations"]:
        violation = "none"
    elif size == 0:
        violation = "equality, not <"
    lines = "\n".join(f"{k} = {_value(v)}" for k, v in c["worst_case"].items())
    id, source = text(c["id"]), text(c["source"])
    name = Markup(f'<code id="claim-{id}">{id}</code><br><small>{source}</small>')
    worst = folded("show", lines) if lines else "none"
    return name, badge(*shown), c["statement"], c["cases"], violation, worst


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(_value(x) for x in value) + ")"
    return value if isinstance(value, str) else json.dumps(value)


def page(
    title: str, lead: Markup, facts: dict[str, str], sections: Sequence[tuple], style: str = ""
) -> str:
    """The whole document; a section is (id, heading, content as Markup), `style` more CSS."""
    links = "".join(f'<a href="#{text(a)}">{text(h)}</a>' for a, h, _ in sections)
    items = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    body = "\n".join(
        f'<section id="{text(a)}"><h2>{text(h)}</h2>\n{text(c)}</section>' for a, h, c in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{STYLE}{style}</style></head>\n<body><div class="frame">\n<h1>{text(title)}</h1>\n'
        f'{lead}\n<nav aria-label="contents">{links}</nav>\n<dl>{items}</dl>\n{body}\n'
        "</div></body></html>\n"
    )
