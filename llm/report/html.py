"""The HTML of a run's report and of a comparison: one file that holds everything it shows.

Text is escaped wherever it enters; only `Html` made here is taken as it is. The page fetches
nothing and runs nothing: its content policy allows embedded pictures and inline styles only.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --ground: #fff; --line: #d5d8dd; 
  --hair: #e8eaed; --quiet: #5a6270; --link: #0a4a8f; --head: #f1f3f5; --code: #f6f7f9;
  --good: #d9f2df; --good-ink: #0f5223; --warn: #fcebcf; --warn-ink: #6b4000;
  --plain: #e8eaed; --plain-ink: #3c434d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --ground: #141414; --line: #3a3f46; --hair: #2b2f35; --quiet: #a3abb6;
    --link: #8ab8ee; --head: #22262b; --code: #1d2025; --good: #16391f; --good-ink: #a9e5b8;
    --warn: #402d08; --warn-ink: #f5d08a; --plain: #2b2f35; --plain-ink: #c6ccd4; }
  /* white becomes the background, black almost white, and each hue stays */
  figure img, .tokens, .key span { filter: invert(0.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 3.5rem; }
body { margin: 0; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  color: var(--ink); background: var(--ground); overflow-wrap: anywhere; }
.frame { max-width: 1240px; margin: 0 auto; padding: 0 16px 48px; }
nav { position: sticky; top: 0; z-index: 2; background: var(--ground);
  border-bottom: 1px solid var(--line); padding: 8px 0; display: flex; flex-wrap: wrap;
  gap: 2px 16px; white-space: nowrap;
  font-size: 0.92rem; }
a, nav a { color: var(--link); }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 28px 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 44px 0 6px; padding-top: 12px; border-top: 3px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 26px 0 6px; }
p, li { max-width: 78ch; }
.quiet { color: var(--quiet); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: 10px 0; }
table { border-collapse: collapse; overflow-wrap: normal; font-size: 0.87rem; width: 100%; }
th, td { padding: 5px 10px; vertical-align: top; text-align: left; }
th { background: var(--head); font-weight: 600; }
tr + tr td { border-top: 1px solid var(--hair); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.84rem; }
code { overflow-wrap: anywhere; }
pre { overflow-x: auto; background: var(--code); border: 1px solid var(--line); border-radius: 6px;
  padding: 10px; margin: 6px 0; line-height: 1.35; }
summary { cursor: pointer; color: var(--link); }
.word { display: inline-block; padding: 1px 8px; border-radius: 10px; font-weight: 600;
  white-space: nowrap; font-size: 0.87rem; }
.good { background: var(--good); color: var(--good-ink); }
.warn { background: var(--warn); color: var(--warn-ink); }
.bad { background: #b3261e; color: #fff; }
.plain { background: var(--plain); color: var(--plain-ink); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(360px, 100%), 1fr));
  gap: 12px; margin: 12px 0; }
.plots.two { grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }
figure { margin: 0; }
figure img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; }
dl { display: grid; grid-template-columns: fit-content(40%) minmax(0, 1fr);
  gap: 2px 16px; font-size: 0.92rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { nav { flex-wrap: nowrap; overflow-x: auto; scrollbar-width: none; }
  dl { grid-template-columns: 1fr; } dd { margin: 0 0 8px; } }
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""


def counted(n: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


class Html(str):
    """Text that is HTML already."""


def text(value: Any) -> Html:
    """Anything as HTML text: escaped, unless it is Html."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def paragraph(value: Any, kind: str = "") -> Html:
    mark = f' class="{text(kind)}"' if kind else ""
    return Html(f"<p{mark}>{text(value)}</p>")


def badge(kind: str, words: str) -> Html:
    """A word on a coloured background: good, warn, bad or plain."""
    return Html(f'<span class="word {text(kind)}">{text(words)}</span>')


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], classes: Sequence[str] = ()) -> Html:
    """A table that scrolls sideways; `classes` holds one CSS class per column, or nothing."""
    marks = [f' class="{text(c)}"' if c else "" for c in classes] or [""] * len(head)

    def line(tag: str, cells: Sequence[Any]) -> str:
        pairs = zip(cells, marks, strict=True)
        return "<tr>" + "".join(f"<{tag}{m}>{text(c)}</{tag}>" for c, m in pairs) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return Html(
        f'<div class="scroll" tabindex="0"><table><thead>{line("th", head)}</thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(png: bytes, alt: str) -> Html:
    """A PNG, inside the page. `alt` says in words what it shows."""
    data = base64.b64encode(png).decode("ascii")
    return Html(f'<figure><img alt="{text(alt)}" src="data:image/png;base64,{data}"></figure>')


def folded(title: Any, content: str, opened: bool = False) -> Html:
    """Preformatted text behind a title that opens it."""
    return Html(
        f"<details{' open' if opened else ''}><summary>{text(title)}</summary>"
        f"<pre>{text(content)}</pre></details>"
    )


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    items = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in pairs)
    return Html(f"<dl>{items}</dl>")


def page(title: str, lead: Html, sections: Sequence[tuple[str, str, Html]], style: str = "") -> str:
    """The whole document; a section is (id, heading, content)."""
    links = "".join(f'<a href="#{text(a)}">{text(h)}</a>' for a, h, _ in sections)
    body = "\n".join(
        f'<section id="{text(a)}"><h2>{text(h)}</h2>\n{text(c)}</section>' for a, h, c in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{STYLE}{style}</style></head>\n<body><div class="frame">\n<h1>{text(title)}</h1>\n'
        f'{lead}\n<nav aria-label="contents">{links}</nav>\n{body}\n</div></body></html>\n'
    )
