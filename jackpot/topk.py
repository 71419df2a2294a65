"""The acceptance rate from a few known tokens, and the paper's batch calibration of it."""

from __future__ import annotations

import math

from .arrays import (
    Array,
    check_log_prob_values,
    checked,
    checked_log_probs,
    is_array_api_obj,
    log,
    parameter,
    per_row,
    quiet,
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
    for name, x in {"log_p_tail": log_p_tail, "log_q_tail": log_q_tail}.items():
        if tuple(x.shape) != shape or x.dtype != log_p_k.dtype:
            raise ValueError(
                f"{name} must have shape {shape} and dtype {log_p_k.dtype}, "
                f"got {tuple(x.shape)} and {x.dtype}"
            )
        check_log_prob_values(xp, name, x)
    lam = parameter(xp, "lam", lam, shape, 0.0, high_open=True)
    log_lam = log(xp, lam, like=log_p_k)
    known = xp.exp(xp.minimum(log_q_k, log_p_k - per_row(xp, log_lam)))
    lower = xp.sum(known, axis=-1)
    return lower, lower + xp.exp(xp.minimum(log_q_tail, log_p_tail - log_lam))


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
