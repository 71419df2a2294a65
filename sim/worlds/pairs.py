"""Seeded families of (target p, proposal q): float log-probabilities, and small rationals.

Each family is one function. It takes a numpy Generator `rng`, a number of states `n` and a
vocabulary size `v`, and returns `(log_p, log_q)`, float64, nats, each of shape (n, v); -inf is a
token of probability 0. `rationals` turns any row into Fractions, `log_probs` turns them back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

Row = tuple[Fraction, ...]
Pair = tuple[np.ndarray, np.ndarray]


def dirichlet(rng: np.random.Generator, n: int, v: int, concentration: float = 1.0) -> Pair:
    """p and q drawn independently from one Dirichlet: a large mismatch, about a nat."""
    shape = np.full(v, concentration)
    return _logs(rng.dirichlet(shape, n)), _logs(rng.dirichlet(shape, n))


def noisy_proposal(
    rng: np.random.Generator, n: int, v: int, noise: float, concentration: float = 1.0
) -> Pair:
    """p ~ Dirichlet; q = (1 - noise) p + noise * (a fresh draw), hence p / q <= 1 / (1 - noise)."""
    clean, mixed = _mixture(rng, n, v, noise, concentration)
    return _logs(clean), _logs(mixed)


def noisy_target(
    rng: np.random.Generator, n: int, v: int, noise: float, concentration: float = 1.0
) -> Pair:
    """`noisy_proposal` with the roles exchanged: noise in p, so p / q has a long right tail."""
    clean, mixed = _mixture(rng, n, v, noise, concentration)
    return _logs(mixed), _logs(clean)


def gaussian_logits(
    rng: np.random.Generator, n: int, v: int, scale: float, concentration: float = 1.0
) -> Pair:
    """q ~ Dirichlet; the logits of p are those of q plus scale * N(0, 1)."""
    log_q = _logs(rng.dirichlet(np.full(v, concentration), n))
    return _normalise(log_q + scale * rng.standard_normal((n, v))), log_q


def heavy_logits(
    rng: np.random.Generator, n: int, v: int, scale: float, concentration: float = 1.0
) -> Pair:
    """`gaussian_logits` with Student-t noise of 3 degrees of freedom and standard deviation 1."""
    log_q = _logs(rng.dirichlet(np.full(v, concentration), n))
    t3 = rng.standard_t(3, (n, v)) / math.sqrt(3)
    return _normalise(log_q + scale * t3), log_q


def zipf(rng: np.random.Generator, n: int, v: int, scale: float, exponent: float = 1.2) -> Pair:
    """q(rank k) ~ k^-exponent, randomly ordered, as over a large vocabulary; Gaussian noise."""
    log_weights = -exponent * np.log(np.arange(1, v + 1))
    log_q = _normalise(np.stack([rng.permutation(log_weights) for _ in range(n)]))
    return _normalise(log_q + scale * rng.standard_normal((n, v))), log_q


def temperature(
    rng: np.random.Generator, n: int, v: int, t: float, concentration: float = 1.0
) -> Pair:
    """p ~ Dirichlet; q ~ p^(1/t), the same logits sampled at temperature t > 0."""
    log_p = _logs(rng.dirichlet(np.full(v, concentration), n))
    return log_p, _normalise(log_p / t)


def missing_support(
    rng: np.random.Generator, n: int, v: int, top_p: float = 0.9, scale: float = 0.5
) -> Pair:
    """`gaussian_logits`, then q is cut to its top-p nucleus (q = 0 < p) and p loses a token that q
    keeps where it can spare one (p = 0 < q)."""
    log_p, log_q = gaussian_logits(rng, n, v, scale)
    order = np.argsort(-log_q, axis=-1)
    ranked = np.take_along_axis(np.exp(log_q), order, axis=-1)
    kept = np.cumsum(ranked, axis=-1) - ranked < top_p  # the smallest set whose mass is >= top_p
    nucleus = np.zeros_like(kept)
    np.put_along_axis(nucleus, order, kept, axis=-1)
    spare = kept.sum(axis=-1) > 1
    last = np.take_along_axis(order, kept.sum(axis=-1, keepdims=True) - 1, axis=-1)[:, 0]
    log_p[spare, last[spare]] = -np.inf
    return _normalise(log_p), _normalise(np.where(nucleus, log_q, -np.inf))


def integer_weights(
    rng: np.random.Generator, v: int, top: int = 12, p_zero: bool = True, q_zero: bool = True
) -> tuple[Row, Row]:
    """Two rational distributions with small integer weights, so that ties and zeros are common.

    They share at least one token. `p_zero` and `q_zero` allow p = 0 < q and q = 0 < p.
    """
    while True:
        p, q = rng.integers(0, top + 1, (2, v))
        p = p if p_zero else np.maximum(p, 1)
        q = q if q_zero else np.maximum(q, 1)
        if (p * q).any():
            return _share(p), _share(q)


def rationals(log_p: np.ndarray, denominator: int = 10_000) -> Row:
    """A distribution near exp(log_p), shape (v,), with rational entries and exactly the same
    support."""
    counts = np.rint(np.exp(log_p) * denominator).astype(int)
    return _share(np.where(np.isneginf(log_p), 0, np.maximum(counts, 1)))


def log_probs(rows: Sequence[Sequence[Fraction]]) -> np.ndarray:
    """The log-probabilities of rational rows, float64, shape (n, v)."""
    return np.array(
        [
            [math.log(x.numerator) - math.log(x.denominator) if x else -math.inf for x in row]
            for row in rows
        ]
    )


def _share(counts: np.ndarray) -> Row:
    total = int(sum(counts))
    return tuple(Fraction(int(c), total) for c in counts)


def _mixture(rng, n: int, v: int, noise: float, concentration: float) -> Pair:
    """A Dirichlet distribution and its mixture with another, as probabilities."""
    shape = np.full(v, concentration)
    clean = rng.dirichlet(shape, n)
    return clean, (1 - noise) * clean + noise * rng.dirichlet(shape, n)


def _logs(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)


def _normalise(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - top
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
