"""`python -m sim sweep`: the numbers of Figure 2.

For families of (p, q) at growing mismatch: acceptance Z and KL(p||q~) at lam = 1, against KL(p||q);
KL(p||q~) at 95% acceptance; and what no rule of that acceptance can go below,
KL(p||q) - log(1/Z) (docs/theory.md, A6). And a toy: four tokens, before and after.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

import jackpot
from sim.arguments import output_file, seed
from sim.worlds import pairs

BUDGET = 0.95  # the acceptance at which the paper quotes its reduction of KL
TOY_P = (0.40, 0.30, 0.20, 0.10)
TOY_Q = (0.24, 0.21, 0.30, 0.25)

# name: (family, its mismatch parameter from small to large); v = 1000 tokens unless said
FAMILIES: dict[str, tuple[Callable, np.ndarray]] = {
    "noise in q": (pairs.noisy_proposal, np.geomspace(0.008, 0.9, 21)),
    "noise in q, Dirichlet(1.5)": (
        lambda rng, n, v, x: pairs.noisy_proposal(rng, n, v, x, concentration=1.5),
        np.geomspace(0.01, 0.95, 21),
    ),
    "noise in p": (pairs.noisy_target, np.geomspace(0.006, 0.8, 21)),
    "Gaussian logits": (pairs.gaussian_logits, np.geomspace(0.01, 1.5, 21)),
    "Student-t logits": (pairs.heavy_logits, np.geomspace(0.01, 1.0, 21)),
    "temperature": (pairs.temperature, 1 + np.geomspace(0.02, 9.0, 21)),
    "Zipf, v = 20,000": (
        lambda rng, n, v, x: pairs.zipf(rng, max(2, n // 20), 20 * v, x),
        np.geomspace(0.01, 1.5, 21),
    ),
}

COLUMNS = (
    "family", "mismatch", "states", "kl_before", "kl_before_p10", "kl_before_p90",
    "z", "z_p10", "z_p90", "kl_after", "kl_after_p10", "kl_after_p90", "kl_ratio",
    "floor_at_z", "kl_after_95", "kl_after_95_p10", "kl_after_95_p90", "kl_ratio_95", "floor_95",
)  # fmt: skip

# what `summary` shows of a row; KL after, and the least that any rule of that acceptance leaves, as
# shares of KL before
SUMMARY: dict[str, Callable[[dict], float]] = {
    "Z, lam=1": lambda row: row["z"],
    "after/before": lambda row: row["kl_ratio"],
    "at Z=.95": lambda row: row["kl_ratio_95"],
    "least, Z=.95": lambda row: row["floor_95"] / row["kl_before"],
}


def toy(lam: float = 1.0) -> list[dict[str, float]]:
    """Figure 2a: behaviour, target and post-rejection probability of four tokens (our choice)."""
    log_p, log_q = np.log(TOY_P), np.log(TOY_Q)
    after = np.exp(jackpot.post_rejection(log_p, log_q, lam))
    accept = jackpot.accept_prob(log_p, log_q, lam)
    columns = {"target": TOY_P, "behaviour": TOY_Q, "accept": accept, "post_rejection": after}
    return [
        {"token": i + 1} | {name: float(x[i]) for name, x in columns.items()}
        for i in range(len(TOY_P))
    ]


def measure(log_p: np.ndarray, log_q: np.ndarray) -> dict[str, float]:
    """One row of the sweep from states (n, v): means over states, 10th and 90th percentiles.

    `floor_*` bounds the mean KL(p||.) that any rules of those acceptances leave from below:
    max(0, mean KL before - mean log(1 / Z)). `kl_ratio*` are ratios of two means.
    """
    before = jackpot.kl_p_q(log_p, log_q)
    z = jackpot.acceptance_rate(log_p, log_q, 1.0)
    after = jackpot.kl_p_q(log_p, jackpot.post_rejection(log_p, log_q, 1.0))
    lam = jackpot.lam_for_budget(log_p, log_q, BUDGET)
    at_budget = jackpot.kl_p_q(log_p, jackpot.post_rejection(log_p, log_q, lam))
    row = {"states": len(log_p), "kl_ratio": float(after.mean() / before.mean())}
    row["kl_ratio_95"] = float(at_budget.mean() / before.mean())
    columns = {"kl_before": before, "z": z, "kl_after": after, "kl_after_95": at_budget}
    for name, x in columns.items():
        low, high = np.quantile(x, (0.1, 0.9))
        row |= {name: float(x.mean()), f"{name}_p10": float(low), f"{name}_p90": float(high)}
    row["floor_at_z"] = max(0.0, float((before + np.log(z)).mean()))
    row["floor_95"] = max(0.0, float(before.mean()) + math.log(BUDGET))
    return row


def sweep(seed: int = 0, quick: bool = False, families: Collection[str] = FAMILIES) -> list[dict]:
    """The families at all mismatches, with keys COLUMNS; `quick`: fewer states and tokens."""
    n, v = (10, 100) if quick else (100, 1000)
    rows = []
    for name in families:
        family, levels = FAMILIES[name]
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for x in levels[:: 2 if quick else 1]:
            row = measure(*family(rng, n, v, float(x)))
            rows.append({"family": name, "mismatch": float(x)} | row)
    return rows


def write_csv(path: Path, rows: list[dict], columns: tuple[str, ...] | None = None) -> None:
    """Write the rows, numbers with 6 significant digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{x:.6g}" if isinstance(x, float) else x for k, x in row.items()})


def interpolate(rows: list[dict], family: str, kl_before: float, value: Callable) -> float:
    """value(row) of one family at a mean KL before, linear in log KL; nan outside its range."""
    mine = [row for row in rows if row["family"] == family]
    x = [math.log(row["kl_before"]) for row in mine]
    y = [value(row) for row in mine]
    return float(np.interp(math.log(kl_before), x, y, left=math.nan, right=math.nan))


def summary(rows: list[dict]) -> str:
    """Each family at a mean KL before of 0.001 to 0.5 nats; '-' where it has none."""
    lines = [f"{'family':<28}" + "".join(f"{x:>14}" for x in ("KL before", *SUMMARY))]
    for name in FAMILIES:
        for kl in (0.001, 0.009, 0.024, 0.1, 0.2, 0.5):
            values = (interpolate(rows, name, kl, value) for value in SUMMARY.values())
            cells = [f"{x:.3f}" if x == x else "-" for x in values]
            lines.append(f"{name:<28}{kl:>14g}" + "".join(f"{x:>14}" for x in cells))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m sim sweep",
        description="Acceptance and KL after rejection against KL before, for seeded families.",
    )
    p.add_argument("--out", type=output_file, metavar="FILE.csv", help="write every row here")
    p.add_argument("--seed", type=seed, default=0, help="default 0")
    p.add_argument("--quick", action="store_true", help="fewer states and tokens; a second")
    return p


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    rows = sweep(args.seed, args.quick)
    if args.out:
        write_csv(args.out, rows, COLUMNS)
        print(f"wrote {len(rows)} rows to {args.out}", file=sys.stderr)
    print(summary(rows))
    print("\nfour tokens at lam = 1: token, behaviour q, target p, after rejection")
    for row in toy():
        columns = (row["behaviour"], row["target"], row["post_rejection"])
        print(row["token"], *(f"{x:.3f}" for x in columns), sep="  ")
    return 0
