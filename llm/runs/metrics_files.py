"""What is measured each step. One name, one definition; every token metric is over proposed tokens.

| name | definition |
| --- | --- |
| step | step number; a row is measured before its update, the last row after the last one |
| pass_rate, pass_rate_actor | share of held-out prompts solved by one sample, temperature as trained |
| kl_policy_actor, kl_actor_policy | exact KL(policy, actor) and KL(actor, policy), nats per token, full vocabulary, mean over this step's sampled states |
| kl_inf_target_k3, kl_target_inf_est | the same from sampled ratios r = p/q: mean of r - 1 - log r, and of r log r - r + 1 |
| kl_policy_actor_now | kl_policy_actor of the step's updates, where control.kl_target needs it |
| reward_mean | share of this step's completions that are right |
| groups_informative | share of prompts whose completions do not all have one reward |
| score_timeouts, score_crashes, eval_score_* | answers that the verifier gave up on (score 0), in this step's rollout and in its evaluation |
| length_mean, finished | completion tokens per sequence; share that ended themselves |
| accept_prob_mean, accept_rate | mean a(x); accepted tokens over proposed |
| z_mean, kappa | mean Z used, calibration included; the calibration |
| lam_mean, out_of_reach | mean lam used; share of tokens where no lam spends the budget |
| log_ratio_mean, log_ratio_max, ratio_mean, ratio_p99, ratio_max | of r = p/q before any cap |
| weight_mean, weight_max | applied weights, 0 for rejected tokens |
| ess_raw, ess_applied | (sum w)^2 / (n sum w^2) of r and of applied weights, in [0, 1] |
| cap_fraction, clip_fraction | tokens whose weight a cap changed; tokens whose PPO ratio is clipped with effect |
| entropy_policy | nats per token, mean over sampled states |
| loss_policy, loss_actor_ppo, loss_distill, loss_anchor | per proposed token (the policy's by loss.denominator), before coefficients |
| distill_coef, lr_policy, lr_actor | in force at this step, after schedule, control and alarms |
| grad_norm_policy, grad_norm_actor | before clipping |
| pass_rate_updates | [updates made, held-out pass rate of the policy] within this step (run.eval_updates) |
| updates_skipped, alarms | updates not made because something was NaN or inf; names of the alarms that fired |
| tokens | proposed tokens |
| staleness | steps of updates that the sampled weights lacked, mean over tokens |
| engine_restarts | times that the engine's process was replaced since the last row |
| seconds_rollout, seconds_update, seconds_eval | wall-clock of this step's phases |
"""  # noqa: E501

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llm.checkpoints.checkpoint import write_json
from llm.settings.loading import Config


class MetricsFile:
    """metrics.jsonl: one JSON object a row, on disk at once; cut to the checkpoint on resume."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self.path = path
        with path.open("ab") as file:
            if file.tell() < keep_bytes:
                raise ValueError(
                    f"{path} holds {file.tell()} bytes, fewer than the {keep_bytes} that the "
                    "checkpoint counts: rows were lost. Put it back, or remove the checkpoints"
                )
            file.truncate(keep_bytes)

    def write(self, *rows: dict[str, Any]) -> None:
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def size(self) -> int:
        """Bytes, after a flush to disk: the checkpoint that notes them must not outlive them."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return self.path.stat().st_size


class RunFiles:
    """The four *.jsonl files of a run, each cut on resume to what the checkpoint counts."""

    NAMES = ("metrics", "decisions", "samples", "histograms")

    def __init__(self, folder: Path, kept: dict[str, int]) -> None:
        self.files = {n: MetricsFile(folder / f"{n}.jsonl", kept.get(n, 0)) for n in self.NAMES}

    def write(self, name: str, *rows: dict[str, Any]) -> None:
        self.files[name].write(*rows)

    def sizes(self) -> dict[str, int]:
        return {name: file.size() for name, file in self.files.items()}


class NoFiles:
    """In place of `RunFiles` where another rank writes them."""

    def write(self, name: str, *rows: dict[str, Any]) -> None:
        pass

    def sizes(self) -> dict[str, int]:
        return {}


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def summarise(folder: Path, cfg: Config) -> dict[str, Any]:
    """Write summary.json, whose presence says that the run is complete."""
    found = read(folder / "metrics.jsonl")
    evals = [r for r in found if "pass_rate" in r]
    best = max(evals, key=lambda r: r["pass_rate"])
    summary = {
        "steps": cfg.run.steps,
        "actor": cfg.actor.type,
        "pass_rate_first": evals[0]["pass_rate"],
        "pass_rate_last": evals[-1]["pass_rate"],
        "pass_rate_lowest": min(r["pass_rate"] for r in evals),
        "pass_rate_best": best["pass_rate"],
        "step_best": best["step"],
        "kl_policy_actor_first": evals[0]["kl_policy_actor"],
        "kl_policy_actor_last": evals[-1]["kl_policy_actor"],
        "alarms": sum(bool(r.get("alarms")) for r in found),
        "rows": len(found),
    }
    write_json(folder / "summary.json", summary)
    return summary
