"""jackpot.allocation: budgets, exact optima by enumeration, ties, and what it refuses.

The expected values are rational or in 60 digits and share no code with the module. The variance
formulas themselves are checked by enumeration in the registry of claims (VIP-variance).
"""

import math
from fractions import Fraction as F
from itertools import product

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jackpot import allocation
from jackpot.allocation import (
    coba,
    coba_alpha,
    coba_tau,
    coba_value,
    dr_grpo_variance,
    pass_rates,
    rloo_variance,
    uniform,
    vip,
)

FACTORS = {"rloo": lambda n: F(1, n - 1), "dr_grpo": lambda n: F(n - 1, n * n)}


@st.composite
def problems(draw, least):
    """Pass rates in twelfths, total, low, high: small enough to enumerate."""
    twelfths = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    low = draw(st.integers(least, least + 3))
    high = draw(st.integers(low, low + 5))
    n = len(twelfths)
    total = draw(st.integers(n * low, n * high))
    return [F(x, 12) for x in twelfths], total, low, high


def allocations(n, total, low, high):
    """Every allocation, by plain enumeration."""
    return [c for c in product(range(low, high + 1), repeat=n) if sum(c) == total]


def check_budget(counts, n, total, low, high):
    assert counts.shape == (n,) and counts.dtype == np.int64
    assert counts.sum() == total and counts.min() >= low and counts.max() <= high


@given(st.integers(1, 40), st.integers(0, 200))
def test_uniform_counts_differ_by_at_most_one(n, extra):
    counts = uniform(n, n + extra)
    check_budget(counts, n, n + extra, (n + extra) // n, -(-(n + extra) // n))
    assert list(counts) == sorted(counts, reverse=True)


@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo"])
@given(data=st.data())
def test_vip_has_the_least_total_variance_of_all_allocations(estimator, data):
    p, total, low, high = data.draw(problems(2 if estimator == "rloo" else 3))
    counts = vip([float(x) for x in p], total, low, high, estimator)
    check_budget(counts, len(p), total, low, high)

    def variance(allocation):
        rows = zip(p, allocation, strict=True)
        return sum(x * (1 - x) * FACTORS[estimator](int(n)) for x, n in rows)

    assert variance(counts) == min(map(variance, allocations(len(p), total, low, high)))


@given(problems(2), st.integers(1, 10), st.integers(1, 12))
def test_coba_has_the_largest_total_value_of_all_allocations(problem, alpha, tau):
    """V in 60 digits, from the rational p: only rounding of a tie may differ."""
    p, total, low, high = problem
    counts = coba([float(x) for x in p], total, alpha, 11, tau, low, high)
    check_budget(counts, len(p), total, low, high)
    with mpmath.workdps(60):
        rates = [mpmath.mpf(x.numerator) / x.denominator for x in p]
        beta = [x ** (alpha - 1) * (1 - x) ** (10 - alpha) for x in rates]
        value = [
            {n: -mpmath.expm1(-n * x * (1 - x) / tau) * b for n in range(low, high + 1)}
            for x, b in zip(rates, beta, strict=True)
        ]
        totals = [
            mpmath.fsum(v[n] for v, n in zip(value, c, strict=True))
            for c in allocations(len(p), total, low, high)
        ]
        own = mpmath.fsum(v[int(n)] for v, n in zip(value, counts, strict=True))
        assert own >= max(totals) * (1 - mpmath.mpf(10) ** -14)


two_prompts = st.tuples(st.integers(1, 999), st.integers(1, 999), st.integers(8, 60))


@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo"])
@example(case=(500, 200, 15))
@given(case=two_prompts)
def test_vip_splits_many_rollouts_between_two_prompts_as_the_best_split_does(estimator, case):
    """Pass rates in thousandths: a decrease that is slightly wrong moves a rollout."""
    *p, total = F(case[0], 1000), F(case[1], 1000), case[2]

    def variance(n):
        rows = zip(p, (n, total - n), strict=True)
        return sum(x * (1 - x) * FACTORS[estimator](int(k)) for x, k in rows)

    counts = vip([float(x) for x in p], total, 3, total, estimator)
    assert variance(counts[0]) == min(variance(n) for n in range(3, total - 2))


@example((500, 200, 22), 50, 1)
@given(two_prompts, st.integers(11, 99), st.integers(1, 60))
def test_coba_splits_many_rollouts_between_two_prompts_as_the_best_split_does(case, a, t):
    """alpha in tenths and tau in fifths; V in 60 digits."""
    *p, total = (*(x / 1000 for x in case[:2]), case[2])
    alpha, tau = a / 10, t / 5
    counts = coba(p, total, alpha, tau=tau, low=3, high=total)
    with mpmath.workdps(60):
        x = [mpmath.mpf(rate) for rate in p]
        density = [y ** (alpha - 1) * (1 - y) ** (mpmath.mpf(10) - alpha) for y in x]

        def lost(n):  # what is missing to the sum of the densities, the value of inf rollouts
            rows = zip(x, density, (n, total - n), strict=True)
            return sum(d * mpmath.exp(-k * y * (1 - y) / tau) for y, d, k in rows)

        best = min(lost(n) for n in range(3, total - 2))
        assert lost(int(counts[0])) <= best * (1 + mpmath.mpf(10) ** -10)


ALLOCATORS = {
    "vip": lambda p, total, low, high: vip(p, total, low, high),
    "vip dr_grpo": lambda p, total, low, high: vip(p, total, low, high, "dr_grpo"),
    "coba": lambda p, total, low, high: coba(p, total, 4.0, low=low, high=high),
}
each_allocator = pytest.mark.parametrize("allocate", ALLOCATORS.values(), ids=ALLOCATORS)


@each_allocator
@given(st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 60))
def test_equal_pass_rates_get_the_uniform_allocation(allocate, n, p, extra):
    """Unseen prompts all have 1/2; pass rates of 0 or 1 gain nothing anywhere, and are tied."""
    counts = allocate([p] * n, 3 * n + extra, 3, 3 + extra)
    assert list(counts) == list(uniform(n, 3 * n + extra))


@each_allocator
def test_without_any_gain_all_share_alike(allocate):
    """Pass rates of 0 and 1 mixed: by the index alone the first would take 13."""
    assert list(allocate([0.0, 1.0, 0.0, 1.0], 22, 3, 20)) == [6, 6, 5, 5]


@each_allocator
def test_prompts_without_gain_stay_at_low_until_the_others_are_at_high(allocate):
    p = [0.0, 0.5, 1.0, 0.3]
    assert list(allocate(p, 20, 3, 7)) == [3, 7, 3, 7]
    assert list(allocate(p, 23, 3, 7)) == [5, 7, 4, 7]


@each_allocator
@given(st.permutations(range(6)))
def test_the_order_of_the_prompts_does_not_matter(allocate, order):
    p = np.array([0.03, 0.11, 0.32, 0.47, 0.71, 0.93])
    counts = allocate(p, 51, 3, 20)
    np.testing.assert_array_equal(allocate(p[list(order)], 51, 3, 20), counts[list(order)])


@each_allocator
@given(st.integers(18, 119))
def test_a_larger_total_takes_from_nobody(allocate, total):
    """Greedy: the optimum of total + 1 is that of total and one rollout more."""
    p = [0.03, 0.11, 0.32, 0.47, 0.71, 0.93]
    more = allocate(p, total + 1, 3, 20) - allocate(p, total, 3, 20)
    assert sorted(more) == [0] * 5 + [1]


@each_allocator
def test_bounds_beyond_the_total_are_none(allocate):
    p = [0.1, 0.5, 0.9]
    np.testing.assert_array_equal(allocate(p, 40, 3, 10**6), allocate(p, 40, 3, 34))


@each_allocator
def test_the_largest_step_of_the_papers_keeps_its_budget(allocate):
    p = np.random.default_rng(0).beta(0.5, 0.5, 512)
    check_budget(allocate(p, 8192, 3, 128), 512, 8192, 3, 128)


@each_allocator
def test_pass_rates_are_not_changed_in_place(allocate):
    p = np.array([0.1, 0.5, 0.9])
    allocate(p, 20, 3, 10)
    assert list(p) == [0.1, 0.5, 0.9]


def test_vip_by_hand():
    """a = (1, 16/25), 9 rollouts: counts minus 1 as 5 to 4 give 1/4 + (16/25)/3 at (5, 4)."""
    assert list(vip([0.5, 0.2], 9, 2, 9)) == [5, 4]
    assert list(vip([0.2, 0.5, 0.8], 16, 2, 16)) == [5, 6, 5]


def test_variances_by_hand():
    assert rloo_variance(0.5, 2) == 1.0 and dr_grpo_variance(0.5, 2) == 0.25
    assert rloo_variance(0.25, 4, 2.0) == pytest.approx(4 * 2 * 3 / 16 / 3, rel=1e-15)
    assert dr_grpo_variance(0.25, 4, 2.0) == pytest.approx(4 * 2 * 3 / 16 * 3 / 16, rel=1e-15)
    np.testing.assert_array_equal(rloo_variance([0.0, 0.5, 1.0], [2, 3, 4]), [0.0, 0.5, 0.0])
    assert dr_grpo_variance(0.5, 1) == 0.0


def test_a_larger_alpha_favours_easier_prompts():
    """Beta(alpha, 11 - alpha) has its mode at (alpha - 1) / 9: 1/9, 1/2, 8/9."""
    p = [0.1, 0.5, 0.9]
    given_ = [coba(p, 30, alpha, tau=8.0, high=20) for alpha in (2.0, 5.5, 9.0)]
    assert [int(np.argmax(counts)) for counts in given_] == [0, 1, 2]
    assert list(given_[0]) == list(given_[2][::-1])


def test_coba_does_not_underflow():
    """concentration 4000: densities below 1e-600 still order the prompts far from the mode."""
    counts = coba([0.01, 0.02, 0.5], 24, 3999.0, concentration=4000.0, low=2, high=12)
    assert list(counts) == [2, 10, 12]


@given(st.floats(1, 10), st.floats(0.5, 12), st.floats(0, 1), st.integers(0, 200))
def test_the_value_of_coba_is_its_definition(alpha, tau, p, count):
    with mpmath.workdps(60):
        a, rate = mpmath.mpf(alpha), mpmath.mpf(p)
        density = rate ** (a - 1) * (1 - rate) ** (10 - a) / mpmath.beta(a, 11 - a)
        value = -mpmath.expm1(-count * rate * (1 - rate) / mpmath.mpf(tau)) * density
    assert coba_value(count, p, alpha, tau=tau) == pytest.approx(
        float(value), rel=1e-11, abs=1e-300
    )


def test_the_value_of_coba_is_0_where_all_rewards_are_alike():
    for alpha in (1.0, 5.5, 10.0):
        np.testing.assert_array_equal(coba_value(9, [0.0, 1.0], alpha), [0.0, 0.0])


def test_alpha_by_hand():
    """psi(.7) = .7, psi(.5) = .5, psi(0) = 1 / (1 + e^5); alpha = 1 + 9 psi."""
    assert coba_alpha([1.0]) == 10.0
    assert coba_alpha([0.6, 0.8]) == pytest.approx(7.3, rel=1e-15)
    assert coba_alpha([0.5]) == 5.5 == pytest.approx(coba_alpha([0.5 + 1e-12]), rel=1e-11)
    assert coba_alpha([0.45]) == pytest.approx(1 + 9 / (1 + math.exp(0.5)), rel=1e-15)
    assert coba_alpha([0.0]) == pytest.approx(1 + 9 / (1 + math.exp(5)), rel=1e-15)
    assert coba_alpha([0.3], concentration=7.0, gamma=5.0) == pytest.approx(
        1 + 5 / (1 + math.e), rel=1e-15
    )


@given(st.floats(0, 1), st.floats(0, 1))
def test_alpha_rises_with_the_failure_rate(one, two):
    low, high = sorted((one, two))
    assert 1.0 <= coba_alpha([low]) <= coba_alpha([high]) <= 10.0


def test_tau_by_hand():
    """Var(0, 1) = 1/4, cut at .1667; Var(.4, .6) = .01, of the population."""
    assert coba_tau([0.5, 0.5]) == 3.0 and coba_tau([0.0, 1.0]) == 12.0
    assert coba_tau([0.4, 0.6]) == pytest.approx(3 + 9 * 0.01 / 0.1667, rel=1e-12)


def test_coba_takes_tau_from_its_prompts_unless_it_is_given():
    p, bounds = [0.3, 0.5, 0.7], {"low": 2, "high": 99}
    counts = list(coba(p, 60, 5.5, **bounds))
    assert counts == list(coba(p, 60, 5.5, tau=coba_tau(p), **bounds))
    assert counts != list(coba(p, 60, 5.5, tau=30.0, **bounds))


def test_pass_rates_of_seen_and_unseen_prompts():
    np.testing.assert_array_equal(pass_rates([0, 3, 0, 4], [0, 4, 5, 4]), [0.5, 0.75, 0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: uniform(4, 3), ValueError, "4 prompts with 1 to 3 rollouts .* total is 3"),
        (lambda: uniform(0, 3), ValueError, "n must be at least 1, got 0"),
        (lambda: uniform(2.0, 3), TypeError, "n must be a whole number, got 2.0"),  # type: ignore[arg-type]
        (lambda: vip([0.5] * 4, 7, 2, 9), ValueError, "between 8 and 36 rollouts, but total is 7"),
        (lambda: vip([0.5] * 4, 37, 2, 9), ValueError, "between 8 and 36 .* total is 37"),
        (lambda: vip([0.5], 4, 1, 9), ValueError, "low must be at least 2, got 1"),
        (lambda: vip([0.5], 4, 4, 3), ValueError, "high must be at least 4, got 3"),
        (lambda: vip([0.5], 4, 2, 9, "dr_grpo"), ValueError, "low must be at least 3 .* convex"),
        (lambda: vip([0.5], 4, 2, 9, "grpo"), ValueError, "'rloo' or 'dr_grpo', got 'grpo'"),  # type: ignore[arg-type]
        (lambda: vip([0.5, math.nan], 4, 2, 9), ValueError, "p holds nan at index 1"),
        (lambda: vip([0.5, 1.5], 4, 2, 9), ValueError, r"p holds 1.5 at index 1; .* \[0, 1\]"),
        (lambda: vip([], 4, 2, 9), ValueError, r"p must have shape \(n,\) with n >= 1"),
        (lambda: vip([[0.5]], 4, 2, 9), ValueError, r"p must have shape \(n,\)"),
        (lambda: vip(["a"], 4, 2, 9), TypeError, "p must hold real numbers"),
        (lambda: vip([0.5], True, 2, 9), TypeError, "total must be a whole number, got True"),
        (lambda: coba([0.5], 4, 0.5), ValueError, r"alpha must lie in \[1, 10\], got 0.5"),
        (lambda: coba([0.5], 4, math.nan), ValueError, "alpha holds NaN"),
        (
            lambda: coba([0.5], 4, 2.0, 1.0),
            ValueError,
            r"concentration must lie in \[2, inf\), got 1.0",
        ),
        (lambda: coba([0.5], 4, 2.0, tau=0.0), ValueError, r"tau must lie in \(0, inf\)"),
        (lambda: coba([0.5], 4, 2.0, low=0), ValueError, "low must be at least 1, got 0"),
        (lambda: coba([0.5], 1, 2.0), ValueError, "between 2 and 128 rollouts, but total is 1"),
        (lambda: coba([math.inf], 4, 2.0), ValueError, "p holds inf at index 0"),
        (lambda: coba_alpha([]), ValueError, r"failure must have shape \(n,\) with n >= 1"),
        (lambda: coba_alpha([1.1]), ValueError, "failure holds 1.1"),
        (lambda: coba_alpha([0.1], gamma=-1.0), ValueError, r"gamma must lie in \(0, inf\)"),
        (lambda: rloo_variance(0.5, 1), ValueError, r"count holds 1; .* \[2, inf\]"),
        (lambda: dr_grpo_variance(0.5, 0), ValueError, r"count holds 0; .* \[1, inf\]"),
        (lambda: rloo_variance(0.5, 2, -1.0), ValueError, "score_variance must lie in"),
        (lambda: coba_value(-1, 0.5, 2.0), ValueError, "count holds -1"),
        (lambda: pass_rates([3], [2]), ValueError, "prompt 0 has 3 successes in 2 rollouts"),
        (lambda: pass_rates([1, 2], [2]), ValueError, r"shape \(2,\) but rollouts has shape \(1,"),
        (lambda: pass_rates([-1], [2]), ValueError, "successes holds -1"),
        (lambda: pass_rates([0], [math.inf]), ValueError, "rollouts holds inf"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_every_public_function_documents_result_errors_and_source():
    for name, function in vars(allocation).items():
        if not name.startswith("_") and getattr(function, "__module__", "") == allocation.__name__:
            for section in ("Args:\n", "Returns:\n", "Raises:\n", "Source:"):
                assert section in function.__doc__, f"{name}: {section}"
