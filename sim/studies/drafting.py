"""`python -m sim drafting`: rules that verify drafts, at equal rejection rates.

Every rule sees the same states and gets the same mean rejection rate. What it leaves is the mean
KL(p||s) of its distribution s, next to the least that any rule leaves, which is that of the clipped
distribution at a common price (docs/theory_drafting.md, F2, F6 and F9). Weights p/s are measured
too: their largest value, and their variance under s.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

import jackpot
from sim.arguments import can_write, study_parser

from .budgets import BudgetWorld, States, make_world
from .drafting_figure import draw

Array = np.ndarray
Row = dict[str, Any]

PEAKED, FLAT = "peaked", "flat"
WORLDS = ((PEAKED, 0.02), (PEAKED, 0.15), (FLAT, 0.15))  # and the mean KL(p||q), nats
SHARPNESS = 4.0  # mean entropy about 2 nats, and half of the states put 0.48 on one token
SPARED = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)  # of the rejections of the lossless rule
SHOWN = (0.25, 0.5, 0.75)
BEST = "clip, common price"
SHARE, CAP, RATE, LAM = (
    "clip, same share",
    "clip, same KL (mentored)",
    "clip, same rate",
    "clip, same lam",
)
LENIENT, ACCEPTS = "lenience", "lenient acceptance"
MIXTURE, REGENERATED, MASKED = "mixture", "regeneration", "masked OBRS"
GRID = np.linspace(0.0, 1.0, 65)  # shares of TV(p, q) at which the KL of each state is tabulated


def clipped(states: States, tau: Array) -> Array:
    """log s of the clipped distribution at a rejection rate per state."""
    return jackpot.draft_law(*states, budget=np.clip(1.0 - tau, 1e-300, 1.0)).log_s


def at_common_price(states: States, tau: float) -> Array:
    """log s, the split of the rejections chosen by one price."""
    price = jackpot.common_price_for_budget(*states, 1.0 - tau)
    return jackpot.draft_law(*states, price=price).log_s


def at_same_share(states: States, tau: float) -> Array:
    """log s, every state sparing the same share of TV(p, q)."""
    distance = jackpot.tv(*states)
    return clipped(states, tau * distance / distance.mean())


def at_same_rate(states: States, tau: float) -> Array:
    """log s, every state rejecting the same rate, or TV(p, q) where that is less."""
    distance = jackpot.tv(*states)
    level = brentq(lambda x: np.minimum(x, distance).mean() - tau, 0.0, 1.0, xtol=1e-15)
    return clipped(states, np.minimum(level, distance))


def at_same_kl(states: States, tau: float) -> Array:
    """log s, every state with the same KL(p||s), or KL(p||q) where that is less."""
    distance = jackpot.tv(*states)
    table = np.stack([jackpot.kl_p_q(states.log_p, clipped(states, x * distance)) for x in GRID])

    def taus(cap: float) -> Array:
        shares = [np.interp(-cap, -row, GRID) for row in table.T]  # the KL falls along the grid
        return np.array(shares) * distance

    cap = brentq(lambda x: taus(x).mean() - tau, 0.0, float(table.max()), xtol=1e-15)
    return clipped(states, taus(cap))


def common_lam(states: States, tau: float) -> float:
    """The threshold of all states at a mean rejection rate."""
    return min(1.0, jackpot.common_lam_for_budget(*states, 1.0 - tau))


def at_same_lam(residual: Callable[[Array, Array, float], Array] | None) -> Callable:
    """log s of the acceptance min(1, p / (lam q)), lam common; residual from p, q and lam.

    None is the best residual.
    """

    def log_s(states: States, tau: float) -> Array:
        lam = common_lam(states, tau)
        if residual is None:
            return jackpot.draft_law(*states, lam=lam).log_s
        p, q = np.exp(states.log_p), np.exp(states.log_q)
        rest = residual(p, q, lam)
        accepted = q * jackpot.draft_accept_prob(*states, lam)
        total = rest.sum(-1, keepdims=True)
        redrawn = rest / np.where(total > 0, total, 1.0)
        with np.errstate(divide="ignore"):
            return np.log(accepted + (1.0 - accepted.sum(-1, keepdims=True)) * redrawn)

    return log_s


def mixed(states: States, tau: float) -> Array:
    """log s of the mixture of p and q, the same share of p in every state."""
    share = tau / jackpot.tv(*states).mean()
    return np.logaddexp(np.log(share) + states.log_p, np.log1p(-share) + states.log_q)


def masked(states: States, tau: float) -> Array:
    """log q~ of the accepted tokens alone: rejected ones are dropped, none is drawn anew."""
    return jackpot.post_rejection(*states, common_lam(states, tau))


RULES: dict[str, Callable[[States, float], Array]] = {
    BEST: at_common_price,
    SHARE: at_same_share,
    CAP: at_same_kl,
    RATE: at_same_rate,
    LAM: at_same_lam(None),
    ACCEPTS: at_same_lam(lambda p, q, lam: np.maximum(p - q, 0.0)),
    LENIENT: at_same_lam(lambda p, q, lam: np.maximum(p - lam * q, 0.0)),
    MIXTURE: mixed,
    REGENERATED: at_same_lam(lambda p, q, lam: p),
    MASKED: masked,
}


def peaked_world(rng: np.random.Generator, n: int, v: int) -> BudgetWorld:
    """States like a language model's: some of them nearly certain, others open."""
    sharpness = SHARPNESS * np.exp(0.5 * rng.standard_normal((n, 1)))
    logits = sharpness * rng.standard_normal((n, v))
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    spread = np.exp(0.8 * rng.standard_normal((n, 1)) - 0.32)
    return BudgetWorld(log_q, spread * rng.standard_normal((n, v)))


def states_at(world: BudgetWorld, kl: float) -> States:
    """The policy at a mean KL(p||q) from its actor."""
    return world.states(
        brentq(lambda x: jackpot.kl_p_q(*world.states(x)).mean() - kl, 1e-3, 10.0, xtol=1e-12)
    )


def measure(states: States, log_s: Array) -> Row:
    """What a distribution leaves: KL, TV, and the weights p/s."""
    return {
        "kl": float(jackpot.kl_p_q(states.log_p, log_s).mean()),
        "tv": float(jackpot.tv(states.log_p, log_s).mean()),
        "largest_weight": float(np.exp((states.log_p - log_s).max())),
        "weight_variance": float(jackpot.chi2_p_q(states.log_p, log_s).mean()),
    }


def compare(states: States, world: str) -> list[Row]:
    """Every rule at every number of spared rejections; `excess` is its KL over the best one's."""
    before, distance = (float(f(*states).mean()) for f in (jackpot.kl_p_q, jackpot.tv))
    head = {"world": world, "kl_before": before, "tv_before": distance}
    rows: list[Row] = []
    for spared in SPARED:
        tau = (1.0 - spared) * distance
        measured = {name: measure(states, rule(states, tau)) for name, rule in RULES.items()}
        for name, row in measured.items():
            excess = {"excess": row["kl"] / measured[BEST]["kl"]}
            rows.append(head | {"rule": name, "spared": spared, "rejected": tau} | row | excess)
    return rows


def run(seed: int = 0, quick: bool = False) -> list[Row]:
    """All worlds; `quick`: fewer states and tokens."""
    size = (30, 60) if quick else (100, 500)
    makers = {PEAKED: peaked_world, FLAT: make_world}
    worlds = {name: f(np.random.default_rng([seed, 15]), *size) for name, f in makers.items()}
    return [row for name, kl in WORLDS for row in compare(states_at(worlds[name], kl), name)]


def summary(rows: list[Row]) -> str:
    """One table per world: KL and its multiple of the least one, by spared rejections."""
    lines = []
    for world, kl in dict.fromkeys((row["world"], row["kl_before"]) for row in rows):
        mine = [row for row in rows if (row["world"], row["kl_before"]) == (world, kl)]
        lines.append(
            f"{world.capitalize()} states, KL(p||q) {kl:.3f} nats, rejection rate of the lossless "
            f"rule {mine[0]['tv_before']:.3f}. KL(p||s), nats (times the least):"
        )
        heads = "".join(f"{f'{x:.0%} spared':>18}" for x in SHOWN)
        lines.append(f"{'rule':<26}{heads}{'largest p/s':>13}{'var p/s':>10}")
        for name in RULES:
            own = {row["spared"]: row for row in mine if row["rule"] == name}
            cells = [f"{own[x]['kl']:.5f} ({own[x]['excess']:.2f})" for x in SHOWN]
            lines.append(
                f"{name:<26}{''.join(f'{c:>18}' for c in cells)}"
                f"{own[0.5]['largest_weight']:>13.2f}{own[0.5]['weight_variance']:>10.4f}"
            )
        lines.append("")
    lines.append(
        "Weights at 50% spared. Masked OBRS redraws nothing: its rejected tokens are lost."
    )
    return "\n".join(lines)


def write(rows: list[Row], path: Path) -> None:
    """The rows as CSV, numbers with 6 significant digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{x:.6g}" if isinstance(x, float) else x for k, x in row.items()})


def parser() -> argparse.ArgumentParser:
    return study_parser(
        "drafting",
        "KL against rejection rate of ten rules that verify drafts of q against p.",
    )


def main(argv: list[str]) -> int:
    """Run the study; returns the exit status, 2 where the output folder cannot be written."""
    args = parser().parse_args(argv)
    if not can_write("drafting", args.out):
        return 2
    rows = run(args.seed, args.quick)
    write(rows, args.out / "drafting.csv")
    pictures = draw(rows, args.out)
    print(summary(rows))
    print(f"\nWrote drafting.csv, {', '.join(path.name for path in pictures)} to {args.out}")
    return 0
