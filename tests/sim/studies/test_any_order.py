"""The masked cross-entropy, over all masks, against all orders of filling; and where DMPO rests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sim.studies import any_order as toy

V, H = 2, 3
COMPLETIONS = list(itertools.product(range(V), repeat=H))
SEEDS = range(3)


def distribution_of(seed: int) -> np.ndarray:
    p = np.random.default_rng(seed).uniform(0.2, 1, (V,) * H)
    return p / p.sum()


def gradient_at(model, weights) -> np.ndarray:
    return toy.masked_gradient(model, weights, toy.uniform_counts(H))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_masked_cross_entropy_is_the_mean_over_all_orders(seed):
    """m uniform on 1 ... h and weight h / m: each place is next in a uniform order."""
    model = toy.random_model(np.random.default_rng(seed), V, H)
    for y in COMPLETIONS:
        orders = [toy.order_nll(model, y, order) for order in itertools.permutations(range(H))]
        found = toy.masked_nll(model, y, toy.uniform_counts(H))
        assert found == pytest.approx(np.mean(orders))
        # a bound: -log of the mean probability over orders is at most that (Jensen)
        assert found >= -math.log(np.mean(np.exp(-np.array(orders))))


@pytest.mark.parametrize("seed", SEEDS)
def test_of_one_distribution_every_order_gives_its_probability(seed):
    p = distribution_of(seed)
    model = toy.conditionals(p)
    for y in COMPLETIONS:
        for order in itertools.permutations(range(H)):
            assert toy.order_nll(model, y, order) == pytest.approx(-math.log(p[y]))
        assert toy.masked_nll(model, y, toy.uniform_counts(H)) == pytest.approx(-math.log(p[y]))


def test_masks_without_a_place_shrink_it_by_h_over_h_plus_1():
    """u uniform on [0, 1]: m = 0 has probability 1 / (h + 1), and costs 0."""
    model = toy.random_model(np.random.default_rng(0), V, H)
    assert toy.rate_counts(H) == pytest.approx(np.full(H + 1, 1 / (H + 1)))
    for y in COMPLETIONS:
        whole = toy.masked_nll(model, y, toy.uniform_counts(H))
        assert toy.masked_nll(model, y, toy.rate_counts(H)) == pytest.approx(H / (H + 1) * whole)


def test_rates_from_a_tenth_up_hide_more_places():
    """Against sums over a fine grid of rates; the ratio of two completions' costs changes too."""
    rates = 0.1 + 0.9 * (np.arange(20_000) + 0.5) / 20_000
    grid = [np.mean(math.comb(H, m) * rates**m * (1 - rates) ** (H - m)) for m in range(H + 1)]
    counts = toy.rate_counts(H, 0.1)
    assert counts == pytest.approx(grid, rel=1e-6) and counts.sum() == pytest.approx(1)
    assert counts[1] < 0.95 * counts[H]
    model = toy.random_model(np.random.default_rng(1), V, H)
    costs = [[toy.masked_nll(model, y, c) for y in COMPLETIONS[:2]]
             for c in (counts, toy.uniform_counts(H))]  # fmt: skip
    assert abs(costs[0][0] / costs[0][1] - costs[1][0] / costs[1][1]) > 1e-4


def test_the_gradient_is_the_slope_by_every_logit():
    rng = np.random.default_rng(2)
    model, weights = toy.random_model(rng, V, H), rng.normal(size=len(COMPLETIONS))
    found = gradient_at(model, weights)

    def loss(logits) -> float:
        log_p = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        parts = (toy.masked_nll(log_p, y, toy.uniform_counts(H)) for y in COMPLETIONS)
        return sum(w * x for w, x in zip(weights, parts, strict=True))

    for cell in ((2, 2, 2, 0, 1), (0, 2, 2, 1, 0), (1, 0, 2, 2, 1), (0, 1, 1, 0, 0)):
        step = np.zeros(model.shape)
        step[cell] = 1e-5
        slope = (loss(model + step) - loss(model - step)) / 2e-5
        assert found[cell] == pytest.approx(slope, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_dmpo_rests_at_its_target_without_a_baseline_and_not_with_neg(seed):
    """Weights p*: the conditionals of p* have gradient 0, other models have not."""
    tilt = np.exp(np.random.default_rng(seed).choice([0.0, 2.0], (V,) * H))
    tilt[0, 0, 0], tilt[1, 1, 1] = 1.0, math.exp(2.0)
    best, worst = (
        x / x.sum() for x in (distribution_of(seed) * tilt, distribution_of(seed) / tilt)
    )
    at_target = toy.conditionals(best)
    assert np.abs(gradient_at(at_target, best)).max() < 1e-12
    assert np.abs(gradient_at(toy.conditionals(distribution_of(seed)), best)).max() > 0.01
    assert np.abs(gradient_at(at_target, best - worst)).max() > 0.01
