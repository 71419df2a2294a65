"""Thresholds from budgets: the lam at which the acceptance rate is a wanted number.

With r = p / q, Z(lam) = P(r < lam) / lam + Q(r >= lam): in u = 1 / lam it is piecewise linear,
concave and increasing. Newton's method from the left therefore never overshoots, and ends exactly,
when the set {r < lam} stops changing; there is no tolerance in it. It works on blocks of rows small
enough to stay in cache, always in float64.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from .arrays import (
    Array,
    check_log_ratio_values,
    checked,
    checked_log_probs,
    constant,
    first_row,
    on_host,
    parameter,
    quiet,
)


class _Precision(NamedTuple):
    """What rounding of the inputs does to sums of probabilities."""

    slack: float  # by how much a budget may exceed q(supp p)
    edge: float  # how near to q(supp p), relatively, a budget counts as equal to it
    sum: float  # up to how much a row's sum of q may miss 1, which adds to the slack


_FLOAT64 = _Precision(slack=1e-12, edge=4e-15, sum=0.0)
_FLOAT32 = _Precision(slack=1e-6, edge=1e-6, sum=1e-4)  # 150,000 terms miss 1 by up to 5e-5
_BUDGET_MAX = 1.0 + 1e-12  # a rate that the core itself returned may exceed 1 by rounding
_BLOCK_ELEMENTS = 2**17  # 1 MiB of float64
_LAM_MAX = sys.float_info.max


@quiet
def lam_for_budget(log_p: Array, log_q: Array, budget: float | Array) -> Array:
    """The threshold lam at which each state's acceptance rate Z(lam) equals `budget`.

    Where several lam fit (budget 1, or exactly all of q's mass on the support of p) the largest is
    returned. No gradient flows through it.

    Args:
        log_p: target log-probabilities, nats, shape (..., v), float32 or float64.
        log_q: proposal log-probabilities; shape, dtype and library of `log_p`.
        budget: wanted acceptance rate in (0, 1]: a number or an array of the leading shape.

    Returns:
        lam > 0, dimensionless, shape (...), the dtype of `log_p`.

    Raises:
        TypeError: dtype other than float32/float64, libraries or dtypes mixed.
        ValueError: shapes differ, NaN, a log-probability above 0, budget outside (0, 1] or above
            the reachable maximum q(supp p) (slack 1e-12; in float32 1e-6 and what q misses of 1),
            or a lam that the dtype cannot hold. The message names the row and the maximum.

    Paper: Theorem 3.4 (existence as corrected in docs/theory.md, A3).
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    shape = tuple(log_p.shape[:-1])
    budget = parameter(xp, "budget", budget, shape, 0.0, _BUDGET_MAX)
    n, v = math.prod(shape), log_p.shape[-1]
    precision = _precision(xp, log_p)
    wanted = xp.zeros(shape, dtype=xp.float64, device=log_p.device) + (
        budget if isinstance(budget, float) else xp.astype(budget, xp.float64)
    )
    on_cpu = str(log_p.device).lower().startswith("cpu")
    step = max(1, _BLOCK_ELEMENTS // v) if on_cpu else max(1, n)
    rows_p, rows_q = (xp.reshape(constant(x), (n, v)) for x in (log_p, log_q))
    wanted = xp.reshape(constant(wanted), (n,))
    blocks = []
    for start in range(0, n, step):
        block = (rows_p[start : start + step, :], rows_q[start : start + step, :])
        blocks.append(
            _solve_block(xp, *block, wanted[start : start + step], precision, start, shape)
        )
    lam = xp.concat(blocks) if blocks else wanted
    lam = xp.reshape(xp.astype(lam, log_p.dtype), shape)
    lost = (lam == 0) | xp.isinf(lam)
    if bool(xp.any(lost)):
        row = first_row(xp, lost)
        side, advice = (
            ("below the smallest", "lower") if lam[row] == 0 else ("above the largest", "raise")
        )
        raise ValueError(
            f"budget needs a lam {side} {log_p.dtype} in row {row}; {advice} the budget"
            + ("" if precision is _FLOAT64 else " or pass float64")
        )
    return lam


def common_lam_for_budget(
    log_p: Array, log_q: Array, budget: float, state_weight: Array | None = None
) -> float:
    """One threshold for a batch of states, at which their mean acceptance rate equals `budget`.

    A common lam minimises every f-divergence between the target distribution of (state, token)
    pairs and the distribution of the accepted pairs; a lam per state, each with the same budget,
    does not.

    Args:
        log_p, log_q: as in `lam_for_budget`; every leading index is a state.
        budget: wanted mean acceptance rate, a number in (0, 1].
        state_weight: frequency of each state, >= 0, the leading shape and dtype of `log_p`; need
            not sum to 1. None weighs all states alike.

    Returns:
        lam > 0, a Python float.

    Raises:
        As `lam_for_budget`; ValueError also for an empty batch, or weights that are negative, not
        finite, or all 0.

    Source: docs/theory.md, E1 (not in the paper, which fixes one lam by hand).
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    shape = tuple(log_p.shape[:-1])
    budget = _number(xp, "budget", budget)
    precision = _precision(xp, log_p)
    n = math.prod(shape)
    if n == 0:
        raise ValueError(f"an empty batch of states (shape {tuple(log_p.shape)}) has no common lam")
    if state_weight is None:
        log_d = xp.zeros((n, 1), dtype=xp.float64, device=log_p.device) - math.log(n)
    else:
        log_d = _log_state_weight(xp, state_weight, log_p, shape)
    flat = (xp.reshape(xp.astype(constant(x), xp.float64), (n, -1)) for x in (log_p, log_q))
    joint_p, joint_q = (xp.reshape(x + log_d, (1, -1)) for x in flat)
    return _solve_one(xp, joint_p, joint_q, budget, precision)


def lam_from_samples(log_ratio: Array, budget: float) -> float:
    """One threshold from sampled ratios alone: mean over tokens of min(1, r / lam) equals `budget`.

    Needs no vocabulary: the acceptance it realises on fresh tokens differs from `budget` by about
    sd(a) / sqrt(n).

    Args:
        log_ratio: log p - log q of tokens sampled from q, nats, any shape, float32 or float64;
            only real tokens (no padding).
        budget: wanted mean acceptance, a number in (0, 1].

    Returns:
        lam > 0, a Python float.

    Raises:
        TypeError: dtype other than float32/float64.
        ValueError: no tokens, NaN or +inf, budget outside (0, 1] or above the share of tokens with
            p > 0, or a lam that no float64 can hold.

    Source: docs/theory.md, E3 (not in the paper).
    """
    xp, log_ratio = checked(log_ratio=log_ratio)
    check_log_ratio_values(xp, "log_ratio", log_ratio)
    budget = _number(xp, "budget", budget)
    n = math.prod(log_ratio.shape)
    if n == 0:
        raise ValueError("log_ratio holds no tokens, so no lam can be found from it")
    log_r = xp.reshape(xp.astype(constant(log_ratio), xp.float64), (1, n))
    log_q = xp.zeros_like(log_r) - math.log(n)
    return _solve_one(xp, log_r + log_q, log_q, budget, _FLOAT64)


@quiet
def _solve(
    xp: Any, log_p: Array, log_q: Array, budget: Array, precision: _Precision
) -> tuple[Array, Array]:
    """lam (b,) and the reachable maximum q(supp p) (b,) of float64 rows (b, v); NaN out of reach.

    Masks enter as factors 0 and 1 in dot products: selecting by branches costs several times more.
    """
    largest = xp.full((), _LAM_MAX, dtype=xp.float64, device=log_p.device)
    inf, nan = largest + largest, largest * math.nan
    log_r = log_p - log_q  # inf for a token with q = 0 < p, NaN for an absent one: in neither set
    p = xp.minimum(
        xp.exp(log_p), largest
    )  # above it only for sampled ratios that lam cannot exceed
    q = xp.exp(log_q)
    reach = _dot(xp, q, log_p > -inf)

    lam = largest + 0 * budget  # Z(lam) <= budget: left of the root in u = 1 / lam
    while True:
        log_lam = xp.log(lam)[:, None]
        certain = _dot(xp, q, log_r >= log_lam)  # Q(r >= lam), accepted for certain
        rest = _dot(xp, p, log_r < log_lam)  # P(r < lam)
        new = rest / (budget - certain)
        better = (certain < budget) & (new < lam)  # exact Newton only falls; rounding ends it
        if not bool(xp.any(better)):
            break
        lam = xp.where(better, new, lam)
    too_large = (lam == largest) & (certain + rest / largest > budget)

    edge = budget >= reach * (1.0 - precision.edge)
    if bool(xp.any(edge)):  # every lam up to the smallest common ratio fits: take that one
        common = (log_r > -inf) & (log_r < inf)
        lam = xp.where(edge, xp.exp(xp.min(xp.where(common, log_r, inf), axis=-1)), lam)
    missing = xp.minimum(xp.abs(xp.sum(q, axis=-1) - 1.0), 0 * budget + precision.sum)
    unreachable = (reach == 0) | (budget > reach + precision.slack + missing)
    return xp.where(unreachable | too_large, nan, lam), reach


def _dot(xp: Any, x: Array, mask: Array) -> Array:
    """Sum of x over the tokens where mask holds, per row."""
    return xp.vecdot(x, xp.astype(mask, xp.float64), axis=-1)


def _solve_block(
    xp: Any,
    log_p: Array,
    log_q: Array,
    budget: Array,
    precision: _Precision,
    start: int = 0,
    shape: tuple[int, ...] = (),
) -> Array:
    """`_solve` on some rows, where it is fastest; raises where no float64 lam exists.

    `start` and `shape` say which rows these are, for the message.
    """
    host, log_p = on_host(xp, log_p)
    _, log_q = on_host(xp, log_q)
    _, wanted = on_host(xp, budget)
    lam, reach = _solve(host, log_p, log_q, wanted, precision)
    bad = host.isnan(lam)
    if not bool(host.any(bad)):
        return xp.asarray(lam, device=budget.device)
    (i,) = first_row(host, bad)
    asked, most = float(wanted[i]), float(reach[i])
    where = f" in row {_unravel(start + i, shape)}" if shape else ""
    if most == 0 or asked > most:
        raise ValueError(
            f"budget {asked:.12g} is out of reach{where}: p is 0 on the rest of q's mass, so no "
            f"lam accepts more than the reachable maximum {most:.12g}; lower the budget"
        )
    raise ValueError(f"budget {asked:.12g}{where} needs a lam above the largest float64; raise it")


def _solve_one(xp: Any, log_p: Array, log_q: Array, budget: float, precision: _Precision) -> float:
    """`_solve_block` for a single row (1, v) and a number."""
    wanted = xp.full((1,), budget, dtype=xp.float64, device=log_p.device)
    lam = float(_solve_block(xp, log_p, log_q, wanted, precision)[0])
    if lam == 0.0:
        raise ValueError(f"budget {budget:g} needs a lam below the smallest float64; lower it")
    return lam


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        flat, i = divmod(flat, size)
        index.append(i)
    return tuple(reversed(index))


def _precision(xp: Any, x: Array) -> _Precision:
    return _FLOAT64 if x.dtype == xp.float64 else _FLOAT32


def _number(xp: Any, name: str, budget: float) -> float:
    budget = parameter(xp, name, budget, (), 0.0, _BUDGET_MAX)
    return float(budget)


@quiet
def _log_state_weight(xp: Any, state_weight: Array, log_p: Array, shape: tuple[int, ...]) -> Array:
    """log of the normalised state weights, float64, shape (n, 1)."""
    weight = parameter(xp, "state_weight", state_weight, shape, 0.0, low_open=False, high_open=True)
    if isinstance(weight, float) or tuple(weight.shape) != shape:
        raise ValueError(f"state_weight must be an array of shape {shape}, one weight per state")
    weight = xp.reshape(xp.astype(constant(weight), xp.float64), (-1, 1))
    total = float(xp.sum(weight))
    if not 0.0 < total < math.inf:
        raise ValueError(f"state_weight must have a positive, finite sum, got {total:g}")
    return xp.log(weight / total)
