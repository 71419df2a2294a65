"""Z from a few known tokens, and kappa (docs/theory.md, D)."""

import math
from fractions import Fraction

import numpy as np
import pytest
from backends import floats, in_float64, on_every_backend, random_rows
from hypothesis import given
from hypothesis import strategies as st

from jackpot import kappa, z_topk
from sim.oracle import exact
from sim.worlds.strategies import batches, lams, pairs, ratios

shares = st.integers(0, 20).map(lambda n: Fraction(n, 20))


def check_bounds(backend, got, want) -> None:
    """Both bounds against (lower, upper) pairs."""
    lower, upper = got
    backend.check(lower, [x for x, _ in want])
    backend.check(upper, [x for _, x in want])


@st.composite
def split_batches(draw):
    """Batches in two: (p_k, q_k, p_tail, q_tail, p, q), each a list over the states."""
    ps, qs = draw(batches())
    k = draw(st.integers(1, len(ps[0])))
    return (
        [p[:k] for p in ps],
        [q[:k] for q in qs],
        [sum(p[k:], Fraction(0)) for p in ps],
        [sum(q[k:], Fraction(0)) for q in qs],
        ps,
        qs,
    )


@on_every_backend
@given(split=split_batches(), lam=lams())
def test_the_bounds_are_the_rational_ones(backend, split, lam):
    """D1: Z_K, and Z_K + min(q_T, p_T / lam)."""
    p_k, q_k, p_tail, q_tail = map(backend.logs, split[:4])
    want = [exact.z_topk(p, q, lam, x, y) for p, q, x, y, *_ in zip(*split, strict=True)]
    check_bounds(backend, z_topk(p_k, q_k, float(lam), p_tail, q_tail), want)


@on_every_backend
@given(split=split_batches(), data=st.data())
def test_each_state_may_have_its_own_lam(backend, split, data):
    """D1 with an array of thresholds, the tail included."""
    n = len(split[0])
    lam = data.draw(st.lists(lams(), min_size=n, max_size=n))
    p_k, q_k, p_tail, q_tail = map(backend.logs, split[:4])
    rows = zip(split[0], split[1], lam, split[2], split[3], strict=True)
    want = [exact.z_topk(*row) for row in rows]
    check_bounds(backend, z_topk(p_k, q_k, backend.array(lam), p_tail, q_tail), want)


@on_every_backend
@given(split=split_batches(), lam=lams())
def test_the_bounds_enclose_the_true_rate(backend, split, lam):
    """D1: Z_K <= Z <= Z_K + U, Z from the whole vocabulary in rational arithmetic."""
    *known, ps, qs = split
    p_k, q_k, p_tail, q_tail = map(backend.logs, known)
    lower, upper = z_topk(p_k, q_k, float(lam), p_tail, q_tail)
    z = [exact.acceptance_rate(p, q, lam) for p, q in zip(ps, qs, strict=True)]
    backend.at_most(backend.numpy(lower), z)
    backend.at_most(z, backend.numpy(upper))


@on_every_backend
@given(pair=pairs(), lam=lams())
def test_without_a_tail_both_bounds_are_z(backend, pair, lam):
    """All tokens known, tails of mass 0."""
    p, q = pair
    nothing = backend.array(-math.inf)
    lower, upper = z_topk(backend.logs(p), backend.logs(q), float(lam), nothing, nothing)
    z = exact.acceptance_rate(p, q, lam)
    backend.check(lower, z)
    backend.check(upper, z)


@in_float64
@given(tail=st.lists(ratios(), min_size=1, max_size=5), lam=lams(), side=st.booleans())
def test_the_upper_bound_is_met_by_a_tail_on_one_side_of_lam(backend, tail, lam, side):
    """D1: lumping changes nothing where all of the tail's ratios are below lam, or all above."""
    ratio = [lam * (1 + r if side else 1 / (1 + r)) for r in tail]
    mass = Fraction(1, 100 * len(tail)) / (1 + max(ratio))  # measures: they need not sum to 1
    q = [mass] * (1 + len(tail))
    p = [mass, *(x * mass for x in ratio)]
    known = backend.logs(p[:1]), backend.logs(q[:1])
    tails = backend.logs(sum(p[1:])), backend.logs(sum(q[1:]))
    _, upper = z_topk(*known, float(lam), *tails)
    backend.check(upper, exact.acceptance_rate(p, q, lam))


@on_every_backend
def test_the_lower_bound_is_met_by_tails_that_do_not_overlap(backend):
    """D1: p's tail on one token and q's on another add nothing to Z."""
    quarter = Fraction(1, 4)
    p = [2 * quarter, 2 * quarter, Fraction(0)]
    q = [2 * quarter, Fraction(0), 2 * quarter]
    known = backend.logs(p[:1]), backend.logs(q[:1])
    tails = backend.logs(p[1] + p[2]), backend.logs(q[1] + q[2])
    lower, upper = z_topk(*known, 1.0, *tails)
    backend.check(lower, exact.acceptance_rate(p, q, Fraction(1)))
    backend.check(upper, 1.0)


@on_every_backend
def test_shapes_are_those_of_the_states(backend):
    """(2, 3, k) with tails (2, 3); an empty batch stays empty."""
    log_p, log_q = map(backend.array, random_rows((2, 3, 8), seed=14))
    known = log_p[..., :5], log_q[..., :5]
    p, q = floats(backend.numpy(log_p)), floats(backend.numpy(log_q))
    tails = [backend.array(np.log(np.exp(x[..., 5:]).sum(-1))) for x in (p, q)]
    lam = np.array([[0.5, 1.0, 1.5], [2.0, 0.9, 1.1]])
    want = np.minimum(np.exp(q), np.exp(p) / lam[..., None])[..., :5].sum(-1)
    tail = np.minimum(np.exp(q)[..., 5:].sum(-1), np.exp(p)[..., 5:].sum(-1) / lam)
    lower, upper = z_topk(*known, backend.array(lam), *tails)
    backend.check(lower, want)
    backend.check(upper, want + tail)
    empty, none = backend.array(np.zeros((0, 5))), backend.array(np.zeros(0))
    for bound in z_topk(empty, empty, 1.0, none, none):
        backend.check(bound, np.zeros(0))


@on_every_backend
def test_extreme_masses_do_not_overflow(backend):
    """Tails and tokens of e^-2000 and 0, lam of 1e+-300."""
    log_p, log_q = backend.array([-2000.0, 0.0]), backend.array([0.0, -2000.0])
    tails = backend.array(-2000.0), backend.array(-math.inf)
    for lam, want in ((1e-300, 0.0), (1.0, 0.0), (1e300, 0.0)):
        lower, upper = z_topk(log_p, log_q, lam, *tails)
        backend.check(lower, want)
        backend.check(upper, want)


@on_every_backend
def test_tails_of_another_shape_or_size_are_refused(backend):
    """One tail mass per state, and a mass is at most 1."""
    log_p, log_q = map(backend.array, random_rows((2, 3), seed=15))
    good = backend.array([-3.0, -3.0])
    with pytest.raises(ValueError, match=r"log_p_tail must have shape \(2,\) .* got \(2, 1\)"):
        wrong = backend.array([[-3.0], [-3.0]])
        z_topk(log_p, log_q, 1.0, wrong, wrong)
    with pytest.raises(ValueError, match=r"log_p_tail has shape \(2,\) but log_q_tail has shape"):
        z_topk(log_p, log_q, 1.0, good, backend.array([-3.0]))
    with pytest.raises(ValueError, match=r"log_q_tail holds 0.5, but a log-probability"):
        z_topk(log_p, log_q, 1.0, good, backend.array([-3.0, 0.5]))
    with pytest.raises(ValueError, match="log_p_tail holds 1 NaN"):
        z_topk(log_p, log_q, 1.0, backend.array([-3.0, math.nan]), good)


# kappa


@on_every_backend
@given(rows=st.lists(st.tuples(shares, shares), min_size=1, max_size=6))
def test_kappa_is_the_rational_one(backend, rows):
    """Alg. 1: accepted share over mean Z_approx."""
    accepted, rates = zip(*rows, strict=True)
    z = [max(x, Fraction(1, 20)) for x in rates]
    got = kappa(backend.array(accepted), backend.array(z))
    assert isinstance(got, float)
    assert got == pytest.approx(float(exact.kappa(accepted, z)), rel=backend.rtol)


@on_every_backend
@given(rows=st.lists(st.tuples(st.booleans(), shares), min_size=1, max_size=6))
def test_coins_may_be_booleans(backend, rows):
    """True counts as 1; kappa times the mean of Z_approx is the accepted share."""
    coins, rates = zip(*rows, strict=True)
    z = [max(x, Fraction(1, 20)) for x in rates]
    as_bool = backend.library.asarray(list(coins), dtype=getattr(backend.library, "bool", bool))
    got = kappa(as_bool, backend.array(z))
    assert got * sum(z) == pytest.approx(sum(coins), rel=backend.rtol)


@on_every_backend
def test_any_batch_shape_has_one_kappa(backend):
    """The mean runs over all axes."""
    accepted = backend.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    z = backend.array([[0.5, 0.25, 1.0], [0.5, 0.5, 0.25]])
    assert kappa(accepted, z) == pytest.approx(4 / 3, rel=backend.rtol)


@on_every_backend
@pytest.mark.parametrize(
    ("accepted", "z", "message"),
    [
        ([], [], "at least one token"),
        ([1.0], [0.0], "z_approx is 0 in every state"),
        ([1.5], [0.5], r"accepted must lie in \[0, 1\], got 1.5"),
        ([-0.5], [0.5], r"accepted must lie in \[0, 1\], got -0.5"),
        ([0.5], [1.5], r"z_approx must lie in \[0, 1.001\], got 1.5"),
        ([0.5], [-0.5], r"z_approx must lie in \[0, 1.001\], got -0.5"),
        ([math.nan], [0.5], "accepted holds NaN"),
        ([0.5], [math.nan], "z_approx holds NaN"),
        ([1.0, 1.0], [0.5], r"accepted has shape \(2,\) but z_approx has shape \(1,\)"),
    ],
)
def test_what_is_no_coin_and_no_rate_is_refused(backend, accepted, z, message):
    """kappa's inputs are a mask and rates."""
    with pytest.raises(ValueError, match=message):
        kappa(backend.array(accepted), backend.array(z))


@on_every_backend
def test_integer_coins_are_refused(backend):
    """A mask is bool or float; integers are a TypeError that names the dtype."""
    counts = backend.library.asarray([0, 1])
    with pytest.raises(TypeError, match=r"accepted has dtype .*int64"):
        kappa(counts, backend.array([0.5, 0.5]))
