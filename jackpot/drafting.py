"""Drafting: q proposes a token, p verifies it, and a rejected token is drawn anew from a residual.

The token that comes out follows s = q a + tau r, where a is the acceptance probability, r the
residual distribution and tau = 1 - sum q a the rejection rate. The distributions that some a and r
reach at a rejection rate of at most tau are those with TV(q, s) <= tau. Among them

    s = clip(q, p / mu, p / lam),    sum (q - p / lam)^+ = sum (p / mu - q)^+ = tau,

with lam <= 1 <= mu, is the closest to p in every f-divergence, in both orders. Its rule is OBRS
acceptance a = min(1, p / (lam q)) with the residual r proportional to (p / mu - q)^+, and p / s
lies in [lam, mu] at every token that both have. lam = 1 is lossless: s = p.

Sums and thresholds are found in float64, from rows normalised there. At a lam or a budget Newton's
method on piecewise linear functions finds them: it ends exactly, and there is no tolerance in it.
A price mu - lam needs many thresholds: there rows are sorted once, and closed forms stand inside a
bracket that shrinks.

Source: docs/theory_drafting.md (not in the paper, which drops rejected tokens from the loss).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .arrays import (
    Array,
    checked_log_probs,
    constant,
    first_row,
    log,
    on_host,
    parameter,
    per_row,
    quiet,
    zero,
)
from .budget import _BUDGET_MAX, _FLOAT64, _dot, _log_state_weight, _solve, _unravel
from .obrs import accept_prob

_EPS = sys.float_info.epsilon
_SUM_ERROR = 1e-3  # what a row of probabilities may miss 1 by before it is no distribution
_BLOCK_ELEMENTS = 2**17  # rows that stay in cache on a CPU (1 MiB of float64)
_DEVICE_BLOCK_ELEMENTS = 2**26  # elsewhere: 512 MiB of float64, a few of which live at once


class DraftLaw(NamedTuple):
    """The distribution of the tokens that come out of drafting, and its thresholds.

    Source: docs/theory_drafting.md, F2.
    """

    log_s: Array  # log-probabilities, nats, shape (..., v)
    lam: Array  # p / s is at least lam, in (0, 1], shape (...)
    mu: Array  # p / s is at most mu, in [1, inf], shape (...)
    tau: Array  # probability that the proposed token is rejected, in [0, 1], shape (...)


@quiet
def draft_law(
    log_p: Array,
    log_q: Array,
    *,
    lam: float | Array | None = None,
    budget: float | Array | None = None,
    price: float | Array | None = None,
) -> DraftLaw:
    """The distribution s = clip(q, p / mu, p / lam) at a threshold, an acceptance rate, or a price.

    `budget` means what it means in `lam_for_budget`, the wanted acceptance rate Z = 1 - tau, and s
    is the distribution closest to p at that rate. The rates that serve a purpose reach from 1 -
    TV(p, q), where s = p, to q(supp p), where only tokens with p = 0 are rejected. A budget below
    or above them gives the nearest, and `tau` says which: 1 - tau is the rate that holds. A p / q
    below the dtype's smallest normal number counts as 0. `price` is the mu - lam that the
    distribution shall have, the KL(p || s) saved by one rejection more: one price in all states
    costs least KL for all their rejections together. A price above the largest that a state has
    gives the distribution of budget 1. No gradient flows through the result.

    Args:
        log_p: target log-probabilities, nats, shape (..., v), float32 or float64.
        log_q: proposal log-probabilities; shape, dtype and library of `log_p`.
        lam: threshold in (0, 1], a number or an array of the leading shape. At 1 s is p, bit by
            bit. One below the dtype's smallest normal number counts as that number.
        budget: wanted acceptance rate in (0, 1], likewise.
        price: wanted mu - lam, nats per rejection, in [0, inf], likewise; 0 is lossless. Exactly
            one of the three is given.

    Returns:
        DraftLaw(log_s, lam, mu, tau), in the dtype of `log_p`. `mu` is inf where nothing is
        rejected and a token has q = 0 < p (or where the dtype cannot hold it).

    Raises:
        TypeError: dtype other than float32/float64, libraries or dtypes mixed; none or several of
            `lam`, `budget` and `price` given.
        ValueError: shapes differ, NaN, a log-probability above 0, a row whose probabilities miss
            the sum 1 by more than 1e-3, `lam` or `budget` outside (0, 1], a negative price.

    Source: docs/theory_drafting.md, F2, F3 and F6.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    shape = tuple(log_p.shape[:-1])
    dials = {"lam": lam, "budget": budget, "price": price}
    chosen = [name for name, x in dials.items() if x is not None]
    if len(chosen) != 1:
        got = " and ".join(chosen) or "none"
        raise TypeError(f"draft_law takes exactly one of lam, budget and price, got {got}")
    (name,) = chosen
    high = {"lam": 1.0, "budget": _BUDGET_MAX, "price": math.inf}[name]
    given = parameter(xp, name, dials[name], shape, 0.0, high, low_open=name != "price")
    log_p, log_q = constant(log_p), constant(log_q)
    wanted = xp.zeros(shape, dtype=xp.float64, device=log_p.device) + (
        given if isinstance(given, float) else xp.astype(constant(given), xp.float64)
    )
    lam, log_mu, tau = _thresholds(xp, log_p, log_q, wanted, name)
    upper = log_p - per_row(xp, log(xp, lam, like=log_p))  # log of p / lam, shape (..., v)
    lower = log_p - per_row(xp, xp.astype(log_mu, log_p.dtype))
    log_s = xp.minimum(xp.maximum(log_q, lower), upper)
    small = (xp.astype(x, log_p.dtype) for x in (lam, xp.exp(log_mu), tau))
    return DraftLaw(log_s, *small)


@quiet
def common_price_for_budget(
    log_p: Array, log_q: Array, budget: float, state_weight: Array | None = None
) -> float:
    """One price mu - lam for a batch of states, at which their mean acceptance rate is `budget`.

    Among all ways to accept that share on average, the distributions of a common price have the
    least mean KL(p || s). A budget that no price meets gives the nearest: 0 (lossless) or the
    largest price that any state has (inf where q = 0 < p).

    Args:
        log_p, log_q: as in `draft_law`; every leading index is a state.
        budget: wanted mean acceptance rate, a number in (0, 1].
        state_weight: frequency of each state, >= 0, the leading shape and dtype of `log_p`; need
            not sum to 1. None weighs all states alike.

    Returns:
        price >= 0, nats per rejection, a Python float: the `price` of `draft_law`.

    Raises:
        As `draft_law`; ValueError also for an empty batch, or weights that are negative, not
        finite, or all 0.

    Source: docs/theory_drafting.md, F6.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    shape, v = tuple(log_p.shape[:-1]), log_p.shape[-1]
    n = math.prod(shape)
    wanted = 1.0 - float(parameter(xp, "budget", budget, (), 0.0, _BUDGET_MAX))
    if n == 0:
        raise ValueError(f"an empty batch of states (shape {tuple(log_p.shape)}) has no price")
    weight = xp.zeros((n, 1), dtype=xp.float64, device=log_p.device) - math.log(n)
    if state_weight is not None:
        weight = _log_state_weight(xp, state_weight, log_p, shape)
    host, weight = on_host(xp, xp.exp(weight[:, 0]))
    rows_p, rows_q = (
        _normalised(host, name, on_host(xp, xp.reshape(x, (n, v)))[1], 0, shape)
        for name, x in (("log_p", log_p), ("log_q", log_q))
    )
    return _common_price(host, rows_p, rows_q, weight, wanted)


def draft_accept_prob(log_p: Array, log_q: Array, lam: float | Array) -> Array:
    """Probability that a proposed token is accepted, a = min(1, p / (lam q)), for lam <= 1.

    Args:
        log_p, log_q: as in `draft_law`.
        lam: threshold in (0, 1], a number or an array of the leading shape.

    Returns:
        a, shape (..., v), in [0, 1], as `accept_prob`.

    Raises:
        As `accept_prob`; ValueError also for lam above 1, which would reject more often than
        lossless drafting and gain nothing.

    Source: docs/theory_drafting.md, F2.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    return accept_prob(log_p, log_q, parameter(xp, "lam", lam, tuple(log_p.shape[:-1]), 0.0, 1.0))


@quiet
def draft_residual(log_p: Array, log_q: Array, mu: float | Array) -> Array:
    """Log-probabilities of the residual r, proportional to (p / mu - q)^+.

    A rejected token is drawn anew from it. Where (p / mu - q)^+ is 0 everywhere, nothing is ever
    rejected, and r is the limit for a vanishing rejection rate: p on the tokens of the largest
    p / q. No gradient flows through it.

    Args:
        log_p, log_q: as in `draft_law`.
        mu: the upper threshold that `draft_law` returned, in [1, inf].

    Returns:
        log r, nats, shape (..., v), the dtype of `log_p`; each row sums to 1 in probability.

    Raises:
        As `draft_law`; ValueError for mu outside [1, inf].

    Source: docs/theory_drafting.md, F2.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    shape, dtype = tuple(log_p.shape[:-1]), log_p.dtype
    mu = parameter(xp, "mu", mu, shape, 1.0, low_open=False)
    log_p, log_q = (
        _normalised(xp, name, xp.astype(constant(x), xp.float64), 0, shape)
        for name, x in (("log_p", log_p), ("log_q", log_q))
    )
    mu = mu if isinstance(mu, float) else xp.astype(constant(mu), xp.float64)
    log_mu = per_row(xp, log(xp, mu, like=log_p))
    log_r = log_p - log_q  # inf for a token with q = 0 < p, NaN for an absent one
    log_r = xp.where(xp.isinf(log_p), zero(xp, log_p) - math.inf, log_r)
    # log(p / mu - q) = log p - log mu + log(1 - mu q / p), -inf where nothing is left
    left = xp.where(log_r > log_mu, xp.log(-xp.expm1(log_mu - log_r)), zero(xp, log_p) - math.inf)
    log_rest = log_p + left  # p - mu q: the factor 1 / mu goes when the row is normalised
    nothing = ~xp.any(log_rest > -math.inf, axis=-1, keepdims=True)
    largest = log_r == xp.max(log_r, axis=-1, keepdims=True)
    limit = xp.where(largest, log_p, zero(xp, log_p) - math.inf)
    log_rest = xp.where(nothing, limit, log_rest)
    log_rest = log_rest - xp.max(log_rest, axis=-1, keepdims=True)
    log_rest = log_rest - xp.log(xp.sum(xp.exp(log_rest), axis=-1, keepdims=True))
    return xp.astype(log_rest, dtype)


def _thresholds(
    xp: Any, log_p: Array, log_q: Array, wanted: Array, name: str
) -> tuple[Array, Array, Array]:
    """lam, log mu and tau, float64, shape (...), from the dial `name`, block by block.

    lam is rounded to the dtype of `log_p` first, so that mu and tau are those of the lam returned.
    """
    shape, v = tuple(log_p.shape[:-1]), log_p.shape[-1]
    n = math.prod(shape)
    on_cpu = str(log_p.device).lower().startswith("cpu")
    step = max(1, (_BLOCK_ELEMENTS if on_cpu else _DEVICE_BLOCK_ELEMENTS) // v)
    rows_p, rows_q = (xp.reshape(x, (n, v)) for x in (log_p, log_q))
    wanted = xp.reshape(wanted, (n,))
    blocks: list[tuple[Array, ...]] = []
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        host, given = on_host(xp, wanted[rows])
        p, q = (
            _normalised(host, label, on_host(xp, x[rows, :])[1], start, shape)
            for label, x in (("log_p", rows_p), ("log_q", rows_q))
        )
        lam = _LAM_OF[name](host, p, q, given)
        if name != "lam":  # rounded down: where no rejection is wanted, rounding adds none
            lam = host.where(lam < 1.0, lam * (1.0 - float(xp.finfo(log_p.dtype).eps)), lam)
        smallest = float(xp.finfo(log_p.dtype).smallest_normal)
        lam = host.where(lam < smallest, smallest + 0 * lam, lam)
        if log_p.dtype == xp.float32:
            lam = host.astype(host.astype(lam, host.float32), host.float64)
        solved = (lam, *_mu_of_lam(host, p, q, lam))
        blocks.append(tuple(xp.asarray(x, device=log_p.device) for x in solved))
    if not blocks:
        return wanted, wanted, wanted
    lam, log_mu, tau = (xp.reshape(xp.concat(parts), shape) for parts in zip(*blocks, strict=True))
    return lam, log_mu, tau


@quiet
def _lam_of_budget(xp: Any, log_p: Array, log_q: Array, budget: Array) -> Array:
    """The largest lam <= 1 with acceptance rate `budget`, or the nearest rate; float64 rows."""
    reach = _dot(xp, xp.exp(log_q), log_p > -math.inf)  # no lam accepts a token with p = 0
    lam, _ = _solve(xp, log_p, log_q, xp.minimum(budget, reach), _FLOAT64)
    one = xp.ones_like(lam)
    # NaN: p and q share no token, or lam would exceed the largest float: rejecting all gives s = p
    return xp.where(xp.isnan(lam), one, xp.minimum(lam, one))


@quiet
def _lam_of_price(xp: Any, log_p: Array, log_q: Array, price: Array) -> Array:
    """The lam (b,) at which mu - lam is `price` (b,), or budget 1's where that is no higher."""
    least, largest = _first_rejection(xp, log_p, log_q)
    return _root(xp, _sorted(xp, log_p, log_q), price, least, largest, xp.sqrt(least))


def _first_rejection(xp: Any, log_p: Array, log_q: Array) -> tuple[Array, Array]:
    """lam (b,) where as few tokens are rejected as possible, and mu - lam there."""
    lam = _lam_of_budget(xp, log_p, log_q, xp.ones_like(log_p[:, 0]))
    log_mu, _ = _mu_of_lam(xp, log_p, log_q, lam)
    return lam, xp.exp(log_mu) - lam


class _Sorted(NamedTuple):
    """Rows sorted by rising p / q, and sums of p and q over their ends; flat, b rows after another.

    A price needs the sums at many thresholds: sorting once makes each a binary search.
    """

    log_r: Array  # (b v)
    p_below: Array  # (b (v + 1)), sum over the first k tokens of a row, k = 0 to v
    q_below: Array
    p_above: Array  # likewise, over all but the first k
    q_above: Array


@quiet
def _sorted(xp: Any, log_p: Array, log_q: Array) -> _Sorted:
    """The tables of float64 rows (b, v). A token absent from both counts as p = 0: it adds 0."""
    b, v = log_p.shape
    log_r = xp.where(xp.isinf(log_p), log_p, log_p - log_q)
    starts = xp.arange(b, dtype=xp.int64, device=log_p.device)[:, None] * v
    order = xp.reshape(xp.argsort(log_r, axis=-1, stable=False) + starts, (-1,))
    log_r, p, q = (
        xp.reshape(xp.take(xp.reshape(x, (-1,)), order), (b, v))
        for x in (log_r, xp.exp(log_p), xp.exp(log_q))
    )
    none = xp.zeros_like(log_r[:, :1])
    below = [xp.concat([none, xp.cumulative_sum(x, axis=-1)], axis=-1) for x in (p, q)]
    above = [
        xp.concat(
            [xp.flip(xp.cumulative_sum(xp.flip(x, axis=-1), axis=-1), axis=-1), none], axis=-1
        )
        for x in (p, q)
    ]
    return _Sorted(*(xp.reshape(x, (-1,)) for x in (log_r, *below, *above)))


def _sums(xp: Any, rows: _Sorted, lam: Array, mu: Array) -> tuple[Array, Array, Array, Array]:
    """p and q summed over {p < lam q}, then over {p >= mu q}, each (b,): ties add nothing to s."""
    b = lam.shape[0]
    v = rows.log_r.shape[0] // max(b, 1)
    row = xp.arange(b, dtype=xp.int64, device=lam.device)
    both = xp.concat([xp.log(lam), xp.log(mu)])
    row = xp.concat([row, row])
    low, high = 0 * row, 0 * row + v
    for _ in range(v.bit_length()):  # binary search for the number of tokens below
        middle = (low + high) // 2
        value = xp.take(rows.log_r, xp.minimum(row * v + middle, row * v + v - 1))
        further = (value < both) & (low < high)
        low, high = xp.where(further, middle + 1, low), xp.where(further, high, middle)
    at = row * (v + 1) + low
    first, second = at[:b], at[b:]
    return (
        *(xp.take(x, first) for x in (rows.p_below, rows.q_below)),
        *(xp.take(x, second) for x in (rows.p_above, rows.q_above)),
    )


@quiet
def _root(
    xp: Any, rows: _Sorted, price: Array, least: Array, largest: Array, guess: Array
) -> Array:
    """The lam (b,) in [least, 1] with sum clip(q, p / (lam + price), p / lam) = 1.

    The sum falls with lam. Between two neighbouring ratios the equation is quadratic: its root is
    the next lam if it lies in the bracket, and the bracket's geometric mean is otherwise.
    """
    dear, free = largest <= price, price <= 0.0  # budget 1's distribution; lossless
    one = xp.ones_like(least)
    low, high = xp.where(free, one, xp.maximum(least, 1.0 - price)), one
    lam = xp.minimum(xp.maximum(guess, low), high)
    done = dear | free
    last = one  # length of the step before
    while not bool(xp.all(done)):
        p_below, q_below, p_above, q_above = _sums(xp, rows, lam, lam + price)
        q_moved = q_below + q_above
        too_small = p_above / (lam + price) + p_below / lam > q_moved
        low, high = xp.where(too_small, lam, low), xp.where(too_small, high, lam)
        # q_moved x^2 + b x - price p_below = 0, by the formula for its root that does not cancel
        b = q_moved * price - p_above - p_below
        root = xp.sqrt(b * b + 4.0 * q_moved * price * p_below)
        new = xp.where(b > 0, 2.0 * price * p_below / (b + root), (root - b) / (2.0 * q_moved))
        met = xp.abs(new - lam) <= 4.0 * _EPS * lam
        # a root outside the bracket, or one that is not half as far as the last: halve the bracket
        usable = (new > low) & (new < high) & (xp.abs(new - lam) < 0.5 * last)
        new = xp.where(usable | met, new, xp.sqrt(low * high))
        last = xp.abs(new - lam)
        ended = met | (new <= low) | (new >= high)
        lam = xp.where(done, lam, xp.where(ended & ~met, low, new))
        done = done | ended
    return xp.where(dear, least, xp.where(free, one, xp.minimum(lam, one)))


@quiet
def _common_price(xp: Any, log_p: Array, log_q: Array, weight: Array, wanted: float) -> float:
    """The price at which the mean rejection rate of float64 rows is `wanted`, or the nearest.

    Newton's method inside a bracket: dtau/dprice = -1 / (mu^2 / P(s > q) + lam^2 / P(s < q)).
    """
    one = xp.ones_like(weight)
    least, largest = _first_rejection(xp, log_p, log_q)
    low, high = 0.0, float(xp.max(xp.where(weight > 0, largest, 0.0 * least)))
    p, q = xp.exp(log_p), xp.exp(log_q)
    fewest, most = (xp.sum(weight * _tau(xp, p, q, x)) for x in (least, one))
    if wanted <= float(fewest):
        return high
    if wanted >= float(most):
        return 0.0
    rows = _sorted(xp, log_p, log_q)
    lam = xp.sqrt(least)
    price, last = min(0.5 * high, 1.0), math.inf
    while True:
        lam = _root(xp, rows, price * one, least, largest, lam)
        mu = lam + price
        p_below, q_below, p_above, _ = _sums(xp, rows, lam, mu)
        tau = q_below - p_below / lam
        slope = xp.where(largest > price, 1.0 / (mu**2 / p_above + lam**2 / p_below), 0.0 * tau)
        excess = float(xp.sum(weight * tau)) - wanted
        low, high = (price, high) if excess > 0 else (low, price)
        total = float(xp.sum(weight * slope))
        new = price + excess / total if total > 0 else math.nan
        if abs(new - price) <= 4.0 * _EPS * price:
            return new
        if not (low < new < high and abs(new - price) < 0.5 * last):
            new = 2.0 * price if math.isinf(high) else 0.5 * (low + high)
        if not low < new < high:
            return low
        price, last = new, abs(new - price)


_LAM_OF: dict[str, Callable[..., Array]] = {
    "lam": lambda xp, log_p, log_q, lam: lam,
    "budget": _lam_of_budget,
    "price": _lam_of_price,
}


@quiet
def _mu_of_lam(xp: Any, log_p: Array, log_q: Array, lam: Array) -> tuple[Array, Array]:
    """log mu (b,) and tau (b,) of float64 rows (b, v) at lam (b,).

    sum (u p - q)^+ is convex and increasing in u = 1 / mu, and at u = 1 it is TV(p, q) >= tau. So
    Newton's method from u = 1 falls to the root, and ends when {u p > q} stops changing.
    """
    p, q = xp.exp(log_p), xp.exp(log_q)
    tau = _tau(xp, p, q, lam)
    log_r = log_p - log_q  # inf for a token with q = 0 < p, NaN for an absent one: in no set
    u = xp.ones_like(lam)
    while True:
        above = log_r > -xp.log(u)[:, None]  # tokens whose s is raised to p / mu
        new = (tau + _dot(xp, q, above)) / _dot(xp, p, above)  # 0 / 0 = NaN where none is
        better = (lam < 1.0) & (new < u)  # lam = 1 is s = p; exact Newton only falls
        if not bool(xp.any(better)):
            return -xp.log(u), tau
        u = xp.where(better, new, u)


def _tau(xp: Any, p: Array, q: Array, lam: Array) -> Array:
    """The rejection rate sum (q - p / lam)^+ (b,) of rows (b, v)."""
    return xp.sum(xp.maximum(q - p / lam[:, None], xp.zeros_like(p)), axis=-1)


@quiet
def _normalised(xp: Any, name: str, log_x: Array, start: int, shape: tuple[int, ...]) -> Array:
    """Float64 rows (..., v) with their rounding errors removed: each sums to 1 in probability.

    `start` is the number of the first of these rows, `shape` the leading shape, for the message.
    """
    total = xp.sum(xp.exp(log_x), axis=-1, keepdims=True)
    bad = xp.reshape(~(xp.abs(total - 1.0) <= _SUM_ERROR), (-1,))
    if bool(xp.any(bad)):
        (i,) = first_row(xp, bad)
        raise ValueError(
            f"the probabilities of {name} sum to {float(xp.reshape(total, (-1,))[i]):.6g} in row "
            f"{_unravel(start + i, shape)}, not to 1; apply log_softmax over the last axis first"
        )
    return log_x - xp.log(total)
