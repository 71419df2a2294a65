"""The acceptance rule, its rate Z and q~, the distribution of accepted tokens (docs/theory.md)."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from backends import (
    REFERENCES,
    divergence,
    divergence_of,
    floats,
    fractions,
    in_float64,
    on_every_backend,
    random_rows,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from jackpot import accept_prob, acceptance_rate, post_rejection
from sim.oracle import exact
from sim.worlds.strategies import batches, extreme_log_pairs, lams, pairs

FUNCTIONS = {
    "accept_prob": (accept_prob, exact.accept_prob),
    "acceptance_rate": (acceptance_rate, exact.acceptance_rate),
    "post_rejection": (
        lambda log_p, log_q, lam: exp(post_rejection(log_p, log_q, lam)),
        exact.post_rejection,
    ),
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def exp(x):
    return x.exp() if hasattr(x, "exp") else _namespace(x).exp(x)


def _namespace(x):
    return x.__array_namespace__() if not isinstance(x, np.generic) else np


def accepted_distribution(backend, p, q, lam) -> list[Fraction]:
    """q~ as the core gives it, as rationals."""
    distribution = post_rejection(backend.logs(p), backend.logs(q), float(lam))
    return fractions(exp(distribution))


# Equality with rational arithmetic


@each_function
@on_every_backend
@given(batch=batches(overlap=True), lam=lams())
def test_a_number_lam_gives_the_rational_value(name, backend, batch, lam):
    """Def. 3.2, Eq. 4: one lam for a batch of states."""
    core, oracle = FUNCTIONS[name]
    got = core(backend.logs(batch[0]), backend.logs(batch[1]), float(lam))
    backend.check(got, [oracle(p, q, lam) for p, q in zip(*batch, strict=True)])


@each_function
@on_every_backend
@given(batch=batches(overlap=True), data=st.data())
def test_an_array_of_lams_gives_each_state_its_own(name, backend, batch, data):
    """Def. 3.2, Eq. 4: lam per state."""
    core, oracle = FUNCTIONS[name]
    n = len(batch[0])
    lam = data.draw(st.lists(lams(), min_size=n, max_size=n))
    got = core(backend.logs(batch[0]), backend.logs(batch[1]), backend.array(lam))
    backend.check(got, [oracle(p, q, x) for p, q, x in zip(*batch, lam, strict=True)])


@each_function
@on_every_backend
def test_lam_may_be_any_kind_of_number(name, backend):
    """A Python int, a numpy scalar and a 0-d array mean the same threshold."""
    core, oracle = FUNCTIONS[name]
    p, q = [Fraction(1, 4), Fraction(3, 4)], [Fraction(2, 3), Fraction(1, 3)]
    for lam in (2, 2.0, np.float32(2), np.float64(2), np.int64(2), backend.array(2.0)):
        backend.check(core(backend.logs(p), backend.logs(q), lam), oracle(p, q, Fraction(2)))


@each_function
@on_every_backend
def test_two_leading_axes_are_states(name, backend):
    """Shape (2, 3, v) is six states; lam has shape (2, 3)."""
    core, oracle = FUNCTIONS[name]
    weights = np.random.default_rng(0).integers(1, 40, (2, 2, 3, 4)).tolist()
    p, q = ([[[Fraction(w, sum(r)) for w in r] for r in x] for x in y] for y in weights)
    lam = [
        [Fraction(1, 2), Fraction(1), Fraction(3, 2)],
        [Fraction(9, 10), Fraction(2), Fraction(7)],
    ]
    want = [[oracle(p[i][j], q[i][j], lam[i][j]) for j in range(3)] for i in range(2)]
    backend.check(core(backend.logs(p), backend.logs(q), backend.array(lam)), want)


@on_every_backend
def test_a_lam_array_in_another_float_type_is_used_unrounded(backend):
    """log lam is taken before the cast: as float32, 1e-300 would be 0 and accept everything."""
    lam = backend.library.asarray([1e-300], dtype=backend.library.float64)
    log_p, log_q = backend.array([[-800.0, -0.5]]), backend.array([[-0.5, -1.0]])
    backend.check(accept_prob(log_p, log_q, lam), [[math.exp(-799.5 + 300 * math.log(10)), 1.0]])


# Zeros, ties, extremes, sizes


@on_every_backend
def test_tokens_without_mass_have_fixed_acceptance(backend):
    """Absent from both: 0. Only p has it: 1. Only q has it: 0, for every lam (A7)."""
    log_p = backend.array([-math.inf, -0.5, -math.inf, -0.5])
    log_q = backend.array([-math.inf, -math.inf, -0.5, -0.5])
    for lam in (1e-300, 0.5, 1e300):
        a = accept_prob(log_p, log_q, lam)
        backend.check(a, [0.0, 1.0, 0.0, min(1.0, 1.0 / lam)])


@on_every_backend
@given(pair=pairs(overlap=True), lam=lams())
def test_accepted_tokens_lie_in_both_supports(backend, pair, lam):
    """A7: q~ is exactly 0 (log -inf) where p or q is."""
    distribution = backend.numpy(
        post_rejection(backend.logs(pair[0]), backend.logs(pair[1]), float(lam))
    )
    absent = [not (pi and qi) for pi, qi in zip(*pair, strict=True)]
    assert (np.isneginf(distribution) == absent).all()


@on_every_backend
@given(pair=extreme_log_pairs(), lam=st.sampled_from([1e-300, 1.0, 1e300]))
def test_extreme_log_probabilities_give_the_60_digit_values(backend, pair, lam):
    """B5 (b, c): ratios of e^+-2000 and masses below 1e-300 neither overflow nor give NaN."""
    log_p, log_q = map(backend.array, pair)
    want = []
    for x, y in zip(*pair, strict=True):
        if y == -math.inf:
            want.append(float(x > -math.inf))
        else:
            want.append(min(mpmath.mpf(1), mpmath.exp(mpmath.mpf(x) - y) / lam))
    backend.check(accept_prob(log_p, log_q, lam), want, scale=1.0)
    z = sum((mpmath.exp(y) * a for y, a in zip(pair[1], want, strict=True)), mpmath.mpf(0))
    backend.check(acceptance_rate(log_p, log_q, lam), z, scale=1.0)


@on_every_backend
def test_the_accepted_distribution_survives_masses_that_underflow(backend):
    """q~ is normalised in logs: two tokens of mass e^-2000 are still half and half."""
    log_p = backend.array([-2000.0, -2000.0, -math.inf])
    log_q = backend.array([-2000.0, -2000.0, 0.0])
    distribution = post_rejection(log_p, log_q, 1.0)
    backend.check(distribution, [-math.log(2), -math.log(2), -math.inf])


@on_every_backend
def test_the_accepted_distribution_of_rare_tokens_is_kept_in_logs(backend):
    """A token of mass e^-1000 stays in q~ with its log, though its probability underflows."""
    distribution = post_rejection(
        backend.array([0.0, -1000.0]), backend.array([-1000.0, -1.0]), 1.0
    )
    backend.check(distribution, [-math.log(2), -math.log(2)])
    distribution = post_rejection(backend.array([0.0, -1000.0]), backend.array([0.0, -1000.0]), 1.0)
    backend.check(distribution, [0.0, -1000.0])


@on_every_backend
@pytest.mark.parametrize("lam", [0.25, 1.0, 4.0])
def test_one_token_is_accepted_with_one_over_lam(backend, lam):
    """v = 1: p = q = 1, so a = Z = min(1, 1 / lam) and q~ = 1."""
    one = backend.array([0.0])
    backend.check(accept_prob(one, one, lam), [min(1.0, 1 / lam)])
    backend.check(acceptance_rate(one, one, lam), min(1.0, 1 / lam))
    backend.check(post_rejection(one, one, lam), [0.0])


@on_every_backend
def test_equal_distributions_are_left_alone(backend):
    """p = q: every ratio ties at 1, so q~ = q whatever lam is."""
    q = [Fraction(1, 10), Fraction(3, 10), Fraction(6, 10)]
    for lam in (0.5, 1.0, 3.0):
        backend.check(exp(post_rejection(backend.logs(q), backend.logs(q), lam)), q)


@on_every_backend
@pytest.mark.parametrize("lam", [0.3, 1.0, 2.5])
def test_a_whole_vocabulary_agrees_with_an_exactly_rounded_sum(backend, lam):
    """v = 151,936: Z against math.fsum of float64 terms, and q~ sums to 1."""
    log_p, log_q = map(backend.array, random_rows((2, 151_936), seed=1))
    p, q = np.exp(floats(backend.numpy(log_p))), np.exp(floats(backend.numpy(log_q)))
    want = [math.fsum(np.minimum(q[i], p[i] / lam)) for i in range(2)]
    backend.check(acceptance_rate(log_p, log_q, lam), want)
    distribution = np.exp(backend.numpy(post_rejection(log_p, log_q, lam)))
    backend.check(backend.array([math.fsum(row) for row in distribution]), [1.0, 1.0])


@on_every_backend
def test_an_empty_batch_gives_empty_results(backend):
    """Leading dimension 0."""
    empty = backend.array(np.zeros((0, 3)))
    for lam in (1.0, backend.array(np.zeros(0))):
        backend.check(accept_prob(empty, empty, lam), np.zeros((0, 3)))
        backend.check(acceptance_rate(empty, empty, lam), np.zeros(0))
        backend.check(post_rejection(empty, empty, lam), np.zeros((0, 3)))


@on_every_backend
def test_the_row_that_accepts_nothing_is_named(backend):
    """q~ does not exist where p and q share no token; the message says which row."""
    log_p = backend.array([[[-1.0, -1.0]], [[0.0, -math.inf]]])
    log_q = backend.array([[[-1.0, -1.0]], [[-math.inf, 0.0]]])
    with pytest.raises(ValueError, match=r"share no token in row \(1, 0\)"):
        post_rejection(log_p, log_q, 1.0)


# Theorems


@on_every_backend
@given(pair=pairs())
def test_at_lam_1_the_rate_is_one_minus_total_variation(backend, pair):
    """A0 (iv): Z(1) = 1 - TV(p, q)."""
    z = acceptance_rate(backend.logs(pair[0]), backend.logs(pair[1]), 1.0)
    backend.check(z, 1 - exact.tv(*pair), scale=1.0)


@on_every_backend
@given(pair=pairs(), lam=lams())
def test_lam_z_never_exceeds_one(backend, pair, lam):
    """A0 (i): lam Z <= P <= 1, with equality at and above the largest ratio."""
    p, q = pair
    z = backend.numpy(acceptance_rate(backend.logs(p), backend.logs(q), float(lam)))
    covered = sum(pi for pi, qi in zip(p, q, strict=True) if qi)
    backend.at_most(float(lam) * z, covered)
    if all(pi <= lam * qi for pi, qi in zip(p, q, strict=True) if qi):
        backend.at_most(covered, float(lam) * z)


@on_every_backend
@given(pair=pairs(overlap=True), lam=lams())
def test_only_the_target_on_the_proposals_support_matters(backend, pair, lam):
    """A0 (iii), A7: q~ is that of p' = p(.|supp q) with lam / P."""
    p, q = pair
    mass = sum(pi for pi, qi in zip(p, q, strict=True) if qi)
    inside = [pi / mass if qi else Fraction(0) for pi, qi in zip(p, q, strict=True)]
    got = accepted_distribution(backend, inside, q, lam / mass)
    backend.check(backend.array(accepted_distribution(backend, p, q, lam)), got)


@in_float64
@pytest.mark.parametrize("name", REFERENCES)
@given(pair=pairs(max_v=5, overlap=True), data=st.data())
def test_a_larger_lam_never_moves_the_distribution_away_from_the_target(backend, name, pair, data):
    """A4: D(p || q~) is non-increasing in lam and at most D(p || q), for seven divergences."""
    p, q = pair
    grid = sorted(data.draw(st.lists(lams(), min_size=2, max_size=4)))
    before = divergence_of(name, p, q)
    for lam in grid:
        after = divergence_of(name, p, accepted_distribution(backend, p, q, lam))
        backend.at_most(after, before)
        before = after


@in_float64
@given(pair=pairs(max_v=5, overlap=True), grid=st.lists(lams(), min_size=2, max_size=5))
def test_a_larger_lam_never_accepts_more(backend, pair, grid):
    """A4, A0 (v): Z is non-increasing in lam."""
    log_p, log_q = map(backend.logs, pair)
    rates = [backend.numpy(acceptance_rate(log_p, log_q, float(lam))) for lam in sorted(grid)]
    backend.at_most(rates[1:], rates[:-1])


@on_every_backend
@given(pair=pairs(max_v=5, covered=True, overlap=True), lam=lams())
def test_a_budget_buys_at_most_its_logarithm(backend, pair, lam):
    """A6: KL(p || q) - KL(p || q~) <= log(1 / Z)."""
    log_p, log_q = map(backend.logs, pair)
    z = float(backend.numpy(acceptance_rate(log_p, log_q, float(lam))))
    after = divergence("kl_p_q", log_p, post_rejection(log_p, log_q, float(lam)))
    backend.at_most(divergence("kl_p_q", log_p, log_q) - math.log(1 / z), after)


@on_every_backend
@given(pair=pairs(max_v=5, covered=True, overlap=True), lam=lams())
def test_what_a_budget_buys_is_known_in_closed_form(backend, pair, lam):
    """A6: the fall of KL(p || .) is log(1 / Z) - E_p[(log lam / r)^+]."""
    p, q = pair
    log_p, log_q = backend.logs(p), backend.logs(q)
    fall = divergence("kl_p_q", log_p, log_q) - divergence(
        "kl_p_q", log_p, post_rejection(log_p, log_q, float(lam))
    )
    excess = sum(
        float(pi) * math.log(lam * qi / pi)
        for pi, qi in zip(p, q, strict=True)
        if pi and lam * qi > pi
    )
    want = -math.log(exact.acceptance_rate(p, q, lam)) - excess
    assert float(fall) == pytest.approx(want, abs=20 * backend.rtol)


@in_float64
@given(pair=pairs(overlap=True), lam=lams(), data=st.data())
def test_no_rule_with_the_same_rate_gets_closer_in_any_hockey_stick(backend, pair, lam, data):
    """A1 (Thm 3.4 for all f-divergences): E_g(p || q~) <= E_g(p || q h / E h) for every g."""
    p, q = pair
    z = exact.acceptance_rate(p, q, lam)
    tenths = st.lists(st.integers(0, 10), min_size=len(q), max_size=len(q))
    rule = [Fraction(n, 10) for n in data.draw(tenths)]
    rate = sum(h * qi for h, qi in zip(rule, q, strict=True))
    if rate >= z:  # shrink it, or shrink its complement, to the rate of OBRS
        rule = [h * z / rate for h in rule]
    else:
        rule = [1 - (1 - h) * (1 - z) / (1 - rate) for h in rule]
    rival = [h * qi / z for h, qi in zip(rule, q, strict=True)]
    distribution = accepted_distribution(backend, p, q, lam)
    for g in (Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(2), 1 / (lam * z)):
        backend.at_most(exact.hockey_stick(p, distribution, g), exact.hockey_stick(p, rival, g))


@in_float64
@given(pair=pairs(max_v=5, covered=True), quarter=st.integers(1, 12))
def test_the_distribution_moves_exactly_when_lam_exceeds_the_smallest_ratio(backend, pair, quarter):
    """A5 (Thm 3.3 corrected): KL(p || q~) < KL(p || q) iff lam > min r, for p != q."""
    p, q = pair
    assume(p != q)
    smallest = min(pi / qi for pi, qi in zip(p, q, strict=True))
    lam = smallest * Fraction(quarter, 4) if smallest else Fraction(quarter, 4)
    gain = divergence_of("kl_p_q", p, q) - divergence_of(
        "kl_p_q", p, accepted_distribution(backend, p, q, lam)
    )
    assert (gain > 1e-9) == (lam > smallest)
