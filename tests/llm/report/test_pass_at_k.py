"""mean@k, pass@k and their intervals, against enumeration and simulation."""

from itertools import combinations

import numpy as np
import pytest

from llm.report import pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    """1 - C(n - c, k) / C(n, k), against all subsets of size k."""
    for c in range(n + 1):
        samples = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            share = sum(any(s) for s in subsets) / len(subsets)
            assert pass_at_k.pass_at_k(np.array([c]), n, k)[0] == pytest.approx(share, abs=1e-12)


def test_pass_at_k_is_unbiased():
    """Its exact expectation over Binomial(n, p) is 1 - (1 - p)^k; the plug-in estimate's is not."""
    n, k, p = 6, 3, 0.3
    from math import comb

    distribution = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    counts = np.arange(n + 1)
    assert distribution @ pass_at_k.pass_at_k(counts, n, k) == pytest.approx(
        1 - (1 - p) ** k, abs=1e-12
    )
    assert distribution @ (1 - (1 - counts / n) ** k) < 1 - (1 - p) ** k - 0.02


def test_pass_at_k_survives_numbers_whose_binomials_overflow():
    """n = 5000: C(n, k) exceeds float64. pass@1 is c / n, pass@n is 1 from one right sample on."""
    c = np.array([0, 1, 2500, 5000])
    assert pass_at_k.pass_at_k(c, 5000, 1) == pytest.approx(c / 5000, abs=1e-12)
    assert pass_at_k.pass_at_k(c, 5000, 5000).tolist() == [0, 1, 1, 1]
    assert np.isfinite(pass_at_k.pass_at_k(c, 5000, 2500)).all()


def test_k_beyond_the_samples_is_refused():
    with pytest.raises(ValueError, match="between 1 and the 4 samples"):
        pass_at_k.pass_at_k(np.array([1]), 4, 5)


def test_the_ks_are_powers_of_two_and_all_samples():
    assert [pass_at_k.ks(n) for n in (1, 4, 6)] == [[1], [1, 2, 4], [1, 2, 4, 6]]


def test_bootstrap_intervals_cover_the_truth_as_often_as_they_say():
    """300 simulated evaluations, each prompt with its own chance: 95 % intervals of pass@1 and
    pass@4 cover the truth within three standard errors (3.8 %) of 95 %."""
    rng = np.random.default_rng(5)
    prompts, n, trials, alpha, beta = 80, 8, 300, 0.3, 0.9
    truth = {1: alpha / (alpha + beta)}
    grid = rng.beta(alpha, beta, 2_000_000)
    truth[4] = float((1 - (1 - grid) ** 4).mean())  # to 0.0003
    hits = dict.fromkeys(truth, 0)
    for trial in range(trials):
        chance = rng.beta(alpha, beta, prompts)[:, None]
        found = pass_at_k.summary(rng.random((prompts, n)) < chance, seed=trial)["pass_at_k"]
        for entry in found:
            if entry["k"] in truth:
                hits[entry["k"]] += entry["low"] <= truth[entry["k"]] <= entry["high"]
    for k, hit in hits.items():
        assert 0.912 <= hit / trials <= 0.988, f"pass@{k}: {hit} of {trials}"


def test_samples_of_one_prompt_are_not_counted_as_independent():
    """Prompts that are always or never right: 8 samples each say no more than one."""
    correct = np.repeat(np.arange(60) % 2 == 0, 8).reshape(60, 8)
    found = pass_at_k.summary(correct, seed=0)
    wide = found["mean_at_1"]["high"] - found["mean_at_1"]["low"]
    assert found["mean_at_k"]["high"] - found["mean_at_k"]["low"] == pytest.approx(wide, rel=0.12)


def test_wilson_covers_and_never_leaves_the_unit_interval():
    """Exact coverage over Binomial(40, p), averaged over p, is within 1 % of 95 %."""
    from math import comb

    n, grid = 40, np.linspace(0.02, 0.98, 97)
    bounds = [pass_at_k.wilson(c / n, n) for c in range(n + 1)]
    assert all(0 <= low <= c / n <= high <= 1 for c, (low, high) in enumerate(bounds))
    covered = [
        sum(
            comb(n, c) * p**c * (1 - p) ** (n - c)
            for c, (low, high) in enumerate(bounds)
            if low <= p <= high
        )
        for p in grid
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("value", [False, True])
def test_an_interval_is_no_point_where_all_prompts_agree(value):
    """The bootstrap has no spread there, and ignorance remains."""
    found = pass_at_k.summary(np.full((20, 4), value), seed=0)
    for entry in (found["mean_at_k"], *found["pass_at_k"]):
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert entry["high"] - entry["low"] > 0.1


def test_the_same_seed_gives_the_same_intervals():
    correct = np.random.default_rng(0).random((30, 4)) < 0.4
    assert pass_at_k.summary(correct, 3) == pass_at_k.summary(correct, 3)
    assert pass_at_k.summary(correct, 3) != pass_at_k.summary(correct, 4)
