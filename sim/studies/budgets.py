"""`python -m sim budgets`: ways to spend an acceptance budget over many states.

Three ways at the same wanted acceptance: a threshold per state; one for all states, from their full
distributions; one for all states, from sampled ratios alone. What each leaves is measured in two
criteria, the mean KL of the states and the KL of (state, token) pairs (docs/theory.md, E1 to E3).
Then a policy that drifts away from its actor, and thresholds that follow it, step by step.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jackpot
from sim.arguments import can_write, study_parser
from sim.worlds import pairs

from .budgets_figure import draw

Array = np.ndarray
Row = dict[str, Any]

BUDGETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
PER_STATE, COMMON, SAMPLED = "budget per state", "common lam", "common lam, sampled"
TOKENS, FEW_TOKENS = 1024, 128  # sampled tokens of one lam; of one step while the policy drifts
DRIFT_BUDGET, DECAY = 0.9, 0.5
PERIOD, SETTLE = 60, 10  # steps of drift before the actor is brought near the policy again
FIXED, FRESH, TRACKED = "lam of the first step", "lam of the last step", "tracked lam"


class States(NamedTuple):
    """Equally frequent states: log p and log q, each (n, v)."""

    log_p: Array
    log_q: Array


class BudgetWorld(NamedTuple):
    """An actor, and the direction in which the policy leaves it; states differ in how far."""

    log_q: Array  # (n, v)
    direction: Array  # (n, v), logits

    def states(self, distance: float) -> States:
        """The policy at a distance (1: log-ratios of standard deviation about 1)."""
        logits = self.log_q + distance * self.direction
        return States(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), self.log_q)


def make_world(rng: np.random.Generator, n: int, v: int) -> BudgetWorld:
    """n states on v tokens; mismatches spread over a factor of about 10 between states."""
    log_q = pairs.dirichlet(rng, n, v)[0]
    spread = np.exp(0.8 * rng.standard_normal((n, 1)) - 0.32)
    return BudgetWorld(log_q, spread * rng.standard_normal((n, v)))


def measure(states: States, lam: Array | float) -> Row:
    """Mean acceptance, mean KL(p_s||q~_s), and KL of (state, token) pairs, exactly."""
    z = jackpot.acceptance_rate(*states, lam)
    kl = jackpot.kl_p_q(states.log_p, jackpot.post_rejection(*states, lam))
    tilt = float(np.log(z.mean()) - np.log(z).mean())  # KL(d||d~), d~ = d Z_s / mean Z
    return {
        "acceptance": float(z.mean()),
        "kl_states": float(kl.mean()),
        "kl_pairs": float(kl.mean()) + tilt,
        "least_z": float(z.min()),
    }


def sampled_log_ratios(rng: np.random.Generator, states: States, tokens: int) -> Array:
    """log p - log q of tokens drawn from q in random states, shape (tokens,)."""
    n, v = states.log_q.shape
    row = rng.integers(n, size=tokens)
    edges = np.cumsum(np.exp(states.log_q), axis=-1)
    edges = edges / edges[:, -1:] + np.arange(n)[:, None]  # one increasing list for all states
    flat = np.searchsorted(edges.reshape(-1), row + rng.random(tokens), side="right")
    flat = np.minimum(flat, row * v + v - 1)
    return (states.log_p - states.log_q).reshape(-1)[flat]


def three_ways(rng: np.random.Generator, states: States, repeats: int) -> list[Row]:
    """Each way at each budget; the sampled one as mean and standard deviation over repeats."""
    before = float(jackpot.kl_p_q(*states).mean())
    rows: list[Row] = []
    for budget in BUDGETS:
        head = {"budget": budget, "kl_before": before}
        lams: dict[str, list] = {
            PER_STATE: [jackpot.lam_for_budget(*states, budget)],
            COMMON: [jackpot.common_lam_for_budget(*states, budget)],
            SAMPLED: [
                jackpot.lam_from_samples(sampled_log_ratios(rng, states, TOKENS), budget)
                for _ in range(repeats)
            ],
        }
        for way, values in lams.items():
            measured = [measure(states, lam) for lam in values]
            mean = {key: float(np.mean([x[key] for x in measured])) for key in measured[0]}
            sd = float(np.std([x["acceptance"] for x in measured]))
            lam = float(np.exp(np.mean([np.mean(np.log(x)) for x in values])))
            floor = max(0.0, before + math.log(mean["acceptance"]))
            tail = {"acceptance_sd": sd, "lam": lam, "floor": floor}
            rows.append({"way": way} | head | mean | tail)
    return rows


def drift(rng: np.random.Generator, world: BudgetWorld, steps: int) -> list[Row]:
    """Realised acceptance at every step, each lam chosen from the tokens of earlier steps."""
    fixed = last = tracked = math.nan
    rows: list[Row] = []
    for step in range(steps):
        distance = 0.1 + 0.9 * (step % PERIOD) / PERIOD
        states = world.states(distance)
        log_r = sampled_log_ratios(rng, states, FEW_TOKENS)
        own = math.log(jackpot.lam_from_samples(log_r, DRIFT_BUDGET))
        if step == 0:  # nothing came before: its own tokens
            fixed = last = tracked = own
        kl = float(jackpot.kl_p_q(*states).mean())
        for way, log_lam in {FIXED: fixed, FRESH: last, TRACKED: tracked}.items():
            lam = math.exp(log_lam)
            z = float(jackpot.acceptance_rate(*states, lam).mean())
            rows.append({"step": step, "way": way, "kl_before": kl, "lam": lam, "acceptance": z})
        tracked = jackpot.track_lam(tracked if step else None, log_r, DRIFT_BUDGET, DECAY)
        last = own
    return rows


def run(seed: int = 0, quick: bool = False) -> dict[str, list[Row]]:
    """Both studies, by name; `quick`: fewer states, tokens and repeats."""
    rng = np.random.default_rng([seed, 11])
    world = make_world(rng, *((40, 100) if quick else (100, 500)))
    ways = three_ways(rng, world.states(1.0), 5 if quick else 20)
    return {"budgets": ways, "drift": drift(rng, world, 2 * PERIOD if quick else 3 * PERIOD)}


def write(results: dict[str, list[Row]], folder: Path) -> list[Path]:
    """One CSV per study, numbers with 6 significant digits."""
    paths = []
    for name, rows in results.items():
        paths.append(folder / f"{name}.csv")
        with paths[-1].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow(
                    {k: f"{x:.6g}" if isinstance(x, float) else x for k, x in row.items()}
                )
    return paths


def summary(results: dict[str, list[Row]]) -> str:
    """The tables, and what they say."""
    rows = results["budgets"]
    lines = [
        f"KL before: {rows[0]['kl_before']:.4f} nats. After, in two criteria, and the least "
        "pairs KL that any rule leaves (floor):",
        f"{'budget':>6}  {'way':<20}{'accepted':>16}{'mean KL':>9}{'pairs KL':>9}"
        f"{'floor':>8}{'least Z':>9}",
    ]
    for row in rows:
        accepted = f"{row['acceptance']:.4f}"
        if row["way"] == SAMPLED:
            accepted += f" ({row['acceptance_sd']:.4f})"
        lines.append(
            f"{row['budget']:>6g}  {row['way']:<20}{accepted:>16}{row['kl_states']:>9.4f}"
            f"{row['kl_pairs']:>9.4f}{row['floor']:>8.4f}{row['least_z']:>9.3f}"
        )
    lines.append(
        f"\nA drifting policy, wanted acceptance {DRIFT_BUDGET:g}, every lam from the tokens of "
        f"earlier steps ({FEW_TOKENS} a step; decay {DECAY:g}).\nEvery {PERIOD} steps the actor is "
        f"brought near the policy again; the {SETTLE} steps after that stand apart:"
    )
    lines.append(f"{'':<24}{'mean':>9}{'rms miss':>10}{'largest':>10}{'rms after sync':>16}")
    for way in (FIXED, FRESH, TRACKED):
        mine = [row for row in results["drift"] if row["way"] == way]
        miss = np.array([row["acceptance"] - DRIFT_BUDGET for row in mine])
        synced = np.array([row["step"] % PERIOD < SETTLE <= row["step"] for row in mine])
        rest = miss[~synced]
        cells = (
            np.sqrt(np.mean(rest**2)),
            np.max(np.abs(rest)),
            np.sqrt(np.mean(miss[synced] ** 2)),
        )
        lines.append(
            f"{way:<24}{DRIFT_BUDGET + rest.mean():>9.4f}"
            f"{cells[0]:>10.4f}{cells[1]:>10.4f}{cells[2]:>16.4f}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    return study_parser(
        "budgets",
        "KL against acceptance for a budget per state, a common lam, and a common lam "
        "from sampled ratios; and a lam that follows a drifting policy.",
    )


def main(argv: list[str]) -> int:
    """Run both studies; returns the exit status, 2 where the output folder cannot be written."""
    args = parser().parse_args(argv)
    if not can_write("budgets", args.out):
        return 2
    results = run(args.seed, args.quick)
    written = write(results, args.out) + draw(results, args.out)
    print(summary(results))
    print(f"\nWrote {', '.join(path.name for path in written)} to {args.out}")
    return 0
