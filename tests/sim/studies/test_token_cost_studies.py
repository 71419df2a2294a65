"""Studies of the cost of tokens: whose tokens are counted, and what rows are compared with."""

from __future__ import annotations

import numpy as np
import pytest
from rational_world import H, P, Q, V, distribution_of_states, jp, world_of

from sim.studies import token_cost_studies
from sim.studies.gradient_estimators import Estimator, moments
from sim.worlds.trees import make_tree, random_world


def test_populations_hold_the_actors_tokens():
    """Masses by plain enumeration; the tokens of the paths carry importance's second moment."""
    world, d = world_of(), distribution_of_states(Q)
    mass, ratio = token_cost_studies.token_population(world)
    pairs = [(s, x) for s in Q for x in range(V)]
    np.testing.assert_allclose(mass, [float(d[s] * Q[s][x]) for s, x in pairs], rtol=1e-12)
    np.testing.assert_allclose(ratio, [float(P[s][x] / Q[s][x]) for s, x in pairs], rtol=1e-12)
    mass, ratio, size = token_cost_studies.path_population(world)
    m = moments(world, Estimator("", "importance"))
    second = m.variance + np.sum(m.mean**2)
    assert H * sum(mass * (ratio * size) ** 2) == pytest.approx(second, rel=1e-12)


def test_cost_rows_are_bills_against_keeping_every_token():
    """Saving: 1 - (c + Z) E_p max(lam, r) / ((c + 1) E_p r), recomputed; bills from the noise."""
    tree, kl = make_tree(4, 2), 0.3
    world = random_world(tree, 0, kl=kl)
    q, r = (x.tolist() for x in token_cost_studies.token_population(world))
    keep_all = sum(a * b * b for a, b in zip(q, r, strict=True))
    for row in token_cost_studies.cost(tree, [0], (kl,)):
        c, lam = row["cost_ratio"], row["lam"]
        z = sum(min(a, a * b / lam) for a, b in zip(q, r, strict=True))
        second = sum(a * b * max(lam, b) for a, b in zip(q, r, strict=True))
        assert row["accepted"] == pytest.approx(z, rel=1e-12)
        assert row["saving"] == pytest.approx(1 - (c + z) * second / (c + 1) / keep_all, abs=1e-12)
        paid = (c + z) * moments(world, jp(lam=lam, z="batch")).noise
        kept = (c + 1) * moments(world, Estimator("", "importance")).noise
        assert row["gradient_saving"] == pytest.approx(1 - paid / kept, abs=1e-12)
        assert row["gradient_excess"] > -1e-3  # the grid of lam is as fine as that
