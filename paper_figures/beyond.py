"""Beyond the paper: cost, ablation, long runs, training without KL, and a real model."""

from __future__ import annotations

from . import command, cost, factors, smollm2

FIGURES = (cost.FIGURE, factors.ABLATION, factors.LONG, factors.WITHOUT_KL, smollm2.FIGURE)


def main(argv: list[str] | None = None) -> int:
    args = command.arguments("beyond", (__doc__ or "").splitlines()[0], argv)
    return command.make(FIGURES, args.scale, args.out, args.workers)
