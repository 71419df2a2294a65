"""Every figure and table of the paper and the claims, their runs trained once; and the page."""

from __future__ import annotations

from paper_figures import figure

from . import contents, page


def main(argv: list[str] | None = None) -> int:
    args = figure.arguments("all", (__doc__ or "").splitlines()[0], argv)
    by_command = contents.figures()
    figures = [f for n, own in by_command.items() if n not in contents.APART for f in own]
    return figure.make([*figures, page.FIGURE], args.scale, args.out, args.workers)
