"""Statements on rival objectives: BAPO's share, DMPO's and A*-PO's fixed points, M2PO's moment,
MinPRO's prefix and divergence PPO's distances (docs/theory_related.md, sections 6 to 11).

Everything is computed here from Fractions or intervals. The floats of `sim.studies.objectives` are
compared with that; they are what the trainer's objectives are tested against.
"""

from __future__ import annotations

import math
from fractions import Fraction as F
from functools import partial
from itertools import pairwise, product

import numpy as np
from mpmath import iv

from sim.oracle import exact, intervals, rules
from sim.studies import objectives as lab
from sim.worlds import pairs

from .registry import (
    CORRECTED,
    FAILS,
    agree,
    at_most,
    below,
    certainly_below,
    claim,
    close,
    equal,
    to_40_digits,
)
from .trajectories import tree
from .weights import joint

Row = tuple[F, ...]
BY: tuple[lab.Accounting, ...] = ("value", "grad")
BASELINES: tuple[lab.Baseline, ...] = ("none", "neg")


# BAPO


def bapo_case(draw) -> tuple[Row, Row, Row]:
    """r, A and the mass of 2 to 6 tokens; r is often exactly a bound of the walk."""
    n = int(draw.rng.integers(2, 7))
    steps = draw.rng.choice([8, 12, 13, 16, 18, 20, 24, 25, 26, 40, 60, 70], n)
    r = draw.keep("r", tuple(F(int(x), 20) for x in steps))
    advantage = draw.vector("A", n, low=-2, high=2)
    mass = draw.keep("mass", tuple(F(int(x), 16) for x in draw.rng.integers(1, 17, n)))
    return r, advantage, mass


def parts(r: Row, advantage: Row, mass: Row, low: F, high: F, by: str) -> tuple[F, F]:
    """What tokens of positive and of negative advantage contribute, both as sizes."""
    sums = {True: F(0), False: F(0)}
    for x, a, m in zip(r, advantage, mass, strict=True):
        bounded = min(max(x, low), high)
        size = abs(min(x * a, bounded * a))
        if by == "grad":
            size = abs(x * a) if (x <= high if a > 0 else x >= low) else F(0)
        sums[a > 0] += m * size
    return sums[True], sums[False]


def share_of(gain: F, loss: F) -> F:
    return gain / (gain + loss) if gain + loss else F(1)


@claim("BAPO-share", "BAPO, arXiv 2510.18927, Eq. 7 and Alg. 1", share=0.5)
def the_share_of_positive_advantages(draw):
    """By value and by gradient: the share of positive advantages lies in [0, 1], does not fall as
    c_high rises, is 1 where no advantage is negative and 0 where all are. Alg. 1's walk (c_high
    first) ends at its first bounds of at least the wanted share w, else at its last; the lab's
    bounds are these. Read literally, with |gain - loss| below, gain over it is at least w if and
    only if the share is at least w / (1 + 2 w), where gain < loss: .4 is a share of .222."""
    r, advantage, mass = bapo_case(draw)
    lows, highs = [F(6, 10) + F(i, 10) for i in range(4)], [F(6, 5) + F(3 * i, 5) for i in range(4)]
    walk = [(lows[0], high) for high in highs] + [(low, highs[-1]) for low in lows[1:]]
    wanted = draw.fraction("wanted")
    for by in BY:
        shares = [share_of(*parts(r, advantage, mass, *bounds, by)) for bounds in walk]
        for share in shares:
            yield at_most(0, share, by=by)
            yield at_most(share, 1, by=by)
            if all(a >= 0 for a in advantage):
                yield equal(share, 1, by=by)
            if all(a < 0 for a in advantage) and share != 1:  # 1: no token is left by gradient
                yield equal(share, 0, by=by)
        for narrow, wide in pairwise(shares[: len(highs)]):
            yield at_most(narrow, wide, by=by)
        gain, loss = parts(r, advantage, mass, *walk[0], by)
        if gain < loss:
            yield agree(gain / (loss - gain) >= wanted, shares[0] >= wanted / (1 + 2 * wanted))
        first = next((i for i, s in enumerate(shares) if s >= wanted), len(walk) - 1)
        if all(abs(s - wanted) > F(1, 10**9) for s in shares) and all(
            x not in (*lows, *highs) for x in r
        ):
            ratio, sign, size = (np.array(x, dtype=float) for x in (r, advantage, mass))
            grids = (0.6, 0.9, 0.1), (1.2, 3.0, 0.6)
            bounds = lab.bapo_bounds(ratio, sign, size, float(wanted), by, *grids)
            yield close(np.array(bounds), list(walk[first]), rel=1e-12, by=by)


LOW_EXAMPLE = {
    "r": (F(1), F(7, 10), F(7, 10), F(1)),
    "A": (F(1), F(-1), F(-1), F(-1)),
    "mass": (F(1),) * 4,
    "low": F(6, 10),
    "raise": F(3, 10),
}


def low_case(draw) -> tuple:
    """A case of `bapo_case` and two lower bounds, the second higher, both at most 1."""
    case = bapo_case(draw)
    low = draw.fraction("low", low=F(1, 2), high=F(9, 10))
    return case, low, low + draw.fraction("raise", high=1 - low)


@claim("BAPO-value-low", "BAPO, arXiv 2510.18927, Alg. 1", FAILS, example=LOW_EXAMPLE)
def raising_the_low_bound_raises_the_share(draw):
    """As Alg. 1 supposes: raising c_low raises the share of positive advantages, or leaves it, with
    contributions by value, |min(r A, clip(r) A)|."""
    (r, advantage, mass), low, higher = low_case(draw)
    before, after = (parts(r, advantage, mass, x, F(2), "value") for x in (low, higher))
    yield at_most(share_of(*before), share_of(*after))


@claim(
    "BAPO-low",
    "BAPO, arXiv 2510.18927, Alg. 1",
    CORRECTED,
    corrects="BAPO-value-low",
    example=LOW_EXAMPLE,
)
def raising_the_low_bound_lowers_the_share_by_value(draw):
    """As corrected: by value, raising c_low never raises the share, and lowers it exactly if some
    A > 0 contributes and some token of A < 0 has r below the new c_low. By gradient, |r A| of
    tokens within their bound, raising it never lowers the share."""
    (r, advantage, mass), low, higher = low_case(draw)
    (gain, loss), (after_gain, after_loss) = (
        parts(r, advantage, mass, x, F(2), "value") for x in (low, higher)
    )
    yield at_most(share_of(after_gain, after_loss), share_of(gain, loss))
    moved = any(x < higher and a < 0 for x, a in zip(r, advantage, strict=True))
    lower = share_of(after_gain, after_loss) < share_of(gain, loss)
    yield agree(lower, moved and gain > 0)
    before, after = (share_of(*parts(r, advantage, mass, x, F(2), "grad")) for x in (low, higher))
    yield at_most(before, after)


# DMPO


def tilted_case(draw) -> tuple:
    """Trees of two tokens of p_new, p_pre; of each path p*, from the rational exp(R / alpha), and
    p_-, from its inverse; and exp(R / alpha). Every probability is positive."""
    new1, pre1, new2, pre2 = tree(draw, p_zero=False, q_zero=False)
    n = len(new1) ** 2
    tilt = draw.keep("exp_reward", tuple(F(int(x), 4) for x in draw.rng.integers(1, 17, n)))
    start = joint(pre1, pre2)
    return (new1, new2), start, tilted(start, tilt), tilted(start, [1 / x for x in tilt]), tilt


def tilted(distribution: Row, factors) -> Row:
    mass = [a * b for a, b in zip(distribution, factors, strict=True)]
    return tuple(x / sum(mass) for x in mass)


def conditionals(joint: Row) -> tuple[Row, list[Row]]:
    """The first token's distribution and the second's after each, of paths of positive mass."""
    v = math.isqrt(len(joint))
    rows = [joint[i * v : (i + 1) * v] for i in range(v)]
    first = tuple(sum(row, F(0)) for row in rows)
    return first, [tuple(x / m for x in row) for row, m in zip(rows, first, strict=True)]


def path_gradient(coefficient: Row, first: Row, second) -> list[F]:
    """sum over paths of the coefficient times grad log p(y), by the logits of every state."""
    v = len(first)
    total = [F(0)] * (v + v * v)
    for i, j in product(range(v), repeat=2):
        c = coefficient[i * v + j]
        for y in range(v):
            total[y] += c * ((y == i) - first[y])
            total[v + i * v + y] += c * ((y == j) - second[i][y])
    return total


def kl_gradient(joint: Row, first: Row, second) -> list[F]:
    """The gradient of KL(joint || p) in each state: the joint's mass there times (p - its own)."""
    own, after = conditionals(joint)
    total = [b - a for a, b in zip(own, first, strict=True)]
    for m, a, b in zip(own, after, second, strict=True):
        total += [m * (y - x) for x, y in zip(a, b, strict=True)]
    return total


@claim("DMPO-gradient", "DMPO, arXiv 2510.08233, autoregressive form", share=0.3)
def dmpos_gradient_is_that_of_a_kl(draw):
    """With weights p*(y) / q(y) on paths of q, p* = p_pre exp(R / alpha) / normaliser, the expected
    gradient of sum W (-log p_new) is that of KL(p* || p_new); with the baseline neg it is that of
    KL(p* || p_new) - s KL(p_- || p_new). The lab's coefficients agree to 1e-12."""
    (first, second), start, best, worst, tilt = tilted_case(draw)
    n = len(best)
    q = tuple(F(int(x)) for x in draw.rng.integers(1, 9, n))
    q = draw.keep("q", tuple(x / sum(q) for x in q))
    s = draw.fraction("s")
    for base, scale in zip(BASELINES, (F(0), s), strict=True):
        weight = tuple((a - scale * b) / c for a, b, c in zip(best, worst, q, strict=True))
        expected = path_gradient(
            tuple(-a * b for a, b in zip(q, weight, strict=True)), first, second
        )
        up, down = (kl_gradient(x, first, second) for x in (best, worst))
        for g, a, b in zip(expected, up, down, strict=True):
            yield equal(g, a - scale * b, baseline=base)
        new, pre, inf, reward = (
            np.log(np.array(x, dtype=float)) for x in (joint(first, second), start, q, tilt)
        )
        coefficients = lab.dmpo(new, pre, inf, reward, 1.0, base, float(s))
        size = max(map(abs, weight))
        worst_error = max(abs(F(float(x)) - y) for x, y in zip(coefficients, weight, strict=True))
        yield at_most(worst_error / size, F(1, 10**12), baseline=base)


NEG_EXAMPLE = {
    "p1": (F(1, 2), F(1, 2)),
    "q1": (F(1, 2), F(1, 2)),
    "p2": ((F(1, 2), F(1, 2)),) * 2,
    "q2": ((F(1, 2), F(1, 2)),) * 2,
    "exp_reward": (F(4), F(1), F(1), F(1)),
}


@claim("DMPO-neg-baseline", "DMPO, arXiv 2510.08233, its baseline", FAILS, example=NEG_EXAMPLE)
def dmpos_target_is_stationary_with_its_baseline(draw):
    """Expected, and false: with the baseline neg, as with none, the gradient at p_new = p* is 0."""
    _, _, best, worst, _ = tilted_case(draw)
    first, second = conditionals(best)
    for g in path_gradient(tuple(b - a for a, b in zip(best, worst, strict=True)), first, second):
        yield equal(g, 0)


@claim(
    "DMPO-neg-stationary",
    "DMPO, arXiv 2510.08233, its baseline",
    CORRECTED,
    corrects="DMPO-neg-baseline",
)
def when_dmpos_target_is_stationary(draw):
    """As corrected: at p_new = p* the gradient is 0 without a baseline, and with neg exactly if the
    reward is the same on every path."""
    _, _, best, worst, tilt = tilted_case(draw)
    if draw.rng.random() < 0.2:
        best = worst = draw.case["p_star"] = tilted(best, [F(1)] * len(best))
        tilt = (F(1),) * len(best)
    first, second = conditionals(best)
    for g in path_gradient(tuple(-x for x in best), first, second):
        yield equal(g, 0)
    at_target = path_gradient(tuple(b - a for a, b in zip(best, worst, strict=True)), first, second)
    yield agree(not any(at_target), len(set(tilt)) == 1)


# A*-PO


def a_star_case(draw) -> tuple[Row, Row, F]:
    """p_pre and rewards of 2 to 5 completions, and beta."""
    (start, _) = pairs.integer_weights(draw.rng, int(draw.rng.integers(2, 6)), p_zero=False)
    start = draw.keep("p_pre", start)
    reward = draw.vector("r", len(start), low=0, high=1)
    return start, reward, draw.fraction("beta", high=2)


def mean_exp(start: Row, reward: Row, beta: F):
    """E_pre exp(r / beta), an interval."""
    terms = (
        intervals.interval(p) * iv.exp(intervals.interval(r / beta))
        for p, r in zip(start, reward, strict=True)
    )
    return sum(terms, iv.mpf(0))


def v_star(start: Row, reward: Row, beta: F):
    """V* = beta log E_pre exp(r / beta), an interval."""
    return intervals.interval(beta) * iv.log(mean_exp(start, reward, beta))


@claim("ASTAR-zero-residual", "A*-PO, arXiv 2505.20686", share=0.2)
def a_star_pos_residual_is_zero_at_its_target(draw):
    """With one beta in both stages, p_pre exp((r - V*) / beta) sums to 1, and there
    beta log(p_new / p_pre) + V* = r on every completion, to 40 digits; E r < V* < max r unless r is
    constant. The lab's V* agrees to 1e-12, and its coefficients at that target are 0 to 1e-12."""
    start, reward, beta = a_star_case(draw)

    def target(i):
        exponent = intervals.interval(reward[i]) - v_star(start, reward, beta)
        return intervals.interval(start[i]) * iv.exp(exponent / intervals.interval(beta))

    def residual(i):
        log_ratio = iv.log(target(i) / intervals.interval(start[i]))
        return intervals.interval(beta) * log_ratio + v_star(start, reward, beta)

    for i, r in enumerate(reward):
        yield to_40_digits(partial(residual, i), lambda r=r: r, completion=i)
    yield to_40_digits(lambda: sum(map(target, range(len(start))), iv.mpf(0)), lambda: F(1))
    if len(set(reward)) > 1:
        value = partial(v_star, start, reward, beta)
        yield certainly_below(lambda: rules.mean(start, reward), value)
        yield certainly_below(value, lambda: max(reward))
    logs, rewards = np.log(np.array(start, dtype=float)), np.array(reward, dtype=float)
    best_value = lab.optimal_value(logs, rewards, float(beta))
    off = abs(best_value - float(v_star(start, reward, beta).mid))
    yield at_most(off, 1e-12 * max(1.0, abs(best_value)))
    at_target = logs + (rewards - best_value) / float(beta)
    coefficient = lab.a_star_po(at_target, logs, rewards, best_value, float(beta))
    yield at_most(float(np.abs(coefficient).max()), 1e-12)


TWO_BETAS = {"p_pre": (F(1, 2), F(1, 2)), "r": (F(1), F(0)), "beta": F(1, 2), "beta2": F(1, 1000)}


@claim("ASTAR-two-betas", "A*-PO, arXiv 2505.20686", FAILS, share=0.2, example=TWO_BETAS)
def a_star_pos_loss_has_a_zero_at_any_betas(draw):
    """Expected, and false: with beta_1 in V* and beta_2 in the regression, as in the authors'
    defaults of 1/2 and 1/1000, some policy has residual 0 on every completion, so that
    p_pre exp((r - V*) / beta_2), the only candidate, sums to 1."""
    start, reward, beta = a_star_case(draw)
    beta2 = draw.fraction("beta2", high=2)
    yield to_40_digits(lambda: _sum_at(start, reward, beta, beta2), lambda: F(1))


@claim("ASTAR-no-zero", "A*-PO, arXiv 2505.20686", CORRECTED, corrects="ASTAR-two-betas", share=0.2)
def a_star_pos_loss_has_no_zero_at_two_betas(draw):
    """As corrected: a residual of 0 on every completion makes p_new = p_pre exp((r - V*) / beta_2),
    whose sum is exp((V*(beta_2) - V*(beta_1)) / beta_2). V* falls strictly with beta unless r is
    constant, so the sum is 1 if and only if beta_1 = beta_2 or r is constant."""
    start, reward, beta = a_star_case(draw)
    beta2 = beta if draw.rng.random() < 0.2 else draw.fraction("beta2", high=2)
    if len(set(reward)) == 1 or beta == beta2:
        yield to_40_digits(lambda: _sum_at(start, reward, beta, beta2), lambda: F(1))
    else:
        yield certainly_below(*_sides(start, reward, beta, beta2))
        values = (partial(v_star, start, reward, b) for b in (max(beta, beta2), min(beta, beta2)))
        yield certainly_below(*values)


def _sum_at(start: Row, reward: Row, beta: F, beta2: F):
    """sum p_pre exp((r - V*(beta)) / beta_2), an interval."""
    shift = iv.exp(-v_star(start, reward, beta) / intervals.interval(beta2))
    return mean_exp(start, reward, beta2) * shift


def _sides(start: Row, reward: Row, beta: F, beta2: F) -> tuple:
    """That sum and 1, the smaller first: below 1 where beta_2 is the larger."""
    total, one = partial(_sum_at, start, reward, beta, beta2), lambda: F(1)
    return (total, one) if beta2 > beta else (one, total)


# M2PO, MinPRO, divergence PPO


@claim("M2PO-second-moment", "M2PO, arXiv 2510.01161")
def m2po_keeps_a_second_moment_of_at_most_tau(draw):
    """Dropping one value of (log rho)^2 after the other, the largest first, until the mean over the
    kept tokens that A pushes away from q is at most tau: equal values go together, the mean with
    the last value dropped was above tau, and the lab masks these tokens and no others."""
    n = int(draw.rng.integers(1, 9))
    log_rho, advantage = draw.vector("log_rho", n, low=-1, high=1), draw.vector("A", n, -1, 1)
    mass = draw.keep("mass", tuple(F(int(x)) for x in draw.rng.integers(1, 4, n)))
    tau = draw.keep("tau", F(int(draw.rng.integers(0, 33)), 64))
    pushed = {i for i in range(n) if log_rho[i] * advantage[i] > 0}

    def moment(some) -> F:
        total = sum((mass[i] for i in some), F(0))
        return sum((mass[i] * log_rho[i] ** 2 for i in some), F(0)) / total if some else F(0)

    kept = set(pushed)
    dropped: set[int] = set()
    while moment(kept) > tau:
        largest = max(log_rho[i] ** 2 for i in kept)
        dropped = {i for i in kept if log_rho[i] ** 2 == largest}
        kept -= dropped
    yield at_most(moment(kept), tau)
    if dropped:
        yield below(tau, moment(kept | dropped))
    logs, signs, sizes = (np.array(x, dtype=float)[None] for x in (log_rho, advantage, mass))
    factor = lab.m2po(logs, signs, lab.m2po_threshold(logs, signs, sizes, float(tau)))[0]
    for i in range(n):
        yield agree(bool(factor[i] == 0), i in pushed - kept, token=i)


PREFIX_EXAMPLE = {
    "p": (F(3, 4), F(1, 4)),
    "q": (F(1, 4), F(3, 4)),
}


def prefix_case(draw) -> tuple:
    """Ratios of one state's tokens under q, and every path of 3 positions with its probability."""
    p, q = draw.pair(v=int(draw.rng.integers(2, 4)), p_zero=False, q_zero=False)
    ratio = rules.ratios(p, q)
    paths = list(product(range(len(p)), repeat=3))
    return ratio, paths, [math.prod((q[x] for x in path), start=F(1)) for path in paths]


@claim("MINPRO-bias", "MinPRO, arXiv 2601.22718", FAILS, example=PREFIX_EXAMPLE)
def minpro_is_unbiased(draw):
    """Expected, and false: the unclipped weight of the third token, rho_3 min(rho_1, rho_2), has
    the mean 1 under q, as rho_3 rho_1 rho_2 has."""
    ratio, paths, prob = prefix_case(draw)
    weight = [ratio[z] * min(ratio[x], ratio[y]) for x, y, z in paths]
    yield equal(rules.mean(prob, weight), 1)


@claim("MINPRO-bound", "MinPRO, arXiv 2601.22718", FAILS, example=PREFIX_EXAMPLE)
def minpros_minimum_is_at_most_the_product(draw):
    """Expected, and false: min(rho_1, rho_2) <= rho_1 rho_2, so that MinPRO is a lower bound."""
    ratio, paths, _ = prefix_case(draw)
    for x, y, _ in paths:
        yield at_most(min(ratio[x], ratio[y]), ratio[x] * ratio[y])


@claim("MINPRO-mean", "MinPRO, arXiv 2601.22718", CORRECTED, corrects="MINPRO-bias", share=0.5)
def what_minpro_keeps_of_the_mean(draw):
    """As corrected, without clips and with supp p = supp q: the mean weight under q is 1 at the
    first two tokens, where the minimum is the product, and at most 1 at the third, less unless
    p = q. The lab's factor agrees to 1e-12."""
    ratio, paths, prob = prefix_case(draw)
    smallest = [(F(1), ratio[x], min(ratio[x], ratio[y])) for x, y, _ in paths]
    weight = [
        tuple(ratio[x] * m for x, m in zip(path, row, strict=True))
        for path, row in zip(paths, smallest, strict=True)
    ]
    means = [rules.mean(prob, [row[t] for row in weight]) for t in range(3)]
    yield equal(means[0], 1)
    yield equal(means[1], 1)
    yield at_most(means[2], 1)
    yield agree(means[2] == 1, set(ratio) == {F(1)})
    log_rho = np.log(np.array([[ratio[x] for x in path] for path in paths], dtype=float))
    yield close(lab.minpro(log_rho, 0.0, math.inf), weight)


@claim("DPPO-tv-order", "Divergence PPO, arXiv 2602.04879", share=0.5)
def the_distances_of_divergence_ppo_are_ordered(draw):
    """In every state and for every sampled token and k: binary TV <= top-k TV <= TV, with equality
    at k = v, and the same of KL(q || p) (supp p = supp q). The lab's TVs agree to 1e-12."""
    p, q = draw.pair(p_zero=False, q_zero=False)
    v = len(p)
    k = draw.keep("k", int(draw.rng.integers(1, v + 1)))
    order = sorted(range(v), key=lambda i: (-float(q[i]), i))
    logs = pairs.log_probs([p])[0][None], pairs.log_probs([q])[0][None]
    whole = exact.tv(p, q)
    binary, top = (lab.divergence(*logs, kind, k)[0] for kind in ("binary_tv", "top_k_tv"))
    for x in range(v):
        two, some, all_ = (
            [(p[i], q[i]) for i in sorted(apart)] + _rest(p, q, apart)
            for apart in ({x}, {x, *order[:k]}, set(range(v)))
        )
        distances = [exact.tv(*zip(*cells, strict=True)) for cells in (two, some, all_)]
        yield at_most(distances[0], distances[1], token=x)
        yield at_most(distances[1], whole, token=x)
        if k == v:
            yield equal(distances[1], whole, token=x)
        for computed, distance in zip((binary[x], top[x]), distances, strict=False):
            yield at_most(abs(computed - float(distance)), 1e-14, token=x)
        for coarse, fine in ((two, some), (some, all_)):
            # equality where splitting a block changes no ratio within it
            if not _same_ratios(p, q, coarse, fine):
                args = (tuple(zip(*cells, strict=True)) for cells in (coarse, fine))
                yield certainly_below(*(partial(intervals.kl_q_p, *row) for row in args), token=x)


def _rest(p: Row, q: Row, apart) -> list[tuple[F, F]]:
    """All tokens but those told apart, as one block, if there are any."""
    others = [i for i in range(len(p)) if i not in apart]
    return (
        [(sum((p[i] for i in others), F(0)), sum((q[i] for i in others), F(0)))] if others else []
    )


def _same_ratios(p: Row, q: Row, coarse, fine) -> bool:
    """Whether the finer blocks have the ratios p / q of the coarser ones that hold them."""
    split = [c for c in fine if c not in coarse]
    merged = [c for c in coarse if c not in fine]
    return not split or (
        len(merged) == 1 and all(a * merged[0][1] == b * merged[0][0] for a, b in split)
    )
