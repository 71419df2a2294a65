"""`python -m sim topk`: how well Z is estimated from q's top k, on seeded and real pairs (p, q).

Two errors of each estimator, against Z from the whole vocabulary: the root mean square over states
and draws, and that of the batch mean over draws. A draw is one token from q at every state; the
states stay. * in a name: q is granted where no engine gives it. beta is of one draw alone, except
for "smoothed", which also remembers the draws before it as a trainer remembers its steps.
Derivations: docs/theory_topk.md.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

import jackpot
from sim.arguments import path_of, positive_int, seed
from sim.worlds import topk_states
from sim.worlds.topk_states import Known, Revealed

from .sweep import write_csv

STORED = Path(__file__).parents[1] / "data" / "topk_smollm2.csv"
COLUMNS = (
    "source", "k", "lam", "states", "vocabulary", "z", "q_tail", "missing",
    "estimator", "rmse_state", "rmse_mean",
)  # fmt: skip


class StateBatch(NamedTuple):
    """One draw of a token at every state, (n,) each; the states; and the threshold."""

    known: Known
    accept: np.ndarray
    in_tail: np.ndarray
    coin: np.ndarray
    lam: float


def seen_in_tail(batch: StateBatch, bound: np.ndarray) -> jackpot.TailStatistic:
    """What the sampled tail tokens say of `bound`."""
    return jackpot.tail_statistic(batch.accept, batch.in_tail, bound, _log(batch.known.q_tail))


def _ratio_of(bound: Callable[[Known], np.ndarray]) -> Callable[[StateBatch], np.ndarray]:
    def estimate(batch: StateBatch) -> np.ndarray:
        u = bound(batch.known)
        ratio = jackpot.tail_ratio(seen_in_tail(batch, u))
        return jackpot.z_tail_ratio(batch.known.z_k, u, ratio)

    return estimate


def lognormal_tail(known: Known, lam: float, g: float) -> np.ndarray:
    """R if log r were normal in the tail, with g times the spread that it has on the top k.

    r has mean p_T / q_T under q there; min(1, r / lam) is integrated.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.maximum(g * known.spread, 1e-9)
        h = np.log(known.p_tail / (lam * known.q_tail))
        r = known.q_tail * ndtr(h / s - s / 2) + known.p_tail / lam * ndtr(-h / s - s / 2)
    return np.where((known.q_tail > 0) & (known.p_tail > 0), np.minimum(r, known.lumped), 0.0)


def _lognormal(batch: StateBatch) -> np.ndarray:
    """Z_K + R(g), with the g in [0, 16] at which the sampled tail tokens fit, by bisection."""
    seen = batch.in_tail & (batch.known.q_tail > 0)
    mine = Known(*(x[seen] for x in batch.known))
    wanted = batch.accept[seen].sum()
    low, high = 0.0, 16.0
    for _ in range(30):
        g = (low + high) / 2
        too_much = (lognormal_tail(mine, batch.lam, g) / mine.q_tail).sum() > wanted
        low, high = (g, high) if too_much else (low, g)
    return batch.known.z_k + lognormal_tail(batch.known, batch.lam, (low + high) / 2)


def _kappa(batch: StateBatch) -> np.ndarray:
    return jackpot.kappa(batch.coin, batch.known.union) * batch.known.union


# per state; * = q granted where no engine gives it
ESTIMATORS: dict[str, Callable[[StateBatch], np.ndarray]] = {
    "Z_K": lambda batch: batch.known.z_k,
    "union *": lambda batch: batch.known.union,
    "kappa union *": _kappa,
    "union, capped": lambda batch: batch.known.union_capped,
    "Z_K + U": lambda batch: batch.known.z_k + batch.known.lumped,
    "Z_K + U'": lambda batch: batch.known.z_k + batch.known.bound,
    "Z_K + beta U": _ratio_of(lambda known: known.lumped),
    "Z_K + beta U'": _ratio_of(lambda known: known.bound),
    "Z_K + beta U' overlap": _ratio_of(lambda known: known.bound * known.overlap),
    "lognormal tail": _lognormal,
}
# of the batch mean alone: what one would never use as a state's Z
MEANS: dict[str, Callable[[StateBatch], np.ndarray]] = {
    "coin": lambda batch: batch.coin,
    "a": lambda batch: batch.accept,
    "Z_K + a 1{tail}": lambda batch: batch.known.z_k + batch.accept * batch.in_tail,
}

SMOOTHED = "Z_K + beta U', smoothed"
DECAY = 0.9  # of SMOOTHED, whose steps are the draws in their order


def measure(states: Revealed, k: int, lam: float, rng: np.random.Generator) -> list[dict]:
    """One row per estimator: its two errors over the draws, and what the states are like."""
    known, z = states.known[k], states.z
    coins = rng.random(states.accept.shape) < states.accept
    errors: dict[str, list[np.ndarray]] = {x: [] for x in (*ESTIMATORS, SMOOTHED, *MEANS)}
    seen = jackpot.TailStatistic()
    for accept, rank, coin in zip(states.accept, states.rank, coins, strict=True):
        batch = StateBatch(known, accept, rank >= k, coin, lam)
        for name, estimate in (ESTIMATORS | MEANS).items():
            errors[name].append(np.asarray(estimate(batch), dtype=np.float64) - z)
        seen = jackpot.smooth_tail(seen, seen_in_tail(batch, known.bound), DECAY)
        smoothed = jackpot.z_tail_ratio(known.z_k, known.bound, jackpot.tail_ratio(seen))
        errors[SMOOTHED].append(smoothed - z)
    about = {
        "k": k,
        "lam": lam,
        "states": len(z),
        "z": float(z.mean()),
        "q_tail": float(known.q_tail.mean()),
        "missing": float((z - known.z_k).mean()),
    }
    rows = []
    for name, values in errors.items():
        e = np.array(values)
        row = about | {"estimator": name, "rmse_mean": _rms(e.mean(axis=1))}
        rows.append(row | {"rmse_state": float("nan") if name in MEANS else _rms(e)})
    return rows


def study_families(ks: list[int], v: int, n: int, replicates: int, seed: int) -> list[dict]:
    rows = []
    for i, (name, family) in enumerate(topk_states.FAMILIES.items()):
        rng = np.random.default_rng([seed, i])
        chunks = topk_states.family_chunks(name, n, v, seed)
        states = topk_states.reveal(chunks, family.lam, ks, replicates, rng)
        for k in ks:
            measured = measure(states, k, family.lam, rng)
            rows += [{"source": name, "vocabulary": v} | row for row in measured]
    return rows


def study_pairs(path: Path, ks: list[int], n: int, replicates: int, seed: int) -> list[dict]:
    """The stored model pairs at lam = 1."""
    rows = []
    for i, name in enumerate(topk_states.pair_names(path)):
        rng = np.random.default_rng([seed, i])
        v = topk_states.pair_vocabulary(path, name)
        chunks = topk_states.pair_chunks(path, name, n)
        states = topk_states.reveal(chunks, 1.0, ks, replicates, rng)
        for k in ks:
            rows += [{"source": name, "vocabulary": v} | x for x in measure(states, k, 1.0, rng)]
    return rows


def read_stored(path: Path = STORED) -> tuple[str, list[dict]]:
    """The stored measurement: the commands that made it, and its rows."""
    with path.open(encoding="utf-8", newline="") as file:
        command = file.readline().removeprefix("#").strip()
        rows: list[dict] = []
        for row in csv.DictReader(file):
            numbers = {c: float(row[c]) for c in COLUMNS if c not in ("source", "estimator")}
            whole = {c: int(numbers[c]) for c in ("k", "states", "vocabulary")}
            rows.append({**row, **numbers, **whole})
    return command, rows


def table(rows: list[dict], error: str, k: int) -> str:
    """Estimators down, sources across, at one k; errors in thousandths."""
    some = [r for r in rows if r["k"] == k]
    sources = list(dict.fromkeys(r["source"] for r in some))
    width = max(map(len, sources)) + 2
    lines = [f"{'':24}" + "".join(f"{s:>{width}}" for s in sources)]
    for quantity in ("z", "q_tail", "missing"):
        cells = [next(r[quantity] for r in some if r["source"] == s) for s in sources]
        lines.append(f"{'mean ' + quantity:24}" + "".join(f"{x:>{width}.3f}" for x in cells))
    for name in dict.fromkeys(r["estimator"] for r in some if r[error] == r[error]):
        by_source = {r["source"]: r[error] for r in some if r["estimator"] == name}
        lines.append(f"{name:24}" + "".join(f"{1e3 * by_source[s]:>{width}.2f}" for s in sources))
    return "\n".join(lines)


def report(title: str, rows: list[dict]) -> str:
    ks = sorted({r["k"] for r in rows})
    k = 20 if 20 in ks else ks[len(ks) // 2]
    parts = []
    for error, what in (("rmse_state", "of a state's Z"), ("rmse_mean", "of the batch mean of Z")):
        parts.append(f"{title}: root mean square error {what}, in thousandths, k = {k}")
        parts.append(table(rows, error, k) + "\n")
    return "\n".join(parts)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m sim topk",
        description="Errors of estimates of the acceptance rate from q's k likeliest tokens. "
        "* marks estimators that need q where no engine gives it.",
    )
    p.add_argument("--k", type=positive_int, nargs="+", metavar="K", help="5 10 20 50 100")
    p.add_argument("--vocab", type=positive_int, help="of the families; default 151936")
    p.add_argument("--tokens", type=positive_int, help="states in a batch; default 500")
    p.add_argument("--replicates", type=positive_int, help="draws of a batch; default 50")
    p.add_argument("--seed", type=seed, default=0, help="default 0")
    p.add_argument(
        "--pairs",
        type=path_of,
        metavar="FILE.npz",
        help="model pairs (benchmarks/smollm2_pairs.py)",
    )
    p.add_argument(
        "--out", type=path_of, metavar="DIR", help="write CSV files and the picture here"
    )
    p.add_argument("--quick", action="store_true", help="small defaults; a few seconds")
    return p


def main(argv: list[str]) -> int:
    p = parser()
    args = p.parse_args(argv)
    v = args.vocab or (5000 if args.quick else 151_936)
    n = args.tokens or (60 if args.quick else 500)
    replicates = args.replicates or (10 if args.quick else 50)
    ks = sorted(set(args.k or ([5, 20] if args.quick else [5, 10, 20, 50, 100])))
    if max(ks) >= v:
        p.error(f"--k {max(ks)} leaves no tail in a vocabulary of {v}")
    if args.out:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "topk.csv").touch()
        except OSError as error:
            p.error(f"cannot write to --out {args.out}: {error.strerror}; name another folder")
    try:
        pair_rows = study_pairs(args.pairs, ks, n, replicates, args.seed) if args.pairs else []
    except ValueError as error:
        p.error(str(error))
    rows = study_families(ks, v, n, replicates, args.seed)
    command = f"python -m sim topk {' '.join(argv)}".strip()
    title = "model pairs"
    print(report("families", rows))
    if not args.pairs and STORED.exists():
        made_by, pair_rows = read_stored()
        title = f"model pairs, stored ({made_by})"
    if pair_rows:
        print(report(title, pair_rows))
    print("* needs q at tokens where no engine gives it")
    if args.out:
        from .topk_figure import draw

        written = [args.out / "topk.csv"]
        write_csv(written[0], rows, COLUMNS)
        if args.pairs:
            written.append(args.out / "topk_pairs.csv")
            write_csv(written[1], pair_rows, COLUMNS)
            written[1].write_text(f"# {command}\n" + written[1].read_text())
        written += draw(rows, pair_rows, args.out)
        print("wrote " + ", ".join(map(str, written)), file=sys.stderr)
    return 0


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)
