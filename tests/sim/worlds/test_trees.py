"""Worlds as trees: gradients and KL, against rational enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rational_world import REWARD, H, P, V, some_world, world_of

from sim.worlds.trees import gradient, make_tree, mean_kl, random_world


def test_true_gradient_is_the_derivative_of_the_expected_reward():
    """Against a central difference of the expected reward, by plain enumeration."""
    world, step = world_of(), 1e-6

    def reward_with(s, x, change) -> float:
        distributions = {k: [float(v) for v in distribution] for k, distribution in P.items()}
        distributions[s][x] *= math.exp(change)
        distributions[s] = [v / sum(distributions[s]) for v in distributions[s]]
        return sum(
            r * math.prod(distributions[path[:t]][path[t]] for t in range(H))
            for path, r in REWARD.items()
        )

    slope = [
        [(reward_with(s, x, step) - reward_with(s, x, -step)) / (2 * step) for x in range(V)]
        for s in P
    ]
    np.testing.assert_allclose(gradient(world, world.log_p, world.log_p), slope, atol=1e-9)


@pytest.mark.parametrize("kl", [0.0, 0.01, 1.0])
def test_the_actor_lies_at_the_mismatch_asked_for(kl):
    """Mean KL(p_ref || q) over the actor's states, by plain enumeration."""
    world = some_world(2, kl=kl, staleness=0.2, dead=0.01 if kl else 0.0)
    tree, ref, q = world.tree, np.exp(world.log_ref), np.exp(world.log_q)
    total = 0.0
    for states, tokens in zip(tree.states.tolist(), tree.tokens.tolist(), strict=True):
        chance = math.prod(q[s, x] for s, x in zip(states, tokens, strict=True))
        for s in states:
            total += chance * sum(
                a * math.log(a / b) for a, b in zip(ref[s], q[s], strict=True) if a > 0
            )
    assert total / tree.horizon == pytest.approx(kl, abs=1e-10)
    assert mean_kl(tree, world.log_ref, world.log_q) == pytest.approx(kl, abs=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl": -1.0}, "kl must be a finite number"),
        ({"kl": 0.1, "dead": 1.0}, "below 1"),
        ({"kl": 0.01, "dead": 0.5}, "dead 0.5 alone costs"),
    ],
)
def test_impossible_worlds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        random_world(make_tree(3, 2), 0, **options)
