"""Selections and allocations against a sum over every group of paths and every coin."""

from __future__ import annotations

from functools import partial
from itertools import combinations, product

import numpy as np
import pytest

from sim.studies import group_estimators as study
from sim.worlds.trees import gradient, make_tree, random_world


@pytest.fixture(scope="module")
def prompts():
    """Two prompts of different difficulty with the same policies, 4 paths each."""
    world = random_world(make_tree(2, 2), 3, kl=0.3, staleness=0.2)
    return [study.other_reward(world, [5, i], share) for i, share in enumerate((0.25, 0.5))]


def path_gradients(world) -> tuple[np.ndarray, np.ndarray]:
    """Probability under q of every path, and min(p / q, 2) grad log p summed over its tokens."""
    tree, p, q = world.tree, np.exp(world.log_p), np.exp(world.log_q)
    chance, table = np.ones(len(tree.states)), np.zeros((len(tree.states), *p.shape))
    for i, (states, tokens) in enumerate(zip(tree.states, tree.tokens, strict=True)):
        for s, x in zip(states, tokens, strict=True):
            chance[i] *= q[s, x]
            table[i, s] += min(p[s, x] / q[s, x], 2.0) * (np.eye(p.shape[1])[x] - p[s])
    return chance, table


def rloo(rewards: list[float]) -> list[float]:
    n = len(rewards)
    return [r - (sum(rewards) - r) / (n - 1) for r in rewards]


def used(kind: str, rewards: list[float]):
    """(chance, coefficient of each path) of every outcome of a selection's coins."""
    n = len(rewards)
    if kind == "pruned":
        for coins in product((0, 1), repeat=n):
            yield 0.5**n, [2 * b * a / n for a, b in zip(rloo(rewards), coins, strict=True)]
        return
    subsets = [tuple(range(n))] if kind == "whole" else list(combinations(range(n), 2))
    if kind == "most varied":
        subsets = [max(subsets, key=lambda s: np.var([rewards[i] for i in s]))]
    if kind == "most rewarded":
        subsets = [max(subsets, key=lambda s: sum(rewards[i] for i in s))]
    for subset in subsets:
        own = rloo([rewards[i] for i in subset])
        c = [0.0] * n
        for i, a in zip(subset, own, strict=True):
            c[i] = a / len(subset)
        yield 1 / len(subsets), c


def brute(world, kind: str, n: int) -> tuple[np.ndarray, float]:
    chance, table = path_gradients(world)
    mean, second = np.zeros(table.shape[1:]), 0.0
    for group in product(range(len(chance)), repeat=n):
        of_group = np.prod(chance[list(group)])
        for of_coins, c in used(kind, [float(world.reward[i]) for i in group]):
            g = np.tensordot(c, table[list(group)], axes=1)
            mean += of_group * of_coins * g
            second += of_group * of_coins * np.sum(g**2)
    return mean, second - np.sum(mean**2)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("whole", study.whole_group),
        ("most varied", partial(study.most_varied, keep=2)),
        ("most rewarded", partial(study.most_rewarded, keep=2)),
        ("random", partial(study.random_subset, keep=2)),
        ("pruned", study.pruned),
    ],
)
def test_mean_and_variance_of_a_group_are_the_sums_over_all_groups(prompts, kind, rule):
    for world in prompts:
        mean, variance = study.group_moments(study.by_reward(world), rule, 3)
        mean_brute, variance_brute = brute(world, kind, 3)
        np.testing.assert_allclose(mean, mean_brute, rtol=0, atol=1e-14)
        assert variance == pytest.approx(variance_brute, rel=1e-12)


@pytest.mark.parametrize("est", study.ALLOCATIONS, ids=lambda e: e.name)
def test_an_allocation_adds_the_variances_of_its_prompts(prompts, est, monkeypatch):
    monkeypatch.setattr(study, "GROUP", 3)
    paths = [study.by_reward(w) for w in prompts]
    rates = np.array([path_gradients(w)[0] @ w.reward for w in prompts])
    np.testing.assert_allclose(study.pass_rates(paths), rates, rtol=1e-14)
    counts = study.counts_of(est.kind, rates)
    assert counts.sum() == 6
    parts = [brute(w, "whole", int(n)) for w, n in zip(prompts, counts, strict=True)]
    weight = [1 / 2, 1 / 2] if est.prompt_weight == "equal" else counts / 6
    keep = np.ones(2)
    if est.kind == "prompt pruning":
        keep[np.argmin(rates * (1 - rates))] = 0.5
    got = study.allocation_moments(paths, est)
    # E[(b / keep)^2 |g|^2] - |E g|^2 for a coin b of the prompt
    seconds = [v + np.sum(m**2) for m, v in parts]
    variance = sum(
        w**2 * (s / k - np.sum(m**2))
        for w, s, k, (m, _) in zip(weight, seconds, keep, parts, strict=True)
    )
    mean = np.stack([w * m for w, (m, _) in zip(weight, parts, strict=True)])
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-14)
    assert got.variance == pytest.approx(variance * (keep @ counts), rel=1e-12)


def test_counts_are_the_best_of_all_that_share_out_the_rollouts(monkeypatch):
    """VIP: least sum of p (1 - p) / (n - 1). CoBA: largest value with the alpha of its paper."""
    monkeypatch.setattr(study, "GROUP", 4)
    rates = np.array([0.02, 0.5, 0.6])
    shares = [n for n in product(range(2, 13), repeat=3) if sum(n) == 12]
    vip = min(shares, key=lambda n: sum(rates * (1 - rates) / (np.array(n) - 1)))
    assert tuple(study.counts_of("vip", rates)) == vip
    failure = 1 - rates.mean()  # above 1/2, so that psi(F) = F
    alpha, tau = 1 + 9 * failure, 3 + 9 * min(rates.var() / 0.1667, 1)
    beta = 11 - alpha
    value = rates ** (alpha - 1) * (1 - rates) ** (beta - 1)
    coba = max(
        shares, key=lambda n: sum(value * (1 - np.exp(-np.array(n) * rates * (1 - rates) / tau)))
    )
    assert tuple(study.counts_of("coba", rates)) == coba
    assert tuple(study.counts_of("uniform", rates)) == (4, 4, 4)


def test_what_selections_and_allocations_do_to_direction_and_noise():
    """Pruning and chance change no mean, PODS its length alone; VIP has less noise than uniform."""
    world = random_world(make_tree(3, 3), 1, kl=0.1, staleness=0.2)
    of = {e.name: study.selection_moments(study.by_reward(world), e) for e in study.SELECTIONS}
    whole, pods = of["groups of 8"], of["PODS, 4 of 8"]
    for name in ("random 4 of 8", "pruning, 4 of 8"):
        np.testing.assert_allclose(of[name].mean, whole.mean, rtol=0, atol=1e-14)
        assert of[name].variance > whole.variance
    assert pods.cosine(whole.mean) == pytest.approx(1.0, abs=1e-12)
    assert pods.bias(whole.mean) > 0.1 and pods.noise < of["random 4 of 8"].noise
    prompts = study.prompts_of(world, 1)
    paths = [study.by_reward(w) for w in prompts]
    of = {e.name: study.allocation_moments(paths, e) for e in study.ALLOCATIONS}
    for name in ("vip, equal prompts", "coba, equal prompts", "pruning of prompts"):
        np.testing.assert_allclose(of[name].mean, of["uniform"].mean, rtol=0, atol=1e-14)
    assert of["vip, equal prompts"].variance < of["uniform"].variance
    assert of["vip, equal rollouts"].cosine(of["uniform"].mean) < 1 - 1e-3
    true = np.stack([gradient(w, w.log_p, w.log_p) for w in prompts]) / len(prompts)
    np.testing.assert_array_equal(study.true_gradient(prompts), true)


def test_an_actor_without_a_right_path_cannot_be_compared(prompts):
    world = study.other_reward(prompts[0], [1], 0.5)
    object.__setattr__(world, "reward", np.zeros(4))
    with pytest.raises(ValueError, match="every path of the actor has the same reward"):
        study.by_reward(world)
