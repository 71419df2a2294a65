"""track_lam (docs/theory.md, E3): its average, its first step, what it refuses."""

import math

import numpy as np
import pytest
from backends import on_every_backend, random_rows

import jackpot
from jackpot import lam_from_samples, track_lam


@on_every_backend
def test_the_first_step_takes_its_own_tokens_lam(backend):
    """r = (1/2, 1, 2) at lam 1: mean min(1, r) = 5/6, so log lam = 0 whatever the decay."""
    log_r = backend.array([-math.log(2), 0.0, math.log(2)])
    for decay in (0.0, 0.9):
        assert track_lam(None, log_r, 5 / 6, decay) == pytest.approx(0.0, abs=10 * backend.rtol)


@on_every_backend
def test_the_average_is_over_logs(backend):
    """From lam 16, with decay 3/4 and a step whose lam is 1: lam 16^(3/4) = 8."""
    log_r = backend.array([-math.log(2), 0.0, math.log(2)])
    found = track_lam(math.log(16), log_r, 5 / 6, 0.75)
    assert isinstance(found, float)
    assert math.exp(found) == pytest.approx(8.0, rel=10 * backend.rtol)


def test_without_memory_it_is_lam_from_samples():
    log_r = random_rows((4, 6), seed=1)[0]
    assert track_lam(3.0, log_r, 0.7, 0.0) == math.log(lam_from_samples(log_r, 0.7))
    assert track_lam(None, log_r, 0.7, 0.5) == math.log(lam_from_samples(log_r, 0.7))


def test_on_a_steady_sample_a_wrong_start_is_forgotten_geometrically():
    log_r = np.random.default_rng(2).standard_normal(50)
    goal = math.log(lam_from_samples(log_r, 0.8))
    log_lam = goal + 1.0
    for step in range(1, 11):
        log_lam = track_lam(log_lam, log_r, 0.8, 0.6)
        assert log_lam - goal == pytest.approx(0.6**step, rel=1e-9)


def test_it_divides_the_variance_of_one_steps_estimate():
    """(1 - decay) / (1 + decay) = 1/9 at decay .8; 4000 steps of 64 tokens, within 20%."""
    rng = np.random.default_rng(3)
    own, tracked, log_lam = [], [], None
    for _ in range(4000):
        log_r = rng.standard_normal(64) - 0.5
        log_lam = track_lam(log_lam, log_r, 0.8, 0.8)
        own.append(math.log(lam_from_samples(log_r, 0.8)))
        tracked.append(log_lam)
    ratio = np.var(tracked[50:]) / np.var(own[50:])
    assert ratio == pytest.approx(1 / 9, rel=0.2)


def test_a_lam_from_earlier_tokens_leaves_the_weights_unbiased():
    """Fresh coins, lam independent of the tokens: E[a max(lam, r)] = E r = 1; exact on 3 tokens,
    q = 1/3 each and r = (1/2, 1, 3/2)."""
    r = np.array([0.5, 1.0, 1.5])
    lam = math.exp(track_lam(None, np.log(np.array([0.5, 1.5, 1.5, 1.0])), 0.8, 0.5))
    assert 0.5 < lam < 1.5
    a = np.minimum(1, r / lam)
    assert np.mean(a * np.maximum(lam, r)) == pytest.approx(1.0, rel=1e-15)
    assert np.mean(np.maximum(lam, r)) > 1.01  # so the coin matters


@on_every_backend
def test_a_step_that_cannot_spend_the_budget_is_refused_and_its_reach_named(backend):
    """p > 0 on 2 of 4 tokens: the reachable maximum is 1/2; the old value stays the caller's."""
    log_r = backend.array([0.0, 0.0, -math.inf, -math.inf])
    for log_lam in (None, 0.25):
        with pytest.raises(ValueError, match=r"budget 0.75 is out of reach.* maximum 0\.5;"):
            track_lam(log_lam, log_r, 0.75, 0.9)
    assert track_lam(0.0, log_r, 0.5, 0.9) == 0.0  # at the reach: the smallest ratio, 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.0, [0.0], 0.5, 1.0), ValueError, r"decay must lie in \[0, 1\), got 1"),
        ((0.0, [0.0], 0.5, -0.1), ValueError, r"decay must lie in \[0, 1\), got -0.1"),
        ((0.0, [0.0], 0.5, math.nan), ValueError, "decay holds NaN"),
        ((0.0, [0.0], 0.5, None), TypeError, "decay must be a real number"),
        ((math.inf, [0.0], 0.5, 0.5), ValueError, r"log_lam must lie in \(-inf, inf\), got inf"),
        ((-math.inf, [0.0], 0.5, 0.5), ValueError, r"log_lam must lie in \(-inf, inf\), got -inf"),
        ((math.nan, [0.0], 0.5, 0.5), ValueError, "log_lam holds NaN"),
        (("1", [0.0], 0.5, 0.5), TypeError, "log_lam must be a real number"),
        ((0.0, [], 0.5, 0.5), ValueError, "holds no tokens"),
        ((0.0, [math.nan], 0.5, 0.5), ValueError, "log_ratio holds 1 NaN"),
        ((0.0, [0.0], 0.0, 0.5), ValueError, r"budget must lie in \(0, 1\], got 0"),
        ((0.0, [0.0], 1.5, 0.5), ValueError, r"budget must lie in \(0, 1\], got 1.5"),
    ],
)
def test_what_is_no_step_is_refused(arguments, error, message):
    log_lam, ratios, budget, decay = arguments
    with pytest.raises(error, match=message):
        track_lam(log_lam, np.array(ratios), budget, decay)


def test_it_is_public():
    assert "track_lam" in jackpot.__all__
    assert jackpot.__all__ == sorted(jackpot.__all__)
