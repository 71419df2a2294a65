"""Weights of sampled tokens (docs/theory.md, C), by enumeration: no Monte Carlo anywhere."""

import math
from fractions import Fraction

import numpy as np
import pytest
from backends import fractions, on_every_backend
from hypothesis import given
from hypothesis import strategies as st

import jackpot
from jackpot import (
    accept_prob,
    acceptance_rate,
    expected_weight,
    icepop,
    importance,
    obrs_weight,
    tis,
)
from sim.oracle import exact
from sim.worlds.strategies import batches, lams, pairs, ratios, state_weights

rates = st.integers(0, 20).map(lambda n: Fraction(n, 20))
ratio_lists = st.lists(ratios(), min_size=1, max_size=5)
caps = st.none() | ratios().filter(bool)
TWO_STATES = [Fraction(1, 2)] * 2


def number(cap: Fraction | None) -> float:
    return math.inf if cap is None else float(cap)


def sampled(p, q) -> list[int]:
    """The tokens that q can propose."""
    return [i for i, qi in enumerate(q) if qi]


def ratio_logs(backend, p, q):
    """log p / q of the tokens that q can propose."""
    return backend.logs([p[i] / q[i] for i in sampled(p, q)])


# Values


@on_every_backend
@given(r=ratio_lists, lam=lams(), z=rates)
def test_the_obrs_weight_is_the_rational_one(backend, r, lam, z):
    """Alg. 1, l. 23: w = Z max(lam, r)."""
    w = obrs_weight(backend.logs(r), float(lam), float(z))
    backend.check(w, [exact.obrs_weight(x, lam, z) for x in r])


@on_every_backend
@given(r=ratio_lists, lam=lams(), z=rates, c1=caps)
def test_the_expected_weight_is_the_mean_over_the_coin(backend, r, lam, z, c1):
    """C2: a min(w, c1), with both sides of the coin enumerated."""
    w = expected_weight(backend.logs(r), float(lam), float(z), number(c1))
    backend.check(w, [exact.expected_weight(x, lam, z, c1) for x in r])


@on_every_backend
@given(r=ratio_lists, data=st.data())
def test_lam_and_z_may_differ_from_token_to_token(backend, r, data):
    """Arrays of the shape of log_ratio; c1 as a 0-d array."""
    lam = data.draw(st.lists(lams(), min_size=len(r), max_size=len(r)))
    z = data.draw(st.lists(rates, min_size=len(r), max_size=len(r)))
    args = backend.logs(r), backend.array(lam), backend.array(z)
    rows = list(zip(r, lam, z, strict=True))
    backend.check(obrs_weight(*args), [exact.obrs_weight(*row) for row in rows])
    want = [exact.expected_weight(*row, Fraction(3, 2)) for row in rows]
    backend.check(expected_weight(*args, backend.array(1.5)), want)


@on_every_backend
@given(r=ratio_lists)
def test_importance_is_the_ratio(backend, r):
    """Sec. 2.2: F(r) = r."""
    backend.check(importance(backend.logs(r)), r)


@on_every_backend
@given(r=ratio_lists, cap=caps)
def test_tis_caps_the_ratio(backend, r, cap):
    """Sec. 2.2: F(r) = min(r, cap); cap inf is no cap."""
    want = r if cap is None else [exact.tis(x, cap) for x in r]
    backend.check(tis(backend.logs(r), number(cap)), want)


@on_every_backend
@given(r=ratio_lists, band=st.tuples(ratios(), ratios()))
def test_icepop_keeps_what_lies_inside_the_band(backend, r, band):
    """Sec. 2.2: F(r) = r for low <= r <= high, else 0."""
    low, high = sorted(band)
    r = [x for x in r if x not in band]
    got = icepop(backend.logs(r), float(low), float(high))
    backend.check(got, [exact.icepop(x, low, high) for x in r])


@on_every_backend
@given(band=st.tuples(ratios(), ratios()))
def test_icepop_keeps_a_ratio_equal_to_an_end(backend, band):
    """Both ends are inclusive; the log of the end is taken by the ratio's own library."""
    low, high = sorted(band)
    with np.errstate(divide="ignore"):
        ends = backend.library.log(backend.array([low, high]))
    backend.check(icepop(ends, float(low), float(high)), [low, high])


@on_every_backend
def test_icepop_without_ends_is_importance(backend):
    """low = 0 keeps r = 0 (as 0), high = inf keeps everything."""
    log_r = backend.array([-math.inf, -3.0, 0.0, 5.0])
    backend.check(icepop(log_r, 0, math.inf), [0.0, math.exp(-3), 1.0, math.exp(5)])


@on_every_backend
def test_any_shape_is_kept(backend):
    """(b, t) in, (b, t) out; empty stays empty; a single token needs no axis."""
    calls = [
        lambda x: obrs_weight(x, 1.0, 0.5),
        lambda x: expected_weight(x, 1.0, 0.5, 2.0),
        importance,
        lambda x: tis(x, 2.0),
        lambda x: icepop(x, 0.5, 2.0),
    ]
    for shape in ((2, 3), (0, 3), ()):
        for f, want in zip(calls, (0.5, 0.5, 1.0, 1.0, 1.0), strict=True):
            backend.check(f(backend.array(np.zeros(shape))), np.full(shape, want))


@on_every_backend
def test_extreme_ratios_overflow_only_where_the_weight_does(backend):
    """B5 (c): r = e^+-2000 and 0; capped weights stay finite, 0 times inf never happens."""
    log_r = backend.array([-math.inf, -2000.0, 2000.0])
    backend.check(importance(log_r), [0.0, 0.0, math.inf])
    backend.check(tis(log_r, 3.0), [0.0, 0.0, 3.0])
    backend.check(icepop(log_r, 0.5, 3.0), [0.0, 0.0, 0.0])
    backend.check(obrs_weight(log_r, 2.0, 0.5), [1.0, 1.0, math.inf])
    backend.check(obrs_weight(log_r, 2.0, 0.0), [0.0, 0.0, 0.0])
    backend.check(expected_weight(log_r, 2.0, 0.5, 3.0), [0.0, 0.0, 3.0])
    backend.check(expected_weight(log_r, 2.0, 0.0, 3.0), [0.0, 0.0, 0.0])
    backend.check(expected_weight(log_r, 2.0, 0.5), [0.0, 0.0, math.inf])


@on_every_backend
def test_no_cap_is_the_default(backend):
    """expected_weight without c1 is Z r."""
    got = expected_weight(backend.array([math.log(8.0)]), 0.5, 0.5)
    backend.check(got, [4.0])


@on_every_backend
def test_a_calibrated_rate_above_one_is_a_weight_like_any_other(backend):
    """kappa Z_approx may exceed 1, so z is bounded below only."""
    backend.check(obrs_weight(backend.array([0.0]), 2.0, 1.5), [3.0])


# Theorems


@on_every_backend
@given(pair=pairs(overlap=True), lam=lams(), data=st.data())
def test_accepted_weights_estimate_z_times_the_target_mean(backend, pair, lam, data):
    """C1: E_q[a w f] = Z E_p[f 1{q > 0}], and with max(lam, r) for w it is E_p[f 1{q > 0}]."""
    p, q = pair
    f = data.draw(st.lists(st.integers(-9, 9), min_size=len(q), max_size=len(q)))
    a = fractions(accept_prob(backend.logs(p), backend.logs(q), float(lam)))
    z = Fraction(float(acceptance_rate(backend.logs(p), backend.logs(q), float(lam))))
    mean = sum(p[i] * f[i] for i in sampled(p, q))
    for rate in (z, Fraction(1)):
        w = fractions(obrs_weight(ratio_logs(backend, p, q), float(lam), float(rate)))
        got = sum(q[i] * a[i] * w[k] * f[i] for k, i in enumerate(sampled(p, q)))
        backend.check(backend.array(float(got)), rate * mean, scale=9.0)


@on_every_backend
@given(pair=pairs(), lam=lams(), c1=caps)
def test_the_coin_can_be_integrated_out(backend, pair, lam, c1):
    """C2: E[mask min(w, c1) | x] = min(Z r, c1 min(1, r / lam)), for every c1 and the state's Z."""
    p, q = pair
    z = exact.acceptance_rate(p, q, lam)
    want = [exact.expected_weight(p[i] / q[i], lam, z, c1) for i in sampled(p, q)]
    closed = [
        z * p[i] / q[i] if c1 is None else min(z * p[i] / q[i], c1 * min(1, p[i] / q[i] / lam))
        for i in sampled(p, q)
    ]
    assert want == closed
    log_r = ratio_logs(backend, p, q)
    backend.check(expected_weight(log_r, float(lam), float(z), number(c1)), want)


@on_every_backend
@given(pair=pairs(), lam=lams(), extra=ratios())
def test_with_a_cap_of_one_or_more_it_is_tis_times_z(backend, pair, lam, extra):
    """C2: c1 >= 1 >= lam Z gives Z min(r, c1 / Z); lam enters through Z alone."""
    p, q = pair
    z, c1 = exact.acceptance_rate(p, q, lam), 1 + extra
    got = expected_weight(ratio_logs(backend, p, q), float(lam), float(z), float(c1))
    backend.check(got, [z and z * exact.tis(p[i] / q[i], c1 / z) for i in sampled(p, q)])


@on_every_backend
@given(pair=pairs(), lam=lams(), cap=caps)
def test_integrating_the_coin_out_saves_exactly_the_coins_variance(backend, pair, lam, cap):
    """C2: same mean, and Var falls by E_q[a (1 - a) min(w, c1)^2]."""
    p, q = pair
    z = exact.acceptance_rate(p, q, lam)
    args = ratio_logs(backend, p, q), float(lam), float(z)
    smooth = fractions(expected_weight(*args, number(cap)))
    full = fractions(obrs_weight(*args))
    a = exact.accept_prob(p, q, lam)
    coin = moment = saved = Fraction(0)
    for k, i in enumerate(sampled(p, q)):
        w = full[k] if cap is None else min(full[k], cap)
        coin += q[i] * a[i] * w**2
        moment += q[i] * smooth[k] ** 2
        saved += q[i] * a[i] * (1 - a[i]) * w**2
    backend.check(backend.array(float(coin - moment)), saved, scale=float(coin))


@st.composite
def sampled_worlds(draw):
    """States with distributions p, q, frequencies d, and a score f of every token."""
    ps, qs = draw(batches(covered=True, overlap=True))
    d = draw(state_weights(len(ps)))
    scores = st.lists(st.integers(-9, 9), min_size=len(ps[0]), max_size=len(ps[0]))
    return ps, qs, [x / sum(d) for x in d], [draw(scores) for _ in ps]


def batch_limits(backend, world, lam, z_of) -> tuple[Fraction, Fraction]:
    """What sum(m w f) / N_all and sum(m w f) / N_accepted tend to, w = z_of(state) max(lam, r)."""
    total = accepted = Fraction(0)
    for s, (p, q, d, f) in enumerate(zip(*world, strict=True)):
        a = fractions(accept_prob(backend.logs(p), backend.logs(q), float(lam)))
        w = fractions(obrs_weight(ratio_logs(backend, p, q), float(lam), float(z_of(s))))
        total += d * sum(x * y * u * v for x, y, u, v in zip(q, a, w, f, strict=True))
        accepted += d * sum(x * y for x, y in zip(q, a, strict=True))
    return total, total / accepted


@on_every_backend
@given(world=sampled_worlds(), lam=lams())
def test_the_papers_weight_keeps_the_states_rate_under_either_normaliser(backend, world, lam):
    """C3: N_all gives E_d[Z mu]; N_accepted gives E_d[Z mu] / E_d Z."""
    ps, qs, d, f = world
    z = [exact.acceptance_rate(p, q, lam) for p, q in zip(ps, qs, strict=True)]
    mu = [sum(x * y for x, y in zip(p, g, strict=True)) for p, g in zip(ps, f, strict=True)]
    tilted = sum(x * y * m for x, y, m in zip(d, z, mu, strict=True))
    mean_z = sum(x * y for x, y in zip(d, z, strict=True))
    over_all, over_accepted = batch_limits(backend, world, lam, lambda s: z[s])
    backend.check(backend.array(float(over_all)), tilted, scale=9.0)
    backend.check(backend.array(float(over_accepted * mean_z)), tilted, scale=9.0)


@on_every_backend
@given(world=sampled_worlds(), lam=lams())
def test_without_the_states_rate_the_target_mean_is_exact(backend, world, lam):
    """C3: max(lam, r) over N_all, and the batch's rate times it over N_accepted, give E_d mu."""
    ps, qs, d, f = world
    mu = [sum(x * y for x, y in zip(p, g, strict=True)) for p, g in zip(ps, f, strict=True)]
    want = sum(x * m for x, m in zip(d, mu, strict=True))
    z = [exact.acceptance_rate(p, q, lam) for p, q in zip(ps, qs, strict=True)]
    mean_z = sum(x * y for x, y in zip(d, z, strict=True))
    over_all, over_accepted = batch_limits(backend, world, lam, lambda s: 1)
    backend.check(backend.array(float(over_all)), want, scale=9.0)
    backend.check(backend.array(float(over_accepted * mean_z)), want, scale=9.0)
    _, joint = batch_limits(backend, world, lam, lambda s: mean_z)
    backend.check(backend.array(float(joint)), want, scale=9.0)


# Refusals


@on_every_backend
@pytest.mark.parametrize("name", ["obrs_weight", "expected_weight", "importance", "tis", "icepop"])
@pytest.mark.parametrize(
    ("log_ratio", "message"),
    [
        ([[0.0, 1.0], [math.nan, math.nan]], r"log_ratio holds 2 NaN, the first at index \(1, 0\)"),
        ([0.0, math.inf], "log_ratio holds inf, i.e. q = 0 at a sampled token"),
    ],
)
def test_ratios_that_cannot_be_are_refused(backend, name, log_ratio, message):
    """NaN, and q = 0 at a token that q proposed."""
    rest = {"obrs_weight": (1.0, 0.5), "expected_weight": (1.0, 0.5), "tis": (1.0,)}
    with pytest.raises(ValueError, match=message):
        f = getattr(jackpot, name)
        f(backend.array(log_ratio), *rest.get(name, (0.5, 2.0) if name == "icepop" else ()))


@on_every_backend
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: obrs_weight(x, 0.0, 0.5), r"lam must lie in \(0, inf\), got 0"),
        (lambda x: obrs_weight(x, -1.5, 0.5), r"lam must lie in \(0, inf\), got -1.5"),
        (lambda x: obrs_weight(x, math.inf, 0.5), r"lam must lie in \(0, inf\), got inf"),
        (lambda x: obrs_weight(x, math.nan, 0.5), "lam holds NaN"),
        (lambda x: obrs_weight(x, 1.0, -0.25), r"z must lie in \[0, inf\), got -0.25"),
        (lambda x: obrs_weight(x, 1.0, math.nan), "z holds NaN"),
        (lambda x: expected_weight(x, 1.0, math.inf), r"z must lie in \[0, inf\), got inf"),
        (lambda x: expected_weight(x, 1.0, 0.5, 0.0), r"c1 must lie in \(0, inf\], got 0"),
        (lambda x: expected_weight(x, 1.0, 0.5, -2.0), r"c1 must lie in \(0, inf\], got -2"),
        (lambda x: tis(x, 0.0), r"cap must lie in \(0, inf\], got 0"),
        (lambda x: tis(x, math.nan), "cap holds NaN"),
        (lambda x: icepop(x, -0.5, 1.0), r"low must lie in \[0, inf\], got -0.5"),
        (lambda x: icepop(x, 2.0, 1.5), r"high must lie in \[2, inf\], got 1.5"),
    ],
)
def test_parameters_out_of_range_are_refused_with_their_range(backend, call, message):
    """The message gives the interval and what was found."""
    with pytest.raises(ValueError, match=message):
        call(backend.array([0.0, 1.0]))


@on_every_backend
def test_parameters_of_another_shape_are_refused(backend):
    """lam and z: a number or one per token; caps: numbers."""
    x, wrong = backend.array([0.0, 1.0]), backend.array([1.0, 1.0, 1.0])
    for call, name in (
        (lambda: obrs_weight(x, wrong, 0.5), "lam"),
        (lambda: obrs_weight(x, 1.0, wrong), "z"),
        (lambda: expected_weight(x, 1.0, 0.5, wrong), "c1"),
        (lambda: tis(x, wrong), "cap"),
        (lambda: icepop(x, wrong, 2.0), "low"),
        (lambda: icepop(x, 0.5, wrong), "high"),
    ):
        with pytest.raises(ValueError, match=rf"{name} has shape \(3,\)"):
            call()
