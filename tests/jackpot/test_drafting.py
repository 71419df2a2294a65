"""Drafting (docs/theory_drafting.md): distribution, thresholds and residual, against rational
arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from backends import (
    NUMPY,
    TORCH32,
    floats,
    on_every_backend,
    random_rows,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from jackpot import (
    common_price_for_budget,
    draft_accept_prob,
    draft_law,
    draft_residual,
    drafting,
    kl_p_q,
)
from sim.oracle import exact
from sim.worlds.strategies import batches, budgets, state_weights

SIXTIETHS = st.integers(1, 60).map(lambda n: Fraction(n, 60))


def in_numpy(backend, drafted):
    """The distribution's fields as float64, probabilities in place of their logs."""
    return np.exp(backend.numpy(drafted.log_s)), *map(backend.numpy, drafted[1:])


@on_every_backend
@given(batch=batches(), lam=SIXTIETHS)
def test_a_threshold_has_the_distribution_that_rational_arithmetic_gives(backend, batch, lam):
    """F2: s, mu and tau at lam."""
    log_p, log_q = map(backend.logs, batch)
    drafted = draft_law(log_p, log_q, lam=float(lam))
    want = [exact.draft_law(p, q, lam) for p, q in zip(*batch, strict=True)]
    s, _, mu, tau = in_numpy(backend, drafted)
    np.testing.assert_allclose(s, floats([w[0] for w in want]), rtol=0, atol=10 * backend.rtol)
    np.testing.assert_allclose(tau, floats([w[2] for w in want]), rtol=0, atol=10 * backend.rtol)
    np.testing.assert_allclose(1 / mu, [float(1 / w[1]) for w in want], atol=20 * backend.rtol)


@on_every_backend
@given(batch=batches(), budget=budgets())
def test_a_budget_is_the_acceptance_rate_or_the_nearest_that_serves(backend, batch, budget):
    """F3: 1 - tau is the budget, clipped to [1 - TV(p, q), q(supp p)]."""
    log_p, log_q = map(backend.logs, batch)
    _, lam, _, tau = in_numpy(backend, draft_law(log_p, log_q, budget=float(budget)))
    for p, q, x, rejected in zip(*batch, lam, tau, strict=True):
        nearest = min(max(budget, 1 - exact.tv(p, q)), exact.reach(p, q))
        assert 1 - rejected == pytest.approx(float(nearest), abs=10 * backend.rtol)
        z = exact.acceptance_rate(p, q, Fraction(float(x)))
        assert float(z) == pytest.approx(1 - rejected, abs=10 * backend.rtol)


@on_every_backend
@given(batch=batches(), lam=SIXTIETHS)
def test_acceptance_and_residual_give_the_distribution(backend, batch, lam):
    """F1: q a + tau r = s, with a, r and s as the three functions return them."""
    log_p, log_q = map(backend.logs, batch)
    drafted = draft_law(log_p, log_q, lam=float(lam))
    a = backend.numpy(draft_accept_prob(log_p, log_q, drafted.lam))
    r = np.exp(backend.numpy(draft_residual(log_p, log_q, drafted.mu)))
    s, _, _, tau = in_numpy(backend, drafted)
    q = floats(batch[1])
    np.testing.assert_allclose(r.sum(-1), 1.0, atol=10 * backend.rtol)
    np.testing.assert_allclose(q * a + tau[:, None] * r, s, rtol=0, atol=20 * backend.rtol)


@on_every_backend
@given(batch=batches(), budget=budgets())
def test_the_distribution_sums_to_one_and_its_weights_are_bounded(backend, batch, budget):
    """F2: sum s = 1 and lam s <= p <= mu s."""
    log_p, log_q = map(backend.logs, batch)
    s, lam, mu, _ = in_numpy(backend, draft_law(log_p, log_q, budget=float(budget)))
    p = floats(batch[0])
    np.testing.assert_allclose(s.sum(-1), 1.0, atol=10 * backend.rtol)
    backend.at_most(lam[:, None] * s, p)
    with np.errstate(invalid="ignore"):
        backend.at_most(p, np.where(mu[:, None] < np.inf, mu[:, None] * s, np.inf))
    assert (lam <= 1).all() and (mu >= 1).all()


@on_every_backend
@given(batch=batches())
def test_at_lam_1_the_distribution_is_the_target_bit_by_bit(backend, batch):
    """F4: lossless; the residual is the one of speculative sampling, (p - q)^+ normalised."""
    log_p, log_q = map(backend.logs, batch)
    drafted = draft_law(log_p, log_q, lam=1)
    np.testing.assert_array_equal(backend.numpy(drafted.log_s), backend.numpy(log_p))
    np.testing.assert_array_equal(backend.numpy(drafted.mu), 1.0)
    backend.check(drafted.tau, [exact.tv(*x) for x in zip(*batch, strict=True)], scale=1.0)
    r = np.exp(backend.numpy(draft_residual(log_p, log_q, drafted.mu)))
    for p, q, got in zip(*batch, r, strict=True):
        if exact.tv(p, q) > 0:
            np.testing.assert_allclose(got, floats(exact.draft_residual(p, q, 1)), atol=1e-4)


# A price, and one for many states


def clipped_sum(p, q, lam, price) -> Fraction:
    """sum clip(q, p / (lam + price), p / lam), exactly."""
    pairs = zip(p, q, strict=True)
    return sum((min(max(b, a / (lam + price)), a / lam) for a, b in pairs), Fraction(0))


@on_every_backend
@given(batch=batches(), price=st.integers(0, 200).map(lambda n: Fraction(n, 20)))
def test_a_price_is_the_gap_between_the_thresholds(backend, batch, price):
    """F6: lam is the root of the sum in rational arithmetic; or no first rejection costs more."""
    log_p, log_q = map(backend.logs, batch)
    drafted = draft_law(log_p, log_q, price=float(price))
    free = draft_law(log_p, log_q, budget=1.0)
    _, lam, mu, tau = in_numpy(backend, drafted)
    for i, (p, q) in enumerate(zip(*batch, strict=True)):
        fewest = exact.draft_lam(p, q, Fraction(1))
        *_, least = exact.draft_law(p, q, fewest)
        if exact.draft_mu(p, q, least) - fewest <= price:
            assert tau[i] == pytest.approx(float(least), abs=10 * backend.rtol)
            np.testing.assert_allclose(lam[i], backend.numpy(free.lam)[i], rtol=10 * backend.rtol)
            continue
        x, step = Fraction(lam[i]), Fraction(1 + 1000 * backend.rtol)
        assert clipped_sum(p, q, x / step, price) >= 1
        assert x * step >= 1 or clipped_sum(p, q, x * step, price) <= 1
        assert mu[i] - lam[i] == pytest.approx(float(price), abs=1e-3, rel=1e-3)


@on_every_backend
@given(batch=batches(), budget=budgets(), data=st.data())
def test_a_common_price_spends_the_mean_budget(backend, batch, budget, data):
    """F6: sum_s d_s tau_s = 1 - budget, or the nearest; states of weight 0 do not count."""
    d = data.draw(state_weights(len(batch[0])))
    log_p, log_q = map(backend.logs, batch)
    price = common_price_for_budget(log_p, log_q, float(budget), backend.array(d))
    assert isinstance(price, float) and price >= 0
    tau = backend.numpy(draft_law(log_p, log_q, price=price).tau)
    most, least = (
        sum(w * f(p, q) for w, p, q in zip(d, *batch, strict=True)) / sum(d)
        for f in (exact.tv, lambda p, q: 1 - exact.reach(p, q))
    )
    wanted = min(max(1 - budget, least), most)
    got = sum(float(w) * x for w, x in zip(d, tau, strict=True)) / float(sum(d))
    assert got == pytest.approx(float(wanted), abs=20 * backend.rtol)


@given(batch=batches(overlap=True), tenths=st.integers(1, 9), share=st.integers(1, 5))
def test_no_other_split_of_the_rejections_costs_less(batch, tenths, share):
    """F6: mean KL(p || s) is least at a common price, against budgets moved between two states."""
    backend = NUMPY
    assume(len(batch[0]) > 1)
    log_p, log_q = map(backend.logs, batch)
    budget = 1 - tenths / 10 * float(sum(map(exact.tv, *batch))) / len(batch[0])
    price = common_price_for_budget(log_p, log_q, budget)
    best = draft_law(log_p, log_q, price=price)
    least = float(backend.numpy(kl_p_q(log_p, best.log_s)).mean())
    z = 1 - backend.numpy(best.tau)
    low = np.array([1 - float(exact.tv(p, q)) for p, q in zip(*batch, strict=True)])
    high = np.array([float(exact.reach(p, q)) for p, q in zip(*batch, strict=True)])
    room = min(z[0] - low[0], high[1] - z[1]) * share / 5
    assume(room > 1e-9)
    z[:2] += [-room, room]
    other = draft_law(log_p, log_q, budget=backend.array(np.clip(z, 1e-300, 1)))
    backend.at_most(least, backend.numpy(kl_p_q(log_p, other.log_s)).mean())


@on_every_backend
def test_a_common_price_beyond_what_any_state_has_is_the_largest(backend):
    """budget 1 gives the largest first price, inf where q = 0 < p; a low budget gives 0."""
    p = [[Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)], [Fraction(1, 3)] * 3]
    q = [[Fraction(1, 4), Fraction(1, 4), Fraction(1, 2)], [Fraction(1, 3)] * 3]
    log_p, log_q = backend.logs(p), backend.logs(q)
    assert common_price_for_budget(log_p, log_q, 1.0) == pytest.approx(1.5, rel=1e-5)
    assert common_price_for_budget(log_p, log_q, 0.5) == 0.0
    q[1] = [Fraction(1, 2), Fraction(1, 2), Fraction(0)]
    price = common_price_for_budget(log_p, backend.logs(q), 1.0)
    assert price > 1e6 if backend is TORCH32 else price == math.inf
    drafted = draft_law(log_p, backend.logs(q), price=math.inf)
    np.testing.assert_allclose(backend.numpy(drafted.tau), 0, atol=1e-6)


def test_a_price_is_found_in_few_passes(monkeypatch):
    """Newton's steps count, and brackets only guard them."""
    calls: list[int] = []
    sums = drafting._sums

    def counted(*arguments):
        calls.append(1)
        return sums(*arguments)

    monkeypatch.setattr(drafting, "_sums", counted)
    log_p, log_q = random_rows((30, 200), seed=1)
    for budget, most in ((0.5, 0), (0.8, 50), (0.9, 50), (0.95, 60), (0.99, 170)):
        calls.clear()
        price = common_price_for_budget(log_p, log_q, budget)
        assert len(calls) <= most, budget
        calls.clear()
        draft_law(log_p, log_q, price=price)
        assert len(calls) <= 20, budget


def test_a_state_of_weight_0_has_no_part_in_the_largest_price():
    """Its first rejection is worth any price (q = 0 < p), the other state's 3/2."""
    log_p = NUMPY.logs([[Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)]] * 2)
    half = Fraction(1, 2)
    log_q = NUMPY.logs([[half / 2, half / 2, half], [Fraction(0), half, half]])
    assert common_price_for_budget(log_p, log_q, 1.0, np.array([1.0, 0.0])) == pytest.approx(1.5)
    assert common_price_for_budget(log_p, log_q, 1.0) == math.inf


def test_a_common_price_needs_states():
    """An empty batch, weights of another shape or all 0, an array of budgets."""
    log_p, log_q = random_rows((3, 4), seed=28)
    with pytest.raises(ValueError, match="empty batch"):
        common_price_for_budget(log_p[:0], log_q[:0], 0.5)
    with pytest.raises(ValueError, match="positive, finite sum"):
        common_price_for_budget(log_p, log_q, 0.5, np.zeros(3))
    with pytest.raises(ValueError, match="state_weight"):
        common_price_for_budget(log_p, log_q, 0.5, np.ones(4))
    with pytest.raises(ValueError, match="budget"):
        common_price_for_budget(log_p, log_q, np.array([0.5, 0.5, 0.5]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="price must lie in"):
        draft_law(log_p, log_q, price=-0.1)


# Edges


@on_every_backend
def test_leading_axes_are_kept_and_thresholds_may_be_per_state(backend):
    """Shape (2, 3, v) gives (2, 3); rows solved together are those solved alone, v = 5 and 0-d."""
    log_p, log_q = map(backend.array, random_rows((2, 3, 5), seed=21))
    given_lam = np.array([[0.2, 0.5, 1.0], [0.9, 0.01, 0.7]])
    drafted = draft_law(log_p, log_q, lam=backend.array(given_lam))
    backend.check(drafted.lam, given_lam)
    rate = draft_law(log_p, log_q, budget=backend.array(given_lam))
    for i in np.ndindex(2, 3):
        alone = draft_law(log_p[*i, :], log_q[*i, :], lam=float(given_lam[i]))
        for x, y in zip(alone, drafted, strict=True):
            np.testing.assert_array_equal(backend.numpy(x), backend.numpy(y)[i])
        alone = draft_law(log_p[*i, :], log_q[*i, :], budget=float(given_lam[i]))
        backend.check(alone.tau, backend.numpy(rate.tau)[i], scale=1.0)


@on_every_backend
def test_an_empty_batch_has_an_empty_distribution(backend):
    """Leading dimension 0."""
    empty = backend.array(np.zeros((0, 3)))
    for drafted in (draft_law(empty, empty, lam=0.5), draft_law(empty, empty, budget=0.5)):
        backend.check(drafted.log_s, np.zeros((0, 3)))
        for x in drafted[1:]:
            backend.check(x, np.zeros(0))
    backend.check(draft_residual(empty, empty, backend.array(np.zeros(0))), np.zeros((0, 3)))
    backend.check(draft_accept_prob(empty, empty, 1.0), np.zeros((0, 3)))


@on_every_backend
def test_many_blocks_of_rows_are_solved_like_single_rows(backend):
    """Rows are solved in blocks of 2^17 numbers; no row is lost, repeated or moved."""
    log_p, log_q = map(backend.array, random_rows((70, 5000), seed=22))
    budget = backend.array(np.linspace(0.3, 0.99, 70))
    drafted = draft_law(log_p, log_q, budget=budget)
    for i in (0, 25, 26, 27, 52, 69):
        alone = draft_law(log_p[i, :], log_q[i, :], budget=budget[i])
        for x, y in zip(alone, drafted, strict=True):
            backend.check(x, backend.numpy(y)[i], scale=1e-3)


@on_every_backend
def test_a_whole_vocabulary_has_its_distribution(backend):
    """v = 151,936: both masses equal tau, in exactly rounded sums; the residual sums to 1."""
    log_p, log_q = map(backend.array, random_rows((2, 151_936), seed=23))
    s, lam, mu, tau = in_numpy(backend, (drafted := draft_law(log_p, log_q, budget=0.97)))
    p, q = np.exp(floats(backend.numpy(log_p))), np.exp(floats(backend.numpy(log_q)))
    for i in range(2):
        assert math.fsum(np.maximum(q[i] - p[i] / lam[i], 0)) == pytest.approx(tau[i], abs=2e-6)
        assert math.fsum(np.maximum(p[i] / mu[i] - q[i], 0)) == pytest.approx(tau[i], abs=2e-6)
        assert math.fsum(s[i]) == pytest.approx(1, abs=1e-5)
    r = np.exp(backend.numpy(draft_residual(log_p, log_q, drafted.mu)))
    np.testing.assert_allclose(r.sum(-1), 1, atol=1e-4)


@on_every_backend
def test_extreme_masses_have_their_distribution(backend):
    """p / q = e^+-1999, 1 and an absent token: no lam holds e^-1999, which counts as p = 0."""
    log_p = backend.array([-math.log(2), -2000.0, -math.log(2), -math.inf])
    log_q = backend.array([-2000.0, -math.log(2), -math.log(2), -math.inf])
    for budget, lam, mu in ((0.75, backend.finfo.tiny, 1.0), (0.5, 1.0, 1.0), (0.25, 1.0, 1.0)):
        drafted = draft_law(log_p, log_q, budget=budget)
        np.testing.assert_allclose(
            np.exp(backend.numpy(drafted.log_s)), [0.5, 0, 0.5, 0], atol=1e-6
        )
        backend.check(drafted.lam, lam)
        backend.check(drafted.mu, mu)
        backend.check(drafted.tau, 0.5)
        r = np.exp(backend.numpy(draft_residual(log_p, log_q, drafted.mu)))
        np.testing.assert_allclose(r, [1, 0, 0, 0], atol=1e-6)


@on_every_backend
def test_a_probability_of_1e_300_is_an_ordinary_one(backend):
    """p / q = 1e30 beside a tie: mu = p_1 / (tau + q_1), and s there is p_1 / mu, not q_1."""
    log_tiny = -30 * math.log(10) if backend is TORCH32 else -300 * math.log(10)
    log_p = backend.array([math.log(0.5), math.log(0.25), math.log(0.25)])
    log_q = backend.array([log_tiny, math.log(0.5), math.log(0.5)])
    drafted = draft_law(log_p, log_q, budget=0.75)
    # tau = 1/4: lam = (1/2) / (3/4), mu = (1/2) / (1/4)
    backend.check(drafted.lam, 2 / 3)
    backend.check(drafted.mu, 2.0)
    np.testing.assert_allclose(
        np.exp(backend.numpy(drafted.log_s)), [0.25, 0.375, 0.375], rtol=1e-6
    )
    drafted = draft_law(log_p, log_q, budget=1.0)
    # nothing is rejected: s = q, p / s reaches 1e300 / 2
    s = np.exp(backend.numpy(drafted.log_s))
    np.testing.assert_allclose(s, [0, 0.5, 0.5], rtol=1e-6, atol=1e-7)
    backend.check(drafted.lam, 0.5)
    assert float(drafted.mu) > 1e6
    r = np.exp(backend.numpy(draft_residual(log_p, log_q, drafted.mu)))
    np.testing.assert_allclose(r, [1, 0, 0], atol=1e-6)


@on_every_backend
def test_where_nothing_is_rejected_the_residual_is_its_limit(backend):
    """p = q, and q = 0 < p beyond mu = inf: p on the tokens of the largest ratio, with no NaN."""
    same = backend.logs([Fraction(1, 4), Fraction(3, 4), Fraction(0)])
    for drafted in (draft_law(same, same, lam=1.0), draft_law(same, same, budget=1.0)):
        backend.check(drafted.log_s, backend.numpy(same))
        backend.check(drafted.tau, 0.0)
    np.testing.assert_allclose(
        np.exp(backend.numpy(draft_residual(same, same, 1.0))), [0.25, 0.75, 0], rtol=1e-5
    )
    p = backend.logs([Fraction(1, 8), Fraction(3, 8), Fraction(1, 2), Fraction(0)])
    q = backend.logs([Fraction(0), Fraction(0), Fraction(1), Fraction(0)])
    drafted = draft_law(p, q, budget=1.0)
    backend.check(drafted.mu, math.inf)
    backend.check(drafted.log_s, backend.numpy(q))
    np.testing.assert_allclose(
        np.exp(backend.numpy(draft_residual(p, q, drafted.mu))), [0.25, 0.75, 0, 0], rtol=1e-5
    )


def test_no_gradient_flows_through_the_distribution():
    """Distribution and thresholds are constants of a step, though their inputs have gradients."""
    log_p, log_q = (torch.from_numpy(x).requires_grad_() for x in random_rows((2, 4), seed=24))
    budget = torch.tensor([0.5, 0.6], dtype=torch.float64, requires_grad=True)
    drafted = draft_law(log_p, log_q, budget=budget)
    assert not any(x.requires_grad for x in (*drafted, draft_residual(log_p, log_q, drafted.mu)))


# Refusals


def test_exactly_one_dial_is_given():
    """lam, budget and price are three names of one dial."""
    log_p, log_q = random_rows((2, 4), seed=25)
    for dials in ({}, {"lam": 0.5, "budget": 0.5}, {"lam": 0.5, "price": 0.0}):
        with pytest.raises(TypeError, match="exactly one of lam, budget and price"):
            draft_law(log_p, log_q, **dials)


@pytest.mark.parametrize("name", ["lam", "budget"])
@pytest.mark.parametrize("wrong", [0.0, -1.0, 1.1, math.nan, math.inf])
def test_a_dial_outside_0_to_1_is_refused(name, wrong):
    """As a number, and as an array of the leading shape."""
    log_p, log_q = random_rows((2, 4), seed=26)
    for value in (wrong, np.array([0.5, wrong])):
        with pytest.raises(ValueError, match=rf"{name} (must lie in|holds NaN)"):
            draft_law(log_p, log_q, **{name: value})
        if name == "lam":
            with pytest.raises(ValueError, match=r"lam (must lie in|holds NaN)"):
                draft_accept_prob(log_p, log_q, value)


@on_every_backend
def test_rows_that_are_no_distributions_are_refused_by_number(backend):
    """A sum that misses 1 by more than 1e-3, wherever the row lies; 5e-4 is rounding."""
    log_p, log_q = random_rows((7, 10, 3000), seed=27)
    log_p[5, 3] += math.log(1.002)
    good, bad = backend.array(log_q), backend.array(log_p)
    message = r"{} sum to 1.002 in row \(5, 3\), not to 1; apply log_softmax"
    for first, second, name in ((bad, good, "log_p"), (good, bad, "log_q")):
        for function in (
            lambda p, q: draft_law(p, q, lam=0.5),
            lambda p, q: draft_residual(p, q, 2),
        ):
            with pytest.raises(ValueError, match=message.format(name)):
                function(first, second)
    draft_law(backend.array(log_q + 5e-4), good, lam=0.5)
    with pytest.raises(ValueError, match=r"sum to 0.5 in row \(\)"):
        draft_law(backend.array([math.log(0.5)]), backend.array([0.0]), lam=0.5)


@on_every_backend
def test_values_that_are_no_log_probabilities_are_refused(backend):
    """NaN, inf and logits, in either argument of each function; mu below 1."""
    good = backend.array([math.log(0.5), math.log(0.5)])
    for wrong, message in ((math.nan, "NaN"), (math.inf, "at most 0"), (3.0, "at most 0")):
        bad = backend.array([wrong, math.log(0.5)])
        for pair in ((bad, good), (good, bad)):
            for function in (draft_accept_prob, draft_residual):
                with pytest.raises(ValueError, match=message):
                    function(*pair, 1.0)
            with pytest.raises(ValueError, match=message):
                draft_law(*pair, budget=0.5)
    with pytest.raises(ValueError, match=r"mu must lie in \[1, inf\]"):
        draft_residual(good, good, 0.99)
    with pytest.raises(ValueError, match="shape"):
        draft_law(good, backend.array([0.0]), lam=0.5)
