"""Every figure, table and the claims, their runs trained once; and the page of all of them."""

from __future__ import annotations

from . import catalogue, command, report


def main(argv: list[str] | None = None) -> int:
    args = command.arguments("all", (__doc__ or "").splitlines()[0], argv)
    figures = [f for own in catalogue.figures().values() for f in own]
    return command.make([*figures, report.FIGURE], args.scale, args.out, args.workers)
