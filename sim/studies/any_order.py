"""DMPO with a masked model that fills places in any order, exactly, on completions that are few.

A masked model gives each hidden place a distribution, from the places that are seen. In the place
of -log p(y) DMPO has the masked cross-entropy: hide m places of y at random, and add -log p of
the hidden tokens, over m. Left out are schedules, samplers, antithetic masks and real models.

Paper: DMPO (arXiv 2510.08233). A model is a table (h,) * (v + 1,) x h x v: `log_p[seen][i]` is the
distribution of place i, where `seen` holds each place's token, or v where it is hidden. Nats.

Shapes: h places, v tokens, n = v^h completions in the order of `itertools.product`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.special import betainc

from sim.worlds.trees import Array


def random_model(rng: np.random.Generator, vocab: int, places: int) -> Array:
    """A table of normal logits: its distributions need not be those of any one distribution."""
    logits = rng.standard_normal((*(vocab + 1,) * places, places, vocab))
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def conditionals(joint: Array) -> Array:
    """The table of a distribution of completions, (n,) as (v,) * h: p(y_i | the places seen).

    Every completion has a positive probability. Places that are seen get 0, log 1.
    """
    places, vocab = joint.ndim, joint.shape[0]
    table = np.zeros((*(vocab + 1,) * places, places, vocab))
    for seen in itertools.product(range(vocab + 1), repeat=places):
        agreeing = joint[tuple(slice(None) if x == vocab else slice(x, x + 1) for x in seen)]
        for i in (i for i, x in enumerate(seen) if x == vocab):
            own = agreeing.sum(axis=tuple(j for j in range(places) if j != i))
            table[seen][i] = np.log(own / own.sum())
    return table


def order_nll(log_p: Array, y: tuple[int, ...], order: tuple[int, ...]) -> float:
    """-log p of filling the places of y in this order, each given those before it."""
    vocab, seen, total = log_p.shape[-1], [log_p.shape[-1]] * len(y), 0.0
    assert len(seen) == log_p.shape[-2] and vocab + 1 == log_p.shape[0]
    for i in order:
        total -= float(log_p[tuple(seen)][i, y[i]])
        seen[i] = y[i]
    return total


def uniform_counts(places: int) -> Array:
    """Probability of m = 0 ... h hidden places if m is uniform on 1 ... h, (h + 1,)."""
    return np.array([0.0, *[1 / places] * places])


def rate_counts(places: int, lowest: float = 0.0) -> Array:
    """The same if each place is hidden with one probability u, u uniform on [lowest, 1].

    lowest 0 gives 1 / (h + 1) to every m, no hidden place included. The authors' code draws u from
    [.1, 1], which is rich in many hidden places.
    """
    m = np.arange(places + 1)
    below = betainc(m + 1, places - m + 1, lowest)  # of the integral of C(h, m) u^m (1 - u)^(h - m)
    return (1 - below) / (places + 1) / (1 - lowest)


def masked_nll(log_p: Array, y: tuple[int, ...], counts: Array) -> float:
    """The masked cross-entropy: E over hidden places M of h / |M| sum over M of -log p(y_i | seen).

    Args:
        counts: probability of each |M|, (h + 1,); the places themselves are uniform. No hidden
            place costs 0.
    """
    return sum(
        weight * -float(log_p[seen][i, y[i]]) for weight, seen, i in _masked_terms(log_p, y, counts)
    )


def masked_gradient(log_p: Array, coefficient: Array, counts: Array) -> Array:
    """Gradient of sum over completions of coefficient times `masked_nll`, by the logits: a table.

    coefficient, (n,): DMPO's W - s b, times q where completions are drawn from q.
    """
    places, vocab = log_p.shape[-2:]
    total = np.zeros(log_p.shape)
    completions = itertools.product(range(vocab), repeat=places)
    for y, c in zip(completions, coefficient.ravel(), strict=True):
        for weight, seen, i in _masked_terms(log_p, y, counts):
            total[seen][i] += c * weight * np.exp(log_p[seen][i])
            total[seen][i, y[i]] -= c * weight
    return total


def _masked_terms(log_p: Array, y: tuple[int, ...], counts: Array):
    """(weight, seen, place) of every hidden place under every mask."""
    places, vocab = log_p.shape[-2:]
    for m in range(1, places + 1):
        weight = float(counts[m]) / math.comb(places, m) * places / m
        for hidden in itertools.combinations(range(places), m):
            seen = tuple(vocab if i in hidden else x for i, x in enumerate(y))
            for i in hidden:
                yield weight, seen, i
