"""Finished runs for tests of figures, written rather than trained."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper_figures.claims.verdicts import EmpiricalClaim
from paper_figures.experiments import run_store, runner
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_lists import Scale

SCALE = Scale("full", (900, 901, 902), (900, 901, 902), 1.0)  # seeds of no figure
A = {"study": "fig1", "world": "chain", "method": "jackpot"}
B = {"study": "fig1", "world": "chain", "method": "tis"}
CLAIM = EmpiricalClaim(
    "x", "Fig. 1", "Words | of the paper <b>", "difference", "x over y", "final", A, B, 3
)


def evaluated_steps(run: RunSpec) -> list[int]:
    """As the trainer evaluates: every so many steps, and after the last."""
    cfg = run_store.resolved(run).run
    return [*range(0, cfg.steps, cfg.eval_every), cfg.steps]


def write(
    run: RunSpec,
    home: Path,
    pass_rates: Sequence[float],
    kl: float | Sequence[float] = 0.0,
    code: int = 0,
    seconds: float = 1.0,
) -> Path:
    """A finished run whose evaluations gave these; fewer than its configuration has if code is 3.

    A single KL holds for every evaluation.
    """
    steps = evaluated_steps(run)[: len(pass_rates)]
    kls = np.broadcast_to(kl, len(steps)).tolist()
    found = []
    for step, rate, apart in zip(steps, pass_rates, kls, strict=True):
        row = {"step": step, "pass_rate": float(rate), "kl_policy_actor": float(apart)}
        row |= {"pass_rate_actor": 0.1, "kl_actor_policy": float(apart)}
        row |= {"kl_inf_target_k3": 1e-5, "clip_fraction": 0.01}
        found.append(row | {"seconds_rollout": seconds, "seconds_update": seconds})
    folder = run_store.folder(run, home)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in found)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    outcome = {"exit": code, "message": "", "seconds": 1.0, "code": run_store.code_version()}
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    return folder


def write_eval(evaluation: runner.Evaluation, home: Path, mean: float, best: float) -> None:
    """An entry as `llm eval` writes it: mean@4 and pass@4, here without intervals."""
    file = run_store.folder(evaluation.run, home) / "eval.json"
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    policy: dict[str, Any] = {"prompts": evaluation.prompts, "samples": evaluation.samples}
    policy |= {"mean_at_k": {"k": 4, "value": mean}}
    policy |= {"pass_at_k": [{"k": 1, "value": mean}, {"k": 4, "value": best}]}
    entries.append({"overrides": list(evaluation.flags), "models": {"policy": policy}})
    file.write_text(json.dumps(entries), encoding="utf-8")


HOSTILE = "<script>alert('x')</script> & \"quoted\""


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


TINY = {
    "policy.layers": 1,
    "policy.width": 16,
    "task.digits_min": 1,
    "task.digits_max": 2,
    "rollout.max_new_tokens": 4,
    "pretrain.policy_steps": 20,
    "rollout.prompts_per_step": 2,
    "run.steps": 4,
    "run.eval_every": 2,
    "run.eval_prompts": 8,
}
SEED = 900  # of no figure


def tiny(method: str = "on-policy", **extra) -> RunSpec:
    more = {k.replace("__", "."): v for k, v in extra.items()}
    return RunSpec("chain", method, SEED, tuple(sorted((TINY | more).items())))


def train_long(home: Path) -> None:
    """A command that trains for longer than any test; for a process of its own. Its worker is
    forked, which takes less time than a spawned one, and has its answer to SIGTERM."""
    context = multiprocessing.get_context("fork")

    class Worker(context.Process):  # type: ignore[name-defined]
        def run(self) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            super().run()

    context.Process = Worker  # type: ignore[misc]
    runner.multiprocessing.get_context = lambda _: context  # type: ignore[assignment]
    # what a worker has for its save after a SIGKILL of its parent, and then waits
    runner._WATCH_SECONDS, runner._SAVING_SECONDS = 1, 6
    try:
        runner.train([tiny(run__steps=100_000)], 1, home)
    except KeyboardInterrupt:
        sys.exit(130)
