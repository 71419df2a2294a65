"""Does drafting make training faster where decoding dominates? Time to 80 % of on-policy's rise.

    python benchmarks/drafted_training.py [--seeds 3] [--workers 1] [--out build/drafted_training]

Trains in the world "chain long": a policy of 8 layers, an actor of 1, 16 completions of 17 tokens a
step. On-policy training raises the pass rate from its start to its end; the goal is 80 % of that.
The column `faster` has the time that on-policy training takes to the goal over that of a method,
with the same seeds: above 1 the method is faster. Time: the seconds of the steps' rollouts and
updates by the clock, without evaluations and pretraining. Other work on the machine disturbs it. A
run that has ended is not trained again, and one that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from llm.settings.paths import path_of
from paper_figures.analysis import run_statistics
from paper_figures.experiments import runner
from paper_figures.experiments.configurations import FIGURE_SEEDS, RunSpec, run
from paper_figures.experiments.drafted_lists import drafted
from paper_figures.experiments.run_store import folder
from paper_figures.extras import cost

WORLD = "chain long"
GOAL = 0.8  # of the rise


def runs(seeds: int) -> dict[str, list[RunSpec]]:
    """By name: on-policy training, which the others are compared with, first."""
    lossless = tuple(sorted(drafted(1.0).items()))
    own = FIGURE_SEEDS[:seeds]
    return {
        "on-policy": [run(WORLD, "on-policy", s) for s in own],
        "Jackpot on prefixes": [run(WORLD, "jackpot prefixes", s) for s in own],
        "drafted, lam 1": [RunSpec(WORLD, "rival", s, lossless) for s in own],
    }


def seconds_of_steps(specs: list[RunSpec], column: str, home: Path) -> float:
    """Mean seconds of a step's rollout or update."""
    rows = [r for s in specs for r in run_statistics.rows(s, home) if column in r]
    return float(sum(r[column] for r in rows) / len(rows))


def main() -> int:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, len(FIGURE_SEEDS) + 1))
    parser.add_argument("--workers", type=int, default=1, help="runs at once; more disturb times")
    parser.add_argument("--out", type=path_of, default="build/drafted_training")
    args = parser.parse_args()
    by_name = runs(args.seeds)
    # seed by seed, so that what disturbs one method disturbs the others as well
    in_turn = [own[i] for i in range(args.seeds) for own in by_name.values()]
    try:
        runner.train(in_turn, args.workers, args.out)
    except (runner.Failed, KeyboardInterrupt) as e:
        sys.stderr.write(f"{e or 'interrupted'}; the same command goes on\n")
        return 1
    print("| method | rollout, s | update, s | last pass rate | faster, by seed | mean [95 %] |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, own in by_name.items():
        step = [seconds_of_steps(own, f"seconds_{c}", args.out) for c in ("rollout", "update")]
        last = sum(run_statistics.final(r, args.out) for r in own) / len(own)
        pairs = zip(by_name["on-policy"], own, strict=True)
        found = [cost.factor(*both, GOAL, "seconds", args.out) for both in pairs]
        each = " ".join(f"{g:.2f}" if g else "never" for g in found)
        few = len(found) < run_statistics.SEEDS_MIN
        mean = "too few seeds" if few else "not all reach it"
        logs = [math.log(g) for g in found if g]
        if len(logs) == len(found) and not few:
            mean = run_statistics.Interval(*map(math.exp, run_statistics.student(logs))).text(2)
        print(f"| {name} | {step[0]:.3f} | {step[1]:.3f} | {last:.3f} | {each} | {mean} |")
    print(f"{args.seeds} seeds of '{WORLD}'; runs in {folder(in_turn[0], args.out).parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
