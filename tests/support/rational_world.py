"""A rational world of 3 tokens and 2 positions.

Its distributions are Fractions, and no code is shared with `jackpot` or `sim`. `world_of` gives the
same as arrays.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction as F
from typing import Literal

import numpy as np

from sim.studies.gradient_estimators import Estimator
from sim.worlds.trees import World, make_tree, random_world

V, H = 3, 2
INF = math.inf


def _distributions(*weights: tuple[int, ...]) -> dict[tuple, list[F]]:
    """Integer weights per state, the root first, as distributions of the next token."""
    states = [(), (0,), (1,), (2,)]
    return {s: [F(x, sum(w)) for x in w] for s, w in zip(states, weights, strict=True)}


P = _distributions((5, 3, 2), (1, 6, 3), (4, 4, 1), (2, 1, 7))
REF = _distributions((4, 3, 3), (1, 5, 4), (5, 3, 1), (3, 1, 6))
Q = _distributions((2, 3, 5), (6, 1, 3), (3, 5, 1), (2, 2, 6))
REWARD: dict[tuple[int, ...], int] = {(0, 0): 1, (0, 2): 1, (1, 1): 1, (2, 2): 1}
PATHS = list(itertools.product(range(V), repeat=H))


def world_of(p=P, ref=REF, q=Q) -> World:
    """The same world as arrays of logs."""

    def logs(distributions) -> np.ndarray:
        return np.array(
            [[math.log(x) if x else -INF for x in distributions[s]] for s in distributions]
        )

    reward = np.array([float(REWARD.get(path, 0)) for path in PATHS])
    return World(make_tree(V, H), logs(p), logs(ref), logs(q), reward)


def prob(path, distributions) -> F:
    return math.prod((distributions[path[:t]][path[t]] for t in range(H)), start=F(1))


def distribution_of_states(distributions) -> dict[tuple, F]:
    d = dict.fromkeys(distributions, F(0))
    for path, t in itertools.product(PATHS, range(H)):
        d[path[:t]] += prob(path, distributions) / H
    return d


def some_world(seed: int, **options) -> World:
    return random_world(make_tree(4, 3), seed, **({"kl": 0.3, "spread": 0.5} | options))


def jp(mask: Literal["coin", "expected", "all"] = "coin", **options) -> Estimator:
    return Estimator("", "jackpot", mask=mask, **options)
