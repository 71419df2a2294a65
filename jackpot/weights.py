"""Weights of sampled tokens: OBRS, its mean over the coin, and the truncations F of Sec. 2.2.

`log_ratio` is log p(x) - log q(x) at tokens x sampled from q, any shape, float32 or float64. -inf
(p = 0) is legal; NaN and +inf (q = 0 at a sampled token) are a ValueError; fill positions that hold
no token with 0. Results are weights, not logs, of the shape of `log_ratio`. `lam` and `z` may be
numbers or arrays of that shape. In torch, call these under `no_grad`: the paper stops the gradient.
"""

from __future__ import annotations

import math

from .arrays import Array, check_log_ratio_values, checked, log, parameter, quiet, zero


@quiet
def obrs_weight(log_ratio: Array, lam: float | Array, z: float | Array) -> Array:
    """w = Z max(lam, r) = p / q~, the importance weight of an accepted token.

    Together with the acceptance coin the weight on the expected gradient is a w = Z r: the factor
    Z of the state remains (DEVIATIONS.md). Unbounded in r: overflows to inf above r = 1.8e308.

    Args:
        log_ratio: log p - log q of the sampled tokens, nats.
        lam: threshold in (0, inf).
        z: acceptance rate Z of each token's state, or an estimate of it, in [0, inf): a calibrated
            one (`kappa`) may exceed 1.

    Returns:
        w, dimensionless, >= 0.

    Raises:
        TypeError: dtype other than float32/float64, or libraries mixed.
        ValueError: NaN or +inf in `log_ratio`, lam or z out of range, or another shape.

    Paper: Algorithm 1, line 23.
    """
    xp, log_ratio, log_lam, log_z = _checked(log_ratio, lam, z)
    floor = zero(xp, log_ratio) + log_lam
    return xp.exp(log_z + xp.maximum(log_ratio, floor))


@quiet
def expected_weight(
    log_ratio: Array, lam: float | Array, z: float | Array, c1: float = math.inf
) -> Array:
    """E[mask min(w, c1) | x] = min(Z r, c1 min(1, r / lam)): the coin integrated out.

    The same mean as mask and weight together and never a larger variance. For c1 >= 1 it equals
    min(Z r, c1), that is, truncated importance sampling with cap c1 / Z, times Z.

    Args:
        log_ratio, lam, z: as in `obrs_weight`.
        c1: cap on w, in (0, inf]; inf is no cap.

    Returns:
        The weight, dimensionless, in [0, c1].

    Raises:
        As `obrs_weight`; ValueError also when c1 is not positive.

    Source: docs/theory.md, C2 (not in the paper).
    """
    xp, log_ratio, log_lam, log_z = _checked(log_ratio, lam, z)
    c1 = parameter(xp, "c1", c1, (), 0.0)
    uncapped = log_z + log_ratio
    if c1 == math.inf:
        return xp.exp(uncapped)
    log_a = xp.minimum(log_ratio - log_lam, zero(xp, log_ratio))
    return xp.exp(xp.minimum(uncapped, log_a + math.log(c1)))


@quiet
def importance(log_ratio: Array) -> Array:
    """F(r) = r, the untruncated importance weight (AReaL). Unbounded; overflows to inf.

    Args:
        log_ratio: log p - log q of the sampled tokens, nats.

    Returns:
        The weight, >= 0.

    Raises:
        TypeError: dtype other than float32/float64.
        ValueError: NaN or +inf in `log_ratio`.

    Paper: Sec. 2.2.
    """
    xp, log_ratio = _checked_ratio(log_ratio)
    return xp.exp(log_ratio)


@quiet
def tis(log_ratio: Array, cap: float) -> Array:
    """F(r) = min(r, cap), truncated importance sampling.

    Args:
        log_ratio: log p - log q of the sampled tokens, nats.
        cap: the largest weight, in (0, inf].

    Returns:
        The weight, in [0, cap].

    Raises:
        As `obrs_weight`; ValueError also when cap is not positive.

    Paper: Sec. 2.2 (TIS, written C there).
    """
    xp, log_ratio = _checked_ratio(log_ratio)
    cap = parameter(xp, "cap", cap, (), 0.0)
    return xp.minimum(xp.exp(log_ratio), zero(xp, log_ratio) + cap)


@quiet
def icepop(log_ratio: Array, low: float, high: float) -> Array:
    """F(r) = r where low <= r <= high (both inclusive), else 0.

    Args:
        log_ratio: log p - log q of the sampled tokens, nats.
        low, high: the kept band of r, 0 <= low <= high <= inf.

    Returns:
        The weight, 0 or in [low, high].

    Raises:
        As `obrs_weight`; ValueError also for a band that is empty or negative.

    Paper: Sec. 2.2 (printed there as "IceProp").
    """
    xp, log_ratio = _checked_ratio(log_ratio)
    low = parameter(xp, "low", low, (), 0.0, low_open=False)
    high = parameter(xp, "high", high, (), low, low_open=False)
    o = zero(xp, log_ratio)
    # compared in logs, with the same library's log: r = exp(log r) may miss a bound by rounding
    keep = (log_ratio >= xp.log(o + low)) & (log_ratio <= xp.log(o + high))
    return xp.where(keep, xp.exp(log_ratio), o)


def _checked_ratio(log_ratio: Array) -> tuple:
    xp, log_ratio = checked(log_ratio=log_ratio)
    check_log_ratio_values(xp, "log_ratio", log_ratio)
    return xp, log_ratio


def _checked(log_ratio: Array, lam: float | Array, z: float | Array) -> tuple:
    xp, log_ratio = _checked_ratio(log_ratio)
    shape = tuple(log_ratio.shape)
    lam = parameter(xp, "lam", lam, shape, 0.0, high_open=True)
    z = parameter(xp, "z", z, shape, 0.0, low_open=False, high_open=True)
    return xp, log_ratio, log(xp, lam, like=log_ratio), log(xp, z, like=log_ratio)
