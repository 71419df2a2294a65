"""The metrics of a step: each name once, with its definition and unit.

`METRICS` is the only list: metrics.jsonl takes no name that is not in it, and docs/metrics.md is
written from it. To add a metric, define it here, compute it, and write the page again:

    python -m llm.runs.metrics > docs/metrics.md
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# p: the policy's probability of a token; q: the sampling model's (p_inf); r = p/q. Both are taken
# at the sampling temperature; which weights p has is the setting correction.target.type.
METRICS: dict[str, str] = {
    # The step
    "step": "number of the step, from 0; the row is measured before the step's updates, the last "
    "row after the last update",
    "alarms": "names of the alarms that fired",
    "updates_skipped": "number of updates not made because a loss, weight or gradient was NaN or "
    "inf",
    "tokens": "number of proposed tokens: all sampled completion tokens, rejected ones included",
    "staleness": "by how many steps of updates the weights that sampled a token were behind, mean "
    "over tokens",
    "engine_restarts": "how often the rollout engine's process was replaced since the last row",
    "seconds_rollout": "wall-clock time of sampling and scoring, seconds",
    "seconds_update": "wall-clock time of the updates, seconds",
    "seconds_eval": "wall-clock time of the evaluation, seconds",
    # Evaluation
    "pass_rate": "share of held-out prompts that the policy solves with one sample (mean over "
    "run.eval_completions samples), over all evaluation sets, at the temperature of training; with "
    "a reward function: mean reward of these samples",
    "pass_rate_actor": "the same share for the actor",
    "mean_at_k_SET": "mean score of the policy's k = run.eval_completions samples of each prompt "
    "of the evaluation set SET (task.eval_source), a column for each set",
    "pass_at_k_SET": "share of the prompts of the evaluation set SET that at least one of k = "
    "run.eval_completions samples of the policy solves, a column for each set",
    "pass_rate_updates": "list of [updates made, held-out pass rate of the policy] within the step "
    "(setting run.eval_updates)",
    "kl_policy_actor": "exact KL(policy || actor) over the full vocabulary, nats per token, mean "
    "over the states of the step's completions",
    "kl_actor_policy": "exact KL(actor || policy), nats per token, over the same states",
    "eval_score_timeouts": "number of held-out completions that the verifier or the reward "
    "function did not judge within its time limit; they score 0",
    "eval_score_crashes": "number of held-out completions that ended the worker process of the "
    "verifier or reward function; they score 0",
    "eval_score_errors": "number of held-out completions for which the reward function raised an "
    "exception, ran out of memory, or returned no finite number; they score 0",
    "eval_score_unreadable": "score_unreadable of the held-out completions",
    # Rollout
    "reward_mean": "mean reward of the step's completions, which the actor sampled for training "
    "prompts; the pass rates are of held-out prompts",
    "groups_informative": "share of prompts whose completions do not all have the same reward",
    "length_mean": "mean length of the completions, tokens",
    "finished": "share of completions that ended with an end-of-sequence token, within "
    "rollout.max_new_tokens",
    "score_timeouts": "number of the step's completions that the verifier or the reward function "
    "did not judge within its time limit; they score 0",
    "score_crashes": "number of the step's completions that ended the worker process of the "
    "verifier or reward function; they score 0",
    "score_errors": "number of the step's completions for which the reward function raised an "
    "exception, ran out of memory, or returned no finite number; they score 0",
    "score_unreadable": "scorer number: completions that end themselves and hold digits, but no "
    "number that it understands (docs/rewards.md); they score 0",
    # Drafting (rollout.mode.type = drafted); s: the distribution that tokens follow
    "draft_accept_rate": "Z of drafting: probability that a drafted token is accepted, mean over "
    "the states that the policy verified",
    "draft_tokens_per_pass": "sampled tokens per pass of the policy over a completion, the pass "
    "over its prompt not counted",
    "draft_passes_max": "most passes of the policy over one completion: those of the slowest",
    "draft_lam": "threshold lam of the acceptance, mean over the states that the policy verified",
    "draft_kl_policy_sampled": "exact KL(p || s) over the full vocabulary, nats per token, mean "
    "over all sampled tokens (0 where a token was drawn from p itself)",
    "draft_kl_policy_actor": "exact KL(p || q) of policy and actor over the full vocabulary, nats "
    "per token, mean over the states that the policy verified",
    # Correction: over proposed tokens
    "kl_inf_target_k3": "estimate of KL(q || p): mean of r - 1 - log r over tokens with p > 0, "
    "nats per token",
    "kl_target_inf_est": "estimate of KL(p || q): mean of r log r - r + 1, nats per token",
    "log_ratio_mean": "mean of log r over tokens with p > 0, nats",
    "log_ratio_max": "largest log r, nats",
    "ratio_mean": "mean of r, before any cap",
    "ratio_p99": "99th percentile of r, before any cap",
    "ratio_max": "largest r, before any cap",
    "weight_mean": "mean of the applied weights, 0 for rejected tokens",
    "weight_max": "largest applied weight",
    "ess_raw": "effective sample size over sample size, (sum r)^2 / (n sum r^2), in [0, 1]",
    "ess_applied": "the same quotient for the applied weights",
    "cap_fraction": "share of tokens whose weight a cap changed",
    "accept_prob_mean": "mean of the acceptance probability min(1, r / lam)",
    "accept_rate": "number of accepted tokens divided by the number of proposed tokens",
    "z_mean": "mean of Z as the weights use it, after calibration by kappa",
    "kappa": "calibration of Z: measured acceptance rate divided by the estimated one, mean over "
    "updates",
    "lam_mean": "mean of the threshold lam in use",
    "budget_infeasible_fraction": (
        "share of tokens for which no lam gives the wanted acceptance rate "
        "(correction.lam.budget), because p = 0 on too much of q"
    ),
    # Update
    "entropy_policy": "entropy of the policy, nats per token, mean over sampled states",
    "clip_fraction": "share of tokens whose ratio a bound of the objective holds; with ppo, gspo "
    "and bapo their gradient is 0, and m2po has no such bound",
    "objective_mask_fraction": "share of tokens that the objective's mask leaves out (dppo, m2po)",
    "sequence_mask_fraction": "share of tokens of sequences that objective.sequence_mask masks",
    "bapo_low": "lower bound of the ratio that bapo chose, mean over updates",
    "bapo_high": "upper bound of the ratio that bapo chose, mean over updates",
    "m2po_threshold": "smallest (log p_new / p_inf)^2 that m2po masks, nats squared, mean over the "
    "updates in which it masks any",
    "kl_policy_actor_now": "the KL of kl_policy_actor, but of the step's updates; closed-loop "
    "control compares it with control.kl_target",
    "loss_policy": "policy loss (Eq. 5), divided by what loss.denominator names",
    "policy_steps_skipped": "objectives of whole completions: share of the step's updates in which "
    "no completion had a term, so that the policy was not moved; 0 or 1 where a rollout has one",
    "a_star_residual": "A*-PO: mean over completions of beta log(p_new / p_pre) + V* - reward",
    "dmpo_ess_share": "DMPO: effective number of weights over the size of the group, mean over "
    "prompts, in (0, 1]",
    "dmpo_temper": "DMPO: the coefficient in (0, 1] that holds that share up, mean over prompts",
    "dpo_pairs": "alpha-DPO: number of pairs of a right and a wrong completion of one prompt",
    "dpo_accuracy": "alpha-DPO: share of the pairs in which the right completion has the larger "
    "mean log p_new",
    "dpo_gap_mean": "alpha-DPO: moving mean of the pairs' gaps to p_pre, nats per token",
    "dpo_gap_std": "alpha-DPO: moving standard deviation of these gaps, nats per token",
    "loss_initial_kl": "KL(policy || initial policy), nats per proposed token, before its weight",
    "loss_actor_ppo": "PPO loss of the actor (Eq. 6), per proposed token",
    "loss_distill": "distillation loss (Eq. 7), per proposed token, before its coefficient",
    "distill_coef": "coefficient of the distillation loss in use, after control",
    "lr_policy": "learning rate of the policy in use, after schedule, control and alarms",
    "lr_actor": "learning rate of the actor in use, after schedule, control and alarms",
    "grad_norm_policy": "norm of the policy's gradient before clipping",
    "grad_norm_actor": "norm of the actor's gradient before clipping",
}


def check_names(names: Iterable[str]) -> None:
    """Refuse a metric that has no definition.

    Raises:
        ValueError: naming it, and the nearest name that is defined.
    """
    for name in names:
        declared = re.sub("^((?:mean|pass)_at_k)_[a-z0-9_]+$", r"\1_SET", name)
        if declared not in METRICS:
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

Each row of a run's `metrics.jsonl` is one step: a batch of completions and the updates that learn
from it. A row holds only the names that have a value under the run's settings. This page is written
from `METRICS` in [llm/runs/metrics.py](../llm/runs/metrics.py) by
`python -m llm.runs.metrics > docs/metrics.md`.

In the definitions, p is the policy's probability of a sampled token. q is the probability that the
sampling model gave it (the actor; p_inf in the paper). r is p / q. The setting
`correction.target.type` says whether p is of the policy before the step's updates (p_ref) or of the
policy being updated (p_new). Under torchrun every metric is over all ranks, which are the
processes. Names such as `loss.denominator` are settings. Equations are those of the paper
(arXiv 2602.06107). [DEVIATIONS.md](../DEVIATIONS.md#terms) defines Z, kappa, lam and the other
terms.

| name | definition and unit |
| --- | --- |"""


if __name__ == "__main__":
    print(page(), end="")
