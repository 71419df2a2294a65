"""A threshold that follows a budget over training steps."""

from __future__ import annotations

import math

from .arrays import Array, checked, parameter
from .budget import lam_from_samples


def track_lam(log_lam: float | None, log_ratio: Array, budget: float, decay: float) -> float:
    """One step of an exponential average of log lam towards `lam_from_samples` of these tokens.

        log lam <- decay * log lam + (1 - decay) * log lam_from_samples(log_ratio, budget)

    The average is over logs because lam is a scale: a lam that is wrong by a factor c changes the
    acceptance rate by a factor between 1/c and 1 (docs/theory.md, A0(vi)), never by more. On steady
    data it divides the variance of one step's estimate by (1 + decay) / (1 - decay); after a change
    of the mismatch it lags about 1 / (1 - decay) steps behind.

    Draw a step's coins with the value from *before* that step: then lam does not depend on the
    tokens it judges, and the weights stay unbiased. Only the first step has to use its own tokens.

    Args:
        log_lam: the value this function returned at the last step; None at the first, which then
            takes its own tokens' lam.
        log_ratio: log p - log q of all tokens proposed in this step, accepted or not, nats, any
            shape, float32 or float64; only real tokens (no padding).
        budget: wanted mean acceptance, a number in (0, 1].
        decay: weight of the past, in [0, 1); 0 forgets it at once.

    Returns:
        The new log lam, a finite Python float: keep it, and use its exponential as lam.

    Raises:
        TypeError: as `lam_from_samples`; log_lam or decay not a number.
        ValueError: as `lam_from_samples`, in particular where this step cannot spend the budget,
            because p > 0 on too few of its tokens: the message names the reachable maximum. Such a
            step says only that lam is too large; to go on, keep the old `log_lam`. Also for a
            log_lam that is not finite and a decay outside [0, 1).

    Source: docs/theory.md, E3 (not in the paper, which fixes one lam by hand).
    """
    xp, log_ratio = checked(log_ratio=log_ratio)
    decay = float(parameter(xp, "decay", decay, (), 0.0, 1.0, low_open=False, high_open=True))
    if log_lam is not None:
        log_lam = parameter(xp, "log_lam", log_lam, (), -math.inf, high_open=True)
    new = math.log(lam_from_samples(log_ratio, budget))
    return new if log_lam is None else decay * float(log_lam) + (1.0 - decay) * new
