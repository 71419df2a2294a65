"""Closed loop: the measured KL(policy || actor) drives the distillation and the actor's rate.

Pure functions from one step's measurement to the next step's values. Each change is a `Decision`.
The tracked lam is another such loop; it needs the tokens, so it is in correction.py
(`next_state`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TypedDict


class Decision(TypedDict):
    """One move of one setting, as a line of decisions.jsonl (which adds the step).

    limited: the move was cut short by a limit of the [control] section, or could not be made.
    """

    setting: str
    before: float
    after: float
    because: str
    limited: bool


@dataclass(frozen=True)
class Controls:
    """The values in force. Numbers only, so dataclasses.asdict is its JSON."""

    distill_coef: float
    actor_lr_factor: float = 1.0
    policy_lr_factor: float = 1.0


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
    error = max(-1.0, min(1.0, math.log(kl / kl_target))) if kl > 0 else -1.0
    because = f"KL(policy || actor) {kl:.4g}, target {kl_target:.4g}"
    values = asdict(controls)
    driven = []  # setting, value, the configured one, sign, highest multiple of it
    if distill:
        driven.append(("actor.distill_coef", "distill_coef", distill_coef, 1, factor_max))
    if actor_lr:
        driven.append(("actor.lr factor", "actor_lr_factor", 1.0, 1, factor_max))
    if policy_lr:
        driven.append(("optim.policy_lr factor", "policy_lr_factor", 1.0, -1, 1.0))
    decisions = []
    for setting, name, base, sign, top in driven:
        wanted = values[name] * math.exp(sign * gain * error)
        after = max(base / factor_max, min(base * top, wanted))
        decisions.append(
            Decision(
                setting=setting,
                before=values[name],
                after=after,
                because=because,
                limited=after != wanted,
            )
        )
        values[name] = after
    return Controls(**values), decisions
