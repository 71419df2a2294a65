"""Which completions of a step are kept after their rewards are known, and what the kept ones weigh.

Decided on the host, on numpy arrays of shape (n,); no torch. Advantages come from the whole group
before `horvitz_thompson`, and from the kept completions alone after `pods`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .arrays import parameter, vector, whole

_EQUAL = 1e-12  # variances that differ by less, relatively, differ by rounding only


def pods(
    rewards: ArrayLike,
    keep: int,
    rule: Literal["max_variance", "max_reward", "random"] = "max_variance",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Which `keep` of a prompt's n completions the update uses: PODS (down-sampling of rollouts).

    max_variance: the subset of the largest reward variance. It consists of some of the lowest and
    some of the highest rewards, so one sort and keep + 1 subsets find it, in O(n log n).
    max_reward: the highest rewards. random: a uniformly random subset.

    Ties (ours; the paper has none): of subsets with equal variance the one with the most even
    numbers from both ends, then the one with more from the top. Of equal rewards the first
    completion counts as the lowest. **The kept subset gives a biased gradient** under max_variance
    and max_reward, except in direction for rewards of two values (docs/theory_related.md, 4); the
    paper has no correction.

    Args:
        rewards: of one prompt's completions, shape (n,).
        keep: how many are kept, from 1 to n.
        rule: "max_variance", "max_reward" or "random".
        rng: for "random", and only there.

    Returns:
        Indices into `rewards`, ascending, int64, shape (keep,).

    Raises:
        TypeError: rewards are not numbers, keep is not a whole number, or rng is missing.
        ValueError: NaN or inf, keep out of range, an unknown rule, or an rng that would not be
            used.

    Source: PODS (arXiv 2504.13818), max-variance down-sampling.
    """
    r = vector("rewards", rewards)
    n, m = len(r), whole("keep", keep, 1)
    if m > n:
        raise ValueError(f"keep is {m}, but the prompt has {n} completions; lower keep")
    if rule not in ("max_variance", "max_reward", "random"):
        raise ValueError(f"rule must be 'max_variance', 'max_reward' or 'random', got {rule!r}")
    if rule == "random":
        return np.sort(_generator(rng).permutation(n)[:m]).astype(np.int64)
    if rng is not None:
        raise ValueError(f"rule {rule!r} draws nothing, so it takes no rng")
    order = np.argsort(r, kind="stable")  # (n,), from the lowest reward to the highest
    top = m if rule == "max_reward" else _most_varied(r[order], m)
    return np.sort(np.concatenate([order[: m - top], order[n - top :]]))


def horvitz_thompson(
    score: ArrayLike, rate: float, candidate_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased pruning: which units are kept, and their weights 1 / (1 - P).

    The floor(candidate_fraction n) units of the lowest scores are candidates (among equal scores
    chance decides). Each candidate is dropped with probability P = rate, independently; every other
    unit is kept (P = 0). For any numbers g that do not depend on the coins, sum(weight g) / n, with
    **the original n**, has the mean sum(g) / n. Divided by the number of kept units it is biased.

    Units are prompts or completions. Pruned at both levels, a completion's weights multiply, and n
    is what was there before any pruning. Scores and advantages must be of the full group.

    Args:
        score: what a unit seems worth, the smaller the less, finite, shape (n,). For completions
            |advantage|, for prompts its mean at earlier visits.
        rate: probability to drop a candidate, in [0, 1). 0 keeps all.
        candidate_fraction: share of the units that may be dropped, in [0, 1].
        rng: draws the coins.

    Returns:
        keep, bool, shape (n,); weight, float64, shape (n,): 1 / (1 - P) where kept, else 0.

    Raises:
        TypeError: score does not hold numbers, or rng is no generator.
        ValueError: NaN or inf, a parameter out of range, no units.

    Source: Dynamic Pruning Policy Optimization (arXiv 2603.04135) as its abstract describes it, and
    Horvitz and Thompson (1952). Not a reproduction of its numbers: docs/theory_related.md, 5.
    """
    s = vector("score", score)
    rate = parameter(np, "rate", rate, (), 0.0, 1.0, low_open=False, high_open=True)
    fraction = parameter(np, "candidate_fraction", candidate_fraction, (), 0.0, 1.0, low_open=False)
    rng = _generator(rng)
    n = len(s)
    # chance orders equal scores, so that no position in the batch is dropped more often
    number = int(fraction * n + 1e-9)  # 0.29 * 100 is 28.999999999999996
    lowest = np.lexsort((rng.random(n), s))[:number]
    dropped = np.zeros(n)  # P of each unit, fixed before its coin
    dropped[lowest] = rate
    keep = rng.random(n) >= dropped
    return keep, np.where(keep, 1.0 / (1.0 - dropped), 0.0)


def _most_varied(rising: np.ndarray, m: int) -> int:
    """How many of the m kept come from the top, where their variance is largest."""
    n = len(rising)
    # A common shift and scale change no choice; without them squares could overflow or cancel.
    x = rising / 2 - rising[n // 2] / 2
    x = x / max(np.abs(x).max(), np.finfo(float).tiny)  # alike rewards: 0 / tiny = 0
    top = np.arange(m + 1)
    first, second = (np.concatenate([[0.0], np.cumsum(y)]) for y in (x, x**2))
    # the lowest m - top and the highest top
    s1 = first[m - top] + (first[n] - first[n - top])
    s2 = second[m - top] + (second[n] - second[n - top])
    spread = m * s2 - s1**2  # m^2 times the variance, shape (m + 1,)
    best = np.flatnonzero(spread >= spread.max() - _EQUAL * m * s2.max())
    return int(max(best, key=lambda i: (-abs(2 * i - m), i)))


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, got {type(rng).__name__}; "
            "make one with numpy.random.default_rng(seed)"
        )
    return rng
