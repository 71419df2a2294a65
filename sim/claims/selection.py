"""Claims on which completions are kept: PODS's subset and its bias, pruning and its rivals.

Subsets, groups and masks are enumerated in rational arithmetic; `jackpot.selection` is held to
them. Proofs: docs/theory_related.md, 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction as F
from itertools import combinations, product

import numpy as np

from jackpot import selection
from sim.oracle import rules

from .registry import FAILS, agree, at_most, claim, equal

Row = Sequence[F]
Subset = tuple[int, ...]


def spread(rewards: Row, kept: Sequence[int]) -> F:
    """m^2 times the variance of the kept rewards."""
    chosen = [rewards[i] for i in kept]
    return len(chosen) * sum((r**2 for r in chosen), F(0)) - sum(chosen, F(0)) ** 2


def best_subset(rewards: Row, m: int) -> Subset:
    """The first subset of m with the largest variance."""
    return max(combinations(range(len(rewards)), m), key=lambda kept: spread(rewards, kept))


@claim("PODS-subset", "PODS (2504.13818); docs/theory_related.md, 4")
def the_subset_of_largest_variance(draw):
    """jackpot.selection.pods keeps m different completions whose reward variance is exactly the
    largest over all subsets of m; no such subset (m >= 2) holds a reward between two that it leaves
    out; with rewards of two values and at least m/2 of each, it holds m/2 of each, up to 1/2."""
    n = int(draw.rng.integers(2, 8))
    two_valued = bool(draw.rng.integers(0, 2))
    steps = draw.rng.integers(0, 2 if two_valued else 9, n)
    rewards = draw.keep("rewards", tuple(F(int(x), 4) for x in steps))
    n = len(rewards)
    m = draw.keep("m", int(draw.rng.integers(1, n + 1)))
    kept = [int(i) for i in selection.pods([float(r) for r in rewards], m)]
    yield agree(len(set(kept)) == m and kept == sorted(kept), True)
    most = spread(rewards, best_subset(rewards, m))
    yield equal(spread(rewards, kept), most, kept=kept)
    for some in combinations(range(n), m):
        if m > 1 and spread(rewards, some) == most:
            out = [rewards[i] for i in range(n) if i not in some]
            between = [i for i in some if out and min(out) < rewards[i] < max(out)]
            yield agree(bool(between), False, subset=some)
    ones = sum(r > 0 for r in rewards)
    if two_valued and min(ones, n - ones) >= F(m, 2):
        yield at_most(abs(sum(rewards[i] > 0 for i in kept) - F(m, 2)), F(1, 2))


def softmax_scores(probs: Row) -> list[tuple[F, ...]]:
    """d log p(y) / d logits of every completion y: its unit vector minus the probabilities."""
    size = range(len(probs))
    return [tuple(F(i == y) - probs[i] for i in size) for y in size]


def true_gradient(probs: Row, rewards: Row) -> list[F]:
    """d E[reward] / d logits = p (reward - mean)."""
    mean = rules.mean(probs, rewards)
    return [p * (r - mean) for p, r in zip(probs, rewards, strict=True)]


def kept_gradient(probs: Row, rewards: Row, n: int, m: int) -> list[F]:
    """Mean over all groups of n of (1/m) sum over the kept of (reward - their mean) score."""
    scores, total = softmax_scores(probs), [F(0)] * len(probs)
    for group in product(range(len(probs)), repeat=n):
        chance = math.prod(probs[y] for y in group)
        kept = [group[i] for i in best_subset([rewards[y] for y in group], m)]
        mean = sum((rewards[y] for y in kept), F(0)) / m
        for i in range(len(probs)):
            part = sum(((rewards[y] - mean) * scores[y][i] for y in kept), F(0))
            total[i] += chance * part / m
    return total


def policy(draw, rewards: Row | None = None) -> tuple[Row, Row, int, int]:
    """Probabilities of 3 completions, their rewards, n completions per prompt, m kept."""
    weights = [int(x) for x in draw.rng.integers(1, 6, 3)]
    probs = draw.keep("probs", tuple(F(x, sum(weights)) for x in weights))
    rewards = draw.keep("rewards", rewards or draw.vector("rewards", 3, high=2))
    n = draw.keep("n", int(draw.rng.integers(3, 5)))
    return probs, rewards, n, draw.keep("m", int(draw.rng.integers(2, n)))


THREE_REWARDS = {"probs": (F(1, 3),) * 3, "rewards": (F(0), F(1), F(3)), "n": 4, "m": 2}


@claim("PODS-bias", "PODS (2504.13818); docs/theory_related.md, 4", FAILS, share=0.05,
       example=THREE_REWARDS)  # fmt: skip
def pods_keeps_the_direction(draw):
    """The mean gradient of the kept completions is a multiple of the true gradient."""
    probs, rewards, n, m = policy(draw)
    truth, kept = true_gradient(probs, rewards), kept_gradient(probs, rewards, n, m)
    for i, j in combinations(range(3), 2):
        yield equal(kept[i] * truth[j], kept[j] * truth[i])


@claim("PODS-two-values", "docs/theory_related.md, 4", share=0.1)
def pods_with_rewards_of_two_values(draw):
    """With rewards 0 and 1 and pass rate p in (0, 1), it is the true gradient times the mean of
    max_j j (m - j), j the kept successes, over m^2 p (1 - p), which depends on the prompt's p."""
    ones = int(draw.rng.integers(0, 2))
    probs, rewards, n, m = policy(draw, tuple(F(i <= ones) for i in range(3)))
    p, mean = rules.mean(probs, rewards), F(0)
    for k in range(n + 1):
        chance = math.comb(n, k) * p**k * (1 - p) ** (n - k)
        mean += chance * max(j * (m - j) for j in range(max(0, m - n + k), min(m, k) + 1))
    factor = mean / (m**2 * p * (1 - p))
    truth, kept = true_gradient(probs, rewards), kept_gradient(probs, rewards, n, m)
    for x, y in zip(truth, kept, strict=True):
        yield equal(y, factor * x)


def masks(dropped: Row) -> Iterator[tuple[F, tuple[bool, ...]]]:
    """Every pattern of kept units with its probability; `dropped` holds P of each unit."""
    for kept in product((True, False), repeat=len(dropped)):
        chance = math.prod(1 - p if k else p for k, p in zip(kept, dropped, strict=True))
        if chance:
            yield F(chance), kept


def kept_sum(values: Row, dropped: Row, kept: Sequence[bool]) -> F:
    """sum over the kept of g / (1 - P)."""
    rows = zip(values, dropped, kept, strict=True)
    return sum((g / (1 - p) for g, p, k in rows if k), F(0))


def pruning(draw) -> tuple[Row, Row, F]:
    """g of 2 to 5 units, P of each (the first ones are the candidates) and the rate."""
    n = int(draw.rng.integers(2, 6))
    values = draw.vector("g", n, low=-9)
    rate = draw.fraction("rate")
    candidates = draw.keep("candidates", int(draw.rng.integers(1, len(values))))
    return values, [rate if i < candidates else F(0) for i in range(len(values))], rate


@claim("HT-unbiased", "Dynamic Pruning (2603.04135); docs/theory_related.md, 5", share=0.4)
def pruning_by_coins_is_unbiased(draw):
    """Each unit is dropped with its own P < 1 and weighs 1/(1 - P) if kept: sum(weight g) / N has,
    over all 2^N masks, the mean of g and the variance sum g^2 P / (1 - P) / N^2; it is |kept| / N
    times the weighted mean over the kept; with coins for prompts too, whose weights multiply, it is
    unbiased as well. jackpot.selection.horvitz_thompson drops candidates only, and its weights are
    these."""
    values, dropped, rate = pruning(draw)
    n = len(values)
    mean = sum(values) / n
    first = second = nested = F(0)
    for chance, kept in masks(dropped):
        estimate = kept_sum(values, dropped, kept) / n
        first += chance * estimate
        second += chance * estimate**2
        if any(kept):
            over_kept = kept_sum(values, dropped, kept) / sum(kept)
            yield equal(F(sum(kept), n) * over_kept, estimate)
        for chance_prompt, (prompt,) in masks([rate / 2]):  # one coin for the whole prompt
            nested += chance * chance_prompt * prompt * estimate / (1 - rate / 2)
    yield equal(first, mean)
    yield equal(nested, mean)
    noise = sum(g**2 * p / (1 - p) for g, p in zip(values, dropped, strict=True)) / n**2
    yield equal(second - first**2, noise)
    yield from the_core_prunes_as_defined(draw, values, dropped, rate)


def the_core_prunes_as_defined(draw, values: Row, dropped: Row, rate: F):
    """Scores rise with the index, so the candidates of the claim are the core's."""
    n, candidates = len(values), sum(p > 0 for p in dropped)
    rng = np.random.default_rng(int(draw.rng.integers(2**32)))
    scores = np.arange(n)
    keep, weight = selection.horvitz_thompson(scores, float(rate), candidates / n, rng)
    for i in range(n):
        yield agree(bool(keep[i]) or i < candidates, True)
        expected = 1.0 / (1.0 - float(rate)) if i < candidates else 1.0
        yield equal(weight[i], expected if keep[i] else 0.0)


MEAN_OVER_KEPT = {"g": (F(1), F(1)), "rate": F(1, 2), "candidates": 1}


@claim("HT-mean-over-kept", "Dynamic Pruning (2603.04135); docs/theory_related.md, 5", FAILS,
       share=0.2, example=MEAN_OVER_KEPT)  # fmt: skip
def the_mean_over_the_kept_is_unbiased(draw):
    """Where one unit at least has P = 0, the mean over the kept units of g / (1 - P) has the mean
    of g."""
    values, dropped, _ = pruning(draw)
    mean = sum(
        (chance * kept_sum(values, dropped, kept) / sum(kept) for chance, kept in masks(dropped)),
        F(0),
    )
    yield equal(mean, sum(values) / len(values))


@claim("HT-floor", "Dynamic Pruning (2603.04135); docs/theory_related.md, 5", FAILS, share=0.2,
       example={"g": (F(1), F(2)), "rate": F(1, 2)})  # fmt: skip
def removing_a_fixed_share_is_unbiased(draw):
    """Removing the floor(rate N) units of the lowest score for certain and weighing the others
    1/(1 - rate) gives the mean of g."""
    values, _, rate = pruning(draw)
    n = len(values)
    survivors = values[math.floor(rate * n) :]  # scores rise with the index
    yield equal(sum(survivors) / (1 - rate) / n, sum(values) / n)
