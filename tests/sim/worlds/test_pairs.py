"""Families of pairs of distributions."""

import math
from fractions import Fraction as F

import numpy as np
import pytest

from sim.worlds import pairs

DRAWS = {
    "dirichlet": lambda rng: pairs.dirichlet(rng, 3, 7),
    "noisy_proposal": lambda rng: pairs.noisy_proposal(rng, 3, 7, 0.2),
    "noisy_target": lambda rng: pairs.noisy_target(rng, 3, 7, 0.2),
    "gaussian_logits": lambda rng: pairs.gaussian_logits(rng, 3, 7, 0.5),
    "heavy_logits": lambda rng: pairs.heavy_logits(rng, 3, 7, 0.5),
    "zipf": lambda rng: pairs.zipf(rng, 3, 7, 0.5),
    "temperature": lambda rng: pairs.temperature(rng, 3, 7, 2.0),
    "missing_support": lambda rng: pairs.missing_support(rng, 3, 7),
}


@pytest.mark.parametrize("name", DRAWS)
def test_families_give_pairs_of_distributions(name):
    log_p, log_q = DRAWS[name](np.random.default_rng(0))
    for x in (log_p, log_q):
        assert x.shape == (3, 7) and x.dtype == np.float64
        assert np.exp(x).sum(-1) == pytest.approx(1.0, rel=1e-12)
    assert not np.array_equal(log_p, log_q)
    assert np.isfinite(log_p).all() == (name != "missing_support")


def test_noise_in_q_bounds_the_ratio_and_noise_in_p_its_inverse():
    for family, sign in ((pairs.noisy_proposal, 1), (pairs.noisy_target, -1)):
        log_p, log_q = family(np.random.default_rng(1), 50, 20, 0.3)
        assert np.max(sign * (log_p - log_q)) <= -math.log(0.7) + 1e-12
        assert np.max(sign * (log_q - log_p)) > 1.0


def test_logit_noise_has_the_scale_asked_for():
    """Median of |noise|: .6745 for N(0, 1); .7649 / sqrt(3) for t with 3 degrees of freedom."""
    for family, median in ((pairs.gaussian_logits, 0.6745), (pairs.heavy_logits, 0.4416)):
        log_p, log_q = family(np.random.default_rng(1), 20, 5000, 0.3)
        noise = log_p - log_q
        noise = noise - np.median(noise, axis=-1, keepdims=True)
        assert np.median(np.abs(noise)) == pytest.approx(0.3 * median, rel=0.02)


def test_temperature_keeps_the_order_and_flattens():
    log_p, log_q = pairs.temperature(np.random.default_rng(1), 5, 9, 3.0)
    assert (np.argsort(log_p) == np.argsort(log_q)).all()
    spread_p, spread_q = (np.ptp(x, axis=-1) for x in (log_p, log_q))
    assert spread_p == pytest.approx(3 * spread_q)


def test_missing_support_has_holes_on_both_sides_and_a_nucleus():
    log_p, log_q = pairs.missing_support(np.random.default_rng(2), 40, 12, top_p=0.8)
    no_p, no_q = np.isneginf(log_p), np.isneginf(log_q)
    assert (no_q & ~no_p).any(-1).all()
    assert (no_p & ~no_q).sum(-1).max() == 1
    assert (no_p & ~no_q).any(-1).mean() > 0.9


def test_rationals_keep_the_support_and_come_back():
    log_p, _ = pairs.missing_support(np.random.default_rng(3), 1, 9)
    row = pairs.rationals(log_p[0], denominator=1000)
    assert sum(row) == 1
    assert [x == 0 for x in row] == list(np.isneginf(log_p[0]))
    assert np.exp(pairs.log_probs([row])[0]) == pytest.approx(np.exp(log_p[0]), abs=6e-3)
    assert pairs.log_probs([[F(1, 4), F(0), F(3, 4)]])[0] == pytest.approx(
        [math.log(0.25), -math.inf, math.log(0.75)]
    )


def test_integer_weights_allow_zeros_only_where_asked():
    rng = np.random.default_rng(4)
    zeros = {True: 0, False: 0}
    for allowed in (True, False):
        for _ in range(100):
            p, q = pairs.integer_weights(rng, 4, p_zero=allowed, q_zero=allowed)
            assert sum(p) == sum(q) == 1 and any(a * b for a, b in zip(p, q, strict=True))
            zeros[allowed] += (0 in p) + (0 in q)
    assert zeros[True] > 20 and zeros[False] == 0
