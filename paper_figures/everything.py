"""Every figure and table of the paper and the claims, their runs trained once; and the page."""

from __future__ import annotations

from . import catalogue, command, report


def main(argv: list[str] | None = None) -> int:
    args = command.arguments("all", (__doc__ or "").splitlines()[0], argv)
    by_command = catalogue.figures()
    figures = [f for n, own in by_command.items() if n not in catalogue.APART for f in own]
    return command.make([*figures, report.FIGURE], args.scale, args.out, args.workers)
