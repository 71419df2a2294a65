"""Optimal Budgeted Rejection Sampling (OBRS): the acceptance rule and what it does to q.

Throughout, p is the target and q the proposal, the distribution really sampled from. A token
x ~ q is accepted with probability a(x) = min(1, p(x) / (lam q(x))). Accepted tokens follow
q~ = min(q, p / lam) / Z, with Z = sum min(q, p / lam) the acceptance rate.
"""

from __future__ import annotations

from .arrays import (
    Array,
    checked_log_probs,
    constant,
    first_row,
    log,
    parameter,
    per_row,
    quiet,
    zero,
)


@quiet
def accept_prob(log_p: Array, log_q: Array, lam: float | Array) -> Array:
    """Acceptance probability of every token, a = min(1, p / (lam q)).

    A token with q = 0 < p has a = 1 (the limit), one absent from both has a = 0: neither is ever
    proposed. A token with p = 0 < q has a = 0 for every lam.

    Args:
        log_p: target log-probabilities, nats, shape (..., v), float32 or float64.
        log_q: proposal log-probabilities; shape, dtype and library of `log_p`.
        lam: threshold, dimensionless, in (0, inf): a number or an array of the leading shape.

    Returns:
        a, shape (..., v), in [0, 1].

    Raises:
        TypeError: dtype other than float32/float64, libraries or dtypes mixed.
        ValueError: shapes differ, NaN, a log-probability above 0, or lam outside (0, inf).

    Paper: Definition 3.2.
    """
    xp, log_p, log_q, log_lam = _checked(log_p, log_q, lam)
    log_a = xp.minimum(log_p - log_q - log_lam, zero(xp, log_p))
    absent = xp.isnan(log_a)  # -inf - -inf; the inputs hold no NaN
    return xp.where(absent, zero(xp, log_p), xp.exp(log_a))


@quiet
def acceptance_rate(log_p: Array, log_q: Array, lam: float | Array) -> Array:
    """Mean acceptance rate Z = sum min(q, p / lam) of each state.

    At lam = 1 this is 1 - TV(p, q); always lam Z <= 1.

    Args:
        log_p, log_q, lam: as in `accept_prob`.

    Returns:
        Z, shape (...), in [0, 1] up to rounding of the inputs.

    Raises:
        As `accept_prob`.

    Paper: Sec. 3, the budget a-bar.
    """
    xp, log_p, log_q, log_lam = _checked(log_p, log_q, lam)
    return xp.sum(xp.exp(xp.minimum(log_q, log_p - log_lam)), axis=-1)


@quiet
def post_rejection(log_p: Array, log_q: Array, lam: float | Array) -> Array:
    """Log-probabilities log q~ of the accepted tokens, q~ = min(q, p / lam) / Z.

    Among all distributions reachable from q at this acceptance rate, q~ is the closest to p in
    every f-divergence (docs/theory.md; the paper's Theorem 3.4 says so for KL).

    Args:
        log_p, log_q, lam: as in `accept_prob`.

    Returns:
        log q~, nats, shape (..., v); each row sums to 1 in probability.

    Raises:
        As `accept_prob`; ValueError also when p and q share no token, since nothing is accepted.

    Paper: Definition 3.2, Eq. 4.
    """
    xp, log_p, log_q, log_lam = _checked(log_p, log_q, lam)
    log_m = xp.minimum(log_q, log_p - log_lam)
    top = xp.max(constant(log_m), axis=-1, keepdims=True)
    nothing = xp.isinf(top[..., 0])
    if bool(xp.any(nothing)):
        raise ValueError(
            f"p and q share no token in row {first_row(xp, nothing)}: every token is rejected, "
            "so accepted tokens have no distribution"
        )
    shifted = log_m - top
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def _checked(log_p: Array, log_q: Array, lam: float | Array) -> tuple:
    """The checked arguments, and log lam broadcastable against the vocabulary axis."""
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    lam = parameter(xp, "lam", lam, tuple(log_p.shape[:-1]), 0.0, high_open=True)
    return xp, log_p, log_q, per_row(xp, log(xp, lam, like=log_p))
