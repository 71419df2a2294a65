"""jackpot.selection: the subset of largest variance by enumeration, ties, coins and weights.

That pruning by coins is unbiased is shown for all masks in the registry of claims (HT-unbiased).
"""

import math
from fractions import Fraction as F
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackpot import selection
from jackpot.selection import horvitz_thompson, pods

rewards_and_keep = st.lists(st.integers(-8, 8), min_size=1, max_size=9).flatmap(
    lambda r: st.tuples(st.just([F(x, 4) for x in r]), st.integers(1, len(r)))
)


def variance(rewards):
    return sum(x * x for x in rewards) / len(rewards) - (sum(rewards) / len(rewards)) ** 2


@given(rewards_and_keep)
def test_pods_keeps_the_subset_of_largest_variance(case):
    """All C(n, m) subsets, in rational arithmetic."""
    rewards, m = case
    kept = pods([float(x) for x in rewards], m)
    assert kept.shape == (m,) and kept.dtype == np.int64 and list(kept) == sorted(set(kept))
    best = max(variance(some) for some in combinations(rewards, m))
    assert variance([rewards[i] for i in kept]) == best


@given(rewards_and_keep, st.sampled_from([-1e6, 0.1, 1e9]), st.sampled_from([1e-6, 3.0, 1e9]))
def test_a_shift_and_a_scale_of_the_rewards_change_nothing(case, shift, scale):
    """Exact for small whole rewards: what is rounded differs by less than the ties are apart."""
    rewards, m = case
    plain = np.array([float(x) for x in rewards])
    np.testing.assert_array_equal(pods(plain, m), pods(plain * scale, m))
    np.testing.assert_array_equal(pods(plain, m), pods(plain + np.float64(round(shift)), m))


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12))
def test_of_two_values_half_are_kept_where_there_are_enough(zeros, ones, half):
    """Means .5 exactly; and where there are too few of one value, all of them are kept."""
    rewards = [0.0] * zeros + [1.0] * ones
    if 2 * half > len(rewards):
        return
    wins = sum(rewards[i] for i in pods(rewards, 2 * half))
    assert wins == min(max(half, 2 * half - zeros), ones)


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=4), st.booleans(), st.data())
def test_the_order_of_the_completions_does_not_matter(half, mirrored, data):
    """The same rewards are kept; where they are symmetric, subsets of odd size are tied."""
    rewards = [*half, *(-x if mirrored else x + 1 for x in half)]
    m, order = data.draw(st.integers(1, len(rewards))), data.draw(st.permutations(rewards))
    for rule in ("max_variance", "max_reward"):
        kept, again = ([r[i] for i in pods(r, m, rule)] for r in (rewards, order))
        assert sorted(kept) == sorted(again)


def test_equal_variances_are_taken_evenly_from_both_ends_then_from_the_top():
    assert list(pods([1.0] * 6, 4)) == [0, 1, 4, 5]
    assert list(pods([1.0] * 6, 3)) == [0, 4, 5]
    assert list(pods([0.0, 1.0, 1.0, 1.0], 3)) == [0, 2, 3]
    assert list(pods([3.0, 1.0, 2.0], 1)) == [0]


def test_rounding_decides_no_tie():
    """(.1, .9, .9) and (.1, .1, .9) have equal variances, but not in floats."""
    assert list(pods([0.1, 0.3, 0.1, 0.9, 0.9, 1 / 3, 0.7], 3)) == [0, 3, 4]
    assert list(pods([0.0, 1.0] * 150, 4)) == [0, 2, 297, 299]


def test_all_kept_is_everything_in_order():
    for rule in ("max_variance", "max_reward"):
        assert list(pods([2.0, -1.0, 5.0], 3, rule)) == [0, 1, 2]
    assert list(pods([2.0, -1.0, 5.0], 3, "random", np.random.default_rng(0))) == [0, 1, 2]


def test_max_reward_keeps_the_highest_and_of_equal_ones_the_last():
    assert list(pods([2.0, -1.0, 5.0, 3.0], 2, "max_reward")) == [2, 3]
    assert list(pods([1.0, 1.0, 0.0, 1.0], 2, "max_reward")) == [1, 3]


def test_random_draws_every_subset_alike_and_repeats_with_its_seed():
    rng = np.random.default_rng(1)
    drawn = [tuple(pods(np.zeros(4), 2, "random", rng)) for _ in range(600)]
    counts = [drawn.count(some) for some in combinations(range(4), 2)]
    assert sum(counts) == 600 and min(counts) > 60  # 100 each, 9 standard deviations of 4.4
    one, two = (pods(np.arange(9.0), 4, "random", np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_rewards_of_any_size_are_compared():
    assert list(pods([1e308, -1e308, 0.0, 1.0], 2)) == [0, 1]
    assert list(pods([5e-324, 0.0, 0.0], 2)) == [0, 1]
    assert list(pods([1e9, 1e9 + 1, 1e9 + 3, 1e9 + 4], 2)) == [0, 3]


units = st.integers(1, 60)


@given(units, st.floats(0, 0.99), st.floats(0, 1), st.integers(0, 2**32))
def test_only_the_lowest_scores_are_dropped_and_the_kept_weigh_what_makes_up(n, rate, share, seed):
    rng = np.random.default_rng(seed)
    score = rng.permutation(n).astype(float)
    keep, weight = horvitz_thompson(score, rate, share, rng)
    assert keep.shape == weight.shape == (n,)
    assert keep.dtype == bool and weight.dtype == np.float64
    candidate = score < math.floor(share * n + 1e-9)
    assert keep[~candidate].all() and not (~keep & (rate == 0)).any()
    expected = np.where(candidate, 1 / (1 - rate), 1.0) * keep
    np.testing.assert_array_equal(weight, expected)


def test_a_candidate_is_dropped_as_often_as_said():
    """200,000 coins of .3: sd .001 of the share, and the mean weight is 1 within 5 sd."""
    keep, weight = horvitz_thompson(np.zeros(200_000), 0.3, 1.0, np.random.default_rng(2))
    assert 1 - keep.mean() == pytest.approx(0.3, abs=0.006)
    assert weight.mean() == pytest.approx(1.0, abs=0.008)


def test_coins_are_independent():
    """Neighbours: both dropped in .09 of the pairs."""
    keep, _ = horvitz_thompson(np.zeros(200_000), 0.3, 1.0, np.random.default_rng(3))
    assert (~keep[::2] & ~keep[1::2]).mean() == pytest.approx(0.09, abs=0.005)


def test_of_equal_scores_chance_decides_which_may_be_dropped():
    """Half of 4 equal units are candidates at rate .9: each unit is dropped in .45 of the draws."""
    rng = np.random.default_rng(4)
    dropped = np.mean([~horvitz_thompson(np.ones(4), 0.9, 0.5, rng)[0] for _ in range(2000)], 0)
    np.testing.assert_allclose(dropped, 0.45, atol=0.06)


def test_the_share_of_candidates_is_not_lost_to_rounding():
    """0.29 * 100 is 28.999999999999996 in floats; rate .999999 drops every candidate here."""
    rng = np.random.default_rng(5)
    keep, _ = horvitz_thompson(np.arange(100), 0.999999, 0.29, rng)
    assert list(np.flatnonzero(~keep)) == list(range(29))


def test_the_same_seed_drops_the_same():
    one, two = (
        horvitz_thompson(np.arange(50), 0.5, 0.8, np.random.default_rng(6))[0] for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pods([0.0, math.nan], 1), ValueError, "rewards holds nan at index 1"),
        (lambda: pods([math.inf, 0.0], 1), ValueError, "rewards holds inf at index 0"),
        (lambda: pods([], 1), ValueError, r"rewards must have shape \(n,\) with n >= 1"),
        (lambda: pods([0.0, 1.0], 3), ValueError, "keep is 3, but the prompt has 2 completions"),
        (lambda: pods([0.0, 1.0], 0), ValueError, "keep must be at least 1, got 0"),
        (lambda: pods([0.0, 1.0], 1.0), TypeError, "keep must be a whole number"),  # type: ignore[arg-type]
        (lambda: pods([0.0, 1.0], 1, "best"), ValueError, "or 'random', got 'best'"),  # type: ignore[arg-type]
        (lambda: pods([0.0, 1.0], 1, "random"), TypeError, "Generator, got NoneType"),
        (lambda: pods([0.0, 1.0], 1, rng=RNG), ValueError, "draws nothing, so it takes no rng"),
        (lambda: horvitz_thompson([0.0], 1.0, 0.5, RNG), ValueError, r"rate must lie in \[0, 1\)"),
        (lambda: horvitz_thompson([0.0], -0.1, 0.5, RNG), ValueError, "rate must lie in"),
        (lambda: horvitz_thompson([0.0], math.nan, 0.5, RNG), ValueError, "rate holds NaN"),
        (lambda: horvitz_thompson([0.0], 0.5, 1.1, RNG), ValueError, "candidate_fraction must lie"),
        (lambda: horvitz_thompson([math.nan], 0.5, 0.5, RNG), ValueError, "score holds nan"),
        (lambda: horvitz_thompson([], 0.5, 0.5, RNG), ValueError, "score must have shape"),
        (lambda: horvitz_thompson([0.0], 0.5, 0.5, 3), TypeError, "Generator, got int"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused_with_what_was_found(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_every_public_function_documents_result_errors_and_source():
    for name in ("pods", "horvitz_thompson"):
        doc = getattr(selection, name).__doc__
        for section in ("Args:\n", "Returns:\n", "Raises:\n", "Source:"):
            assert section in doc, f"{name}: {section}"
