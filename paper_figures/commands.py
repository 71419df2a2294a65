"""The figures by name: `python -m paper_figures FIGURE`.

Each is a module with `main(argv) -> exit code`, imported only when its figure is drawn.
"""

from __future__ import annotations

import argparse
import importlib

# name: (module, one line for --help)
FIGURES = {
    "all": (
        "paper_figures.report.everything",
        "all but demo, tune, prefix_rejection and the studies of kept rows; then the report",
    ),
    "fig1": (
        "paper_figures.figures.fig1",
        "pass rate and KL of nine methods with one pair of models",
    ),
    "fig2": ("paper_figures.figures.fig2", "acceptance rate and KL after rejection, by KL before"),
    "fig3": ("paper_figures.figures.fig3", "a drawing of the algorithm with the names of the code"),
    "fig4": (
        "paper_figures.figures.fig4",
        "as fig1, for three pairs of models and for 2,048 token ids",
    ),
    "fig5": ("paper_figures.figures.fig5", "training on stale rollouts without the PPO clip"),
    "table1": ("paper_figures.tables.table1", "mean@4 and pass@4 at three difficulties"),
    "table2": (
        "paper_figures.tables.table2",
        "cases where Jackpot should not help: PPO clip kept, int8 rollouts",
    ),
    "table3": ("paper_figures.tables.table3", "training on stale rollouts, as a table of numbers"),
    "beyond": (
        "paper_figures.extras.beyond",
        "cost, each factor of the token weight, long runs, and a real model",
    ),
    "tune": ("paper_figures.extras.tuning", "sweeps that chose the settings, on other seeds"),
    "prefix_rejection": (
        "paper_figures.extras.prefix_rejection",
        "our variant, rejection on prefixes, at a high learning rate",
    ),
    "rivals": (
        "paper_figures.claims.rivals",
        "corrections, objectives and selections of others, from kept rows",
    ),
    "drafted": (
        "paper_figures.claims.drafted",
        "drafted rollouts beside plain ones, from kept rows",
    ),
    "evidence": (
        "paper_figures.claims.evidence",
        "the claims again at 25 to 97 tokens a completion, from kept rows",
    ),
    "smollm2": (
        "paper_figures.claims.smollm2",
        "a real model and three actors made of it, from kept rows",
    ),
    "claims": (
        "paper_figures.claims.page",
        "test the claims of the paper and print a verdict on each",
    ),
    "report": ("paper_figures.report.page", "write one HTML page of everything drawn so far"),
    "demo": (
        "paper_figures.figures.demo",
        "pass rate and KL by step, for the runs of make demo",
    ),
}


def main(argv: list[str] | None = None) -> int:
    width = max(map(len, FIGURES))
    listing = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in FIGURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Draw the figures and tables of the paper from our own runs, and test\n"
        "its claims. Missing runs are trained first.",
        epilog=f"figures and other commands:\n{listing}\n\n"
        "'python -m paper_figures FIGURE --help' shows the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figure", choices=FIGURES, metavar="FIGURE", help="one of the list below")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, default=[], help="options of the figure"
    )
    args = parser.parse_args(argv)
    return importlib.import_module(FIGURES[args.figure][0]).main(args.arguments)
