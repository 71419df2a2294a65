"""Closed loop: the measured KL(policy || actor) drives the distillation and the actor's rate.

Pure functions from one step's measurement to the next step's values. Each change is a `Decision`.
The tracked lam is another such loop; it needs the tokens, so it is in correction.py
(`next_state`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple, TypedDict


class Decision(TypedDict):
    """One move of one setting, as a line of decisions.jsonl (which adds the step).

    limited: the move was cut short by a limit of the [control] section, or could not be made.
    """

    setting: str
    before: float
    after: float
    reason: str
    limited: bool


@dataclass(frozen=True)
class Controls:
    """The values in force. Numbers only, so dataclasses.asdict is its JSON."""

    distill_coef: float
    actor_lr_factor: float = 1.0
    policy_lr_factor: float = 1.0


class Drive(NamedTuple):
    """A value that is driven: its setting's name, its field in `Controls`, the configured value.

    sign: 1 where it rises with the KL, -1 where it falls. top: its highest multiple of configured.
    """

    setting: str
    field: str
    configured: float
    sign: int
    top: float

    def moved(self, before: float, log_step: float, factor_max: float, reason: str) -> Decision:
        """The value multiplied by e^(sign log_step), within its limits."""
        # a step in logs is a factor, so no value can become 0 or change its sign
        wanted = before * math.exp(self.sign * log_step)
        # Clamped around the configured value: without it, integral control would go on for as
        # long as the KL stays off its target, however far.
        after = max(self.configured / factor_max, min(self.configured * self.top, wanted))
        return Decision(
            setting=self.setting,
            before=before,
            after=after,
            reason=reason,
            limited=after != wanted,
        )


def next_controls(
    controls: Controls,
    kl: float,
    *,
    kl_target: float,
    distill_coef: float,
    distill: bool = True,
    actor_lr: bool = False,
    policy_lr: bool = False,
    gain: float = 0.1,
    factor_max: float = 10.0,
) -> tuple[Controls, list[Decision]]:
    """One step of integral control in logs: each driven value is multiplied by (kl / target)^gain.

    The logarithm counts as at most 1 either way, so a step changes a value by at most e^gain. The
    value stays within `factor_max` of the configured one. The policy's learning rate is divided
    instead, so that the policy waits for its actor, and it never exceeds the configured one.

    Args:
        controls: the values that this step was trained with.
        kl: KL(policy || actor) measured in this step, nats per token: full vocabulary, at the
            sampling temperature, mean over the proposed states (with the default distillation
            that is its loss).
        kl_target: the wanted KL, nats per token; 0: nothing is driven.
        distill_coef: the configured weight of Eq. 7.
        distill, actor_lr, policy_lr: which of the three values are driven.

    Returns:
        The values for the next step, and one Decision for each that is driven.

    Raises:
        ValueError: kl is negative, NaN or inf.

    Source: the paper's Sec. 8 names closed-loop control as future work; this rule is ours.
    """
    if not 0.0 <= kl < math.inf:
        raise ValueError(
            f"the measured KL(policy || actor) is {kl!r}, but control needs a finite number >= 0; "
            "look at the step's log-probabilities"
        )
    if kl_target == 0:
        return controls, []
    # In logs, a factor above the target counts as much as the same factor below it. The error is
    # clamped so that one odd batch moves nothing by more than e^gain; kl = 0 has no logarithm.
    error = max(-1.0, min(1.0, math.log(kl / kl_target))) if kl > 0 else -1.0
    reason = f"KL(policy || actor) {kl:.4g}, target {kl_target:.4g}"
    # A value's place in this list is its place in decisions.jsonl.
    drives = [Drive("actor.distill.coef", "distill_coef", distill_coef, 1, factor_max)] * distill
    drives += [Drive("actor.lr factor", "actor_lr_factor", 1.0, 1, factor_max)] * actor_lr
    # top 1: the policy only ever waits, and never learns faster than configured
    drives += [Drive("optim.policy_lr factor", "policy_lr_factor", 1.0, -1, 1.0)] * policy_lr
    values, decisions = asdict(controls), []
    for drive in drives:
        decisions.append(drive.moved(values[drive.field], gain * error, factor_max, reason))
        values[drive.field] = decisions[-1]["after"]
    return Controls(**values), decisions
