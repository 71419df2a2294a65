"""`python -m sim estimators`: what Jackpot's weights do to a policy gradient that TIS's do not.

Exact bias, variance and error of every estimator on small trees of tokens (`gradient_estimators`),
as tables on stdout, CSV files of all numbers and a picture. A second picture and the last table
have every correction, objective, selection and allocation (`objective_studies`) side by side.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np

from sim.arguments import path_of
from sim.worlds.trees import Tree, make_tree

from . import estimator_studies, objective_studies, token_cost_studies
from .estimator_studies import Row
from .estimators_figure import draw
from .objectives_figure import draw_objectives

Results = dict[str, list[Row]]

MONEY_KEYS = ("batch_true", "batch_true_accepted", "state_true")
COLUMNS = {
    "accepted": "accepted",
    "bias_true": "bias",
    "cos_true": "cosine",
    "cos_token": "cos token",
    "noise": "noise",
    "mse_true_64": "error 64",
    "mse_best_step_true_64": "best step",
}


def main(argv: list[str]) -> int:
    """Run the studies; returns the exit status, 2 for input that cannot be served."""
    args = _parser().parse_args(argv)
    started = time.perf_counter()
    try:
        if args.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, got {args.seeds}")
        if args.vocab < 3:
            raise ValueError(
                f"--vocab must be at least 3, got {args.vocab}: one study takes a token away "
                "from the policy, and the others must still leave a choice"
            )
        tree = make_tree(args.vocab, args.horizon)
        args.out.mkdir(parents=True, exist_ok=True)
        results = run(tree, 2 if args.quick else args.seeds, quick=args.quick)
    except OSError as error:
        return _refuse(f"cannot write to --out {args.out}: {error.strerror}; name another folder")
    except ValueError as error:
        return _refuse(str(error))
    report(tree, results)
    written = write(results, args.out)
    written += draw(results, args.out)
    written += draw_objectives(results["objectives_summary"], args.out)
    print(f"\nWrote {len(written)} files to {args.out} in {time.perf_counter() - started:.0f} s:")
    print("  " + ", ".join(path.name for path in written))
    return 0


def _refuse(message: str) -> int:
    print(f"python -m sim estimators: {message}", file=sys.stderr)
    return 2


def run(tree: Tree, n_seeds: int, quick: bool = False) -> Results:
    """All studies, by name; `quick` leaves mismatches out."""
    seeds = range(n_seeds)
    kls = (0.1, 1.0) if quick else estimator_studies.KL_GRID
    three = (estimator_studies.KL_SHOWN,) if quick else (0.03, estimator_studies.KL_SHOWN, 1.0)
    worlds = range(3 if quick else objective_studies.WORLDS)
    horizons = (3, 4) if quick else objective_studies.HORIZONS
    objectives = {
        "mismatch": objective_studies.by_mismatch(tree, worlds, kls),
        "horizon": objective_studies.by_horizon(worlds, horizons),
    }
    return {
        "mismatch": estimator_studies.by_mismatch(tree, seeds, kls),
        "off_support": estimator_studies.off_support(tree, seeds),
        "stale": estimator_studies.stale(tree, seeds),
        "caps": estimator_studies.cap_sweep(tree, seeds),
        "paths": estimator_studies.by_paths(tree, seeds),
        "lam": estimator_studies.lam_sweep(tree, seeds),
        "equal_tuning": estimator_studies.equal_tuning(tree, seeds, three),
        "cost": token_cost_studies.cost(tree, seeds, three),
        "equal_money": token_cost_studies.equal_money(tree, seeds, three),
        "magnitude": token_cost_studies.magnitude(tree, seeds, n_random=10 if quick else 40),
        "ratio": estimator_studies.ratio_check(tree, 0, repeats=1000 if quick else 4000),
        **{f"objectives_{study}": rows for study, rows in objectives.items()},
        "objectives_summary": [
            {"study": study, **row}
            for study, rows in objectives.items()
            for row in objective_studies.summary(rows)
        ],
    }


def write(results: Results, folder: Path) -> list[Path]:
    """One CSV per study."""
    paths = []
    for name, rows in results.items():
        paths.append(folder / f"{name}.csv")
        fields = list(dict.fromkeys(key for row in rows for key in row))
        with paths[-1].open("w", newline="") as file:
            writer = csv.DictWriter(file, fields, restval="")
            writer.writeheader()
            writer.writerows(rows)
    return paths


def report(tree: Tree, results: Results) -> None:
    """The tables, and what they say."""
    seeds = len({row["seed"] for row in results["stale"]})
    print(
        f"Trees of {tree.vocab} tokens and {tree.horizon} positions: {len(tree.states)} "
        f"trajectories, {tree.n_states} states; {seeds} worlds (seeds 0 to {seeds - 1}).\n"
        "Numbers are exact per world; shown is the mean over worlds (sd in brackets).\n"
        "bias: |mean - g| / |g|, g the true gradient. cosine: of the mean with g. cos token: with\n"
        "the token-level target (states and future of the actor). noise: variance of one\n"
        "trajectory / |mean|^2. error 64: E|estimate - g|^2 / |g|^2 from 64 trajectories; best\n"
        "step: the same times the best constant, so that shrinking the gradient earns nothing."
    )
    shown = [e.name for e in estimator_studies.BASIC + estimator_studies.JACKPOT]
    for kl in (0.1, 1.0):
        rows = [r for r in results["mismatch"] if r["kl"] == kl]
        print(f"\nMismatch {kl:g} nats per token (lam 1, c1 3, TIS cap 2, IcePop [0.5, 5])")
        _print_table(rows, "estimator", shown, COLUMNS)
        floor = _mean([r for r in rows if r["estimator"] == "token target"], "cos_true")
        print(f"  (the token-level target's own cosine with g is {floor:.3f})")
    _report_prefixes(results)
    _report_special(results, shown)
    _report_answers(results)
    _report_objectives(results["objectives_summary"])


def _report_prefixes(results: Results) -> None:
    """What a rejected token taking what follows with it changes (docs/theory_estimators.md, C6)."""
    names = ("TIS", "Jackpot (expected)", "Jackpot on prefixes")
    print("\nOn prefixes: cosine of the mean with g; error after the best step over TIS's")
    heads = (*names, "N 64", "N 1024")
    print(f"  {'mismatch':<10}" + "".join(f"{h:>22}" for h in heads))
    for kl in dict.fromkeys(r["kl"] for r in results["mismatch"]):
        rows = [r for r in results["mismatch"] if r["kl"] == kl]
        by_name = {n: [r for r in rows if r["estimator"] == n] for n in names}
        cells = [_mean_sd(by_name[n], "cos_true") for n in names]
        for n in (64, 1024):
            key = f"mse_best_step_true_{n}"
            pairs = zip(by_name[names[2]], by_name[names[0]], strict=True)
            cells.append(_mean_sd([{key: a[key] / b[key]} for a, b in pairs], key))
        print(f"  {kl:<10g}" + "".join(f"{c:>22}" for c in cells))


def _report_special(results: Results, shown: list[str]) -> None:
    print("\nThe actor puts 0.2 of its first tokens where the policy never goes (mismatch 0.3)")
    _print_table(results["off_support"], "estimator", shown, COLUMNS)
    rows = results["stale"]
    print("\nStale: p away from p_ref (logit noise 0.5), actor 0.1 nats from p_ref, no PPO clip")
    columns = COLUMNS | {"largest_multiplier": "largest w"}
    _print_table(rows, "estimator", list(dict.fromkeys(r["estimator"] for r in rows)), columns)
    print("\nPer accepted token: the delta method's error against Monte Carlo (seed 0)")
    for r in results["ratio"]:
        print(
            f"  {r['estimator']:<30} N {r['n_paths']:>4}   {r['mse_delta']:.3f}   sampled "
            f"{r['mse_sampled']:.3f} +- {r['standard_error']:.3f}"
        )
    print("\nSecond moment at equal budget, over keeping every token (mismatch 0.3)")
    rules = {k: k.replace("_", " ") for k in ("uniform", "best_random", "obrs", "magnitude")}
    _print_table(results["magnitude"], "budget", [0.1, 0.25, 0.5, 0.75], rules)


def _report_answers(results: Results) -> None:
    tuned, money = results["equal_tuning"], results["equal_money"]

    def ratio(name: str, which: str, n: int) -> str:
        rows = [r for r in tuned if r["kl"] == 0.3 and r["spread"] == 0 and r["n_paths"] == n]
        return _mean_sd(rows, f"{name}_{which}")

    def paid(c: float, key: str) -> str:
        rows = [r for r in money if r["kl"] == 0.3 and np.isclose(r["cost_ratio"], c)]
        return _mean_sd(rows, key)

    print("\nJackpot's error over TIS's, each at its own best cap, after the best step, KL 0.3")
    print(f"  {'':<28}{'true, N 64':>14}{'token, N 64':>14}{'true, 4096':>14}{'token, 4096':>14}")
    for est in estimator_studies.JACKPOT[:4]:
        cells = [ratio(est.name, w, n) for n in (64, 4096) for w in ("true", "token")]
        print(f"  {est.name:<28}" + "".join(f"{c:>14}" for c in cells))
    print("The same for the same money (TIS with 256 trajectories), lam free, true g")
    for c in (0.01, 0.1, 1.0, 10.0):
        batch, accepted, state = (paid(c, k) for k in MONEY_KEYS)
        print(f"  c_g / c_b {c:<5g} batch Z {batch}, accepts {accepted}; state Z {state}")
    print(
        "\nSo: averaged over its coin, Jackpot is Z times TIS with cap c1 / Z. With the Z of the\n"
        "whole batch that is TIS under another name. With the Z of the state, mismatched states\n"
        "count less: at best a little less noise, for a bias that no number of samples removes.\n"
        "The coin only adds noise, unless a rejected token saves money: then it pays where\n"
        "generation is cheap beside the update. Neither corrects which states are visited, nor\n"
        "the rest of the path."
    )


def _report_objectives(rows: list[Row]) -> None:
    """All of them side by side, with 95% intervals of the mean over worlds."""
    longest = max(r["horizon"] for r in rows if r["study"] == "horizon")
    cells = {(r["study"], r["kl"], r["horizon"], r["estimator"]): r for r in rows}
    tree = next(r for r in rows if r["study"] == "mismatch")
    places = [
        *(("mismatch", kl, tree["horizon"]) for kl in (0.1, 1.0)),
        ("horizon", objective_studies.HORIZON_KL, longest),
    ]
    print(
        f"\nAll methods side by side, {tree['worlds']} worlds; p has moved from p_ref (logit "
        f"noise {objective_studies.STALENESS:g}).\nLast, trees of "
        f"{objective_studies.HORIZON_VOCAB} tokens and {longest} positions. +-: half a 95% "
        "interval of the mean over worlds.\nOf the noise the median is shown. error: after the "
        "best step. The bias counts the length too, at\nwhich losses of whole completions do not "
        "aim. BAPO's bounds, M2PO's threshold and the weights of\nwhole completions are those of "
        "infinitely many trajectories."
    )
    heads = ("cosine", "bias", "noise", "error 64", "error 1024")
    columns = ("cosine", "bias", "noise_median", "error_64", "error_1024")
    for study, kl, horizon in places:
        print(f"\n  {kl:g} nats per token, {horizon} positions")
        print(f"  {'':<28}" + "".join(f" {h:>14}" for h in heads))
        for name in dict.fromkeys(r["estimator"] for r in rows):
            row = cells[study, kl, horizon, name]
            print(f"  {name:<28}" + "".join(f" {_plus_minus(row, c):>14}" for c in columns))


def _plus_minus(row: Row, column: str) -> str:
    mean = row[column]
    shown = f"{mean:.1e}" if abs(mean) >= 1e4 else f"{mean:.{3 if abs(mean) < 10 else 1}f}"
    half = row.get(f"{column}_half")
    if half is None:
        return shown
    return f"{shown} +- {half:.2f}" if abs(half) < 1e3 else f"{shown} +- {half:.0e}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim estimators",
        description="Exact bias, noise and error of policy-gradient estimators on small trees.",
    )
    parser.add_argument("--vocab", type=int, default=5, help="tokens per state (default 5)")
    parser.add_argument("--horizon", type=int, default=3, help="tokens per path (default 3)")
    parser.add_argument(
        "--seeds", type=int, default=8, help="number of worlds (default 8; the last table has 50)"
    )
    parser.add_argument(
        "--out", type=path_of, default=Path("runs/estimators"), help="output folder"
    )
    parser.add_argument("--quick", action="store_true", help="two worlds, fewer mismatches")
    return parser


def _print_table(rows: list[Row], key: str, order: list, columns: dict[str, str]) -> None:
    print(f"  {'':<28}" + "".join(f" {label:>14}" for label in columns.values()))
    for value in order:
        some = [r for r in rows if r[key] == value]
        print(f"  {value!s:<28}" + "".join(f" {_mean_sd(some, c):>14}" for c in columns))


def _mean(rows: list[Row], key: str) -> float:
    return float(np.mean([r[key] for r in rows]))


def _mean_sd(rows: list[Row], key: str) -> str:
    values = np.array([r[key] for r in rows], dtype=float)
    mean = values.mean()
    digits = 3 if abs(mean) < 10 else 1
    shown = f"{mean:.1e}" if abs(mean) >= 1e4 else f"{mean:.{digits}f}"
    if values.size == 1:
        return shown
    sd = values.std(ddof=1)
    return f"{shown} ({sd:.0e})" if sd >= 1e3 else f"{shown} ({sd:.{min(digits, 2)}f})"
