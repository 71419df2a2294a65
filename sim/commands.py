"""The lab's commands: `python -m sim COMMAND`."""

from __future__ import annotations

import argparse
import importlib

# name: (module, one line for --help); modules are imported only when their command runs
COMMANDS = {
    "check": (
        "sim.claims.check",
        "verify the claims of the paper and of docs/theory.md, one by one",
    ),
    "sweep": (
        "sim.studies.sweep",
        "the numbers of Figure 2: acceptance and KL after, against KL before",
    ),
    "budgets": (
        "sim.studies.budgets",
        "three ways to spend a budget over many states, and a tracked lam",
    ),
    "estimators": (
        "sim.studies.estimators",
        "exact bias, noise and error of policy-gradient estimators on small trees",
    ),
    "topk": ("sim.studies.topk", "errors of Z estimated from the actor's k likeliest tokens"),
    "report": ("sim.report.run", "all of it, run anew, on one page of HTML"),
}


def main(argv: list[str] | None = None) -> int:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m sim",
        description="Finite worlds in which everything about OBRS can be computed.",
        epilog=f"commands:\n{listing}\n\n'python -m sim COMMAND --help' explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, default=[], help="its options")
    args = parser.parse_args(argv)
    module = importlib.import_module(COMMANDS[args.command][0])
    return module.main(args.arguments)
