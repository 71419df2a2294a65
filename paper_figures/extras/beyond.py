"""Beyond the paper: cost, ablation, long runs, training without KL, and a real model."""

from __future__ import annotations

from paper_figures import figure

from . import ablations, cost, smollm2

FIGURES = (cost.FIGURE, ablations.ABLATION, ablations.LONG, ablations.WITHOUT_KL, smollm2.FIGURE)


def main(argv: list[str] | None = None) -> int:
    args = figure.arguments("beyond", (__doc__ or "").splitlines()[0], argv)
    return figure.make(FIGURES, args.scale, args.out, args.workers)
