"""Which metrics of a run are drawn together, which are only said, and how they are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Panel(NamedTuple):
    """Metrics drawn on one pair of axes: name in metrics.jsonl -> label."""

    title: str
    series: dict[str, str]
    scale: str = "linear"  # or "log", which becomes symlog where a value is not above 0
    limits: tuple[float, float] | None = None


PANELS = (
    Panel(
        "Held-out pass rate",
        {"pass_rate": "policy", "pass_rate_actor": "actor"},
        limits=(0, 1),
    ),
    Panel("Reward of the actor's rollouts", {"reward_mean": "mean of the step's completions"}),
    Panel(
        "Exact KL, nats per token",
        {"kl_policy_actor": "KL(policy, actor)", "kl_actor_policy": "KL(actor, policy)"},
        "log",
    ),
    Panel(
        "KL from sampled ratios, nats per token",
        {"kl_inf_target_k3": "KL(q, p)", "kl_target_inf_est": "KL(p, q)"},
        "log",
    ),
    Panel(
        "Acceptance",
        {"accept_rate": "accepted share", "accept_prob_mean": "mean a(x)", "z_mean": "mean Z"},
    ),
    Panel(
        "Effective sample size, share",
        {"ess_applied": "applied weights", "ess_raw": "raw ratios"},
        limits=(0, 1),
    ),
    Panel("Entropy of the policy, nats per token", {"entropy_policy": "policy"}),
    Panel("Applied weight", {"weight_mean": "mean", "weight_max": "largest"}),
    Panel(
        "Ratio p/q, before any cap",
        {"ratio_mean": "mean", "ratio_p99": "99th percentile", "ratio_max": "largest"},
        "log",
    ),
    Panel("Log ratio, log p/q", {"log_ratio_mean": "mean", "log_ratio_max": "largest"}),
    Panel(
        "Tokens capped and clipped, share",
        {"cap_fraction": "weight capped", "clip_fraction": "ratio clipped"},
    ),
    Panel(
        "Tokens left out by the objective's masks, share",
        {"objective_mask_fraction": "of tokens", "sequence_mask_fraction": "of sequences"},
    ),
    Panel("Bounds of the ratio, BAPO", {"bapo_low": "lower", "bapo_high": "upper"}),
    Panel(
        "Gradient norm, before clipping",
        {"grad_norm_policy": "policy", "grad_norm_actor": "actor"},
        "log",
    ),
    Panel(
        "Loss of the policy",
        {"loss_policy": "PPO, weighted (Eq. 5)", "loss_initial_kl": "KL to the initial policy"},
    ),
    Panel(
        "Losses of the actor",
        {"loss_actor_ppo": "PPO (Eq. 6)", "loss_distill": "distillation (Eq. 7)"},
    ),
    Panel("Calibration of Z, kappa", {"kappa": "kappa"}),
    Panel("Tokens per completion", {"length_mean": "mean"}),
    Panel("Learning rate", {"lr_policy": "policy", "lr_actor": "actor"}, "log"),
    Panel("Coefficient of distillation", {"distill_coef": "distill_coef"}, "log"),
    Panel("Threshold lam", {"lam_mean": "mean over tokens"}),
    Panel("Tokens whose budget is out of reach, share", {"budget_infeasible_fraction": "share"}),
    Panel("Updates skipped (NaN or inf)", {"updates_skipped": "updates"}),
    Panel("Staleness of rollouts, steps", {"staleness": "mean over tokens"}),
    Panel(
        "Groups and endings, share",
        {"groups_informative": "informative groups", "finished": "completions ended"},
        limits=(0, 1),
    ),
    Panel("Tokens per second", {"tokens_per_second": "rollout and update"}),
    Panel(
        "Seconds per step",
        {"seconds_rollout": "rollout", "seconds_update": "update", "seconds_eval": "evaluation"},
        "log",
    ),
)
_NOT_DRAWN = {"step", "tokens"}
_SHOWN_IF_NOT_0 = {
    "budget_infeasible_fraction",
    "updates_skipped",
    "score_timeouts",
    "score_crashes",
    "score_unreadable",
}
# one metric for each evaluation set, its name at the end: a panel for each kind
_OF_SETS = {
    "mean_at_k_": "mean@k of the policy on each evaluation set",
    "pass_at_k_": "pass@k of the policy on each evaluation set",
}
SERIES_MAX = 6  # of one panel: more cannot be told apart
OTHERS_MAX = 24  # panels of metrics that none names: each takes a quarter of a second
OTHERS_READ = 200  # such metrics that are looked at
NAME_MAX = 60  # characters of a metric's name that are shown


def panels_for(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """The panels that have something to show; a metric that none names gets one of its own, and
    those of evaluation sets share one."""
    names = {
        k: True for r in rows for k, v in r.items() if isinstance(v, int | float) and v is not True
    }
    idle = {k for k in _SHOWN_IF_NOT_0 if not any(r.get(k) for r in rows)}
    names = {k: v for k, v in names.items() if k not in idle}
    listed = {k for p in PANELS for k in p.series}
    kept = [p._replace(series={k: v for k, v in p.series.items() if k in names}) for p in PANELS]
    others = [k for k in names if k not in listed | _NOT_DRAWN][:OTHERS_READ]
    single = [Panel(shown(k), {k: shown(k)}) for k in others if not k.startswith(tuple(_OF_SETS))]
    having = [p for p in kept if p.series]
    own = sum(p.title == PANELS[0].title for p in having)  # sets come after it
    return [*having[:own], *_of_sets(others), *having[own:], *single]


def _of_sets(names: Sequence[str]) -> list[Panel]:
    """A panel for each kind of metric of evaluation sets, or several where there are many sets."""
    panels = []
    for start, title in _OF_SETS.items():
        series = [(k, shown(k.removeprefix(start))) for k in names if k.startswith(start)]
        for first in range(0, len(series), SERIES_MAX):
            part = dict(series[first : first + SERIES_MAX])
            panels.append(Panel(title, part, limits=(0, 1)))
    return panels


def divided(
    rows: Sequence[dict[str, Any]], panels: Sequence[Panel]
) -> tuple[list[Panel], dict[str, float]]:
    """What is drawn, and what is said in a line because it never changes.

    Returns:
        Panels in which a curve moves, at most OTHERS_MAX of such as `PANELS` does not know;
        {metric: its value} of the panels in which none does.
    """
    known = {k for p in PANELS for k in p.series}
    drawn: list[Panel] = []
    constant: dict[str, float] = {}
    others = 0
    for panel in panels:
        values = {k: series(rows, k)[1] for k in panel.series}
        if all(len({repr(v) for v in x}) == 1 for x in values.values()):  # repr: NaN is one value
            constant |= {k: x[0] for k, x in values.items()}
            continue
        others += known.isdisjoint(panel.series)
        if others <= OTHERS_MAX or not known.isdisjoint(panel.series):
            drawn.append(panel)
    return drawn, constant


def shown(name: str) -> str:
    """A name from a file as one short line of printable characters."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return line if len(line) <= NAME_MAX else f"{line[: NAME_MAX - 1]}…"


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric, of the rows that have it."""
    points = [(r["step"], r[name]) for r in rows if isinstance(r.get(name), int | float)]
    return [s for s, _ in points], [float(v) for _, v in points]
