"""Divergences between p and q, in nats, that stay accurate near zero and at zeros.

What each token adds (a token absent from both adds nothing to any of them):

| function   | value                                  | p = 0 < q    | q = 0 < p    |
| ---        | ---                                    | ---          | ---          |
| kl_p_q     | sum p log(p / q)                       | 0            | inf          |
| kl_q_p     | sum q log(q / p)                       | inf          | 0            |
| tv         | 1/2 sum abs(p - q)                     | q / 2        | p / 2        |
| js         | 1/2 KL(p, m) + 1/2 KL(q, m), m the mean| q log(2) / 2 | p log(2) / 2 |
| hellinger2 | 1/2 sum (sqrt p - sqrt q)^2            | q / 2        | p / 2        |
| chi2_p_q   | sum (p - q)^2 / q                      | q            | inf          |
| chi2_q_p   | sum (p - q)^2 / p                      | inf          | p            |

KL is summed as p (e^x - 1 - x) with x = log q - log p: every term is non-negative, so nothing
cancels, whereas sum p log(p / q) loses all its digits where p is close to q. For rows that do not
sum to 1 this is the generalised KL, sum p log(p/q) - p + q (js likewise).

All take `log_p`, `log_q`: log-probabilities, shape (..., v), float32 or float64, one library, and
return shape (...). TypeError and ValueError are raised as in `jackpot.accept_prob`. KL is
differentiable in torch with respect to either argument wherever it is finite.
"""

from __future__ import annotations

from typing import Any

from .arrays import Array, checked_log_probs, quiet, zero


@quiet
def kl_p_q(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) = sum p log(p / q), nats; inf where q = 0 < p.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        KL, nats, >= 0, shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Paper: Theorem 3.3.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    return _kl(xp, log_p, log_q)


@quiet
def kl_q_p(log_p: Array, log_q: Array) -> Array:
    """KL(q || p) = sum q log(q / p), nats; inf where p = 0 < q.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        KL, nats, >= 0, shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, A1.
    """
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    return _kl(xp, log_q, log_p)


@quiet
def tv(log_p: Array, log_q: Array) -> Array:
    """Total variation 1/2 sum |p - q|.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        the distance, dimensionless, in [0, 1], shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, A0(iv): 1 - Z at lam = 1.
    """
    xp, top, gap, _ = _pair(log_p, log_q)
    return 0.5 * _sum_present(xp, top, -xp.exp(top) * xp.expm1(-gap))


@quiet
def js(log_p: Array, log_q: Array) -> Array:
    """Jensen-Shannon divergence: the mean KL of p and of q to (p + q) / 2.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        the divergence, nats, in [0, log 2], shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, A1.
    """
    xp, top, gap, x = _pair(log_p, log_q)
    # log(m / p) = max(x, 0) + log((1 + e^-|x|) / 2) with x = log(q / p), and log(m / q) likewise
    common = xp.log1p(0.5 * xp.expm1(-gap))
    o = zero(xp, log_p)
    log_m = top + common
    terms = _bregman(xp, log_p, log_m, common + xp.maximum(x, o))
    terms = terms + _bregman(xp, log_q, log_m, common + xp.maximum(-x, o))
    return 0.5 * _sum_present(xp, top, terms)


@quiet
def hellinger2(log_p: Array, log_q: Array) -> Array:
    """Squared Hellinger distance 1/2 sum (sqrt p - sqrt q)^2.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        the squared distance, dimensionless, in [0, 1], shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, A1.
    """
    xp, top, gap, _ = _pair(log_p, log_q)
    return 0.5 * _sum_present(xp, top, xp.exp(top) * xp.expm1(-0.5 * gap) ** 2)


@quiet
def chi2_p_q(log_p: Array, log_q: Array) -> Array:
    """sum (p - q)^2 / q; inf where q = 0 < p.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        the divergence, dimensionless, >= 0, shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, A1.
    """
    xp, top, gap, _ = _pair(log_p, log_q)
    return _sum_present(xp, top, _chi2_terms(xp, top, gap, log_q))


@quiet
def chi2_q_p(log_p: Array, log_q: Array) -> Array:
    """sum (p - q)^2 / p; inf where p = 0 < q.

    Args:
        log_p, log_q: log-probabilities, nats, shape (..., v), float32 or float64, one library.

    Returns:
        the divergence, dimensionless, >= 0, shape (...).

    Raises:
        TypeError, ValueError: as `accept_prob`.

    Source: docs/theory.md, A1.
    """
    xp, top, gap, _ = _pair(log_p, log_q)
    return _sum_present(xp, top, _chi2_terms(xp, top, gap, log_p))


def _pair(log_p: Array, log_q: Array) -> tuple:
    """Namespace, log max(p, q), |log q - log p| and log q - log p (NaN for an absent token)."""
    xp, log_p, log_q = checked_log_probs(log_p=log_p, log_q=log_q)
    x = log_q - log_p
    return xp, xp.maximum(log_p, log_q), xp.abs(x), x


def _sum_present(xp: Any, top: Array, terms: Array) -> Array:
    """Sum over the vocabulary, without the tokens absent from both (log max(p, q) = -inf)."""
    return xp.sum(xp.where(xp.isinf(top), zero(xp, top), terms), axis=-1)


def _chi2_terms(xp: Any, top: Array, gap: Array, log_base: Array) -> Array:
    """(p - q)^2 / base = exp(2 log|p - q| - log base), in logs: 1e-300 is an ordinary number."""
    return xp.exp(2.0 * (top + xp.log(-xp.expm1(-gap))) - log_base)


def _kl(xp: Any, log_p: Array, log_q: Array) -> Array:
    return xp.sum(_bregman(xp, log_p, log_q, log_q - log_p), axis=-1)


def _bregman(xp: Any, log_p: Array, log_q: Array, x: Array) -> Array:
    """p (e^x - 1 - x) = q - p - p x, for x = log(q / p); >= 0. Zeros as in the table above.

    Each branch is evaluated on arguments that keep it and its gradient finite.
    """
    o = zero(xp, x)
    p, q = xp.exp(log_p), xp.exp(log_q)
    no_p, no_q = xp.isinf(log_p), xp.isinf(log_q)
    x = xp.where(no_p | no_q, o, x)
    large = x > 1.0  # q > e p: nothing cancels, and e^x may overflow
    below = xp.where(large, o, x)
    small = xp.abs(below) < 0.03  # e^x - 1 - x would cancel: use its series
    s = xp.where(small, below, o)
    series = s * s * (1 / 2 + s * (1 / 6 + s * (1 / 24 + s * (1 / 120 + s * (1 / 720 + s / 5040)))))
    direct = xp.expm1(below) - below
    finite = xp.where(large, q - p - p * x, p * xp.where(small, series, direct))
    return xp.where(no_p, q, xp.where(no_q, -log_q, finite))  # -log_q is inf where q = 0
