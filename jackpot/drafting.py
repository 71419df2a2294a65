"""Drafting: q proposes a token, p verifies it, and a rejected token is drawn anew from a residual.

The token that comes out follows s = q a + tau r, where a is the acceptance probability, r the
residual law and tau = 1 - sum q a the rejection rate. The laws that some a and r reach at a
rejection rate of at most tau are those with TV(q, s) <= tau. Among them

    s = clip(q, p / mu, p / lam),    sum (q - p / lam)^+ = sum (p / mu - q)^+ = tau,

with lam <= 1 <= mu, is the closest to p in every f-divergence, in both orders. Its rule is OBRS
acceptance a = min(1, p / (lam q)) with the residual r proportional to (p / mu - q)^+, and p / s
lies in [lam, mu] at every token that both have. lam = 1 is lossless: s = p.

Sums and thresholds are found in float64, from rows normalised there, by Newton's method on
piecewise linear functions: it ends exactly, and there is no tolerance in it.

Source: docs/theory_drafting.md (not in the paper, which drops rejected tokens from the loss).
"""

from __future__ import annotations

import math
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
from .budget import _BUDGET_MAX, _FLOAT64, _dot, _solve, _unravel
from .obrs import accept_prob

_SUM_ERROR = 1e-3  # what a row of probabilities may miss 1 by before it is no law
_BLOCK_ELEMENTS = 2**17  # rows that stay in cache on a CPU (1 MiB of float64)
_DEVICE_BLOCK_ELEMENTS = 2**26  # elsewhere: 512 MiB of float64, a few of which live at once


class DraftLaw(NamedTuple):
    """The law of the tokens that come out of drafting, and its thresholds.

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
) -> DraftLaw:
    """The law s = clip(q, p / mu, p / lam) at a threshold, or at a wanted acceptance rate.

    `budget` means what it means in `lam_for_budget`, the wanted acceptance rate Z = 1 - tau, and s
    is the law closest to p at that rate. The rates that serve a purpose reach from 1 - TV(p, q),
    where s = p, to q(supp p), where only tokens with p = 0 are rejected. A budget below or above
    them gives the nearest, and `tau` says which: 1 - tau is the rate that holds. A p / q below the
    dtype's smallest normal number counts as 0. No gradient flows through the result.

    Args:
        log_p: target log-probabilities, nats, shape (..., v), float32 or float64.
        log_q: proposal log-probabilities; shape, dtype and library of `log_p`.
        lam: threshold in (0, 1], a number or an array of the leading shape. At 1 s is p, bit by
            bit. One below the dtype's smallest normal number counts as that number.
        budget: wanted acceptance rate in (0, 1], likewise. Exactly one of the two is given.

    Returns:
        DraftLaw(log_s, lam, mu, tau), in the dtype of `log_p`. `mu` is inf where nothing is
        rejected and a token has q = 0 < p (or where the dtype cannot hold it).

    Raises:
        TypeError: dtype other than float32/float64, libraries or dtypes mixed; both or neither of
            `lam` and `budget` given.
        ValueError: shapes differ, NaN, a log-probability above 0, a row whose probabilities miss
            the sum 1 by more than 1e-3, `lam` or `budget` outside (0, 1].

    Source: docs/theory_drafting.md, F2 and F3.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    shape = tuple(log_p.shape[:-1])
    if (lam is None) == (budget is None):
        raise TypeError("draft_law takes exactly one of lam and budget")
    name, given, high = ("lam", lam, 1.0) if budget is None else ("budget", budget, _BUDGET_MAX)
    given = parameter(xp, name, given, shape, 0.0, high)
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
    """lam, log mu and tau, float64, shape (...), from lam or budget (`name`), block by block.

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
        lam = given
        if name == "budget":  # rounded down: where no rejection is wanted, rounding adds none
            lam = _lam_of_budget(host, p, q, given)
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
def _mu_of_lam(xp: Any, log_p: Array, log_q: Array, lam: Array) -> tuple[Array, Array]:
    """log mu (b,) and tau (b,) of float64 rows (b, v) at lam (b,).

    sum (u p - q)^+ is convex and increasing in u = 1 / mu, and at u = 1 it is TV(p, q) >= tau. So
    Newton's method from u = 1 falls to the root, and ends when {u p > q} stops changing.
    """
    p, q = xp.exp(log_p), xp.exp(log_q)
    o = xp.zeros_like(p)
    tau = xp.sum(xp.maximum(q - p / lam[:, None], o), axis=-1)
    log_r = log_p - log_q  # inf for a token with q = 0 < p, NaN for an absent one: in no set
    u = xp.ones_like(lam)
    while True:
        above = log_r > -xp.log(u)[:, None]  # tokens whose s is raised to p / mu
        new = (tau + _dot(xp, q, above)) / _dot(xp, p, above)  # 0 / 0 = NaN where none is
        better = (lam < 1.0) & (new < u)  # lam = 1 is s = p; exact Newton only falls
        if not bool(xp.any(better)):
            return -xp.log(u), tau
        u = xp.where(better, new, u)


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
