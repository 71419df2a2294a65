"""Our statements on weights (docs/theory.md, part C) and on one threshold for many states (E1)."""

from __future__ import annotations

from fractions import Fraction as F

from sim.oracle import exact, intervals, rules
from sim.worlds import pairs

from .obrs import rational_divergences
from .registry import agree, at_most, certainly_at_most, certainly_below, claim, equal


def token_case(draw) -> tuple:
    """p, q, lam, Z, acceptance a, and the ratio r of every token (0 where q = 0)."""
    p, q = draw.pair()
    lam = draw.lam(p, q)
    r = tuple(a / b if b else F(0) for a, b in zip(p, q, strict=True))
    return p, q, lam, exact.acceptance_rate(p, q, lam), exact.accept_prob(p, q, lam), r


@claim("C1-mean", "docs/theory.md, C1")
def the_masked_weight_keeps_the_factor_z(draw):
    """With w = Z max(lam, r) and any f, E_q[a w f] = Z E_p[f 1(q > 0)] and E_q[a max(lam, r) f] =
    E_p[f 1(q > 0)]; w = p / q~ on every token that can be accepted."""
    p, q, lam, z, a, r = token_case(draw)
    f = draw.vector("f", len(p), low=-9)
    w = tuple(exact.obrs_weight(x, lam, z) for x in r)
    target = rules.mean(p, tuple(F(b > 0) for b in q), f)
    yield equal(rules.mean(q, a, w, f), z * target)
    yield equal(rules.mean(q, a, tuple(max(lam, x) for x in r), f), target)
    after = exact.post_rejection(p, q, lam)
    for i, x in enumerate(after):
        if x:
            yield equal(w[i], p[i] / x, token=i)


@claim("C2-coin", "docs/theory.md, C2")
def the_coin_integrated_out(draw):
    """For every cap c1 > 0: E[mask min(w, c1) | x] = a min(w, c1) = min(Z r, c1 min(1, r / lam));
    this is min(Z r, c1) for c1 >= lam Z (so for every c1 >= 1) and c1 a for c1 < lam Z."""
    _, q, lam, z, a, r = token_case(draw)
    c1 = draw.fraction("c1", high=3)
    for i in (i for i, b in enumerate(q) if b):
        expected = exact.expected_weight(r[i], lam, z, c1)
        yield equal(expected, a[i] * min(exact.obrs_weight(r[i], lam, z), c1), token=i)
        yield equal(expected, min(z * r[i], c1 * min(F(1), r[i] / lam)), token=i)
        yield equal(expected, min(z * r[i], c1) if c1 >= lam * z else c1 * a[i], token=i)
    yield at_most(lam * z, 1)


@claim("C2-variance", "docs/theory.md, C2 (Rao-Blackwell)")
def the_coin_never_helps(draw):
    """Replacing the mask by a leaves E_q[a min(w, c1) f] as it is and lowers the second moment by
    exactly E_q[a (1 - a) min(w, c1)^2 f^2] >= 0, which is Z^2 E_q[r max(lam - r, 0) f^2] for
    c1 >= lam Z."""
    p, q, lam, z, a, r = token_case(draw)
    f = draw.vector("f", len(p), low=-9)
    c1 = draw.fraction("c1", high=3)
    w = tuple(min(exact.obrs_weight(x, lam, z), c1) for x in r)
    mean = tuple(exact.expected_weight(x, lam, z, c1) for x in r)
    coin = rules.mean(q, a, w, w, f, f)
    gain = coin - rules.mean(q, mean, mean, f, f)
    yield equal(rules.mean(q, a, w, f), rules.mean(q, mean, f))
    yield equal(gain, rules.mean(q, a, tuple(1 - x for x in a), w, w, f, f))
    yield at_most(0, gain)
    if c1 >= lam * z:
        below_lam = tuple(max(lam - x, F(0)) for x in r)
        yield equal(gain, z * z * rules.mean(q, r, below_lam, f, f))


def states(draw) -> tuple:
    """2-3 states on 2-4 tokens, full support of p: rows ps and qs, and the frequencies d."""
    n, v = int(draw.rng.integers(2, 4)), int(draw.rng.integers(2, 5))
    rows = [pairs.integer_weights(draw.rng, v, p_zero=False) for _ in range(n)]
    counts = [int(x) for x in draw.rng.integers(1, 6, n)]
    d = tuple(F(c, sum(counts)) for c in counts)
    ps, qs = zip(*rows, strict=True)
    return draw.keep("p", ps), draw.keep("q", qs), draw.keep("d", d)


def joint(d, rows) -> tuple:
    """The distribution of (state, token) pairs, flattened."""
    return tuple(ds * x for ds, row in zip(d, rows, strict=True) for x in row)


def accepted(d, ps, qs, lams, budget) -> tuple:
    """The distribution of accepted pairs under one lam per state, flattened."""
    kept = [
        [a * b for a, b in zip(exact.accept_prob(p, q, lam), q, strict=True)]
        for p, q, lam in zip(ps, qs, lams, strict=True)
    ]
    return tuple(x / budget for x in joint(d, kept))


@claim("E1-joint", "docs/theory.md, E1")
def a_common_lam_is_jointly_optimal(draw):
    """One lam for all states, with mean acceptance b, gives accepted (state, token) pairs no
    farther from d x p than any other rule of mean acceptance b, the same b in every state among
    them (TV, chi2 both ways, hockey sticks)."""
    ps, qs, d = states(draw)
    budget = draw.fraction("budget")
    common = exact.common_lam_for_budget(ps, qs, budget, d)
    z = [exact.acceptance_rate(p, q, common) for p, q in zip(ps, qs, strict=True)]
    yield equal(rules.mean(d, z), budget)
    each = [exact.lam_for_budget(p, q, budget) for p, q in zip(ps, qs, strict=True)]
    target = joint(d, ps)
    best = accepted(d, ps, qs, [common] * len(d), budget)
    _, others = rules.contest(draw, target, joint(d, qs), budget=budget)
    least = rational_divergences(target, best)
    for rival in (accepted(d, ps, qs, each, budget), *others):
        for name, value in rational_divergences(target, rival).items():
            yield at_most(least[name], value, divergence=name)


@claim("E1-equal-budgets", "docs/theory.md, E1", share=0.3)
def a_common_lam_beats_equal_budgets(draw):
    """At equal mean acceptance b (full support): sum_s d_s KL_s(common lam) < KL of pairs (common
    lam) < sum_s d_s KL_s(budget b in every state) = KL of pairs (the same), unless every state has
    acceptance b under the common lam; then all are equal."""
    ps, qs, d = states(draw)
    if any(not x for q in qs for x in q):
        return
    budget = draw.fraction("budget")
    common = [exact.common_lam_for_budget(ps, qs, budget, d)] * len(d)
    each = [exact.lam_for_budget(p, q, budget) for p, q in zip(ps, qs, strict=True)]
    target = joint(d, ps)
    distributions = {
        name: accepted(d, ps, qs, lams, budget)
        for name, lams in (("common", common), ("each", each))
    }

    def per_state(lams):
        total = intervals.interval(F(0))
        for ds, p, q, lam in zip(d, ps, qs, lams, strict=True):
            total += intervals.interval(ds) * intervals.kl_p_q(p, exact.post_rejection(p, q, lam))
        return total

    if distributions["common"] == distributions["each"]:
        return
    same_rates = all(
        exact.acceptance_rate(p, q, common[0]) == budget for p, q in zip(ps, qs, strict=True)
    )
    yield agree(same_rates, False)
    pairs_kl = {
        name: (lambda distribution=distribution: intervals.kl_p_q(target, distribution))
        for name, distribution in distributions.items()
    }
    yield certainly_below(lambda: per_state(common), pairs_kl["common"])
    yield certainly_below(pairs_kl["common"], pairs_kl["each"])
    yield certainly_at_most(lambda: per_state(common), lambda: per_state(each))
