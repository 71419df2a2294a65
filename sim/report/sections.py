"""The parts of `python -m sim report`: which command, which options, which of its numbers."""

from __future__ import annotations

import argparse
import csv
import json
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim.claims.registry import CORRECTED, FAILS, HOLDS
from sim.studies import estimator_studies, sweep, topk

from . import html
from .html import Markup

KL_SHOWN = (0.001, 0.01, 0.1, 0.5)
ESTIMATOR_COLUMNS = {
    "accepted": "accepted",
    "bias_true": "bias",
    "cos_true": "cosine",
    "cos_token": "cosine, token target",
    "noise": "noise",
    "mse_true_64": "error, N 64",
    "mse_best_step_true_64": "after best step",
}


@dataclass(frozen=True)
class Part:
    """A command of the lab, and how its files become a section of the page."""

    name: str
    title: str
    text: str
    options: Callable[[argparse.Namespace], list[str]]  # those that decide the numbers
    files: Callable[[Path], list[str]]  # those that say where to write
    tables: Callable[[Path], list[Markup]]
    captions: dict[str, str]  # of the pictures it writes, by file name


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_options(args: Namespace) -> list[str]:
    return ["--cases", "100" if args.quick else "500", "--seed", str(args.seed)]


def check_tables(folder: Path) -> list[Markup]:
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    counts = Counter("unlike" if unlike(c) else c["verdict"] for c in claims)
    words = {HOLDS: "hold", CORRECTED: "hold as corrected", FAILS: "fail, as declared"}
    words["unlike"] = "have a verdict unlike the declared one"
    said = "; ".join(f"{counts[verdict]} {text}" for verdict, text in words.items())
    return [html.text(f"{len(claims)} claims: {said}."), html.claims_table(claims)]


def unlike(claim: dict) -> bool:
    return claim["verdict"] != claim["declared"]


def worlds(rows: list[dict[str, str]], column: str) -> str:
    """Mean over worlds, and the standard deviation in brackets."""
    if any(row[column] == "" for row in rows):
        return "-"
    values = np.array([float(row[column]) for row in rows])
    return f"{_short(values.mean())} ({_short(values.std(ddof=1))})"


def _short(x: float) -> str:
    return f"{x:.1e}" if abs(x) >= 1e4 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.3f}"


def estimator_tables(folder: Path) -> list[Markup]:
    """The estimators at a small and at a large mismatch."""
    rows = read(folder / "mismatch.csv")
    tables = []
    for kl in ("0.1", "1.0"):
        some = [row for row in rows if float(row["kl"]) == float(kl)]
        body = []
        for name in (
            *(e.name for e in estimator_studies.BASIC + estimator_studies.JACKPOT),
            "token target",
        ):
            mine = [row for row in some if row["estimator"] == name]
            body.append((name, *(worlds(mine, c) for c in ESTIMATOR_COLUMNS)))
        caption = f"Mismatch {float(kl):g} nats per token: mean over worlds (sd in brackets)"
        tables.append(html.numbers(("estimator", *ESTIMATOR_COLUMNS.values()), body, caption))
    return tables


def sweep_tables(folder: Path) -> list[Markup]:
    """Each family at some mismatches, and the toy."""
    rows: list[dict] = [
        {k: v if k == "family" else float(v) for k, v in row.items()}
        for row in read(folder / "sweep.csv")
    ]
    body = []
    for family in dict.fromkeys(row["family"] for row in rows):
        for kl in KL_SHOWN:
            values = [sweep.interpolate(rows, family, kl, f) for f in sweep.SUMMARY.values()]
            body.append((family, f"{kl:g}", *("-" if x != x else f"{x:.3f}" for x in values)))
    columns = ("family", "KL before, nats", *sweep.SUMMARY)
    caption = "Z at lam = 1; KL after as a share of KL before, at lam = 1 and at 95% acceptance; "
    caption += "and the least that any rule of 95% acceptance leaves"
    toy = [
        tuple(str(row["token"]) if k == "token" else f"{x:.3f}" for k, x in row.items())
        for row in sweep.toy()
    ]
    names = tuple(name.replace("_", " ") for name in sweep.toy()[0])
    return [
        html.numbers(columns, body, caption),
        html.numbers(names, toy, "Four tokens at lam = 1"),
    ]


def budget_tables(folder: Path) -> list[Markup]:
    """Ways to spend a budget: KL after in both criteria, and the least that any rule leaves."""
    names = {
        "acceptance": "accepted",
        "kl_before": "KL before",
        "kl_states": "mean KL after",
        "kl_pairs": "KL of pairs after",
        "floor": "least KL of pairs",
        "least_z": "least Z of a state",
    }
    rows = read(folder / "budgets.csv")
    body = [(r["way"], r["budget"], *(f"{float(r[c]):.4f}" for c in names)) for r in rows]
    return [html.numbers(("way", "budget", *names.values()), body, "KL in nats")]


def drafting_tables(folder: Path) -> list[Markup]:
    """Rules that verify drafts: KL of their distributions, and how many times the least that is."""
    rows = read(folder / "drafting.csv")
    tables = []
    for world, kl in dict.fromkeys((row["world"], row["kl_before"]) for row in rows):
        mine = [row for row in rows if (row["world"], row["kl_before"]) == (world, kl)]
        spared = list(dict.fromkeys(row["spared"] for row in mine))
        body = []
        for rule in dict.fromkeys(row["rule"] for row in mine):
            own = [row for row in mine if row["rule"] == rule]
            body.append((rule, *(f"{float(r['kl']):.5f} ({float(r['excess']):.2f})" for r in own)))
        names = ("rule", *(f"{float(x):.0%} spared" for x in spared))
        caption = f"{world} states, KL(p||q) {float(kl):.3g}: KL(p||s) in nats (times the least)"
        tables.append(html.numbers(names, body, caption))
    return tables


def topk_table(rows: list[dict], error: str, caption: str) -> Markup:
    """Estimators down, sources across, at one k; errors in thousandths."""
    ks = sorted({int(row["k"]) for row in rows})
    k = 20 if 20 in ks else ks[0]
    some = [row for row in rows if int(row["k"]) == k]
    sources = list(dict.fromkeys(row["source"] for row in some))
    body = []
    for name in dict.fromkeys(row["estimator"] for row in some):
        by_source = {row["source"]: float(row[error]) for row in some if row["estimator"] == name}
        if all(x == x for x in by_source.values()):
            body.append((name, *(f"{1e3 * by_source[s]:.2f}" for s in sources)))
    return html.numbers(("estimator", *sources), body, f"{caption}, k = {k}, thousandths")


def topk_tables(folder: Path) -> list[Markup]:
    """Errors of Z on the families just run, and those stored of real model pairs."""
    rows = read(folder / "topk.csv")
    command, pairs = topk.read_stored() if topk.STORED.exists() else ("", [])
    each, mean = "RMS error of a state's Z", "RMS error of the batch mean of Z"
    tables = [
        topk_table(rows, "rmse_state", f"Families: {each}"),
        topk_table(rows, "rmse_mean", f"Families: {mean}"),
    ]
    if pairs:
        what = f"Model pairs, not run anew but stored ({command}): "
        tables.append(topk_table(pairs, "rmse_state", what + each))
        tables.append(topk_table(pairs, "rmse_mean", what + mean))
    return tables


def seed_options(args: Namespace) -> list[str]:
    return ["--seed", str(args.seed), *(["--quick"] if args.quick else [])]


PARTS = (
    Part(
        "check",
        "The claims",
        "Every statement of the paper that we examine, as printed and as it can be proved, and "
        "every statement of our own, checked on an example by hand and on random cases in rational "
        "or interval arithmetic. A statement that fails where it is declared to fail is a result, "
        "not an accident; a verdict that differs from the declared one is shown in red.",
        check_options,
        lambda folder: ["--json", str(folder / "claims.json")],
        check_tables,
        {},
    ),
    Part(
        "estimators",
        "Estimators of the policy gradient",
        "Exact bias, noise and error of policy-gradient estimators on small trees of tokens. "
        "Worlds are numbered from 0, so --seed has no part in it. Bias: |mean - g| / |g|, g the "
        "true gradient. Noise: variance of one trajectory / |mean|^2. Error: squared, over |g|^2, "
        "from 64 trajectories; the best step multiplies by the best constant, so that shrinking "
        "the gradient earns nothing. Proofs: docs/theory_estimators.md.",
        lambda args: ["--quick"] if args.quick else [],
        lambda folder: ["--out", str(folder)],
        estimator_tables,
        {
            "estimators.png": "Eight questions to Jackpot's weights, answered on small trees: "
            "bias against noise for every cap (1), the coin's noise (2), the error for N "
            "trajectories (3), the error over TIS's with each at its best cap (4), the lam that "
            "is worth its price (5), the error over TIS's for the same money (6), and, as the "
            "mismatch grows, the direction of the mean (7) and the error over TIS's (8).",
            "objectives.png": "All corrections, objectives, selections and allocations side by "
            "side, over the mismatch and over the horizon: direction, bias, noise and error of "
            "their expected gradients.",
        },
    ),
    Part(
        "sweep",
        "The numbers of Figure 2",
        "Seeded families of target and proposal at growing mismatch. docs/theory.md, A6, says why "
        "the last column cannot be beaten.",
        seed_options,
        lambda folder: ["--out", str(folder / "sweep.csv")],
        sweep_tables,
        {},
    ),
    Part(
        "budgets",
        "Budgets over many states",
        "Three ways to spend the same acceptance: a threshold per state, one threshold for all, "
        "and one found from sampled ratios alone; then thresholds that follow a policy which "
        "drifts away from its actor. docs/theory.md, E1 to E3.",
        seed_options,
        lambda folder: ["--out", str(folder)],
        budget_tables,
        {
            "budgets.png": "What each way leaves, in the mean KL of the states and in the KL of "
            "(state, token) pairs, and how well a threshold follows a drifting policy."
        },
    ),
    Part(
        "drafting",
        "Drafting",
        "Rules by which the target verifies drafts of the proposal, at equal mean rejection rates: "
        "how far the distribution that comes out is from the target. docs/theory_drafting.md.",
        seed_options,
        lambda folder: ["--out", str(folder)],
        drafting_tables,
        {
            "drafting.png": "Mean KL(p||s) of each rule, and how many times the least that is, "
            "against the rejections that it spares."
        },
    ),
    Part(
        "topk",
        "Z from the likeliest tokens",
        "How well a state's acceptance rate Z is estimated from the actor's k likeliest tokens: "
        "the paper's sum, its calibration by kappa, bounds, and estimates of the tail. "
        "* marks estimators that need q where no engine gives it. docs/theory_topk.md.",
        seed_options,
        lambda folder: ["--out", str(folder)],
        topk_tables,
        {
            "topk.png": "Error of each estimate of Z against k: above on seeded families, below on "
            "stored pairs of language models; and the error of the batch mean."
        },
    ),
)
