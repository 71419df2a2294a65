"""Selections and allocations on trees: exact mean, noise and error of what a group of paths gives.

A group is the n paths that the actor samples for one prompt. The advantages are RLOO's, within the
group, and every token has TIS's weight. Rewards are 0 and 1, and paths of one reward are alike. So
a group is k right and n - k wrong paths, with k binomial, and a selection is known by the sums of
its coefficients over the right and over the wrong ones.

An allocation shares out rollouts among prompts. Each prompt has parameters of its own, so gradients
of several prompts stand beside each other, and the squares of their lengths add.

Shapes: s states, v tokens, n paths of a tree, h positions. Gradients are tables (s, v) of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binom, hypergeom

from jackpot import allocation, selection
from sim.worlds.trees import Array, World, gradient, other_reward, path_prob

from .gradient_estimators import Estimator, Moments, average_moments, terms

GROUP = 8  # paths of a prompt, with the uniform allocation
KEEP = 4  # paths of a group that a selection keeps, in the mean if by chance
DROP = 0.5  # pruning's probability to drop a candidate
SHARES = (0.05, 0.25, 0.5, 0.9)  # of the paths of each prompt that earn 1: the prompts' difficulty
_TIS = Estimator("", "tis", cap=2.0)


@dataclass(frozen=True)
class Sums:
    """Sums of a group's coefficients, averaged over its coins; index 0: wrong paths, 1: right ones.

    first: of c, (2,). squares: of c^2, (2,). products: of c c' over all pairs of two paths of each
    kind, a path with itself left out, (2, 2).
    """

    first: Array
    squares: Array
    products: Array


# Coefficients of a group with k right paths among n
Rule = Callable[[int, int], Sums]


@dataclass(frozen=True)
class GroupEstimator:
    """What is done with one group: `rule` gives the sums of its coefficients from k and n."""

    name: str
    rule: Rule


@dataclass(frozen=True)
class AllocationEstimator:
    """How GROUP x prompts rollouts are shared out, and what a prompt then counts."""

    name: str
    kind: Literal["uniform", "vip", "coba", "prompt pruning"]
    prompt_weight: Literal["equal", "rollouts"] = "equal"


def whole_group(k: int, n: int) -> Sums:
    """RLOO: A / n with A = r minus the mean of the others' rewards."""
    c, count = np.array([-k, n - k]) / (n - 1) / n, np.array([n - k, k])  # wrong, right
    pairs = np.outer(count, count) - np.diag(count)
    return Sums(c * count, c**2 * count, np.outer(c, c) * pairs)


def most_varied(k: int, n: int, keep: int = KEEP) -> Sums:
    """PODS: the subset of the largest reward variance, with advantages of its own."""
    return _kept_by("max_variance", k, n, keep)


def most_rewarded(k: int, n: int, keep: int = KEEP) -> Sums:
    """The subset of the largest rewards, with advantages of its own."""
    return _kept_by("max_reward", k, n, keep)


def _kept_by(rule: Literal["max_variance", "max_reward"], k: int, n: int, keep: int) -> Sums:
    rewards = np.array([0.0] * (n - k) + [1.0] * k)
    kept = selection.pods(rewards, keep, rule)
    return whole_group(int(rewards[kept].sum()), keep)


def random_subset(k: int, n: int, keep: int = KEEP) -> Sums:
    """`keep` of the n paths by chance, with advantages of their own."""
    right = np.arange(keep + 1)
    chance = hypergeom(n, k, keep).pmf(right)
    return _mixture(chance, [whole_group(int(i), keep) for i in right])


def pruned(k: int, n: int, drop: float = DROP) -> Sums:
    """Each path is dropped with probability `drop`, the others count 1 / (1 - drop) times; the
    advantages and the denominator are those of the whole group (Horvitz and Thompson)."""
    whole = whole_group(k, n)
    return Sums(whole.first, whole.squares / (1 - drop), whole.products)


SELECTIONS = (
    GroupEstimator("groups of 8", whole_group),
    GroupEstimator("PODS, 4 of 8", most_varied),
    GroupEstimator("best 4 of 8", most_rewarded),
    GroupEstimator("random 4 of 8", random_subset),
    GroupEstimator("pruning, 4 of 8", pruned),
)
ALLOCATIONS = (
    AllocationEstimator("uniform", "uniform"),
    AllocationEstimator("vip, equal prompts", "vip"),
    AllocationEstimator("vip, equal rollouts", "vip", "rollouts"),
    AllocationEstimator("coba, equal prompts", "coba"),
    AllocationEstimator("coba, equal rollouts", "coba", "rollouts"),
    AllocationEstimator("pruning of prompts", "prompt pruning"),
)


@dataclass(frozen=True)
class ByReward:
    """The actor's paths of a prompt by their reward; index 0: wrong paths, 1: right ones.

    share: their probabilities under q, (2,). means: of a path's gradient, (2, s, v). squares: of
    the gradient's squared length, in the mean, (2,).
    """

    share: Array
    means: Array
    squares: Array


def by_reward(world: World) -> ByReward:
    """Moments of grad log p times TIS's weight, summed over a path's tokens, given its reward.

    Raises:
        ValueError: every path of the actor has the same reward.
    """
    prob, corrected = path_prob(world.tree, world.log_q), terms(world, _TIS)
    share, means, squares = np.empty(2), [], np.empty(2)
    for r in (0, 1):
        member = world.reward == r
        share[r] = prob @ member
        if share[r] == 0:
            raise ValueError("every path of the actor has the same reward: groups teach nothing")
        own = average_moments(world, corrected, corrected.weight * member[:, None])
        means.append(own.mean / share[r])
        squares[r] = (own.variance + float(np.sum(own.mean**2))) / share[r]
    return ByReward(share, np.stack(means), squares)


def group_moments(paths: ByReward, rule: Rule, n: int) -> tuple[Array, float]:
    """Mean (s, v) of a group's gradient, and the trace of its covariance, from n paths of q."""
    right = np.arange(n + 1)
    chance = binom(n, paths.share[1] / paths.share.sum()).pmf(right)
    s = _mixture(chance, [rule(int(k), n) for k in right])
    mean = np.tensordot(s.first, paths.means, axes=1)
    inner = np.tensordot(paths.means, paths.means, axes=((1, 2), (1, 2)))  # (2, 2)
    second = float(s.squares @ paths.squares + np.sum(s.products * inner))
    return mean, second - float(np.sum(mean**2))


def selection_moments(paths: ByReward, est: GroupEstimator) -> Moments:
    """Moments of a selection, with the variance counted per path that is sampled."""
    mean, variance = group_moments(paths, est.rule, GROUP)
    return Moments(mean, variance * GROUP, np.zeros_like(mean), 1.0)


def prompts_of(world: World, seed: int) -> list[World]:
    """One prompt for each of SHARES: its policies are the world's, its reward is its own."""
    return [other_reward(world, [seed, i], share) for i, share in enumerate(SHARES)]


def pass_rates(prompts: list[ByReward]) -> Array:
    """The actor's, on which allocators go; here they are known exactly, (prompts,)."""
    return np.array([paths.share[1] / paths.share.sum() for paths in prompts])


def counts_of(kind: str, rates: Array) -> Array:
    """Rollouts of each prompt, from the allocators of `jackpot`, (prompts,)."""
    total = GROUP * len(rates)
    if kind == "vip":
        return allocation.vip(rates, total, 2, total)
    if kind == "coba":
        return allocation.coba(rates, total, allocation.coba_alpha([1 - float(rates.mean())]))
    return allocation.uniform(len(rates), total)


def allocation_moments(prompts: list[ByReward], est: AllocationEstimator) -> Moments:
    """Moments of an allocation, gradients (prompts, s, v); the variance is per sampled path.

    Pruning of prompts: the half with the least p (1 - p) are candidates, each dropped before it is
    sampled with probability DROP, else counting 1 / (1 - DROP) times.
    """
    rates = pass_rates(prompts)
    counts, j = counts_of(est.kind, rates), len(prompts)
    sampled, dropped = float(counts.sum()), np.zeros(j)
    if est.kind == "prompt pruning":
        dropped[np.argsort(rates * (1 - rates), kind="stable")[: j // 2]] = DROP
        sampled = float(((1 - dropped) * counts).sum())
    weight = np.full(j, 1 / j) if est.prompt_weight == "equal" else counts / counts.sum()
    means, variance = [], 0.0
    for paths, n, w, out in zip(prompts, counts, weight, dropped, strict=True):
        mean, own = group_moments(paths, whole_group, int(n))
        length = float(np.sum(mean**2))
        means.append(w * mean)
        variance += w**2 * ((own + length) / (1 - out) - length)
    mean = np.stack(means)
    return Moments(mean, variance * sampled, np.zeros_like(mean), 1.0)


def true_gradient(prompts: list[World]) -> Array:
    """Of the mean pass rate of the prompts under p, (prompts, s, v)."""
    return np.stack([gradient(w, w.log_p, w.log_p) for w in prompts]) / len(prompts)


def _mixture(chance: Array, parts: list[Sums]) -> Sums:
    """Sums averaged over cases of these probabilities."""

    def over(get: Callable[[Sums], Array]) -> Array:
        return np.tensordot(chance, np.stack([get(s) for s in parts]), axes=1)

    return Sums(over(lambda s: s.first), over(lambda s: s.squares), over(lambda s: s.products))
