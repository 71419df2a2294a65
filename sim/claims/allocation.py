"""Claims on how many rollouts each prompt gets: VIP's variances and optimum, CoBA-RL's value.

Variances come from enumerating all groups, optima from enumerating all allocations, in rational
arithmetic or, for CoBA-RL's exponentials, in intervals. `jackpot.allocation` is held to them.
Proofs: docs/theory_related.md, 1 to 3.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction as F
from functools import partial

from mpmath import iv, mp, mpf

from jackpot import allocation
from sim.oracle import intervals, rules

from .registry import (
    FAILS,
    Check,
    agree,
    at_most,
    below,
    certainly_at_most,
    claim,
    close,
    equal,
    to_40_digits,
)

CONCENTRATION = 11
Counts = tuple[int, ...]
Joint = dict[tuple[F, F], F]  # (reward, score): probability


def compositions(total: int, low: Counts, high: Counts) -> Iterator[Counts]:
    """Every tuple of whole numbers within the bounds that has this sum."""
    if not low:
        if total == 0:
            yield ()
        return
    for first in range(low[0], min(high[0], total) + 1):
        for rest in compositions(total - first, low[1:], high[1:]):
            yield first, *rest


def groups(joint: Joint, n: int) -> Iterator[tuple[F, list[tuple[int, F, F]]]]:
    """Every group of n rollouts up to their order: its probability, and (how many, r, z)."""
    kinds = len(joint)
    for counts in compositions(n, (0,) * kinds, (n,) * kinds):
        chance = F(math.factorial(n), math.prod(map(math.factorial, counts)))
        for count, p in zip(counts, joint.values(), strict=True):
            chance *= p**count
        if chance:
            yield chance, [(k, r, z) for k, (r, z) in zip(counts, joint, strict=True) if k]


def group_moments(joint: Joint, n: int, leave_one_out: bool) -> tuple[F, F]:
    """Mean and variance of (1/n) sum advantage score over all groups of n."""
    first = second = F(0)
    for chance, rows in groups(joint, n):
        total = sum((k * r for k, r, _ in rows), F(0))
        value = F(0)
        for k, r, z in rows:
            baseline = (total - r) / (n - 1) if leave_one_out else total / n
            value += k * (r - baseline) * z / n
        first += chance * value
        second += chance * value**2
    return first, second - first**2


def two_point(draw) -> tuple[F, F, F, F]:
    """p, and a score: z1 with probability s, else z2."""
    p = draw.keep("p", F(int(draw.rng.integers(0, 13)), 12))
    z = draw.vector("z", 2, low=-9)
    return p, draw.fraction("s"), *z


def score_variance(joint: Joint) -> F:
    scores, chances = [z for _, z in joint], list(joint.values())
    mean = rules.mean(chances, scores)
    return rules.mean(chances, scores, scores) - mean**2


def variance_of(estimator: str, n: int) -> F:
    """The paper's factor of 4 s p (1 - p)."""
    return F(1, n - 1) if estimator == "rloo" else F(n - 1, n**2)


@claim("VIP-variance", "VIP (2602.01601); docs/theory_related.md, 1", share=0.1)
def the_variance_of_a_group(draw):
    """Rewards -1, +1 and scores z of any mean, independent of them: the gradient (1/n) sum A z has
    mean 0 and variance 4 Var(z) p (1 - p) times 1/(n-1) with RLOO's A, (n-1)/n^2 with Dr. GRPO's,
    for n = 2, 3, 5, 8 (enumerated); jackpot.allocation agrees to 1e-12."""
    p, s, z1, z2 = two_point(draw)
    joint: Joint = defaultdict(F)
    for reward, a in ((F(1), p), (F(-1), 1 - p)):
        for z, b in ((z1, s), (z2, 1 - s)):
            joint[reward, z] += a * b
    spread = score_variance(joint)
    for n in (2, int(draw.rng.choice([3, 5, 8]))):
        for estimator in ("rloo", "dr_grpo"):
            mean, variance = group_moments(joint, n, estimator == "rloo")
            expected = 4 * spread * p * (1 - p) * variance_of(estimator, n)
            yield equal(mean, 0)
            yield equal(variance, expected, n=n, estimator=estimator)
            core = getattr(allocation, f"{estimator}_variance")(float(p), n, float(spread))
            yield close(core, expected, n=n, estimator=estimator)


@claim(
    "VIP-signal",
    "VIP (2602.01601); docs/theory_related.md, 1",
    FAILS,
    share=0.15,
    example={"p": F(1, 4), "z": (F(1), F(-1)), "n": 2},
)
def the_variance_of_a_group_with_signal(draw):
    """The same without independence: where the score depends on the reward (as it does wherever the
    gradient is not 0) the variance is still 4 Var(z) p (1 - p) / (n - 1)."""
    p, _, z1, z2 = two_point(draw)
    n = draw.keep("n", int(draw.rng.integers(2, 6)))
    joint = {(F(1), z1): p, (F(-1), z2): 1 - p}
    yield equal(group_moments(joint, n, True)[1], 4 * score_variance(joint) * p * (1 - p) / (n - 1))


def total_variance(estimator: str, weights, counts: Counts) -> F:
    rows = zip(weights, counts, strict=True)
    return sum((a * variance_of(estimator, n) for a, n in rows), F(0))


def problem(draw, least: int) -> tuple[list[F], int, int, int]:
    """Pass rates of 2 to 4 prompts (0, 1 and equal ones are common), total, low, high."""
    size = int(draw.rng.integers(2, 5))
    p = draw.keep("p", [F(int(x), 12) for x in draw.rng.integers(0, 13, size)])
    low = draw.keep("low", int(draw.rng.integers(least, least + 3)))
    high = draw.keep("high", low + int(draw.rng.integers(0, 7)))
    most = min(len(p) * high, len(p) * low + 8)
    total = draw.keep("total", int(draw.rng.integers(len(p) * low, most + 1)))
    return p, total, low, high


def all_allocations(p, total: int, low: int, high: int) -> Iterator[Counts]:
    return compositions(total, (low,) * len(p), (high,) * len(p))


def core_counts(allocate: Callable, p, *arguments, **keywords) -> Counts:
    return tuple(int(n) for n in allocate([float(x) for x in p], *arguments, **keywords))


def in_bounds(counts: Counts, total: int, low: int, high: int) -> Iterator[Check]:
    yield equal(sum(counts), total)
    yield agree(all(low <= n <= high for n in counts), True)


@claim("VIP-optimum", "VIP (2602.01601); docs/theory_related.md, 2")
def the_integer_optimum_of_vip(draw):
    """jackpot.allocation.vip keeps the budget and the bounds, and its total variance is exactly the
    least over all allocations, for RLOO from low = 2 and Dr. GRPO from low = 3; so is that of p
    with 1 - p in its place. Equal pass rates give counts that differ by at most 1."""
    for estimator, least in (("rloo", 2), ("dr_grpo", 3)):
        p, total, low, high = problem(draw, least)
        weights = [a * (1 - a) for a in p]
        every = all_allocations(p, total, low, high)
        best = min(total_variance(estimator, weights, n) for n in every)
        for rates in (p, [1 - a for a in p]):
            counts = core_counts(allocation.vip, rates, total, low, high, estimator)
            yield from in_bounds(counts, total, low, high)
            yield equal(total_variance(estimator, weights, counts), best, counts=counts)
        alike = core_counts(allocation.vip, [p[0]] * len(p), total, low, high, estimator)
        yield at_most(max(alike) - min(alike), 1)


def greedy(gain: Callable[[int, int], F], size: int, total: int, low: int, high: int) -> Counts:
    """One rollout at a time to the largest gain; of equal gains to the first."""
    counts = [low] * size
    for _ in range(total - low * size):
        open_ = [i for i in range(size) if counts[i] < high]
        counts[max(open_, key=lambda i: (gain(i, counts[i]), -i))] += 1
    return tuple(counts)


@claim(
    "VIP-low-two",
    "docs/theory_related.md, 2",
    FAILS,
    example={"p": [F(1, 2), F(2, 5)], "low": 2, "high": 6, "total": 8},
)
def dr_grpo_below_three_rollouts(draw):
    """The greedy algorithm finds the least total variance of Dr. GRPO from every low >= 2."""
    p, total, low, high = problem(draw, 2)
    weights = [a * (1 - a) for a in p]

    def gain(i, n):
        return weights[i] * (variance_of("dr_grpo", n) - variance_of("dr_grpo", n + 1))

    counts = greedy(gain, len(p), total, low, high)
    every = all_allocations(p, total, low, high)
    best = min(total_variance("dr_grpo", weights, n) for n in every)
    yield at_most(total_variance("dr_grpo", weights, counts), best, counts=counts)


@claim("VIP-convex", "docs/theory_related.md, 2")
def where_the_variances_are_convex(draw):
    """1/(n-1) is convex in whole n >= 2, and (n-1)/n^2 in whole n >= 3. At n = 1 and 2 the decrease
    of the latter grows with n."""
    for estimator, least in (("rloo", 2), ("dr_grpo", 3)):
        n = draw.keep(estimator, least + int(draw.rng.integers(0, 200)))
        drops = [variance_of(estimator, k) - variance_of(estimator, k + 1) for k in (n, n + 1)]
        yield below(drops[1], drops[0], n=n)
    drops = [variance_of("dr_grpo", k) - variance_of("dr_grpo", k + 1) for k in (1, 2, 3)]
    yield below(drops[0], drops[1])
    yield below(drops[1], drops[2])


@claim("VIP-proportional", "VIP (2602.01601); docs/theory_related.md, 2", share=0.5)
def the_relaxed_optimum_of_vip(draw):
    """Of real counts with one sum and one pair of bounds, RLOO's total variance is least at n = 1 +
    sqrt(a / mu), clipped to the bounds; Dr. GRPO's (low >= 3) where a (n - 2) / n^3 is the same mu
    for every prompt; a = p (1 - p)."""
    size = int(draw.rng.integers(2, 5))
    low, high = F(3), F(3 + int(draw.rng.integers(1, 20)))
    u = draw.keep("u", [F(int(x), int(y)) for x, y in draw.rng.integers(1, 12, (size, 2))])
    c = draw.fraction("c", high=30)
    roots = [x / (1 + x**2) for x in u]  # sqrt(p (1 - p)) at p = 1 / (1 + u^2), rational
    rloo = [min(max(1 + c * root, low), high) for root in roots]
    dr_grpo = [low + (high - low) * F(int(x), 20) for x in draw.rng.integers(0, 21, size)]
    weights = [n**3 / (n - 2) for n in dr_grpo]  # so that a (n - 2) / n^3 = 1
    for name, a, best in (("rloo", [r**2 for r in roots], rloo), ("dr_grpo", weights, dr_grpo)):
        for _ in range(4):
            rival = moved(draw, best, low, high)
            yield at_most(real_variance(name, a, best), real_variance(name, a, rival), rival=rival)


def real_variance(estimator: str, weights: list[F], counts: list[F]) -> F:
    rows = zip(weights, counts, strict=True)
    if estimator == "rloo":
        return sum((a / (n - 1) for a, n in rows), F(0))
    return sum((a * (n - 1) / n**2 for a, n in rows), F(0))


def moved(draw, counts: list[F], low: F, high: F) -> list[F]:
    """The counts with a random part of the possible amount moved from one prompt to another."""
    i, j = draw.rng.permutation(len(counts))[:2]
    step = min(counts[i] - low, high - counts[j]) * F(1, int(draw.rng.choice([1, 2, 40])))
    rival = list(counts)
    rival[i] -= step
    rival[j] += step
    return rival


AUTHORS = {
    "p": [F(x) for x in ("0.01", "0.1", "0.2", "0.4", "0.5", "0.8", "0.95", "0.99")],
    "released": (5, 11, 12, 12, 12, 4, 4, 4),
}


@claim("VIP-authors-vector", "code HieuNT91/VIP; docs/theory_related.md, 2", FAILS, share=0.05,
       example=AUTHORS)  # fmt: skip
def the_allocation_of_the_authors_code(draw):
    """What the authors' newer rule gives for 64 rollouts, pass rates .01, .1, .2, .4, .5, .8, .95,
    .99, from 4 to 12 each, is an optimum of its own objective, sum p (1 - p) / n with p >= .8
    counted as 1, and of RLOO's and Dr. GRPO's variance at these pass rates."""
    p, released = (draw.keep(name, value) for name, value in AUTHORS.items())
    other = (4, 12, 12, 12, 12, 4, 4, 4)
    own = [a * (1 - a) if a < F(4, 5) else F(0) for a in p]
    yield at_most(*(sum(a / F(n) for a, n in zip(own, c, strict=True)) for c in (released, other)))
    for estimator in ("rloo", "dr_grpo"):
        weights = [a * (1 - a) for a in p]
        best = core_counts(allocation.vip, p, 64, 4, 12, estimator)
        both = (total_variance(estimator, weights, c) for c in (released, best))
        yield at_most(*both, estimator=estimator, better=best)


def coba_case(draw) -> tuple[list[F], int, int, int, int, F]:
    """A problem of up to 3 prompts, a whole alpha (the density is rational then) and tau."""
    p, total, low, high = problem(draw, 1)
    p = draw.keep("p", p[:3])
    total = draw.keep("total", max(len(p) * low, min(total, len(p) * high)))
    alpha = draw.keep("alpha", int(draw.rng.integers(1, CONCENTRATION)))
    return p, total, low, high, alpha, draw.fraction("tau", high=3)


def density(p: F, alpha: int) -> F:
    """Beta(p; alpha, 11 - alpha) up to a factor that all prompts share."""
    return p ** (alpha - 1) * (1 - p) ** (CONCENTRATION - alpha - 1)


def exponents(p: list[F], counts: Counts, alpha: int, tau: F) -> dict[F, F]:
    """sum V = constant - sum over exponents e of coefficient exp(-e): {e: coefficient}.

    Exponentials of different rationals are linearly independent over the rationals (Lindemann and
    Weierstrass), so two allocations have equal values if and only if these agree.
    """
    terms: dict[F, F] = defaultdict(F)
    for a, n in zip(p, counts, strict=True):
        if 0 < a < 1:
            terms[n * a * (1 - a) / tau] += density(a, alpha)
    return terms


def total_value(table: dict, counts: Counts):
    return sum((table[i, n] for i, n in enumerate(counts)), iv.mpf(0))


@claim("COBA-optimum", "CoBA-RL (2602.03048); docs/theory_related.md, 3", share=0.4)
def the_optimum_of_coba(draw):
    """jackpot.allocation.coba keeps the budget and the bounds, and no other allocation has a larger
    sum of V (certified by intervals; equality by the exponents)."""
    p, total, low, high, alpha, tau = coba_case(draw)
    counts = core_counts(allocation.coba, p, total, alpha, CONCENTRATION, float(tau), low, high)
    yield from in_bounds(counts, total, low, high)
    iv.prec = intervals.PRECISIONS[1]
    table = {
        (i, n): intervals.interval(density(a, alpha))
        * (1 - iv.exp(-intervals.interval(n * a * (1 - a) / tau)))
        for i, a in enumerate(p)
        for n in range(low, high + 1)
    }
    own = exponents(p, counts, alpha, tau)
    for rival in all_allocations(p, total, low, high):
        if exponents(p, rival, alpha, tau) != own:
            sides = (partial(total_value, table, c) for c in (rival, counts))
            yield certainly_at_most(*sides, rival=rival)


@claim("COBA-value", "CoBA-RL (2602.03048); docs/theory_related.md, 3", share=0.2)
def the_value_of_coba(draw):
    """V(B, p) is 0 at p = 0, p = 1 and B = 0, and V(B+1) - V(B) = exp(-p (1 - p) / tau) (V(B) -
    V(B-1)), to 40 digits, so it is concave in B; jackpot.allocation.coba_value agrees to 1e-12 with
    60 digits for alpha from 1 to 10."""
    p, tau, alpha = draw.fraction("p"), draw.fraction("tau", high=12), draw.fraction("alpha", 1, 10)
    count = draw.keep("count", int(draw.rng.integers(1, 60)))
    x = p * (1 - p) / tau

    def step(n):  # (V(n + 1) - V(n)) / density
        after, before = (iv.exp(-intervals.interval(k * x)) for k in (n + 1, n))
        return before - after

    yield to_40_digits(
        lambda: step(count), lambda: iv.exp(-intervals.interval(x)) * step(count - 1)
    )
    with mp.workdps(60):
        a, b, rate, t = (mpf(float(y)) for y in (alpha, CONCENTRATION - float(alpha), p, tau))
        density = rate ** (a - 1) * (1 - rate) ** (b - 1) / mp.beta(a, b)
        value = -mp.expm1(-count * rate * (1 - rate) / t) * density
    core = partial(allocation.coba_value, alpha=float(alpha), tau=float(tau))
    yield close(core(count, float(p)), value)
    for nothing in (*core(count, [0.0, 1.0]), core(0, float(p))):
        yield equal(float(nothing), 0.0)


@claim("COBA-direction", "CoBA-RL (2602.03048); docs/theory_related.md, 3")
def a_larger_alpha_favours_easier_prompts(draw):
    """For alpha < alpha' and every c, the prompts with p >= c together get no fewer rollouts at
    alpha' than at alpha (jackpot.allocation.coba)."""
    p, total, low, high, alpha, tau = coba_case(draw)
    later = draw.fraction("later", alpha, 10) if alpha < 10 else F(10)
    one, two = (
        core_counts(allocation.coba, p, total, float(a), CONCENTRATION, float(tau), low, high)
        for a in (alpha, later)
    )
    for c in set(p):
        easy = [[n for a, n in zip(p, counts, strict=True) if a >= c] for counts in (one, two)]
        yield at_most(sum(easy[0]), sum(easy[1]), c=c)
