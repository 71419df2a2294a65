"""A table as CSV, Markdown, text and picture; and the paper's numbers beside ours."""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paper_figures.analysis import run_statistics
from paper_figures.analysis.run_statistics import Interval
from paper_figures.paths import PAPER_TABLES

from . import plots, style

PAPER_SETS = ("GSM8K mean@4", "MATH-500 mean@4", "AMC22/23 mean@4")
LINE, PAD = 0.112, 0.07  # inches: one line of text, and what a row has above and below together
FONT, SMALL = 6.5, 5.5  # points
NOTE_WIDTH = 150  # characters


class Table(NamedTuple):
    """head and rows hold text. A cell's second line is a remark, such as an interval; a row of one
    cell is a heading of the rows below it."""

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def paper(table: int, setting: str, method: str) -> dict[str, float]:
    """The paper's numbers of one row, by metric. setting: how the name of its block begins.

    Raises:
        KeyError: the paper has no such row, or several.
    """
    with PAPER_TABLES.open(newline="", encoding="utf-8") as file:
        mine = [
            r
            for r in csv.DictReader(file)
            if (r["table"], r["method"]) == (str(table), method)
            and r["setting"].startswith(setting)
        ]
    values = {r["metric"]: float(r["value"]) for r in mine}
    if not mine or len(values) != len(mine):
        raise KeyError(f"Table {table} has {len(mine)} numbers of {setting!r}, {method!r}")
    return values


def paper_cells(numbers: dict[str, float]) -> tuple[str, ...]:
    """Those of PAPER_SETS as text, blank where there are none."""
    return tuple(f"{numbers[s]:.3f}" if s in numbers else "" for s in PAPER_SETS)


def paper_head() -> tuple[str, ...]:
    return tuple(f"paper\n{s.replace(' mean@4', '')}" for s in PAPER_SETS)


def paper_columns(numbers: dict[str, float], metrics: Sequence[str]) -> dict[str, Any]:
    """Columns of a CSV, blank where the paper has no such number."""
    return {f"paper {m}": numbers.get(m, "") for m in metrics}


def cell(interval: Interval, seeds: int, signed: bool = False) -> str:
    """A value, and under it the interval where there are seeds enough for one."""
    sign = "+" if signed else ""
    value = f"{interval.value:{sign}.3f}"
    if seeds < run_statistics.SEEDS_MIN:
        return value
    return f"{value}\n[{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def text(table: Table) -> str:
    """For a terminal."""
    flat = [tuple(c.replace("\n", " ") for c in row) for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in flat if len(row) > 1) for i in range(len(table.head))]
    shown = [table.title]
    for row in flat:
        others = (c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=False))
        shown.append("  ".join((row[0].ljust(widths[0]), *others)))
    return "\n".join([*(line.rstrip() for line in shown), *table.notes, ""])


def markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        full = (*cells, *[""] * (len(table.head) - len(cells)))
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", "<br>") for c in full) + " |"

    rule = "| --- |" + " ---: |" * (len(table.head) - 1)
    rows = [line(row) if len(row) > 1 else line((f"**{row[0]}**",)) for row in table.rows]
    notes = "\n\n".join(table.notes)
    return "\n".join([f"**{table.title}**", "", line(table.head), rule, *rows, "", notes, ""])


def read_markdown(written: str) -> Table:
    """What `markdown` wrote, without its name."""
    title, head, _, *rest = (line for line in written.splitlines() if line)
    rows = [_cells(line) for line in rest if line.startswith("|")]
    merged = [(r[0].strip("*"),) if r[0].startswith("**") else r for r in rows]
    notes = tuple(line for line in rest if not line.startswith("|"))
    return Table("", title.strip("*"), _cells(head), tuple(merged), notes)


def _cells(line: str) -> tuple[str, ...]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return tuple(c.strip().replace("<br>", "\n").replace("\\|", "|") for c in cells)


def write(table: Table, numbers: list[dict[str, Any]], out: Path) -> str:
    """NAME.csv (the numbers), .md, .png and .pdf (the table); returns it as text."""
    run_statistics.write_csv(out / f"{table.name}.csv", numbers)
    (out / f"{table.name}.md").write_text(markdown(table), encoding="utf-8")
    plots.save(picture(table), out, table.name)
    return text(table)


def picture(table: Table) -> Any:
    """A figure as wide as the text block, ruled above, below and under the head.

    Raises:
        ValueError: the columns are wider than that.
    """
    plt = plots.plt()
    notes = [line for n in table.notes for line in textwrap.wrap(n, NOTE_WIDTH)]
    heights = [LINE * _lines(row) + PAD for row in (table.head, *table.rows)]
    top = LINE + 0.1
    height = top + sum(heights) + 0.09 + LINE * len(notes) + 0.04
    with plt.rc_context(style.RC):
        fig = plt.figure(figsize=(style.TEXT_WIDTH, height))
        lefts, widths = _columns(fig, table)
        _put(fig, 0.04, height - LINE / 2 - 0.03, table.title, "left", weight="bold")
        y = height - top
        _rule(fig, y, 1.0)
        for n, row in enumerate((table.head, *table.rows)):
            if len(row) == 1:
                _rule(fig, y, 0.4)
                _put(fig, lefts[0], y - heights[n] / 2, row[0], "left", style="italic")
            for i, content in enumerate(row if len(row) > 1 else ()):
                x = lefts[i] + (widths[i] / 2 if i else 0)
                lines = content.split("\n")
                for j, part in enumerate(lines):
                    at = y - PAD / 2 - LINE * (j + 0.5 + (_lines(row) - len(lines)) / 2)
                    small = j > 0 and n > 0
                    look = {"color": "#555555", "fontsize": SMALL} if small else {}
                    _put(fig, x, at, part, "center" if i else "left", **look)
            y -= heights[n]
            if n in (0, len(table.rows)):
                _rule(fig, y, 0.6 if n == 0 else 1.0)
        for j, line in enumerate(notes):
            at = y - 0.07 - LINE * (j + 0.5)
            _put(fig, 0.04, at, line, "left", fontsize=SMALL, color="#555555")
    return fig


def _lines(row: Sequence[str]) -> int:
    return max(c.count("\n") + 1 for c in row)


def _columns(fig: Any, table: Table) -> tuple[list[float], list[float]]:
    """Left edges and widths in inches: each as wide as its widest text, what is left shared out."""
    renderer = fig.canvas.get_renderer()

    def width(content: str, small: bool) -> float:
        if not content:
            return 0.0
        drawn = fig.text(0, 0, content, fontsize=SMALL if small else FONT)
        box = drawn.get_window_extent(renderer).width / fig.dpi
        drawn.remove()
        return float(box)

    natural = []
    for i in range(len(table.head)):
        cells = [(c, False) for c in table.head[i].split("\n")]
        for row in (r for r in table.rows if len(r) > 1):
            cells += [(c, n > 0) for n, c in enumerate(row[i].split("\n"))]
        natural.append(max(width(c, small) for c, small in cells))
    free = style.TEXT_WIDTH - 0.08 - sum(natural)
    if free < 0.06 * len(natural):
        raise ValueError(f"{table.name}: columns of {sum(natural):.2f} inches do not fit")
    gap = free / len(natural)
    lefts = [0.04 + sum(natural[:i]) + gap * (i + 0.5 if i else 0) for i in range(len(natural))]
    return lefts, natural


def _put(fig: Any, x: float, y: float, content: str, align: str, **look: Any) -> None:
    width, height = fig.get_size_inches()
    look = {"fontsize": FONT, **look}
    fig.text(x / width, y / height, content, ha=align, va="center_baseline", **look)


def _rule(fig: Any, y: float, thickness: float) -> None:
    from matplotlib.lines import Line2D

    at = y / fig.get_size_inches()[1]
    ends = (0.04 / style.TEXT_WIDTH, 1 - 0.04 / style.TEXT_WIDTH)
    fig.add_artist(Line2D(ends, (at, at), color=style.BLACK, linewidth=thickness))
