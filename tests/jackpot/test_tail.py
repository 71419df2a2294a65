"""Z from p everywhere and q at its top k: bounds, and the tail-ratio estimate (D1 to D4)."""

import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from backends import NUMPY, floats, on_every_backend, random_rows
from hypothesis import given
from hypothesis import strategies as st

import jackpot
from jackpot import (
    TailStatistic,
    merge_tail,
    smooth_tail,
    tail_bound,
    tail_bound_above,
    tail_ratio,
    tail_statistic,
    z_bounds,
    z_tail_ratio,
    z_union,
)
from sim.oracle import exact
from sim.worlds.strategies import batches, lams

ZERO = Fraction(0)


class Split(NamedTuple):
    """One state with its k likeliest tokens under q, in rational arithmetic."""

    p: list
    q: list
    lam: Fraction
    known: list  # ids of q's top k

    @property
    def tail(self):
        return [i for i in range(len(self.q)) if i not in self.known]

    @property
    def cap(self):
        return min(self.q[i] for i in self.known)

    @property
    def q_tail(self):
        return sum((self.q[i] for i in self.tail), ZERO)

    @property
    def p_tail(self):
        return sum((self.p[i] for i in self.tail), ZERO)

    @property
    def z_k(self):
        return sum((min(self.q[i], self.p[i] / self.lam) for i in self.known), ZERO)

    @property
    def rest(self):
        return sum((min(self.q[i], self.p[i] / self.lam) for i in self.tail), ZERO)

    @property
    def bound(self):
        """U', as D2 defines it."""
        capped = sum((min(self.cap, self.p[i] / self.lam) for i in self.tail), ZERO)
        return min(self.q_tail, capped)


@st.composite
def splits(draw):
    """A batch of states over one vocabulary, one k and one lam."""
    ps, qs = draw(batches())
    k = draw(st.integers(1, len(qs[0])))
    lam = draw(lams())
    return [
        Split(p, q, lam, sorted(sorted(range(len(q)), key=lambda i: -q[i])[:k]))
        for p, q in zip(ps, qs, strict=True)
    ]


def known_of(backend, states):
    """log p and log q of the known tokens, (n, k)."""
    return (
        backend.logs([[x[i] for i in s.known] for s, x in ((s, s.p) for s in states)]),
        backend.logs([[x[i] for i in s.known] for s, x in ((s, s.q) for s in states)]),
    )


def mask_of(backend, states):
    rows = [[i in s.known for i in range(len(s.q))] for s in states]
    return backend.library.asarray(rows, dtype=getattr(backend.library, "bool", bool))


def boolean(backend, values):
    return backend.library.asarray(values, dtype=getattr(backend.library, "bool", bool))


def bound_args(backend, states):
    """All of tail_bound's arguments."""
    return (
        backend.logs([s.p for s in states]),
        mask_of(backend, states),
        backend.logs([s.p_tail for s in states]),
        backend.logs([s.q_tail for s in states]),
        backend.logs([s.cap for s in states]),
        float(states[0].lam),
    )


def bounds_of(backend, states):
    log_p, is_known, log_p_tail, log_q_tail, _, lam = bound_args(backend, states)
    log_p_k, log_q_k = known_of(backend, states)
    return z_bounds(log_p, is_known, log_p_k, log_q_k, log_p_tail, log_q_tail, lam)


# tail_bound and z_bounds


@on_every_backend
@given(states=splits())
def test_the_tail_bound_is_the_rational_one(backend, states):
    """D2: U' = min(q_T, sum over the tail of min(c, p / lam)), zeros and empty tails included."""
    backend.check(tail_bound(*bound_args(backend, states)), [s.bound for s in states])


@on_every_backend
@given(states=splits())
def test_the_tokens_that_the_cap_binds_give_the_same_bound(backend, states):
    """D2, claim 5: their number and mass suffice, up to the rounding of p_T / lam."""
    _, _, log_p_tail, log_q_tail, log_cap, lam = bound_args(backend, states)
    bound = [[i for i in s.tail if s.p[i] > s.lam * s.cap] for s in states]
    count = backend.array([Fraction(len(x)) for x in bound])
    mass = backend.array(
        [sum((s.p[i] for i in x), ZERO) for s, x in zip(states, bound, strict=True)]
    )
    got = tail_bound_above(count, mass, log_p_tail, log_q_tail, log_cap, lam)
    scale = max(float(s.p_tail / s.lam) for s in states)
    backend.check(got, [s.bound for s in states], scale)


@on_every_backend
def test_where_the_cap_binds_nothing_the_bound_is_the_lumped_one_to_the_last_bit(backend):
    p_tail, q_tail, cap = (backend.array([x, x]) for x in (-1.3, -1.1, -4.0))
    zeros, lam = backend.array([0.0, 0.0]), backend.array([0.7, 2.0])
    got = tail_bound_above(zeros, zeros, p_tail, q_tail, cap, lam)
    tail = p_tail[:, None], q_tail[:, None]
    assert bool(backend.library.all(got == jackpot.acceptance_rate(*tail, lam)))
    assert float(got[0]) > 1.2 * float(got[1])
    for count, mass in ((-1.0, 0.1), (1.0, -0.1), (1.0, 1.1)):
        count, mass = backend.array([count, count]), backend.array([mass, mass])
        with pytest.raises(ValueError, match="must lie in"):
            tail_bound_above(count, mass, p_tail, q_tail, cap, 1.0)


@on_every_backend
@given(states=splits())
def test_both_bounds_are_the_rational_ones(backend, states):
    """D2: Z_K and Z_K + U', with the cap found among the known q."""
    lower, upper = bounds_of(backend, states)
    backend.check(lower, [s.z_k for s in states])
    backend.check(upper, [s.z_k + s.bound for s in states])


@on_every_backend
@given(states=splits())
def test_z_lies_between_the_bounds_and_the_new_one_is_the_tighter(backend, states):
    """Z_K <= Z <= Z_K + U' <= Z_K + U, Z and U in rational arithmetic."""
    lower, upper = (backend.numpy(x) for x in bounds_of(backend, states))
    z = [exact.acceptance_rate(s.p, s.q, s.lam) for s in states]
    backend.at_most(lower, z)
    backend.at_most(z, upper)
    backend.at_most(upper, [s.z_k + min(s.q_tail, s.p_tail / s.lam) for s in states])


def filled(s: Split) -> list:
    """The tail of q that attains U': h_i = min(c, p_i / lam), scaled down or filled up to q_T."""
    h = [min(s.cap, s.p[i] / s.lam) for i in s.tail]
    if sum(h) >= s.q_tail:
        return [x * s.q_tail / sum(h) if sum(h) else ZERO for x in h]
    room = [s.cap - x for x in h]
    return [x + (s.q_tail - sum(h)) * y / sum(room) for x, y in zip(h, room, strict=True)]


@given(states=splits())
def test_an_admissible_q_attains_the_tail_bound(states):
    """D2, sharp above: no tail token of it exceeds the cap, they sum to q_T, and R = U' exactly."""
    for s in states:
        q = filled(s)
        assert sum(q, ZERO) == s.q_tail
        assert all(0 <= x <= s.cap for x in q)
        r = sum((min(x, s.p[i] / s.lam) for x, i in zip(q, s.tail, strict=True)), ZERO)
        got = tail_bound(*bound_args(NUMPY, [s]))
        NUMPY.check(got, [r])


def least_rest(s: Split) -> Fraction:
    """The least R over all admissible q: at a vertex, where all tail q but one are 0 or c."""
    if not s.q_tail:
        return ZERO
    full, left = divmod(s.q_tail, s.cap)
    found = []
    for order in itertools.permutations(s.tail):
        q = [s.cap] * int(full) + [left] + [ZERO] * len(order)
        cells = zip(order, q[: len(order)], strict=True)
        found.append(sum((min(x, s.p[i] / s.lam) for i, x in cells), ZERO))
    return min(found)


@given(states=splits())
def test_the_least_tail_is_a_small_share_of_p(states):
    """D2: R_lo <= ceil(q_T / c) / (v - k) p_T / lam; so 0 is the lower bound that we use."""
    for s in states:
        if s.q_tail:
            share = Fraction(math.ceil(s.q_tail / s.cap), len(s.tail))
            assert least_rest(s) <= s.rest
            assert least_rest(s) <= share * s.p_tail / s.lam


@on_every_backend
@given(states=splits())
def test_with_all_tokens_known_both_bounds_are_z(backend, states):
    """k = v: the tail is empty."""
    states = [s._replace(known=list(range(len(s.q)))) for s in states]
    z = [exact.acceptance_rate(s.p, s.q, s.lam) for s in states]
    for bound in bounds_of(backend, states):
        backend.check(bound, z)


@on_every_backend
@pytest.mark.parametrize("k", [1, 3, 7])
def test_for_equal_distributions_the_bound_is_the_tail_to_the_last_bit(backend, k):
    """p = q, lam = 1: U' is q_T itself and not a sum of 993 roundings of it, so beta = 1, Z = 1."""
    log_q, _ = (np.sort(x)[..., ::-1] for x in random_rows((4, 1000), seed=21))
    q = np.exp(log_q)
    tail = backend.array(np.log(q[:, k:].sum(-1)))
    known = boolean(backend, np.arange(1000) < np.full((4, 1), k))
    log_q = backend.array(log_q)
    got = tail_bound(log_q, known, tail, tail, log_q[:, k - 1], 1.0)
    assert bool(backend.library.all(got == backend.library.exp(tail)))
    one = backend.array(np.ones(4))
    seen = tail_statistic(one, boolean(backend, [True, False, True, True]), got, tail)
    assert seen == (3.0, 3.0)


@on_every_backend
def test_a_token_above_the_cap_counts_as_the_cap_only(backend):
    """By hand: q known at .5 and .2, q_T = .3; p has .6 on one tail token: min(.3, .2 + .1)."""
    p = [Fraction(1, 10), Fraction(2, 10), Fraction(6, 10), Fraction(1, 10)]
    q = [Fraction(5, 10), Fraction(2, 10), Fraction(1, 10), Fraction(2, 10)]
    s = Split(p, q, Fraction(1), [0, 1])
    backend.check(tail_bound(*bound_args(backend, [s])), [Fraction(3, 10)])
    low = s._replace(lam=Fraction(4))  # min(.2, .15) + .025
    backend.check(tail_bound(*bound_args(backend, [low])), [Fraction(175, 1000)])


@on_every_backend
def test_the_cap_is_the_smallest_known_q(backend):
    """By hand: q known at .5 and .2, two tail tokens of .15; p has .8 on one, so U' = .2 < q_T."""
    p = [Fraction(1, 10), Fraction(1, 10), Fraction(8, 10), ZERO]
    q = [Fraction(50, 100), Fraction(20, 100), Fraction(15, 100), Fraction(15, 100)]
    lower, upper = bounds_of(backend, [Split(p, q, Fraction(1), [0, 1])])
    backend.check(lower, [Fraction(2, 10)])
    backend.check(upper, [Fraction(4, 10)])


@on_every_backend
def test_each_state_may_have_its_own_lam(backend):
    """(2, 3, v) states, one lam each; an empty batch stays empty."""
    log_p, log_q = random_rows((2, 3, 9), seed=22)
    log_q = np.sort(log_q)[..., ::-1]
    p, q = np.exp(log_p), np.exp(log_q)
    lam = np.array([[0.3, 1.0, 1.5], [2.0, 0.1, 9.0]])
    known = np.broadcast_to(np.arange(9) < 4, p.shape).copy()
    h = np.minimum(q[..., 3:4], p / lam[..., None])[..., 4:].sum(-1)
    want = np.minimum(h, q[..., 4:].sum(-1))
    tails = [np.log(p[..., 4:].sum(-1)), np.log(q[..., 4:].sum(-1)), log_q[..., 3]]
    states = backend.array(log_p), boolean(backend, known)
    log_p_tail, log_q_tail, log_cap, lam = map(backend.array, (*tails, lam))
    backend.check(tail_bound(*states, log_p_tail, log_q_tail, log_cap, lam), want)
    none = backend.array(np.zeros(0))
    empty = backend.array(np.zeros((0, 9)))
    got = tail_bound(empty, boolean(backend, np.zeros((0, 9))), none, none, none, 1.0)
    backend.check(got, np.zeros(0))


@on_every_backend
def test_extreme_tails_do_not_overflow(backend):
    """p = 0 or e^-2000 in the tail, a cap of 0, lam of 1e+-300."""
    log_p = backend.array([[0.0, -2000.0, -math.inf]])
    known = boolean(backend, [[True, False, False]])
    for lam in (1e-30, 1.0, 1e30):
        for cap in (-math.inf, -2000.0):
            tail, cap_ = backend.array([-2000.0]), backend.array([cap])
            backend.check(tail_bound(log_p, known, tail, tail, cap_, lam), [0.0])


@on_every_backend
def test_what_is_no_mask_and_no_mass_is_refused(backend):
    """tail_bound's inputs: a bool mask of the vocabulary, log-masses per state."""
    log_p = backend.array(random_rows((2, 3), seed=23)[0])
    mask = boolean(backend, [[True, False, False]] * 2)
    x = backend.array([-1.0, -1.0])
    with pytest.raises(TypeError, match=r"is_known must be a bool array, got .*float"):
        tail_bound(log_p, log_p, x, x, x, 1.0)
    with pytest.raises(TypeError, match="is_known must be a bool array, got list"):
        tail_bound(log_p, [[True]], x, x, x, 1.0)
    with pytest.raises(ValueError, match=r"is_known has shape \(2, 2\)"):
        tail_bound(log_p, mask[:, :2], x, x, x, 1.0)
    with pytest.raises(ValueError, match=r"log_q_cap must have shape \(2,\) .* got \(1,\)"):
        tail_bound(log_p, mask, x, x, x[:1], 1.0)
    with pytest.raises(ValueError, match=r"log_q_tail holds 0\.5, but a log-probability"):
        tail_bound(log_p, mask, x, backend.array([-1.0, 0.5]), x, 1.0)
    with pytest.raises(ValueError, match="log_p_tail holds 1 NaN"):
        tail_bound(log_p, mask, backend.array([-1.0, math.nan]), x, x, 1.0)
    with pytest.raises(ValueError, match=r"lam must lie in \(0, inf\)"):
        tail_bound(log_p, mask, x, x, x, 0.0)


# z_union


@on_every_backend
@given(states=splits(), data=st.data())
def test_the_union_is_the_rational_one_and_counts_no_token_twice(backend, states, data):
    """Both readings of the unknown q, against sums over sets of ids."""
    v = len(states[0].q)
    m = data.draw(st.integers(1, v))
    tops = [sorted(range(v), key=[-x for x in s.p].__getitem__)[:m] for s in states]
    zero, capped = [], []
    for s, top in zip(states, tops, strict=True):
        new = set(top) - set(s.known)
        extra = sum((min(s.cap, s.p[i] / s.lam) for i in new), ZERO)
        zero.append(s.z_k)
        capped.append(s.z_k + min(s.q_tail, extra))
    log_p, log_q = known_of(backend, states)
    args = (
        log_p,
        log_q,
        backend.logs([[s.p[i] for i in top] for s, top in zip(states, tops, strict=True)]),
        boolean(backend, [[i in s.known for i in t] for s, t in zip(states, tops, strict=True)]),
        backend.logs([s.q_tail for s in states]),
        float(states[0].lam),
    )
    backend.check(z_union(*args, "zero"), zero)
    backend.check(z_union(*args, "capped"), capped)


@on_every_backend
def test_the_union_refuses_what_it_cannot_read(backend):
    """An unknown option, a mask of another shape, tokens of other states."""
    log_p, log_q = map(backend.array, random_rows((2, 3), seed=24))
    mask, x = boolean(backend, [[True, False, False]] * 2), backend.array([-1.0, -1.0])
    with pytest.raises(ValueError, match='unknown must be "zero" or "capped", got \'granted\''):
        z_union(log_p, log_q, log_p, mask, x, 1.0, "granted")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is_shared has shape \(2, 2\)"):
        z_union(log_p, log_q, log_p, mask[:, :2], x, 1.0, "zero")
    with pytest.raises(ValueError, match=r"log_p_top must have shape \(2,\)"):
        z_union(log_p, log_q, log_p[:1, :], mask[:1, :], x, 1.0, "zero")


# estimates of the mean from one draw per state


@given(states=splits(), b=st.integers(0, 4).map(lambda n: Fraction(n, 4)))
def test_each_estimate_of_the_mean_is_unbiased_and_one_is_least_noisy(states, b):
    """D3 over all draws of a token, in rational arithmetic: the means are Z; the variance of
    Z_K + b q_T + (a - b) 1{tail} is q_T Var(a | T) + q_T (1 - q_T) (b - R / q_T)^2, and its least
    value is below that of a itself."""
    for s in states:
        a = exact.accept_prob(s.p, s.q, s.lam)
        in_tail = [i in s.tail for i in range(len(a))]
        z = exact.acceptance_rate(s.p, s.q, s.lam)

        def distribution(values, s=s):
            mean = sum((q * x for q, x in zip(s.q, values, strict=True)), ZERO)
            square = sum((q * x * x for q, x in zip(s.q, values, strict=True)), ZERO)
            return mean, square - mean**2

        def of(b, s=s, a=a, in_tail=in_tail):
            shift = s.z_k + b * s.q_tail
            return [shift + (x - b) * t for x, t in zip(a, in_tail, strict=True)]

        assert distribution(a)[0] == distribution(of(ZERO))[0] == distribution(of(b))[0] == z
        if s.q_tail:
            best = s.rest / s.q_tail
            inside = sum((s.q[i] * (a[i] - best) ** 2 for i in s.tail), ZERO)
            assert distribution(of(b))[1] == inside + s.q_tail * (1 - s.q_tail) * (b - best) ** 2
            assert distribution(of(best))[1] == inside <= distribution(a)[1]


# the tail ratio

counts = st.integers(0, 2**20).map(lambda n: n / 16)
statistics = st.builds(TailStatistic, counts, counts)


def every_token(states, copies: int):
    """A batch in which each token comes in exact proportion: copies * q(x) times."""
    accept, tail, owner = [], [], []
    for j, s in enumerate(states):
        for i, a in enumerate(exact.accept_prob(s.p, s.q, s.lam)):
            times = s.q[i] * copies
            assert times.denominator == 1
            accept += [a] * int(times)
            tail += [i not in s.known] * int(times)
            owner += [j] * int(times)
    return accept, tail, owner


@on_every_backend
@given(states=splits())
def test_the_batch_mean_is_right_where_the_proportions_are(backend, states):
    """D4: in a batch that holds each token q(x) N times, beta = sum R / sum U', and the mean of
    Z_K + beta U' is that of Z; no draw of chance in it."""
    copies = math.lcm(*(x.denominator for s in states for x in s.q))
    if copies > 2000:  # one state alone never has that many
        states, copies = states[:1], math.lcm(*(x.denominator for x in states[0].q))
    accept, tail, owner = every_token(states, copies)
    bound = tail_bound(*bound_args(backend, states))
    per_token = backend.array(backend.numpy(bound)[owner])
    log_q_tail = backend.logs([states[j].q_tail for j in owner])
    seen = tail_statistic(backend.array(accept), boolean(backend, tail), per_token, log_q_tail)
    assert seen.accepted == pytest.approx(float(copies * sum(s.rest for s in states)), abs=1e-2)
    total = sum(s.bound for s in states)
    if total:
        beta = sum(s.rest for s in states) / total
        assert tail_ratio(seen) == pytest.approx(float(beta), rel=10 * backend.rtol)
    z = z_tail_ratio(backend.array([s.z_k for s in states]), bound, tail_ratio(seen))
    want = sum(exact.acceptance_rate(s.p, s.q, s.lam) for s in states)
    assert float(sum(backend.numpy(z))) == pytest.approx(float(want), rel=10 * backend.rtol)


@on_every_backend
def test_a_statistic_is_the_sum_over_tail_tokens(backend):
    """By hand; padding and known tokens count in neither sum, nor does a tail of mass 0."""
    accept = backend.array([[1.0, 0.5, 0.25], [1.0, 0.0, 1.0]])
    bound = backend.array([[0.25, 0.125, 0.5], [0.0, 0.25, 0.0]])
    q_tail = backend.logs(
        [[Fraction(1, 2), Fraction(1, 4), 1], [Fraction(1, 8), Fraction(1, 4), 0]]
    )
    in_tail = boolean(backend, [[True, True, False], [True, True, True]])
    got = tail_statistic(accept, in_tail, bound, q_tail)
    assert isinstance(got, TailStatistic)
    assert all(type(x) is float for x in got)
    assert got == pytest.approx((1.0 + 0.5 + 1.0 + 0.0, 0.5 + 0.5 + 0.0 + 1.0), rel=backend.rtol)
    nothing = boolean(backend, [[False] * 3] * 2)
    assert tail_statistic(accept, nothing, bound, q_tail) == (0.0, 0.0)


@on_every_backend
def test_parts_of_a_batch_merge_to_the_whole(backend):
    """Micro-batches of any size: the sums of dyadic numbers are exact, so equality holds."""
    rng = np.random.default_rng(25)
    accept, bound = rng.integers(0, 9, (2, 30)) / 8
    in_tail = rng.random(30) < 0.5
    args = [backend.array(accept), boolean(backend, in_tail), backend.array(bound / 4)]
    args.append(backend.array(np.zeros(30)))
    whole = tail_statistic(*args)
    cuts = [0, 1, 7, 7, 22, 30]
    parts = [tail_statistic(*(x[a:b] for x in args)) for a, b in itertools.pairwise(cuts)]
    assert merge_tail(parts) == whole
    assert whole == (accept[in_tail].sum(), (bound / 4)[in_tail].sum())


@given(parts=st.lists(statistics, max_size=6), data=st.data())
def test_merging_is_exact_and_knows_no_order(parts, data):
    """Against rational sums; permuted, and in groups."""
    merged = merge_tail(parts)
    for got, want in zip(merged, zip(*parts, strict=True), strict=False):
        assert Fraction(got) == sum(map(Fraction, want), ZERO)
    assert merge_tail(data.draw(st.permutations(parts))) == merged
    cut = data.draw(st.integers(0, len(parts)))
    assert merge_tail([merge_tail(parts[:cut]), merge_tail(parts[cut:])]) == merged
    assert merge_tail([]) == (0.0, 0.0)


def test_merging_rounds_once():
    """Sums of floats depend on their order, ours do not."""
    parts = [TailStatistic(x, x) for x in (0.1, 0.2, 0.3, 1e16, 1.0, 1.0)]
    results = {merge_tail(order) for order in itertools.permutations(parts)}
    assert len(results) == 1


def test_smoothing_starts_at_one_and_forgets():
    """Prior (1, 1); steps weigh by their tokens; an empty step changes no ratio."""
    seen = TailStatistic()
    assert tail_ratio(seen) == 1.0
    assert tail_ratio(smooth_tail(seen, TailStatistic(0.0, 0.0), 0.9)) == 1.0
    seen = smooth_tail(seen, TailStatistic(3.0, 10.0), 0.5)
    assert seen == (3.5, 10.5)
    seen = smooth_tail(seen, TailStatistic(1.0, 2.0), 0.5)
    assert seen == (2.75, 7.25)
    assert tail_ratio(smooth_tail(seen, TailStatistic(0.0, 0.0), 0.5)) == pytest.approx(2.75 / 7.25)
    assert smooth_tail(seen, TailStatistic(1.0, 4.0), 0.0) == (1.0, 4.0)


def test_a_long_run_forgets_the_prior():
    """After many steps with one quotient, beta is that quotient."""
    seen = TailStatistic()
    for _ in range(400):
        seen = smooth_tail(seen, TailStatistic(3.0, 4.0), 0.9)
    assert tail_ratio(seen) == pytest.approx(0.75, rel=1e-12)


@pytest.mark.parametrize(
    ("statistic", "beta"),
    [
        ((0.0, 0.0), 1.0),
        ((0.0, 2.0), 0.0),
        ((1.0, 4.0), 0.25),
        ((5.0, 4.0), 1.0),
        ((3.0, 0.0), 1.0),
    ],
)
def test_the_ratio_is_clipped_to_a_share(statistic, beta):
    """In [0, 1]; without anything seen, the upper bound."""
    assert tail_ratio(TailStatistic(*statistic)) == beta


@on_every_backend
@given(states=splits(), ratio=st.integers(0, 8).map(lambda n: n / 8))
def test_the_estimate_is_inside_the_bounds_for_every_token(backend, states, ratio):
    """Z_K <= Z_K + beta U' <= Z_K + U', without a tolerance, and the formula itself."""
    bound = tail_bound(*bound_args(backend, states))
    log_p, log_q = known_of(backend, states)
    z_known = jackpot.acceptance_rate(log_p, log_q, float(states[0].lam))
    z = z_tail_ratio(z_known, bound, ratio)
    xp = backend.library
    assert bool(xp.all(z >= z_known))
    assert bool(xp.all(z <= z_known + bound))
    backend.check(z, [s.z_k + Fraction(ratio) * s.bound for s in states])
    if ratio == 1:
        assert bool(xp.all(z == bounds_of(backend, states)[1]))


@on_every_backend
@given(states=splits(), ratio=st.integers(0, 8).map(lambda n: n / 8))
def test_with_all_tokens_known_the_estimate_is_z(backend, states, ratio):
    """k = v, whatever beta."""
    states = [s._replace(known=list(range(len(s.q)))) for s in states]
    bound = tail_bound(*bound_args(backend, states))
    log_p, log_q = known_of(backend, states)
    z_known = jackpot.acceptance_rate(log_p, log_q, float(states[0].lam))
    z = [exact.acceptance_rate(s.p, s.q, s.lam) for s in states]
    backend.check(z_tail_ratio(z_known, bound, ratio), z)


@on_every_backend
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"accept": [1.5, 0.0]}, ValueError, r"accept must lie in \[0, 1.001\], got 1.5"),
        ({"bound": [0.1, -0.5]}, ValueError, r"bound must lie in \[0, 1.001\], got -0.5"),
        ({"accept": [math.nan, 0.0]}, ValueError, "accept holds NaN"),
        ({"log_q_tail": [0.5, 0.0]}, ValueError, "log_q_tail holds 0.5"),
        ({"bound": [0.1]}, ValueError, r"accept has shape \(2,\) but bound has shape \(1,\)"),
        ({"in_tail": [True]}, ValueError, r"in_tail has shape \(1,\)"),
        ({"in_tail": [1.0, 0.0]}, TypeError, "in_tail must be a bool array"),
    ],
)
def test_what_is_no_statistic_is_refused(backend, change, error, message):
    """Rates, shares and a mask; one shape."""
    given_: dict[str, list[float] | list[bool]] = {
        **{"accept": [1.0, 0.0], "bound": [0.1, 0.1], "log_q_tail": [-1.0, -1.0]},
        **{"in_tail": [True, False]},
        **change,
    }
    arrays = {
        name: boolean(backend, x) if isinstance(x[0], bool) else backend.array(x)
        for name, x in given_.items()
    }
    with pytest.raises(error, match=message):
        tail_statistic(**arrays)


@on_every_backend
def test_the_estimate_refuses_a_share_above_one(backend):
    """beta is a share, and z_known and the bound are rates of the same states."""
    x = backend.array([0.5, 0.25])
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got 1.5"):
        z_tail_ratio(x, x, 1.5)
    with pytest.raises(ValueError, match=r"z_known must lie in \[0, 1.001\], got 2"):
        z_tail_ratio(backend.array([2.0, 0.0]), x, 1.0)
    with pytest.raises(ValueError, match=r"bound must lie in \[0, 1.001\], got -1"):
        z_tail_ratio(x, backend.array([-1.0, 0.0]), 1.0)
    with pytest.raises(ValueError, match=r"z_known has shape \(2,\) but bound has shape \(1,\)"):
        z_tail_ratio(x, x[:1], 1.0)


@pytest.mark.parametrize("bad", [(-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_sums_that_no_batch_has_are_refused(bad):
    """Negative, NaN or infinite, in each of the three functions."""
    bad = TailStatistic(*bad)
    for use in (
        tail_ratio,
        lambda x: merge_tail([x]),
        lambda x: smooth_tail(x, TailStatistic(), 0.5),
        lambda x: smooth_tail(TailStatistic(), x, 0.5),
    ):
        with pytest.raises(ValueError, match="two finite sums >= 0"):
            use(bad)


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_a_decay_outside_its_range_is_refused(decay):
    """1 would never forget, and sums would grow without end."""
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
        smooth_tail(TailStatistic(), TailStatistic(), decay)


@on_every_backend
def test_the_new_functions_leave_their_inputs_alone(backend):
    """Nothing is written into an argument."""
    log_p, log_q = (np.sort(x)[..., ::-1].copy() for x in random_rows((2, 6), seed=26))
    arrays = [backend.array(x) for x in (log_p, log_q[..., 0] - 1, log_q[..., 1])]
    mask = boolean(backend, np.broadcast_to(np.arange(6) < 2, (2, 6)).copy())
    before = [floats(backend.numpy(x)) for x in arrays]
    bound = tail_bound(arrays[0], mask, arrays[1], arrays[1], arrays[2], 1.0)
    tail_statistic(backend.library.exp(arrays[1]), mask[:, 0], bound, arrays[1])
    z_tail_ratio(backend.library.exp(arrays[1]), bound, 0.5)
    for x, old in zip(arrays, before, strict=True):
        assert (backend.numpy(x) == old).all()
