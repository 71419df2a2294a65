"""The acceptance rate from a few known tokens: bounds, and the paper's batch calibration of it.

The actor's engine gives q at its k likeliest tokens only, the known set K. The others, the tail,
hold q_T together, none of them more than the cap c, the smallest known q. p is known everywhere.
"""

from __future__ import annotations

import math
from typing import Literal

from .arrays import (
    Array,
    check_mask,
    check_per_state,
    checked,
    checked_log_probs,
    is_array_api_obj,
    log,
    parameter,
    per_row,
    quiet,
    zero,
)


@quiet
def z_topk(
    log_p_k: Array,
    log_q_k: Array,
    lam: float | Array,
    log_p_tail: Array,
    log_q_tail: Array,
) -> tuple[Array, Array]:
    """Bounds on Z = sum min(q, p / lam) from k known tokens and the mass of all the others.

    The known tokens are summed exactly. The others hold p_T and q_T together, and add between 0 and
    min(q_T, p_T / lam): lumping tokens can only raise the sum of minima. With no tail, both bounds
    are Z.

    Args:
        log_p_k, log_q_k: log-probabilities of the known tokens, nats, shape (..., k), float32 or
            float64. Each token once: of two overlapping lists take the union first.
        lam: threshold in (0, inf): a number or an array of the leading shape.
        log_p_tail, log_q_tail: log of the mass p and q put on all other tokens, shape (...), the
            dtype of `log_p_k`; -inf where there are none.

    Returns:
        (lower, upper), each of shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, D1. The lower bound is the paper's Z_approx on a known set (Sec. 4.4.2).
    """
    xp, log_p_k, log_q_k = checked_log_probs(log_p_k=log_p_k, log_q_k=log_q_k)
    _, log_p_tail, log_q_tail = checked(log_p_tail=log_p_tail, log_q_tail=log_q_tail)
    shape = tuple(log_p_k.shape[:-1])
    check_per_state(xp, log_p_k, {"log_p_tail": log_p_tail, "log_q_tail": log_q_tail})
    lam = parameter(xp, "lam", lam, shape, 0.0, high_open=True)
    log_lam = log(xp, lam, like=log_p_k)
    known = xp.exp(xp.minimum(log_q_k, log_p_k - per_row(xp, log_lam)))
    lower = xp.sum(known, axis=-1)
    return lower, lower + xp.exp(xp.minimum(log_q_tail, log_p_tail - log_lam))


@quiet
def z_union(
    log_p_k: Array,
    log_q_k: Array,
    log_p_top: Array,
    is_shared: Array,
    log_q_tail: Array,
    lam: float | Array,
    unknown: Literal["zero", "capped"],
) -> Array:
    """The paper's Z_approx on the union of q's and p's likeliest tokens, from what is known of q.

    At a token that is among p's likeliest and not among q's, no engine has given q. "zero" takes
    it as 0, which leaves Z_K: a lower bound of Z whatever p is. "capped" takes it as large as it
    can be: at most c each and q_T together, an upper bound of the paper's sum (not of Z, whose
    other tokens are dropped). If q is known there after all, put those tokens into `z_topk`.

    Args:
        log_p_k, log_q_k: log-probabilities of q's k likeliest tokens, nats, shape (..., k).
        log_p_top: log p of p's m likeliest tokens, shape (..., m).
        is_shared: True where that token is among q's k as well, so that it counts once; bool,
            shape (..., m).
        log_q_tail: log of the mass of q outside its k, shape (...).
        lam: threshold in (0, inf): a number or an array of the leading shape.
        unknown: "zero" or "capped".

    Returns:
        Z_approx, shape (...).

    Raises:
        TypeError, ValueError: as `tail_bound`; ValueError also for another `unknown`.

    Paper: Algorithm 1, V_k (Sec. 4.4.2). Differs: q is not assumed known on the union.
    """
    if unknown not in ("zero", "capped"):
        raise ValueError(f'unknown must be "zero" or "capped", got {unknown!r}')
    xp, log_p_k, log_q_k = checked_log_probs(log_p_k=log_p_k, log_q_k=log_q_k)
    _, log_p_top = checked_log_probs(log_p_top=log_p_top)
    shape = tuple(log_p_k.shape[:-1])
    if tuple(log_p_top.shape[:-1]) != shape or log_p_top.dtype != log_p_k.dtype:
        raise ValueError(
            f"log_p_top must have shape {shape} and a last axis, and dtype {log_p_k.dtype}, "
            f"got {tuple(log_p_top.shape)} and {log_p_top.dtype}"
        )
    check_mask(xp, "is_shared", is_shared, log_p_top)
    check_per_state(xp, log_p_k, {"log_q_tail": log_q_tail})
    lam = parameter(xp, "lam", lam, shape, 0.0, high_open=True)
    log_lam = per_row(xp, log(xp, lam, like=log_p_k))
    known = xp.sum(xp.exp(xp.minimum(log_q_k, log_p_k - log_lam)), axis=-1)
    if unknown == "zero":
        return known
    cap = xp.min(log_q_k, axis=-1, keepdims=True)
    log_m = xp.where(is_shared, zero(xp, log_p_k) - math.inf, log_p_top - log_lam)
    capped = xp.sum(xp.exp(xp.minimum(cap, log_m)), axis=-1)
    return known + xp.minimum(xp.exp(log_q_tail), capped)


def kappa(accepted: Array, z_approx: Array) -> float:
    """The paper's calibration: accepted share of the batch over the mean of Z_approx.

    kappa * z_approx has the right batch mean in expectation; it does not make any one state's value
    right, and may exceed the upper bound of `z_topk`.

    Args:
        accepted: the outcome of each token's coin, bool or float in [0, 1], any shape; real tokens
            of the whole batch only (no padding, all ranks).
        z_approx: approximate acceptance rate of each token's state, same shape, float32 or float64.

    Returns:
        kappa >= 0, a Python float.

    Raises:
        TypeError: not arrays of one library, or another dtype.
        ValueError: shapes differ, no tokens, NaN, a value outside [0, 1], or all of `z_approx` 0.

    Paper: Algorithm 1, the calibration step (Sec. 4.4.2).
    """
    xp, z_approx = checked(z_approx=z_approx)
    if is_array_api_obj(accepted) and accepted.dtype == xp.bool:
        accepted = xp.astype(accepted, z_approx.dtype)
    xp, accepted, z_approx = checked(accepted=accepted, z_approx=z_approx)
    if math.prod(z_approx.shape) == 0:
        raise ValueError("kappa needs at least one token, got an empty batch")
    shape = tuple(z_approx.shape)
    parameter(xp, "accepted", accepted, shape, 0.0, 1.0, low_open=False)
    parameter(xp, "z_approx", z_approx, shape, 0.0, 1.001, low_open=False)
    mean_z = float(xp.mean(z_approx))
    if mean_z == 0.0:
        raise ValueError("z_approx is 0 in every state, so there is nothing to calibrate")
    return float(xp.mean(accepted)) / mean_z
