"""The metrics of a step: each name once, with its definition and unit.

`METRICS` is the only list: metrics.jsonl takes no name that is not in it, and docs/metrics.md is
written from it. To add a metric, define it here, compute it, and write the page again:

    python -m llm.runs.metrics > docs/metrics.md
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# p: the policy's probability of a token; q: the sampling model's (p_inf); r = p/q. Both are taken
# at the sampling temperature; which weights p has is the setting correction.target.
METRICS: dict[str, str] = {
    # The step
    "step": "number of the step, from 0; the row is measured before the step's updates, the last "
    "row after the last update",
    "alarms": "names of the alarms that fired",
    "updates_skipped": "updates not made because a loss, weight or gradient was NaN or inf",
    "tokens": "proposed tokens: all sampled completion tokens, rejected ones included",
    "staleness": "steps of updates that the sampled weights lacked, mean over tokens",
    "engine_restarts": "times that the engine's process was replaced since the last row",
    "seconds_rollout": "wall-clock time of sampling and scoring, seconds",
    "seconds_update": "wall-clock time of the updates, seconds",
    "seconds_eval": "wall-clock time of the evaluation, seconds",
    # Evaluation
    "pass_rate": "share of held-out prompts that the policy solves with one sample, at the "
    "temperature of training",
    "pass_rate_actor": "the same of the actor",
    "pass_rate_updates": "list of [updates made, held-out pass rate of the policy] within the step "
    "(setting run.eval_updates)",
    "kl_policy_actor": "exact KL(policy || actor) over the full vocabulary, nats per token, mean "
    "over the states of the step's completions",
    "kl_actor_policy": "exact KL(actor || policy), likewise",
    "eval_score_timeouts": "held-out answers that the verifier gave up on at its time limit; they "
    "score 0",
    "eval_score_crashes": "held-out answers that ended the verifier's worker; they score 0",
    # Rollout
    "reward_mean": "mean reward of the step's completions",
    "groups_informative": "share of prompts whose completions do not all have one reward",
    "length_mean": "completion tokens per sequence, mean",
    "finished": "share of completions that ended themselves, within rollout.max_new_tokens",
    "score_timeouts": "answers that the verifier gave up on at its time limit; they score 0",
    "score_crashes": "answers that ended the verifier's worker; they score 0",
    # Correction: over proposed tokens
    "kl_inf_target_k3": "estimate of KL(q || p): mean of r - 1 - log r, nats per token",
    "kl_target_inf_est": "estimate of KL(p || q): mean of r log r - r + 1, nats per token",
    "log_ratio_mean": "mean of log r, nats",
    "log_ratio_max": "largest log r, nats",
    "ratio_mean": "mean of r, before any cap",
    "ratio_p99": "99th percentile of r, before any cap",
    "ratio_max": "largest r, before any cap",
    "weight_mean": "mean of the applied weights, 0 for rejected tokens",
    "weight_max": "largest applied weight",
    "ess_raw": "effective sample size over sample size, (sum r)^2 / (n sum r^2), in [0, 1]",
    "ess_applied": "the same of the applied weights",
    "cap_fraction": "share of tokens whose weight a cap changed",
    "accept_prob_mean": "mean of the acceptance probability a(x)",
    "accept_rate": "accepted tokens over proposed tokens",
    "z_mean": "mean of the normaliser Z in use, calibrated by kappa",
    "kappa": "calibration of Z: measured over estimated acceptance, mean over updates",
    "lam_mean": "mean of the threshold lam in use",
    "out_of_reach": "share of tokens where no lam attains the budget (correction.budget)",
    # Update
    "entropy_policy": "entropy of the policy, nats per token, mean over sampled states",
    "clip_fraction": "share of tokens whose PPO ratio is clipped where that stops the gradient",
    "kl_policy_actor_now": "kl_policy_actor of the step's updates, measured for control.kl_target",
    "loss_policy": "policy loss (Eq. 5), over the denominator that loss.denominator names",
    "loss_anchor": "KL to the anchor, per proposed token, before its coefficient",
    "loss_actor_ppo": "PPO loss of the actor (Eq. 6), per proposed token",
    "loss_distill": "distillation loss (Eq. 7), per proposed token, before its coefficient",
    "distill_coef": "coefficient of the distillation loss in force, after control",
    "lr_policy": "learning rate of the policy in force, after schedule, control and alarms",
    "lr_actor": "learning rate of the actor in force, likewise",
    "grad_norm_policy": "norm of the policy's gradient before clipping",
    "grad_norm_actor": "norm of the actor's gradient before clipping",
}


def check_names(names: Iterable[str]) -> None:
    """Refuse a metric that has no definition.

    Raises:
        ValueError: naming it, and the nearest name that is defined.
    """
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=1)
            hint = f" (perhaps {close[0]}?)" if close else ""
            raise ValueError(
                f"the metric {name!r} has no definition{hint}: define it in METRICS of "
                "llm/runs/metrics.py, or do not write it"
            )


def page() -> str:
    """The text of docs/metrics.md."""
    lines = [f"| `{name}` | {text.replace('|', '&#124;')} |" for name, text in METRICS.items()]
    return "\n".join([_HEAD, *lines, ""])


_HEAD = """\
# Metrics

Each row of a run's `metrics.jsonl` is one step. It holds those of the names below that the run's
settings give a value. This page is written from `METRICS` in
[llm/runs/metrics.py](../llm/runs/metrics.py) by `python -m llm.runs.metrics > docs/metrics.md`.

In the definitions p is the policy's probability of a sampled token, q the probability that the
sampling model (the actor, p_inf in the paper) gave it, and r = p/q. The setting `correction.target`
says which weights p has: those before the step's updates, or those being updated. Under torchrun
every metric is of all ranks.

| name | definition and unit |
| --- | --- |"""


if __name__ == "__main__":
    print(page(), end="")
