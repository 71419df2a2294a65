"""How many rollouts each prompt of a step gets, decided before sampling from its pass rate.

Both allocators maximise a sum over prompts of concave functions of the prompt's number of rollouts,
under a fixed total and bounds per prompt. A greedy algorithm then finds the exact optimum: it gives
one rollout at a time to the prompt that gains most. numpy arrays of shape (n,), one entry for each
prompt; no torch.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .arrays import numbers, parameter, vector, whole

_TAU_LOW, _TAU_SPREAD, _VARIANCE_MAX = 3.0, 9.0, 0.1667  # CoBA-RL's code; 1/6 to four digits


def uniform(n: int, total: int) -> np.ndarray:
    """Counts that differ by at most one: the first `total % n` prompts get one more.

    Args:
        n: number of prompts, at least 1.
        total: rollouts of the step, at least `n`.

    Returns:
        Rollouts per prompt, int64, shape (n,), with sum `total`.

    Raises:
        TypeError: an argument is not a whole number.
        ValueError: n below 1, or total below n.

    Source: the usual choice; GRPO (arXiv 2402.03300) with a total that n need not divide.
    """
    n, total = whole("n", n, 1), whole("total", total, 1)
    _check_budget(n, total, 1, total)
    counts = np.full(n, total // n, dtype=np.int64)
    counts[: total % n] += 1
    return counts


def pass_rates(successes: ArrayLike, rollouts: ArrayLike) -> np.ndarray:
    """successes / rollouts of each prompt; 1/2 for a prompt that has had no rollout yet.

    Args:
        successes: right answers, pooled over the visits that count, shape (n,).
        rollouts: rollouts of the same visits, shape (n,).

    Returns:
        Pass rates in [0, 1], float64, shape (n,).

    Raises:
        TypeError: not numbers.
        ValueError: shapes differ, an array is empty, a value is negative or not finite, or a prompt
            has more successes than rollouts.

    Source: CoBA-RL's code, its budget allocators (window of visits, 1/2 if unseen).
    """
    right = vector("successes", successes, 0.0)
    tried = vector("rollouts", rollouts, 0.0)
    if right.shape != tried.shape:
        raise ValueError(f"successes has shape {right.shape} but rollouts has shape {tried.shape}")
    if np.any(right > tried):
        i = int(np.argmax(right > tried))
        raise ValueError(f"prompt {i} has {right[i]:g} successes in {tried[i]:g} rollouts")
    seen = tried > 0
    return np.where(seen, right / np.where(seen, tried, 1.0), 0.5)


def rloo_variance(p: ArrayLike, count: ArrayLike, score_variance: float = 1.0) -> np.ndarray:
    """Variance of a prompt's RLOO gradient: 4 s p (1 - p) / (n - 1).

    The gradient is the mean over n rollouts of advantage times score, for rewards of -1 and +1 (for
    rewards of 0 and 1 divide by 4). The score is one coordinate, or a projection, of the gradient
    of the completion's log-probability. Its variance is s; its mean is arbitrary, because the
    advantages of a group sum to 0. **The formula needs scores independent of rewards.** Then the
    true gradient, Cov(reward, score), is 0: this is the noise of a group without signal.

    Args:
        p: pass rates in [0, 1], any shape.
        count: rollouts of each prompt, at least 2, of a shape that broadcasts with `p`.
        score_variance: s >= 0.

    Returns:
        Variances, float64, the broadcast shape.

    Raises:
        ValueError: p outside [0, 1], a count below 2, score_variance negative, or NaN.

    Source: VIP (arXiv 2602.01601); docs/theory_related.md, 1.
    """
    s = _number("score_variance", score_variance, 0.0)
    return 4.0 * s * _spread(p) / (numbers("count", count, 2.0) - 1.0)


def dr_grpo_variance(p: ArrayLike, count: ArrayLike, score_variance: float = 1.0) -> np.ndarray:
    """Variance of a prompt's Dr. GRPO gradient: 4 s p (1 - p) (n - 1) / n^2.

    As `rloo_variance`, with the group's mean as the baseline. It is (1 - 1/n)^2 times that of RLOO,
    because the estimator is RLOO's times 1 - 1/n. So a small n is cheap here for a wrong reason:
    it shrinks the gradient itself (at n = 1 to 0).

    Args:
        p: pass rates in [0, 1], any shape.
        count: rollouts of each prompt, at least 1, of a shape that broadcasts with `p`.
        score_variance: s >= 0.

    Returns:
        Variances, float64, the broadcast shape.

    Raises:
        ValueError: p outside [0, 1], a count below 1, score_variance negative, or NaN.

    Source: VIP (arXiv 2602.01601); docs/theory_related.md, 1.
    """
    s = _number("score_variance", score_variance, 0.0)
    n = numbers("count", count, 1.0)
    return 4.0 * s * _spread(p) * (n - 1.0) / n**2


def vip(
    p: ArrayLike,
    total: int,
    low: int,
    high: int,
    estimator: Literal["rloo", "dr_grpo"] = "rloo",
) -> np.ndarray:
    """Rollouts per prompt that minimise the sum of the prompts' gradient variances.

    The exact integer optimum. Of prompts that gain equally, the one with fewer rollouts gets the
    next; of these the first. So equal pass rates, and pass rates of 0 and 1 alone, give `uniform`
    up to the order. The authors' code solves a relaxation and rounds it down, which misses the
    optimum of its own objective (docs/theory_related.md, 2); it also has terms that the paper
    lacks.

    Args:
        p: predicted pass rates in [0, 1], shape (n,).
        total: rollouts of the step, between n low and n high.
        low, high: fewest and most rollouts of one prompt. low is at least 2, and at least 3 for
            "dr_grpo": its variance is not convex in the count below.
        estimator: whose variance: "rloo" or "dr_grpo".

    Returns:
        Rollouts per prompt, int64, shape (n,), with sum `total`.

    Raises:
        TypeError: p does not hold numbers, or a count is not a whole number.
        ValueError: p outside [0, 1] or NaN, bounds or total out of range, an unknown estimator.

    Source: VIP (arXiv 2602.01601), its optimisation problem; docs/theory_related.md, 2.
    """
    if estimator not in ("rloo", "dr_grpo"):
        raise ValueError(f"estimator must be 'rloo' or 'dr_grpo', got {estimator!r}")
    if estimator == "dr_grpo" and whole("low", low, 0) < 3:
        raise ValueError(
            f"low must be at least 3 for estimator 'dr_grpo', got {low}: (n - 1) / n^2 is not "
            "convex below 3; raise low, or take estimator 'rloo'"
        )
    spread = 4.0 * _spread(vector("p", p))
    low, high = _bounds(len(spread), total, low, high, least=2)
    if estimator == "rloo":  # 1/(n-1) - 1/n
        saved = [1 / (n * (n - 1)) for n in range(low, high + 1)]
    else:  # (n-1)/n^2 - n/(n+1)^2
        saved = [(n * n - n - 1) / (n * (n + 1)) ** 2 for n in range(low, high + 1)]
    weight = spread.tolist()
    return _greedy(lambda i, n: weight[i] * saved[n - low], len(weight), total, low, high)


def coba(
    p: ArrayLike,
    total: int,
    alpha: float,
    concentration: float = 11.0,
    tau: float | None = None,
    low: int = 2,
    high: int = 128,
) -> np.ndarray:
    """Rollouts per prompt that maximise the sum of `coba_value`: CoBA-RL's allocation.

    The exact integer optimum, by the paper's greedy algorithm. Ties as in `vip`: the paper says
    nothing of them, and by the index alone the first prompts would take all that is left when every
    pass rate is 0 or 1. As in the paper and unlike the authors' code, prompts with p < .05 or
    p > .99 take part, and no share of the budget is set apart for exploration.

    Args:
        p: pass rates in [0, 1], shape (n,), from `pass_rates`.
        total: rollouts of the step, between n low and n high.
        alpha: from `coba_alpha`, in [1, concentration - 1]. A larger alpha favours easier prompts.
        concentration: alpha + beta of the Beta density, the paper's kappa, at least 2.
        tau: rollouts after which returns diminish, above 0; None: `coba_tau(p)`.
        low, high: fewest and most rollouts of one prompt; low at least 1.

    Returns:
        Rollouts per prompt, int64, shape (n,), with sum `total`.

    Raises:
        TypeError: p does not hold numbers, or a count is not a whole number.
        ValueError: p outside [0, 1] or NaN, a parameter, bound or total out of range.

    Source: CoBA-RL (arXiv 2602.03048v3), heap-based greedy allocation; defaults of its script;
    docs/theory_related.md, 3.
    """
    rate = vector("p", p, 0.0, 1.0)
    tau = coba_tau(rate) if tau is None else _positive("tau", tau)
    log_density = _log_beta_density(rate, alpha, concentration)
    low, high = _bounds(len(rate), total, low, high, least=1)
    # V(n + 1) - V(n) = density e^(-n x) (1 - e^-x) with x = p (1 - p) / tau; its logarithm, which
    # orders alike, does not underflow.
    x = rate * (1.0 - rate) / tau
    with np.errstate(divide="ignore"):  # no gain at p = 0 and 1: log 0 = -inf
        first = (log_density + np.log(-np.expm1(-x))).tolist()
    slope = x.tolist()
    return _greedy(lambda i, n: first[i] - n * slope[i], len(first), total, low, high)


def coba_value(
    count: ArrayLike, p: ArrayLike, alpha: float, concentration: float = 11.0, tau: float = 3.0
) -> np.ndarray:
    """CoBA-RL's V(B, p) = (1 - exp(-B p (1 - p) / tau)) Beta(p; alpha, concentration - alpha).

    0 at p = 0, p = 1 and B = 0; increasing and concave in B.

    Args:
        count: B >= 0, rollouts of each prompt, of a shape that broadcasts with `p`.
        p: pass rates in [0, 1], any shape.
        alpha, concentration, tau: as in `coba`.

    Returns:
        Values, dimensionless, float64, the broadcast shape.

    Raises:
        TypeError: not numbers.
        ValueError: a value out of range or not finite.

    Source: CoBA-RL (arXiv 2602.03048v3), its capability-oriented value function.
    """
    rate, b = numbers("p", p, 0.0, 1.0), numbers("count", count, 0.0)
    density = np.exp(_log_beta_density(rate, alpha, concentration))
    return -np.expm1(-b * rate * (1.0 - rate) / _positive("tau", tau)) * density


def coba_alpha(failure: ArrayLike, concentration: float = 11.0, gamma: float = 10.0) -> float:
    """This step's alpha: 1 + (concentration - 2) psi(F), F the mean failure rate of the last steps.

    psi(F) = F above 1/2, and the sigmoid 1 / (1 + exp(-gamma (F - 1/2))) up to there; both are 1/2
    at 1/2. So alpha rises from 1 + (concentration - 2) / (1 + exp(gamma / 2)) where all succeed to
    concentration - 1 where all fail. The paper's clip to [1, concentration - 1] never acts.

    Args:
        failure: 1 - mean pass rate of each step in the window, in [0, 1], shape (k,), k >= 1.
            Before the first step there is none: every prompt has p = 1/2 then, and `coba` is
            uniform whatever alpha is.
        concentration: alpha + beta, at least 2.
        gamma: steepness of the sigmoid, above 0.

    Returns:
        alpha, dimensionless, in [1, concentration - 1].

    Raises:
        TypeError: not numbers.
        ValueError: an empty window, a rate outside [0, 1] or NaN, a parameter out of range.

    Source: CoBA-RL (arXiv 2602.03048v3), Beta parameters from the failure rate; the constants of
    its code.
    """
    mean = float(np.mean(vector("failure", failure, 0.0, 1.0)))
    concentration = _concentration(concentration)
    if mean <= 0.5:
        mean = 1.0 / (1.0 + math.exp(_positive("gamma", gamma) * (0.5 - mean)))
    return 1.0 + (concentration - 2.0) * mean


def coba_tau(p: ArrayLike) -> float:
    """tau = 3 + 9 clip(Var(p) / .1667, 0, 1), with the population variance over the step's prompts.

    Args:
        p: pass rates in [0, 1], shape (n,).

    Returns:
        tau in [3, 12], in rollouts times p (1 - p).

    Raises:
        TypeError: not numbers.
        ValueError: p outside [0, 1] or NaN, or empty.

    Source: CoBA-RL's code, its budget allocators (the paper has a constant).
    """
    variance = float(np.var(vector("p", p, 0.0, 1.0)))
    return _TAU_LOW + _TAU_SPREAD * min(variance / _VARIANCE_MAX, 1.0)


def _greedy(
    gain: Callable[[int, int], float], n: int, total: int, low: int, high: int
) -> np.ndarray:
    """`low` each, then one rollout at a time to the largest gain(prompt, rollouts it has).

    Where gains do not grow with the rollouts, this maximises their sum. O(total log n).
    """
    counts = [low] * n
    heap = [(-gain(i, low), low, i) for i in range(n)] if low < high else []
    heapq.heapify(heap)
    for _ in range(total - low * n):
        _, count, i = heap[0]
        counts[i] = count + 1
        if count + 1 < high:
            heapq.heapreplace(heap, (-gain(i, count + 1), count + 1, i))
        else:
            heapq.heappop(heap)
    return np.array(counts, dtype=np.int64)


def _bounds(n: int, total: int, low: int, high: int, least: int) -> tuple[int, int]:
    """low, and high lowered to what one prompt can get at most; checked."""
    total, low = whole("total", total, 1), whole("low", low, least)
    high = whole("high", high, low)
    _check_budget(n, total, low, high)
    return low, min(high, total - (n - 1) * low)


def _check_budget(n: int, total: int, low: int, high: int) -> None:
    if not n * low <= total <= n * high:
        raise ValueError(
            f"{n} prompts with {low} to {high} rollouts each take between {n * low} and {n * high} "
            f"rollouts, but total is {total}; change total, the bounds or the number of prompts"
        )


def _spread(p: ArrayLike) -> np.ndarray:
    rate = numbers("p", p, 0.0, 1.0)
    return rate * (1.0 - rate)


def _log_beta_density(rate: np.ndarray, alpha: float, concentration: float) -> np.ndarray:
    """log of the Beta density at each pass rate; -inf where it is 0, at the ends."""
    concentration = _concentration(concentration)
    alpha = parameter(np, "alpha", alpha, (), 1.0, concentration - 1.0, low_open=False)
    beta = concentration - alpha
    log_norm = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(concentration)
    out = np.full(rate.shape, -log_norm)
    with np.errstate(divide="ignore"):
        if alpha > 1.0:  # 0 log 0 would be NaN
            out = out + (alpha - 1.0) * np.log(rate)
        if beta > 1.0:
            out = out + (beta - 1.0) * np.log1p(-rate)
    return out


def _concentration(concentration: float) -> float:
    return _number("concentration", concentration, 2.0)


def _positive(name: str, x: float) -> float:
    return _number(name, x, 0.0, low_open=True)


def _number(name: str, x: float, low: float, *, low_open: bool = False) -> float:
    return parameter(np, name, x, (), low, math.inf, low_open=low_open, high_open=True)
