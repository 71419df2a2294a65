"""What OBRS is best at: choosing which sampled tokens to pay for.

Keep a sampled token with probability a and weight it r / a (Horvitz and Thompson): the estimate is
unbiased for every a > 0, and what a costs is its second moment E_q[r^2 f^2 / a]. See
docs/theory_estimators.md, C5.

A population of tokens is given by flat arrays of one length: `mass` (probabilities that sum to 1),
`ratio` r = p / q and `size` |f|, the length of the token's gradient.
"""

from __future__ import annotations

import math

import numpy as np

import jackpot
from sim.worlds.trees import Array


def cost_optimal_lam(mass: Array, ratio: Array, cost_ratio: float) -> float:
    """The lam with the least variance for the money, (c_g / c_b + Z) E_p max(lam, r).

    In the stationary point lam^2 (c_g / c_b + Z) = E_p max(lam, r) the tokens with r <= lam cancel,
    which leaves lam^2 = E_q[r^2; r > lam] / (c_g / c_b + Q(r > lam)). One sort finds it.

    Args:
        mass, ratio: the population; f is taken to have one size.
        cost_ratio: c_g / c_b >= 0, the cost of proposing a token (generation) over the cost of an
            accepted one (the update).

    Returns:
        lam > 0; max r for cost_ratio 0 (plain rejection sampling).

    Raises:
        ValueError: cost_ratio negative or not finite, or no token with p > 0.
    """
    if not 0 <= cost_ratio < math.inf:
        raise ValueError(f"cost_ratio must be a finite number >= 0, got {cost_ratio}")
    if not np.any((mass > 0) & (ratio > 0)):
        raise ValueError("no token of this population has both p and q above 0: nothing to accept")
    order = np.argsort(-ratio[mass > 0])
    q, r = mass[mass > 0][order], ratio[mass > 0][order]
    lam = np.sqrt(np.cumsum(q * r**2) / (cost_ratio + np.cumsum(q)))
    following = np.append(r[1:], 0.0)
    return float(lam[np.argmax(lam >= following)])


def accepted_share(mass: Array, ratio: Array, lam: float) -> float:
    """Z = E_q min(1, r / lam)."""
    return float(mass @ np.minimum(1.0, ratio / lam))


def price(mass: Array, ratio: Array, lam: float, cost_ratio: float) -> float:
    """(c_g / c_b + Z) E_p max(lam, r): cost per proposal times second moment, in units of c_b."""
    second = float((mass * ratio) @ np.maximum(ratio, lam))
    return (cost_ratio + accepted_share(mass, ratio, lam)) * second


def magnitude_rule(mass: Array, ratio: Array, size: Array, budget: float) -> Array:
    """Acceptance min(1, r |f| / lam) with mean `budget`; tokens that carry no gradient get 0.

    It is OBRS with p |f| (normalised) in the place of p; with equal sizes it is OBRS.

    Raises:
        ValueError: from `jackpot.lam_for_budget`, if fewer than `budget` of the tokens carry any.
    """
    with np.errstate(divide="ignore"):
        log_q = np.log(mass)
        log_p = log_q + np.log(ratio * size)
    log_p = log_p - math.log(float(mass @ (ratio * size)))
    lam = float(jackpot.lam_for_budget(log_p, log_q, budget))
    return jackpot.accept_prob(log_p, log_q, lam)


def random_rule(mass: Array, budget: float, rng: np.random.Generator) -> Array:
    """A random acceptance rule with mean `budget`: min(1, c u^k), u uniform and k random."""
    shape = rng.random(mass.size) ** rng.exponential(2.0)
    low, high = 0.0, 1.0
    while mass @ np.minimum(1.0, high * shape) < budget:
        high *= 2
    for _ in range(60):
        mid = (low + high) / 2
        low, high = (mid, high) if mass @ np.minimum(1.0, mid * shape) < budget else (low, mid)
    return np.minimum(1.0, high * shape)


def second_moment(mass: Array, ratio: Array, size: Array, accept: Array) -> float:
    """E_q[r^2 f^2 / a]; inf if a token that carries gradient is never accepted."""
    carried = mass * (ratio * size) ** 2
    use = carried > 0
    if np.any(accept[use] == 0):
        return math.inf
    return float(np.sum(carried[use] / accept[use]))
