"""The figures by name: `python -m paper_figures FIGURE`.

Each is a module with `main(argv) -> exit code`, imported only when its figure is drawn.
"""

from __future__ import annotations

import argparse
import importlib

# name: (module, one line for --help)
FIGURES = {
    "all": ("paper_figures.report.everything", "all that follows but demo, tune and steadier"),
    "fig1": ("paper_figures.figures.fig1", "pass rate and KL of nine methods, one pair of models"),
    "fig2": ("paper_figures.figures.fig2", "acceptance and KL after rejection against KL before"),
    "fig3": ("paper_figures.figures.fig3", "the pipeline, drawn from the code's own names"),
    "fig4": ("paper_figures.figures.fig4", "the same for three pairs, and with 2,048 token ids"),
    "fig5": ("paper_figures.figures.fig5", "stale training without the PPO clip"),
    "table1": ("paper_figures.tables.table1", "mean@4 and pass@4 at three difficulties"),
    "table2": ("paper_figures.tables.table2", "where it should not help: clip kept, int8 rollouts"),
    "table3": ("paper_figures.tables.table3", "stale training without the PPO clip, as numbers"),
    "beyond": (
        "paper_figures.extras.beyond",
        "cost, every factor of the weight, long runs, a real model",
    ),
    "tune": ("paper_figures.extras.tuning", "learning rates and candidates, on seeds of their own"),
    "steadier": (
        "paper_figures.extras.prefix_rejection",
        "a setting of our own where learning rates are hot",
    ),
    "claims": ("paper_figures.claims.page", "the paper's claims, tested and judged"),
    "report": ("paper_figures.report.page", "one page of everything drawn so far"),
    "demo": (
        "paper_figures.figures.demo",
        "pass rate and KL against step, for the runs of make demo",
    ),
}


def main(argv: list[str] | None = None) -> int:
    listing = "\n".join(f"  {name}  {line}" for name, (_, line) in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Draw a figure of the paper from our own numbers.",
        epilog=f"figures:\n{listing}\n\n'python -m paper_figures FIGURE --help' explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figure", choices=FIGURES, metavar="FIGURE", help="see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, default=[], help="its options")
    args = parser.parse_args(argv)
    return importlib.import_module(FIGURES[args.figure][0]).main(args.arguments)
