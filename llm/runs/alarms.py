"""Named alarms on the metrics of a step: what fires, and whether the run stops or goes on slower.

| alarm | fires when |
| --- | --- |
| non_finite | a metric is NaN or inf, or an update was skipped because a loss or gradient was |
| kl | kl_inf_target_k3 above alarm.kl_max |
| ratio | ratio_max above alarm.ratio_max |
| acceptance | accept_rate below alarm.accept_min |
| entropy | entropy_policy below alarm.entropy_min |

The last four fire after `patience` steps in a row beyond the limit, the first at once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.checkpoints.checkpoint import latest
from llm.errors import Diverged, NonFinite
from llm.settings.schema import AlarmConfig, LowerAction, StopAction

__all__ = ["AlarmDecision", "AlarmState", "Alarms", "Diverged", "NonFinite", "next_alarms"]

# alarm, metric, setting, whether the limit is an upper one, what to do
_LIMITS = (
    (
        "kl",
        "kl_inf_target_k3",
        "kl_max",
        True,
        "policy and actor drift apart: raise --actor.distill.coef or lower --optim.policy_lr",
    ),
    (
        "ratio",
        "ratio_max",
        "ratio_max",
        True,
        "single tokens dominate: lower the caps of --correction, or --optim.policy_lr",
    ),
    (
        "acceptance",
        "accept_rate",
        "accept_min",
        False,
        "most tokens are rejected: lower --correction.lam.value or bring the actor nearer",
    ),
    (
        "entropy",
        "entropy_policy",
        "entropy_min",
        False,
        "the policy has nearly stopped exploring: lower --optim.policy_lr, or set "
        "--loss.initial_kl_coef",
    ),
)
_NON_FINITE_ADVICE = "lower the learning rates or the caps c1, c2"
_FIRST_ADVICE = (
    "no step was done yet, so look at the models first: python -m llm doctor. A KL is infinite "
    "where one model gives probability 0 to an id that the other samples: mask the same ids in both"
)


@dataclass(frozen=True)
class AlarmState:
    """What alarms remember between steps; `dataclasses.asdict` goes into a checkpoint.

    The counts are steps in a row beyond the limit. lr_factor multiplies both learning rates.
    """

    kl: int = 0
    ratio: int = 0
    acceptance: int = 0
    entropy: int = 0
    lr_factor: float = 1.0
    lowerings: int = 0


@dataclass(frozen=True)
class AlarmDecision:
    """What was decided and why.

    alarm, metric, value, limit: of the first alarm that fired (value None: not a number).
    action: stop or lower. before, after: what both learning rates are multiplied by.
    """

    alarm: str
    metric: str
    value: float | None
    limit: float | None
    action: str
    before: float
    after: float
    lowerings: int

    @property
    def reason(self) -> str:
        """The alarm, what was measured, and the limit."""
        if self.alarm == "non_finite":
            what = self.metric if self.value else f"{self.metric} is NaN or inf"
            return f"alarm non_finite: {what}"
        setting, upper = next((s, u) for name, _, s, u, _ in _LIMITS if name == self.alarm)
        side = "above" if upper else "below"
        return (
            f"alarm {self.alarm}: {self.metric} {self.value:.4g} is {side} --alarm.{setting} "
            f"{self.limit:.4g}"
        )

    def entry(self) -> dict[str, Any]:
        """A line of decisions.jsonl, of the shape that controllers write too."""
        return {
            "setting": "factor of both learning rates",
            "before": self.before,
            "after": self.after,
            "reason": self.reason + ("; the run stops" if self.action == "stop" else ""),
            "limited": self.action == "stop",
        }


def next_alarms(
    cfg: AlarmConfig, state: AlarmState, row: dict[str, Any]
) -> tuple[AlarmState, list[str], AlarmDecision | None]:
    """The state after a step, the names of the alarms that fire, and what to do about them.

    Args:
        row: the step's metrics, NaN and inf included. `updates_skipped` counts updates not made for
            a non-finite loss or gradient; where it is above 0 the metrics of updates may be absent.

    Raises:
        KeyError: a metric with a limit is absent, which would switch its alarm off silently.
    """
    crossed = _non_finite(row)
    counts = {}
    for name, metric, setting, upper, _ in _LIMITS:
        limit, value = getattr(cfg, setting), row.get(metric)
        active = limit != (math.inf if upper else 0.0)
        if active and value is None and not row.get("updates_skipped"):
            raise KeyError(f"alarm.{setting} is {limit:g}, and this step has no {metric}")
        beyond = active and value is not None and (value > limit if upper else value < limit)
        counts[name] = getattr(state, name) + 1 if beyond else 0
        if counts[name] >= cfg.patience:
            crossed.append((name, metric, value, limit))
    if not crossed:
        return dataclasses.replace(state, **counts), [], None
    counts = dict.fromkeys(counts, 0)  # after a lowering, patience starts anew
    fired, action = [name for name, *_ in crossed], cfg.action
    if isinstance(action, LowerAction) and state.lowerings < action.lowerings_max:
        after = AlarmState(lr_factor=state.lr_factor * action.factor, lowerings=state.lowerings + 1)
        done = "lower"
    else:
        after, done = dataclasses.replace(state, **counts), "stop"
    decision = AlarmDecision(*crossed[0], done, state.lr_factor, after.lr_factor, after.lowerings)
    return after, fired, decision


def writable(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its NaN and inf, which JSON does not have; the alarm says they were there."""
    return {k: v for k, v in row.items() if not (isinstance(v, float) and not math.isfinite(v))}


class Alarms:
    """The alarms of a run: `check` each step's row, write the row, then `enforce`."""

    def __init__(
        self, cfg: AlarmConfig, checkpoints: Path, saved: dict[str, Any] | None = None
    ) -> None:
        self.cfg, self.checkpoints = cfg, checkpoints
        self.state = AlarmState(**saved) if saved else AlarmState()
        self.decision: AlarmDecision | None = None

    def check(self, row: dict[str, Any]) -> list[str]:
        """Names of the alarms of this step; `decision` then says what to do, and why."""
        self.state, fired, self.decision = next_alarms(self.cfg, self.state, row)
        return fired

    def halt(self) -> None:
        """From now on an alarm stops the run, whatever is configured."""
        self.cfg = dataclasses.replace(self.cfg, action=StopAction())

    def enforce(self, step: int) -> None:
        """Raises Diverged if the last check decided to stop."""
        if self.decision is not None and self.decision.action == "stop":
            raise Diverged(stop_message(self.decision, step, latest(self.checkpoints)))

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint; `saved` takes it back."""
        return dataclasses.asdict(self.state)


def stop_message(decision: AlarmDecision, step: int, kept: Path | None) -> str:
    """Which alarm, what was measured, the limit, and what to do."""
    advice = next((a for name, *_, a in _LIMITS if name == decision.alarm), _NON_FINITE_ADVICE)
    if decision.alarm == "non_finite" and step == 0:
        advice = _FIRST_ADVICE
    after = f" after the learning rates were lowered {decision.lowerings} times"
    return (
        f"step {step}: {decision.reason}{after if decision.lowerings else ''}, so training "
        f"stopped. Last good checkpoint: {kept if kept else 'none yet'}. What to do: {advice}. "
        "Settings of --alarm (--alarm.action.type lower, say) may change in this --run.folder; "
        "others make another run, in another one"
    )


def _non_finite(row: dict[str, Any]) -> list[tuple[str, str, float | None, float | None]]:
    """At most one alarm: NaN compares false with any limit, so it is looked for by itself."""
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            return [("non_finite", name, None, None)]
    if row.get("updates_skipped"):
        name = "a loss or gradient was NaN or inf, its update was skipped"
        return [("non_finite", name, float(row["updates_skipped"]), 0.0)]
    return []
