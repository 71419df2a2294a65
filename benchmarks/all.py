"""Every benchmark in turn, each in a process of its own: one table, benchmarks/out/results.json.

    python benchmarks/all.py [--only NAME ...]

The vocabulary head runs at its short size here; at full size (15 minutes): python
benchmarks/head.py. All numbers are ratios of things measured in one run on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BENCHMARKS: dict[str, list[str]] = {
    "lam_solver": ["--repeats", "2"],
    "allocation": ["--repeats", "3"],
    "head": ["--short", "--repeats", "2"],
    "overhead": ["--repeats", "2"],
    "rollout": ["--repeats", "2"],
    "actor_speedup": ["--repeats", "2"],
    "drafted": ["--quick", "--turns", "1"],
    "memory_model": ["--quick"],
    "slopes": ["--repeats", "1"],
}


def machine() -> str:
    """Processor and versions, for the record."""
    import torch

    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ] if Path("/proc/cpuinfo").exists() else []  # fmt: skip
    cpu = names[0] if names else platform.processor() or platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, torch {torch.__version__}, one thread"


def run(name: str, out: Path) -> tuple[list[dict[str, Any]], str]:
    """Results of a benchmark, and what is wrong with it, if anything."""
    file = out / f"{name}.json"
    file.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *BENCHMARKS[name], "--json", str(file)],
        cwd=HERE.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=(out / f"{name}.txt").open("w"),
        stderr=subprocess.STDOUT,
        check=False,
    )
    entries = json.loads(file.read_text()) if file.exists() else []
    wrong = f"{name} ended with {done.returncode}: see {out / name}.txt" if done.returncode else ""
    return [{"benchmark": name, **entry} for entry in entries], wrong


def line(entry: dict[str, Any]) -> str:
    target = "" if entry["target"] is None else f"{entry['target']:g}"
    met = {True: "met", False: "NOT MET", None: ""}[entry["met"]]
    return f"{entry['benchmark']:14} {entry['ratio']:9.3f} {target:>8} {met:8} {entry['name']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    args = parser.parse_args()
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    print(f"{machine()}\n{'benchmark':14} {'ratio':>9} {'target':>8} {'':8} what", flush=True)
    results, faults = [], []
    for name in args.only:
        start = time.perf_counter()
        entries, wrong = run(name, out)
        results += entries
        faults += [wrong] if wrong else []
        print("\n".join(map(line, entries)) or f"{name}: no results", flush=True)
        sys.stderr.write(f"{name}: {time.perf_counter() - start:.0f} s\n")
    report = {"machine": machine(), "results": results}
    (out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {out / 'results.json'}; what each printed is beside it")
    sys.stderr.write("".join(f"error: {wrong}\n" for wrong in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
