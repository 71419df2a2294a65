"""The lab's commands: `python -m sim COMMAND`."""

from __future__ import annotations

import argparse
import importlib

# name: (module, one line for --help); modules are imported only when their command runs
COMMANDS = {
    "check": (
        "sim.claims.check",
        "test every claim of the paper and of docs/theory.md, and print a verdict on each",
    ),
    "sweep": (
        "sim.studies.sweep",
        "print the numbers of Figure 2: acceptance rate and KL after rejection, by KL before",
    ),
    "budgets": (
        "sim.studies.budgets",
        "compare three ways to spend an acceptance budget over many states, and a tracked lam",
    ),
    "drafting": (
        "sim.studies.drafting",
        "compare rules that verify drafts, by the rejections they spend and the KL they leave",
    ),
    "estimators": (
        "sim.studies.estimators",
        "compute exact bias, noise and error of policy-gradient estimators on small trees",
    ),
    "topk": (
        "sim.studies.topk",
        "measure the errors of estimates of Z from the actor's k likeliest tokens",
    ),
    "report": ("sim.report.run", "run all of these and write one HTML page"),
}


def main(argv: list[str] | None = None) -> int:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m sim",
        description="Compute exactly what Optimal Budgeted Rejection Sampling (OBRS) does to\n"
        "small distributions. DEVIATIONS.md defines the terms.",
        epilog=f"commands:\n{listing}\n\n"
        "'python -m sim COMMAND --help' shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of the list below"
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, default=[], help="options of the command"
    )
    args = parser.parse_args(argv)
    module = importlib.import_module(COMMANDS[args.command][0])
    return module.main(args.arguments)
