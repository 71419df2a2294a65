"""Z from a few tokens (docs/theory.md, D; paper, Sec. 4.4.2): what top-k sums and kappa give."""

from __future__ import annotations

from fractions import Fraction as F
from itertools import product

from sim.oracle import exact, rules

from .registry import CORRECTED, FAILS, agree, at_most, claim, equal
from .weights import states

Row = tuple[F, ...]
HALVES, QUARTERS = (F(1, 2), F(1, 2)), (F(1, 4),) * 4
# two states with p = q; the top 2 tokens hold all of the first and half of the second
NO_TAIL_AND_HALF_TAIL = {
    "p": ((*HALVES, F(0), F(0)), QUARTERS),
    "q": ((*HALVES, F(0), F(0)), QUARTERS),
    "lam": F(1),
    "k": 2,
}


def top_k(row: Row, k: int) -> list[int]:
    """The indices of the k largest, the earlier one first among equals."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


def minima(p: Row, q: Row, lam: F) -> Row:
    """m = min(q, p / lam) of every token: what the token adds to Z."""
    return tuple(min(b, a / lam) for a, b in zip(p, q, strict=True))


def over(tokens, row: Row) -> F:
    """The sum of a row over some tokens."""
    return sum((row[i] for i in tokens), F(0))


def known_case(draw) -> tuple:
    """p, q, lam, k, the tokens outside q's top k, and each token's part of Z."""
    p, q = draw.pair()
    lam = draw.lam(p, q)
    k = draw.keep("k", int(draw.rng.integers(1, len(p))))
    known = top_k(q, k)
    tail = [i for i in range(len(p)) if i not in known]
    return p, q, lam, known, tail, minima(p, q, lam)


def paper_z(p: Row, q: Row, lam: F, k: int) -> F:
    """Z_approx: the sum over topk(q) and topk(p) together."""
    return over(set(top_k(q, k)) | set(top_k(p, k)), minima(p, q, lam))


@claim("Zapprox-below", "paper, Sec. 4.4.2; docs/theory.md, D1")
def z_approx_is_never_above_z(draw):
    """Z_approx <= Z in every state, whatever the set V_k (no expectation is involved); they are
    equal if and only if no token outside V_k has both p > 0 and q > 0."""
    p, q, lam, _, _, parts = known_case(draw)
    chosen = {i for i in range(len(p)) if draw.rng.random() < 0.5}
    z = exact.acceptance_rate(p, q, lam)
    for v_k in (chosen, set(top_k(p, draw.case["k"])) | set(top_k(q, draw.case["k"]))):
        missed = any(p[i] and q[i] for i in range(len(p)) if i not in v_k)
        yield at_most(over(v_k, parts), z)
        yield agree(over(v_k, parts) < z, missed)


@claim(
    "Zapprox-consistent",
    "paper, Sec. 4.4.2",
    FAILS,
    example={"p": QUARTERS, "q": QUARTERS, "lam": F(1), "k": 2},
)
def z_approx_is_consistent(draw):
    """Read as consistency: for a fixed k the mean of Z_approx over many tokens of a state tends to
    Z. (Z_approx does not depend on the sampled token, so its mean is itself.)"""
    p, q = draw.pair()
    lam = draw.lam(p, q)
    k = draw.keep("k", int(draw.rng.integers(1, len(p))))
    yield equal(paper_z(p, q, lam, k), exact.acceptance_rate(p, q, lam))


def states_with_z(draw) -> tuple:
    """2-3 equally frequent states: p, q, lam, k, and Z, Z_approx and Z_K + U of every state."""
    ps, qs, _ = states(draw)
    lam = draw.fraction("lam", high=4)
    k = draw.keep("k", int(draw.rng.integers(1, len(ps[0]))))
    z = [exact.acceptance_rate(p, q, lam) for p, q in zip(ps, qs, strict=True)]
    low = [paper_z(p, q, lam, k) for p, q in zip(ps, qs, strict=True)]
    high = []
    for p, q in zip(ps, qs, strict=True):
        known = set(top_k(q, k)) | set(top_k(p, k))
        tails = (1 - over(known, p), 1 - over(known, q))
        high.append(over(known, minima(p, q, lam)) + min(tails[1], tails[0] / lam))
    return z, low, high


def mean_kappa(z: list[F], low: list[F]) -> F:
    """E kappa: all outcomes of the coins, a state's token being accepted with probability Z."""
    total = F(0)
    for kept in product((F(0), F(1)), repeat=len(z)):
        chance = F(1)
        for outcome, rate in zip(kept, z, strict=True):
            chance *= rate if outcome else 1 - rate
        total += chance * exact.kappa(kept, low)
    return total


@claim("kappa-mean", "paper, Sec. 4.4.2; docs/theory.md, D4")
def kappa_makes_the_batch_mean_right(draw):
    """For given states, the mean of kappa Z_approx over the batch is its accepted share, whose
    expectation over tokens and coins is the mean of Z exactly."""
    z, low, _ = states_with_z(draw)
    if sum(low):
        yield equal(mean_kappa(z, low) * sum(low), sum(z))


@claim("kappa-state", "paper, Sec. 4.4.2", FAILS, example=NO_TAIL_AND_HALF_TAIL)
def kappa_makes_every_state_right(draw):
    """Expected of the calibration: kappa Z_approx(s) has the mean Z(s) in every state."""
    z, low, _ = states_with_z(draw)
    if sum(low):
        for i, (rate, approx) in enumerate(zip(z, low, strict=True)):
            yield equal(mean_kappa(z, low) * approx, rate, state=i)


@claim("kappa-bound", "paper, Sec. 4.4.2", FAILS, example=NO_TAIL_AND_HALF_TAIL)
def kappa_stays_within_the_bounds(draw):
    """Expected of the calibration: with the mean kappa, kappa Z_approx(s) lies in the interval that
    the known tokens leave for Z(s), [Z_K, Z_K + U]."""
    z, low, high = states_with_z(draw)
    if sum(low):
        for i, (approx, upper) in enumerate(zip(low, high, strict=True)):
            yield at_most(mean_kappa(z, low) * approx, upper, state=i)


@claim("D4-kappa", "docs/theory.md, D4", CORRECTED, corrects="kappa-state")
def what_kappa_does_to_a_state(draw):
    """As corrected: E[kappa] Z_approx(s) - Z(s) = Z_approx(s) mean R / mean Z_approx - R(s), with
    R = Z - Z_approx >= 0: a state that misses nothing is inflated, above its upper bound, as soon
    as another state misses something."""
    z, low, high = states_with_z(draw)
    if not sum(low):
        return
    missed = [a - b for a, b in zip(z, low, strict=True)]
    factor = mean_kappa(z, low)
    yield agree(factor > 1, any(missed))
    for rate, approx, upper, r in zip(z, low, high, missed, strict=True):
        yield equal(factor * approx - rate, approx * sum(missed) / sum(low) - r)
        if approx == upper > 0 and any(missed):
            yield agree(factor * approx > upper, True)


@claim("D1-bounds", "docs/theory.md, D1")
def the_bounds_of_z(draw):
    """For any known set with tail masses p_T, q_T: Z_K <= Z <= Z_K + min(q_T, p_T / lam); the upper
    end is Z if and only if all tail tokens lie on one side of lam (r <= lam or r >= lam), the lower
    if and only if none of them has both p > 0 and q > 0."""
    p, q, lam, known, tail, parts = known_case(draw)
    z = exact.acceptance_rate(p, q, lam)
    low = over(known, parts)
    high = low + min(over(tail, q), over(tail, p) / lam)
    one_side = all(p[i] <= lam * q[i] for i in tail) or all(p[i] >= lam * q[i] for i in tail)
    yield at_most(low, z)
    yield at_most(z, high)
    yield agree(z == high, one_side)
    yield agree(z == low, not any(p[i] and q[i] for i in tail))


def rearranged(draw, q: Row, known: list[int], sampled: int) -> Row:
    """q with the values that Phase 1 does not store in another order: the same stored data."""
    hidden = [i for i in range(len(q)) if i not in known and i != sampled]
    other = list(q)
    for i, j in zip(hidden, draw.rng.permutation(hidden), strict=True):
        other[i] = q[j]
    return draw.keep("other_q", tuple(other))


@claim(
    "D2-union",
    "paper, Algorithm 1; docs/theory.md, D2",
    FAILS,
    example={
        "p": (F(1, 10), F(1, 10), F(1, 10), F(7, 10)),
        "q": (F(1, 2), F(1, 4), F(1, 4), F(0)),
        "lam": F(1),
        "k": 1,
        "sampled": 0,
        "other_q": (F(1, 2), F(1, 4), F(0), F(1, 4)),
    },
)
def z_approx_can_be_computed_from_phase_1(draw):
    """As printed: Z_approx over topk(q) and topk(p) is determined by all of p and what Phase 1
    stores of q, its values on topk(q) and at the sampled token."""
    p, q, lam, known, _, _ = known_case(draw)
    sampled = draw.keep("sampled", int(draw.rng.choice([i for i, b in enumerate(q) if b])))
    other = rearranged(draw, q, known, sampled)
    v_k = {*known, *top_k(p, len(known))}
    yield equal(over(v_k, minima(p, q, lam)), over(v_k, minima(p, other, lam)))


def fill(p: Row, lam: F, cap: F, q_tail: F) -> Row:
    """Tail values 0 <= q_i <= cap with sum q_tail that make sum min(q_i, p_i / lam) largest."""
    useful = [min(cap, a / lam) for a in p]
    total = sum(useful, F(0))
    if total >= q_tail:
        return tuple(u * q_tail / total if total else F(0) for u in useful)
    room = [cap - u for u in useful]
    share = (q_tail - total) / sum(room, F(0))
    return tuple(u + share * r for u, r in zip(useful, room, strict=True))


@claim("D2-known", "docs/theory.md, D2", CORRECTED, corrects="D2-union")
def what_can_be_known_of_z(draw):
    """As corrected: with K = topk(q) and c its smallest q, Z_K <= Z <= Z_K + U' <= Z_K + U with
    U' = min(q_T, sum_T min(c, p / lam)): all of these follow from the stored data (and p), and some
    q with the same values on K attains Z_K + U'."""
    p, q, lam, known, tail, parts = known_case(draw)
    c, q_tail = min(q[i] for i in known), over(tail, q)
    low = over(known, parts)
    sharp = min(q_tail, sum((min(c, p[i] / lam) for i in tail), F(0)))
    yield at_most(low, exact.acceptance_rate(p, q, lam))
    yield at_most(exact.acceptance_rate(p, q, lam), low + sharp)
    yield at_most(sharp, min(q_tail, over(tail, p) / lam))
    filled = dict(zip(tail, fill(tuple(p[i] for i in tail), lam, c, q_tail), strict=True))
    best = tuple(filled.get(i, b) for i, b in enumerate(q))
    yield equal(sum(best), 1)
    yield at_most(max(filled.values()), c)
    yield equal(exact.acceptance_rate(p, best, lam), low + sharp)
    other = rearranged(draw, q, known, known[0])
    yield at_most(low, exact.acceptance_rate(p, other, lam))
    yield at_most(exact.acceptance_rate(p, other, lam), low + sharp)


def mean_and_variance(distribution: Row, values: Row) -> tuple[F, F]:
    """Of a function of one token."""
    mean = rules.mean(distribution, values)
    return mean, rules.mean(distribution, values, values) - mean**2


def tail_estimates(draw) -> tuple:
    """Estimates of Z from one token, as functions of it: a; Z_K + a 1(x in T); the difference
    Z_K + b q_T + (a - b) 1(x in T) with a random b and with b = E[a | T]."""
    p, q, lam, known, tail, parts = known_case(draw)
    a = exact.accept_prob(p, q, lam)
    low, q_tail = over(known, parts), over(tail, q)
    inside = tuple(F(i in tail) for i in range(len(p)))

    def difference(b: F) -> Row:
        return tuple(
            low + b * q_tail + (x - b) * t if y else F(0)
            for x, t, y in zip(a, inside, q, strict=True)
        )

    best = over(tail, parts) / q_tail if q_tail else F(0)
    free = draw.fraction("b")
    return q, tuple(a), difference(F(0)), difference(free), difference(best)


@claim("D3-means", "docs/theory.md, D3")
def four_estimates_of_z(draw):
    """a(x), Z_K + a 1(x in T) and Z_K + b q_T + (a - b) 1(x in T), for every fixed b, have the mean
    Z over x ~ q; with b = E[a | T] the variance is at most that of each of the others."""
    q, *estimates = tail_estimates(draw)
    z = exact.acceptance_rate(draw.case["p"], q, draw.case["lam"])
    moments = [mean_and_variance(q, values) for values in estimates]
    for mean, variance in moments:
        yield equal(mean, z)
        yield at_most(moments[-1][1], variance)


@claim(
    "D3-tail-better",
    "docs/theory.md, D3 (refuted there)",
    FAILS,
    example={"p": HALVES, "q": HALVES, "lam": F(1), "k": 1},
)
def knowing_z_k_always_helps(draw):
    """Expected, and false: Z_K + a 1(x in T) has at most the variance of a(x)."""
    q, plain, partly, *_ = tail_estimates(draw)
    yield at_most(mean_and_variance(q, partly)[1], mean_and_variance(q, plain)[1])
