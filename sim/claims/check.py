"""`python -m sim check`: every claim of the registry, its declared verdict and the one found."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys

from sim.arguments import output_file, positive_int, seed

from . import registry

CLAIM_MODULES = (
    "paper",
    "obrs",
    "budget",
    "weights",
    "solvers",
    "top_k",
    "estimators",
    "many_states",
    "trajectories",
    "core",
    "drafting",
    "allocation",
    "selection",
    "objectives",
)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m sim check",
        description="Check every claim of the registry on its example and on random cases. "
        "Exits 1 if a verdict found differs from the verdict declared.",
    )
    p.add_argument("--cases", type=positive_int, default=500, help="cases per claim (default 500)")
    p.add_argument("--seed", type=seed, default=0, help="seed of the random cases (default 0)")
    p.add_argument("--json", type=output_file, metavar="FILE", help="also write all findings here")
    return p


def show_progress(line: str) -> None:
    """A bar that rewrites itself on a terminal; elsewhere a line "[k/n] claim"."""
    counts = re.match(r"\[\s*(\d+)/(\d+)\]", line)
    if not (counts and sys.stderr.isatty()):
        print(line, file=sys.stderr)
        return
    done, total = map(int, counts.groups())
    filled = 30 * done // total
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r\x1b[2K{'#' * filled}{'-' * (30 - filled)} {line}{end}")
    sys.stderr.flush()


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    load_claims()
    findings = registry.run(args.cases, args.seed, show_progress)
    if args.json:
        rows = [finding.as_dict() for finding in findings]
        args.json.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")
    print(table(findings))
    wrong = [f for f in findings if f.verdict != f.claim.declared]
    print(f"\n{len(findings)} claims, {sum(f.cases for f in findings)} cases; {_summary(wrong)}")
    for finding in wrong:
        print(explain(finding))
    return 1 if wrong else 0


def load_claims() -> None:
    """Register the claims of every module, once."""
    for name in CLAIM_MODULES:
        importlib.import_module(f"sim.claims.{name}")


def table(findings: list[registry.Finding]) -> str:
    """One line per claim; '!' marks a verdict that is not the declared one."""
    head = ("", "claim", "source", "declared", "found", "cases", "largest violation")
    rows = [head]
    for f in findings:
        c = f.claim
        size = f"{f.largest_violation:.3g}" if f.violations else "none"
        size = "equality, not <" if size == "0" else size
        mark = "" if f.verdict == c.declared else "!"
        rows.append((mark, c.id, c.source, c.declared, f.verdict, str(f.cases), size))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def explain(finding: registry.Finding) -> str:
    """The statement and the worst case of a claim whose verdict is a surprise."""
    d = finding.as_dict()
    return (
        f"\n{d['id']}: declared {d['declared']!r}, found {d['verdict']!r} "
        f"({d['violations']} violations in {d['cases']} cases)\n"
        f"  states: {d['statement']}\n  worst case: {json.dumps(d['worst_case'])}"
    )


def _summary(wrong: list[registry.Finding]) -> str:
    if not wrong:
        return "every verdict is as declared."
    return f"{len(wrong)} verdicts differ from the declared ones: " + ", ".join(
        f.claim.id for f in wrong
    )
