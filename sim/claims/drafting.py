"""Our statements on drafting (docs/theory_drafting.md): states, sequences and blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction as F
from functools import partial
from itertools import combinations, product

import numpy as np
from mpmath import iv

import jackpot
from sim.oracle import draft_rules, exact, intervals, rules
from sim.worlds import pairs

from .obrs import LOGARITHMIC, rational_divergences
from .registry import (
    CORRECTED,
    FAILS,
    agree,
    at_most,
    below,
    certainly_at_most,
    certainly_below,
    claim,
    close,
    equal,
    to_40_digits,
)

Row = tuple[F, ...]
THEORY = "docs/theory_drafting.md"
TIED = {  # p = q on half of the mass, so that P(p > q) + P(q > p) = 1/2
    "p": (F(1, 2), F(3, 8), F(1, 8)),
    "q": (F(1, 2), F(1, 8), F(3, 8)),
}


def case(draw, **support) -> tuple:
    """p, q, lam <= 1, and the best distribution with its mu and tau."""
    p, q = draw.pair(**support)
    lam = min(F(1), draw.lam(p, q))
    return p, q, lam, *exact.draft_law(p, q, lam)


def sequence(draw, v: int = 2, **support) -> tuple[list[Row], list[Row], list[list[F]], F]:
    """Targets, proposals and best outcomes of a first token and of a second after each; and lam."""
    drawn = [pairs.integer_weights(draw.rng, v, **support) for _ in range(v + 1)]
    targets = draw.keep("p", tuple(p for p, _ in drawn))
    proposals = draw.keep("q", tuple(q for _, q in drawn))
    lam = min(F(1), draw.fraction("lam", high=F(5, 4)))
    outcomes = [exact.draft_law(p, q, lam)[0] for p, q in zip(targets, proposals, strict=True)]
    return targets, proposals, outcomes, lam


def joint(rows: Sequence[Sequence[F]]) -> Row:
    """The distribution of two tokens: of the first, and of the second after each first."""
    v = len(rows[0])
    return tuple(rows[0][x] * rows[1 + x][y] for x, y in product(range(v), repeat=2))


@claim("F1-reach", f"{THEORY}, F1")
def a_rule_stays_within_its_rejections(draw):
    """Every rule (acceptance a, residual r) gives an s with TV(q, s) <= tau = 1 - sum q a; every
    distribution s comes from a = min(1, s/q), r = (s - q)^+ / TV(q, s) at tau = TV(q, s)."""
    p, q = draw.pair()
    a = draw.keep("a", tuple(F(int(x), 8) for x in draw.rng.integers(0, 9, len(p))))
    accepted = [x * y for x, y in zip(q, a, strict=True)]
    tau = 1 - sum(accepted, F(0))
    s = [x + tau * r for x, r in zip(accepted, p, strict=True)]
    yield at_most(exact.tv(q, s), tau)
    distance = exact.tv(q, p)
    if distance:
        residual = [max(x - y, F(0)) / distance for x, y in zip(p, q, strict=True)]
        yield equal(sum(residual), 1)
        yield agree(exact.draft_outcome(p, q, F(1), residual) == list(p), True)


@claim("F2-distribution", f"{THEORY}, F2")
def the_rule_gives_the_clipped_distribution(draw):
    """OBRS acceptance with the residual (p/mu - q)^+ gives s = clip(q, p/mu, p/lam), both masses
    that s moves are tau, and lam <= p/s <= mu wherever p > 0."""
    p, q, lam, s, mu, tau = case(draw)
    yield equal(sum(s), 1)
    yield equal(exact.tv(q, s), tau)
    residual = exact.draft_residual(p, q, mu)
    yield agree(exact.draft_outcome(p, q, lam, residual) == s, True)
    for a, b in zip(p, s, strict=True):
        if a and b:
            yield at_most(lam, a / b)
            yield at_most(a / b, mu)
        yield agree(bool(a), bool(b)) if mu < math.inf else at_most(b if not a else 0, 0)


@claim("F2-rational", f"{THEORY}, F2", share=0.3)
def the_clipped_distribution_is_best_in_rational_divergences(draw):
    """Among all distributions with TV(q, s) <= tau, lenient, mixture and regenerating rules and
    random distributions among them, the clipped one minimises TV, chi2 both ways, and hockey sticks
    of both orders."""
    p, q, lam, best, _, _ = case(draw)
    for rival in draft_rules.rivals(draw.rng, p, q, lam):
        for order in (0, 1):
            pair = ((p, best), (p, rival)) if order == 0 else ((best, p), (rival, p))
            least, other = (rational_divergences(*x) for x in pair)
            for name in least:
                strict = order == 0 and name.startswith("chi2") and least[name] < math.inf
                compare = below if strict else at_most
                yield compare(least[name], other[name], divergence=name, rival=rival)


@claim("F2-certified", f"{THEORY}, F2", share=0.1)
def the_clipped_distribution_is_best_in_logarithmic_divergences(draw):
    """Among all distributions with TV(q, s) <= tau, the clipped one is the only minimiser of
    KL(p||.), KL(.||p), JS and Hellinger."""
    p, q, lam, best, _, _ = case(draw)
    for rival in draft_rules.rivals(draw.rng, p, q, lam):
        for divergence in LOGARITHMIC:
            sides = (partial(divergence, p, x) for x in (best, rival))
            yield certainly_below(*sides, divergence=divergence.__name__, rival=rival)


@claim(
    "F3-every-tau",
    f"{THEORY}, F3 (refuted there)",
    FAILS,
    example={"p": (F(1), F(0)), "q": (F(1, 2), F(1, 2)), "tau": F(1, 4)},
)
def every_rejection_rate_has_its_thresholds(draw):
    """Expected, and false: for every tau in (0, TV(p, q)) some lam > 0 rejects tau."""
    p, q = draw.pair()
    tau = draw.fraction("tau", high=exact.tv(p, q))
    if tau:
        yield at_most(1 - tau, exact.reach(p, q))


@claim("F3-budget", f"{THEORY}, F3; jackpot.draft_law", CORRECTED, corrects="F3-every-tau")
def a_budget_has_its_thresholds(draw):
    """As corrected: a lam in (0, 1] rejects tau if and only if q(p = 0) <= tau <= TV(p, q). A
    budget 1 - tau outside gives the nearest end; jackpot.draft_law returns s, lam, mu and tau."""
    p, q = draw.pair()
    budget = draw.fraction("budget")
    lam = exact.draft_lam(p, q, budget)
    s, mu, tau = exact.draft_law(p, q, lam)
    least, most = 1 - exact.reach(p, q), exact.tv(p, q)
    yield equal(tau, min(max(1 - budget, least), most))
    got = jackpot.draft_law(*pairs.log_probs((p, q)), budget=float(budget))
    yield close(got.lam, lam, 1e-12 if tau > least or not tau else 1e-11, what="lam")
    yield at_most(float(np.max(np.abs(np.exp(got.log_s) - np.array(s, dtype=float)))), 1e-14)
    yield at_most(abs(float(got.tau - float(tau))), 1e-14, what="tau")
    yield at_most(abs(float(1 / got.mu) - (1 / float(mu) if mu < math.inf else 0)), 1e-13)


@claim("F3-prefix", f"{THEORY}, F3")
def the_upper_threshold_is_a_minimum_over_sets(draw):
    """1/mu is the least (tau + q(S)) / p(S) over all sets S of tokens with p(S) > 0, and prefixes
    in falling p/q are enough."""
    p, q, _, _, mu, tau = case(draw)
    sets = [s for n in range(1, len(p) + 1) for s in combinations(range(len(p)), n)]
    levels = [
        (tau + sum(q[i] for i in s)) / sum(p[i] for i in s) for s in sets if any(p[i] for i in s)
    ]
    yield equal(min(levels), 1 / mu if mu < math.inf else 0)


@claim("F4-lossless", f"{THEORY}, F4")
def at_lam_1_the_target_comes_out(draw):
    """At lam = 1: s = p, mu = 1, tau = TV(p, q)."""
    p, q = draw.pair()
    s, mu, tau = exact.draft_law(p, q, F(1))
    yield agree(tuple(s) == tuple(p), True)
    yield equal(mu, 1)
    yield equal(tau, exact.tv(p, q))


@claim("F4-engine", f"{THEORY}, F4")
def the_rule_is_lossless_speculative_sampling_of_s(draw):
    """For lam <= 1 the acceptance min(1, p/(lam q)) is min(1, s/q) wherever q > 0, and the residual
    is (s - q)^+ normalised: an engine that samples s losslessly from drafts of q is enough."""
    p, q, lam, s, mu, tau = case(draw)
    for a, b, accepted in zip(s, q, exact.accept_prob(p, q, lam), strict=True):
        if b:
            yield equal(accepted, min(F(1), a / b))
    if tau:
        rest = [max(a - b, F(0)) / tau for a, b in zip(s, q, strict=True)]
        yield agree(rest == exact.draft_residual(p, q, mu), True)


def kl(p: Row, s: Sequence[F]) -> Callable:
    return partial(intervals.kl_p_q, p, tuple(s))


@claim("F5-price", f"{THEORY}, F5", share=0.25)
def the_price_of_a_rejection(draw):
    """KL(p||s) is convex in tau with slope -(mu - lam): for tau < tau', the KL saved lies strictly
    between (mu' - lam') (tau' - tau) and (mu - lam) (tau' - tau). KL(s||p) is convex with slope
    -log(mu/lam)."""
    p, q = draw.pair()
    lams = sorted(min(F(1), draw.lam(p, q, name)) for name in ("lam", "lam2"))
    (few, dear, tau), (more, cheap, tau2) = (exact.draft_law(p, q, x) for x in lams)
    gap = tau2 - tau  # the smaller lam rejects less, at a higher price
    if not gap or dear == math.inf:
        return
    saved = partial(_difference, kl(p, few), kl(p, more))
    yield certainly_below(lambda: (cheap - lams[1]) * gap, saved)
    yield certainly_below(saved, lambda: (dear - lams[0]) * gap)
    saved = partial(_difference, kl(tuple(few), p), kl(tuple(more), p))
    slopes = [partial(intervals.log, mu / lam) for mu, lam in ((cheap, lams[1]), (dear, lams[0]))]
    width = partial(intervals.interval, gap)
    if gap < exact.tv(p, q) - tau:  # slope 0 at lam = 1, where the interval of log 1 is a point
        yield certainly_below(lambda: slopes[0]() * width(), saved)
    yield certainly_below(saved, lambda: slopes[1]() * width())


def _difference(lhs: Callable, rhs: Callable):
    return lhs() - rhs()


def masses(p: Row, q: Row) -> tuple[F, F]:
    """P(p > q) and P(q > p)."""
    above = sum((a for a, b in zip(p, q, strict=True) if a > b), F(0))
    return above, sum((a for a, b in zip(p, q, strict=True) if b > a), F(0))


def spared(draw) -> tuple:
    """p, q with p > 0, and a distribution that spares eps of the TV(p, q) rejections."""
    p, q = draw.pair(p_zero=False)
    share = draw.fraction("share")
    eps = share * exact.tv(p, q)
    return p, q, eps, draft_at(p, q, exact.tv(p, q) - eps)


def draft_at(p: Row, q: Row, tau: F) -> list[F]:
    """The best distribution at a rejection rate."""
    return exact.draft_law(p, q, exact.draft_lam(p, q, 1 - tau))[0]


def floor_of_spared(p: Row, q: Row, eps: F):
    """-P log(1 - eps / P) - N log(1 + eps / N), P = P(p > q), N = P(q > p)."""
    above, under = masses(p, q)
    first = intervals.interval(above) * intervals.log(1 - eps / above)
    return -first - intervals.interval(under) * intervals.log(1 + eps / under)


@claim("F5-floor", f"{THEORY}, F5", share=0.25)
def what_spared_rejections_cost_at_least(draw):
    """With eps = TV(p, q) - tau spared rejections (p > 0), P = P(p > q) and N = P(q > p):
    KL(p||s) >= -P log(1 - eps/P) - N log(1 + eps/N), with equality as long as s moves every token
    with p != q; and KL(p||s) > 2 eps^2, TV(p, s) being eps."""
    p, q, eps, s = spared(draw)
    if not eps:
        return
    yield equal(exact.tv(p, s), eps)
    yield certainly_below(lambda: 2 * eps**2, kl(p, s))
    moved = all(a == b or c != b for a, b, c in zip(p, q, s, strict=True))
    compare = to_40_digits if moved else certainly_below
    yield compare(partial(floor_of_spared, p, q, eps), kl(p, s))


def leading_coefficient(draw, coefficient: Callable[[F, F], F]):
    """Whether KL(p||s) / eps^2 is within 1% of the coefficient at a small eps."""
    p, q = draw.pair(p_zero=False)
    above, under = masses(p, q)
    if not above:
        return
    gaps = [abs(a - b) for a, b in zip(p, q, strict=True) if a != b]
    eps = min(min(gaps), above, under) / 10**4
    cost = intervals.kl_p_q(p, tuple(draft_at(p, q, exact.tv(p, q) - eps)))
    value = coefficient(above, under) * eps**2
    yield certainly_at_most(lambda: abs(cost - intervals.interval(value)), lambda: value / 100)


@claim("F5-printed", f"{THEORY}, F5 (refuted there)", FAILS, share=0.2, example=TIED)
def the_quadratic_as_first_printed(draw):
    """Expected, and false with ties: for small eps, KL(p||s) is eps^2 / (2 P N) to 1%."""
    yield from leading_coefficient(draw, lambda above, under: 1 / (2 * above * under))


@claim("F5-quadratic", f"{THEORY}, F5", CORRECTED, corrects="F5-printed", share=0.2, example=TIED)
def the_quadratic(draw):
    """As corrected: for small eps, KL(p||s) is (1/P + 1/N) eps^2 / 2 to 1% (P + N < 1 where tokens
    have p = q)."""
    yield from leading_coefficient(draw, lambda above, under: (1 / above + 1 / under) / 2)


def states(draw) -> tuple:
    """Two states with q > 0 and p > 0, and their frequencies."""
    v = int(draw.rng.integers(2, 5))
    drawn = [pairs.integer_weights(draw.rng, v, p_zero=False, q_zero=False) for _ in range(2)]
    ps, qs = (
        draw.keep("ps", tuple(p for p, _ in drawn)),
        draw.keep("qs", tuple(q for _, q in drawn)),
    )
    share = F(int(draw.rng.integers(1, 8)), 8)
    return ps, qs, draw.keep("d", (share, 1 - share))


def mean_kl(d: Row, ps, outcomes):
    """Mean over the states of KL(p_s||s_s), an interval."""
    rows = zip(d, ps, outcomes, strict=True)
    return sum((intervals.interval(w) * intervals.kl_p_q(p, s) for w, p, s in rows), iv.mpf(0))


def splits(draw, ps, qs, d, taus) -> list[list[list[F]]]:
    """Outcomes of the two states after some rejections moved from one to the other, d-weighted."""
    alternatives = []
    ends = [(1 - exact.reach(p, q), exact.tv(p, q)) for p, q in zip(ps, qs, strict=True)]
    for dear in (0, 1):
        cheap = 1 - dear
        down = d[cheap] * (taus[cheap] - ends[cheap][0])
        room = min(d[dear] * (ends[dear][1] - taus[dear]), down)
        for share in (F(1, 50), F(1, 5), F(3, 5), F(1)):
            if room > F(1, 10**6):
                moved = list(taus)
                moved[dear] += share * room / d[dear]
                moved[cheap] -= share * room / d[cheap]
                alternatives.append([draft_at(*x) for x in zip(ps, qs, moved, strict=True)])
    return alternatives


@claim("F6-common", f"{THEORY}, F6; jackpot.common_price_for_budget", share=0.1)
def a_common_price_costs_least(draw):
    """Of all ways to split a mean rejection rate over states, a common price mu - lam has the least
    mean KL(p||s). jackpot.common_price_for_budget finds it, the mean rate being met to 1e-12."""
    ps, qs, d = states(draw)
    most = rules.mean(d, [exact.tv(p, q) for p, q in zip(ps, qs, strict=True)])
    budget = 1 - draw.fraction("share") * most
    logs = pairs.log_probs(ps), pairs.log_probs(qs)
    if budget == 1:
        return
    price = jackpot.common_price_for_budget(*logs, float(budget), np.array(d, dtype=float))
    common = jackpot.draft_law(*logs, price=price)
    drafted = [
        exact.draft_law(p, q, F(float(x))) for p, q, x in zip(ps, qs, common.lam, strict=True)
    ]
    taus = [x[2] for x in drafted]
    yield at_most(abs(float(rules.mean(d, taus) + budget - 1)), 1e-12)
    least = partial(mean_kl, d, ps, [x[0] for x in drafted])
    for outcomes in splits(draw, ps, qs, d, taus):
        yield certainly_below(least, partial(mean_kl, d, ps, outcomes))


UNEQUAL = {
    "ps": ((F(1, 2), F(1, 2)), (F(9, 10), F(1, 10))),
    "qs": ((F(1, 4), F(3, 4)), (F(1, 2), F(1, 2))),
    "d": (F(1, 2), F(1, 2)),
    "lam": F(3, 4),
}


@claim("F6-lam", f"{THEORY}, F6 (refuted there)", FAILS, share=0.1, example=UNEQUAL)
def a_common_lam_costs_least(draw):
    """Expected, and false: of all ways to split the rejections of two states, a common lam has the
    least mean KL(p||s), as it has for accepted pairs (docs/theory.md, E1)."""
    ps, qs, d = states(draw)
    lam = draw.fraction("lam")
    drafted = [exact.draft_law(p, q, lam) for p, q in zip(ps, qs, strict=True)]
    least = partial(mean_kl, d, ps, [x[0] for x in drafted])
    for outcomes in splits(draw, ps, qs, d, [x[2] for x in drafted]):
        yield certainly_at_most(least, partial(mean_kl, d, ps, outcomes))


@claim("F6-share", f"{THEORY}, F6 (refuted there)", FAILS, share=0.1, example=UNEQUAL)
def an_equal_share_costs_least(draw):
    """Expected, and false: the same share of TV(p, q) spared in each state has the least mean
    KL(p||s)."""
    ps, qs, d = states(draw)
    share = draw.fraction("lam")
    taus = [share * exact.tv(p, q) for p, q in zip(ps, qs, strict=True)]
    least = partial(mean_kl, d, ps, [draft_at(*x) for x in zip(ps, qs, taus, strict=True)])
    for outcomes in splits(draw, ps, qs, d, taus):
        yield certainly_at_most(least, partial(mean_kl, d, ps, outcomes))


@claim("F7-sequences", f"{THEORY}, F7", share=0.25)
def the_kl_of_sequences_is_the_sum(draw):
    """KL(P||S) of two tokens is E_P of the sum of KL(p_t||s_t), to 40 digits, and the weight P/S of
    a sequence lies in [lam^2, (largest mu)^2]."""
    targets, proposals, outcomes, lam = sequence(draw, q_zero=False)
    chain = (F(1), *targets[0])  # how often P visits each state
    yield to_40_digits(
        partial(intervals.kl_p_q, joint(targets), joint(outcomes)),
        partial(mean_kl, chain, targets, outcomes),
    )
    mu = max(exact.draft_law(p, q, lam)[1] for p, q in zip(targets, proposals, strict=True))
    for a, b in zip(joint(targets), joint(outcomes), strict=True):
        if a and b:
            yield at_most(lam**2, a / b)
            yield at_most(a / b, mu**2)


@claim("F7-bonus", f"{THEORY}, F7", share=0.25)
def a_bonus_token_follows_the_target(draw):
    """Blocks of one draft, the token after an accepted one drawn from p: KL(P||S) is at most that
    without bonus tokens, and weights p/s of drafted and 1 of bonus tokens are unbiased."""
    targets, proposals, outcomes, lam = sequence(draw, q_zero=False)
    v = len(targets[0])
    first = exact.accept_prob(targets[0], proposals[0], lam)
    kept = [b * a for a, b in zip(first, proposals[0], strict=True)]
    outcome = [
        kept[x] * targets[1 + x][y] + (outcomes[0][x] - kept[x]) * outcomes[1 + x][y]
        for x, y in product(range(v), repeat=2)
    ]
    yield equal(sum(outcome), 1)
    plain = partial(intervals.kl_p_q, joint(targets), joint(outcomes))
    if tuple(outcome) != joint(outcomes):
        yield certainly_at_most(partial(intervals.kl_p_q, joint(targets), tuple(outcome)), plain)
    for x, y in product(range(v), repeat=2):
        if outcomes[0][x]:
            weight = targets[0][x] / outcomes[0][x]
            second = targets[1 + x][y] / outcomes[1 + x][y] if outcomes[1 + x][y] else F(0)
            drafted = (outcomes[0][x] - kept[x]) * outcomes[1 + x][y] * second
            mean = weight * (kept[x] * targets[1 + x][y] + drafted)
            yield equal(mean, targets[0][x] * targets[1 + x][y])


@claim("F8-blocks", f"{THEORY}, F8", share=0.25)
def blocks_are_verified_whole_or_token_by_token(draw):
    """Token by token and by block verification, a block of two drafts of q verified against s gives
    exactly the sequences of s; block verification keeps at least as many drafts on average."""
    _, proposals, outcomes, _ = sequence(draw, int(draw.rng.integers(2, 4)))
    (single, few), (whole, many) = (
        draft_rules.block_distribution(outcomes, proposals, kind) for kind in (False, True)
    )
    yield agree(tuple(single) == joint(outcomes), True)
    yield agree(tuple(whole) == joint(outcomes), True)
    yield at_most(few, many)


@claim("F9-masked", f"{THEORY}, F9", share=0.1)
def masking_rejected_tokens_leaves_more(draw):
    """The distribution of accepted tokens (OBRS at the same lam, rejected ones masked) is never
    closer to p than s: KL(p||s) <= KL(p||q~), and TV, chi2 and hockey sticks likewise."""
    p, q, lam, s, _, tau = case(draw)
    after = exact.post_rejection(p, q, lam)
    yield at_most(exact.tv(q, after), tau)
    least, other = (rational_divergences(p, x) for x in (s, after))
    for name in least:
        yield at_most(least[name], other[name], divergence=name)
    if after != s:
        yield certainly_at_most(kl(p, s), kl(p, after))


@claim("F9-cap", f"{THEORY}, F9", share=0.1)
def a_cap_on_the_kl_has_the_same_distribution(draw):
    """Of all distributions with KL(p||.) at most that of the clipped distribution, the clipped
    distribution rejects least: a rival that rejects less has a larger KL."""
    p, q, lam, s, _, tau = case(draw)
    fewer = draw.fraction("fewer")
    for rival in draft_rules.rivals(draw.rng, p, q, lam):
        nearer = tuple(fewer * b + (1 - fewer) * a for a, b in zip(rival, q, strict=True))
        if exact.tv(q, nearer) < tau:
            yield certainly_below(kl(p, s), kl(p, nearer), rival=nearer)
