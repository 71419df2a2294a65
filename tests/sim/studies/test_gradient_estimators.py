"""C1 to C6 of docs/theory_estimators.md, and the exact laboratory that shows them.

The oracle below enumerates paths and coins of tests/support/rational_world.py in rational
arithmetic and shares no code with `jackpot` or `sim`: every weight, mean and second
moment is a Fraction, compared at 1e-11.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction as F
from functools import partial
from typing import Literal

import numpy as np
import pytest
from rational_world import (
    INF,
    PATHS,
    REF,
    REWARD,
    H,
    P,
    Q,
    V,
    _distributions,
    distribution_of_states,
    jp,
    prob,
    some_world,
    world_of,
)

import jackpot
from sim.studies import estimator_studies, subsampling
from sim.studies.gradient_estimators import (
    Estimator,
    jackpot_grid,
    moments,
    sample_estimates,
    terms,
)
from sim.worlds.trees import World, gradient, make_tree

RTOL = 1e-11
P_DEAD = _distributions((0, 3, 2), (1, 6, 3), (4, 4, 1), (2, 1, 7))  # the root never plays token 0


def acceptance(p, q, lam) -> F:
    return sum((min(qi, pi / lam) for pi, qi in zip(p, q, strict=True)), start=F(0))


def tokens_of(path, est: Estimator, p, ref, q):
    """(state, token, accept, weight if kept) of each position, as the definitions say."""
    big = F(10**9)  # a cap that never binds
    cap, low, high, c1, c2 = (
        big if x == INF else F(x) for x in (est.cap, est.low, est.high, est.c1, est.c2)
    )
    lam = F(est.lam)
    to = p if est.target == "new" else ref
    mean_z = sum(d * acceptance(to[s], q[s], lam) for s, d in distribution_of_states(q).items())
    for t in range(H):
        s, x = path[:t], path[t]
        ratio, r_theta = to[s][x] / q[s][x], F(1) if p[s][x] == 0 else p[s][x] / ref[s][x]
        step = r_theta if est.target == "ref" else F(1)  # F(p_ref / q) r_theta, or F(p / q)
        if est.rule == "none":
            yield s, x, F(1), r_theta
        elif est.rule == "importance":
            yield s, x, F(1), ratio * step
        elif est.rule == "tis":
            yield s, x, F(1), min(ratio, cap) * step
        elif est.rule == "icepop":
            yield s, x, F(1), (ratio if low <= ratio <= high else 0) * step
        elif est.rule == "sequence":
            yield s, x, F(1), prob(path, p) / prob(path, q)
        else:
            r = to[s][x] / q[s][x]
            z = acceptance(to[s], q[s], lam) if est.z == "state" else mean_z
            back = F(1) if to[s][x] == 0 else ref[s][x] / to[s][x]
            yield s, x, min(F(1), r / lam), min(z * max(lam, r), c1) * min(back, c2) * r_theta


def outcomes(est: Estimator, p, ref, q):
    """(probability, gradient, accepted tokens) of one path, over paths and coins."""
    base = sum(prob(path, q) * REWARD.get(path, 0) for path in PATHS)
    for path in PATHS:
        advantage = REWARD.get(path, 0) - base
        steps = list(tokens_of(path, est, p, ref, q))
        for coins in itertools.product((1, 0), repeat=H if est.mask == "coin" else 0):
            chance, count, grad = (
                prob(path, q),
                F(0),
                dict.fromkeys(itertools.product(p, range(V)), 0),
            )
            before = F(1)  # what the coins, or chances, of the tokens before multiply to
            for t, (s, x, a, w) in enumerate(steps):
                kept = {"coin": coins[t] if coins else 1, "expected": a, "all": 1}[est.mask]
                if est.mask == "coin":
                    chance *= a if coins[t] else 1 - a
                before, kept = before * kept, kept * (before if est.scope == "prefix" else 1)
                count += kept
                for y in range(V):
                    grad[s, y] += kept * w * advantage * ((x == y) - p[s][y])
            if chance:
                yield chance, grad, count


def expected(est: Estimator, p=P, ref=REF, q=Q):
    """Mean, variance per path, drift and acceptance, all from the enumerated outcomes."""
    rows = list(outcomes(est, p, ref, q))
    keys = list(rows[0][1])
    mean = {k: sum(c * g[k] for c, g, _ in rows) for k in keys}
    share = sum(c * n for c, _, n in rows) / H
    if est.per == "proposed":
        limit, drift = mean, dict.fromkeys(keys, F(0))
    else:
        limit = {k: mean[k] / share for k in keys}
        drift = {
            k: -sum(c * (g[k] - limit[k] * n / H) * n / H for c, g, n in rows) / share**2
            for k in keys
        }
    ratio = est.per == "accepted"
    variance = sum(
        c * (g[k] - (limit[k] * n / H if ratio else mean[k])) ** 2 for c, g, n in rows for k in keys
    )
    return limit, variance / (share**2 if ratio else 1), drift, share


def as_table(values: dict) -> np.ndarray:
    states = list(P)
    return np.array([[float(values[s, x]) for x in range(V)] for s in states])


BASIC = [
    Estimator("none", "none"),
    Estimator("importance", "importance"),
    Estimator("tis", "tis", cap=1.25),
    Estimator("tis", "tis", cap=1.25, target="ref"),
    Estimator("icepop", "icepop", low=0.5, high=2.1, target="ref"),
    Estimator("icepop", "icepop", low=0.5, high=2.1),
    Estimator("sequence", "sequence"),
]
GRID = [
    *jackpot_grid(0.75, 1.125, 1.25),
    *jackpot_grid(1.5, 0.5, 1.0),  # c1 < lam Z: the other branch of C2
    *(replace(e, target="ref") for e in jackpot_grid(1.0, 1.125, 1.0)),
]
_prefix = partial(Estimator, "prefix", "jackpot", scope="prefix")
PREFIX = [
    estimator
    for mask in ("coin", "expected")
    for estimator in (
        _prefix(mask=mask, lam=0.75, z="state", c1=1.125, target="new"),
        _prefix(mask=mask, lam=1.5, z="batch", c1=INF, target="ref"),
    )
]
SEEDS = [0, 1, 2]


# ---- the laboratory is exact ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "est", BASIC + GRID + PREFIX, ids=lambda e: f"{e.rule} {e.name} {e.target}".strip()
)
def test_moments_equal_the_enumeration_of_paths_and_coins(est):
    """Mean, variance, drift and acceptance of every estimator, in rational arithmetic."""
    limit, variance, drift, share = expected(est)
    m = moments(world_of(), est)
    np.testing.assert_allclose(m.mean, as_table(limit), rtol=RTOL, atol=1e-13)
    np.testing.assert_allclose(m.drift, as_table(drift), rtol=RTOL, atol=1e-13)
    assert m.variance == pytest.approx(float(variance), rel=RTOL)
    assert m.acceptance == pytest.approx(float(share), rel=RTOL)


@pytest.mark.parametrize("est", [*BASIC, *PREFIX, jp(), jp("expected", c1=1.125, per="accepted")])
def test_moments_are_exact_where_the_policy_never_goes(est):
    """States below a token with p = 0 < q are reached by the actor alone."""
    limit, variance, _, _ = expected(est, p=P_DEAD, ref=P_DEAD)
    m = moments(world_of(p=P_DEAD, ref=P_DEAD), est)
    np.testing.assert_allclose(m.mean, as_table(limit), rtol=RTOL, atol=1e-13)
    assert m.variance == pytest.approx(float(variance), rel=RTOL)


@pytest.mark.parametrize("seed", SEEDS)
def test_sequence_importance_has_the_true_gradient_as_its_mean(seed):
    """Weights on whole paths correct states and futures too, at every staleness."""
    world = some_world(seed, staleness=0.4)
    m = moments(world, Estimator("", "sequence"))
    assert m.bias(gradient(world, world.log_p, world.log_p)) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_token_importance_reaches_only_the_token_level_target(seed):
    """Its mean is sum_s d_q(s) E_p[Q^q grad log p]: states and future stay the actor's."""
    world = some_world(seed, staleness=0.4)
    m = moments(world, Estimator("", "importance"))
    assert m.bias(gradient(world, world.log_q, world.log_q)) < 1e-12
    assert m.bias(gradient(world, world.log_p, world.log_p)) > 0.05
    assert m.bias(gradient(world, world.log_q, world.log_p)) > 0.05  # the states alone are not all


def test_token_weights_keep_training_on_states_the_policy_never_reaches():
    """The true gradient is 0 there; rejecting the token that leads there changes nothing below."""
    world = world_of(p=P_DEAD, ref=P_DEAD)
    true = gradient(world, world.log_p, world.log_p)
    below = 1  # the state after root token 0
    assert np.all(true[below] == 0)
    for est in (Estimator("", "importance"), jp(), jp(z="batch", per="accepted")):
        assert np.linalg.norm(moments(world, est).mean[below]) > 0.01
    assert np.all(moments(world, Estimator("", "sequence")).mean[below] == 0)
    assert np.all(terms(world, jp()).keep[:3, 0] == 0)


# ---- C1, C2: what the coin and the weight do together --------------------------------------------


@pytest.mark.parametrize("lam", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_c1_coin_times_weight_is_z_times_importance(seed, lam):
    """C1: E[m w f] = Z E_p f, state by state, at every lam."""
    world = some_world(seed)
    plain = moments(world, Estimator("", "importance")).mean
    z = [
        sum(min(q, p / lam) for p, q in zip(ps, qs, strict=True))
        for ps, qs in zip(np.exp(world.log_p), np.exp(world.log_q), strict=True)
    ]
    found = moments(world, jp(lam=lam)).mean
    np.testing.assert_allclose(found, np.array(z)[:, None] * plain, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("per", ["proposed", "accepted"])
@pytest.mark.parametrize("z", ["state", "batch"])
@pytest.mark.parametrize("c1", [0.2, 1.0, 3.0, INF])
def test_c2_coin_and_expected_mask_have_one_mean_and_one_acceptance(c1, z, per):
    """C2: integrating the coin out changes no mean, whatever caps and normaliser."""
    for seed, lam in itertools.product(SEEDS, (0.5, 2.0)):
        world = some_world(seed, staleness=0.3)
        coin = moments(world, jp(lam=lam, c1=c1, z=z, per=per))
        mean = moments(world, jp("expected", lam=lam, c1=c1, z=z, per=per))
        np.testing.assert_allclose(coin.mean, mean.mean, rtol=1e-10, atol=1e-14)
        assert coin.acceptance == pytest.approx(mean.acceptance, rel=1e-12)


@pytest.mark.parametrize("c1", [0.5, 1.125, INF])
@pytest.mark.parametrize("z", ["state", "batch"])
def test_c2_the_coin_costs_exactly_a_times_one_minus_a(c1, z):
    """C2: Var(coin) - Var(expected) = E_q[a (1 - a) min(w, c1)^2 |f|^2], by enumeration."""
    est = jp(lam=1.5, c1=c1, z=z)
    base = sum(prob(path, Q) * REWARD.get(path, 0) for path in PATHS)
    extra = F(0)
    for path in PATHS:
        for s, x, a, w in tokens_of(path, est, P, REF, Q):
            square = sum(((x == y) - P[s][y]) ** 2 for y in range(V))
            size = (REWARD.get(path, 0) - base) ** 2 * square
            extra += prob(path, Q) * a * (1 - a) * w**2 * size
    world = world_of()
    gap = moments(world, est).variance - moments(world, replace(est, mask="expected")).variance
    assert extra > 0
    assert gap == pytest.approx(float(extra), rel=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_c2_with_one_z_jackpot_is_tis_times_a_constant(seed):
    """C2: c1 >= lam Z gives Z min(r, c1 / Z): TIS with cap c1 / Z. Its noise is TIS's noise."""
    world = some_world(seed)
    m = moments(world, jp("expected", lam=0.8, c1=1.5, z="batch"))
    tis = moments(world, Estimator("", "tis", cap=1.5 / m.acceptance))
    np.testing.assert_allclose(m.mean, m.acceptance * tis.mean, rtol=1e-10, atol=1e-14)
    assert m.noise == pytest.approx(tis.noise, rel=1e-10)


@pytest.mark.parametrize("lam", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("c1", [0.2, 0.9, 4.0])
def test_c2_every_jackpot_weight_is_a_multiple_of_a_tis_weight(lam, c1):
    """C2: min(Z, c1 / lam) min(r, max(c1 / Z, lam)), token by token, on both sides of lam Z."""
    world = world_of()
    t = terms(world, jp(lam=lam, c1=c1))
    for i, path in enumerate(PATHS):
        for pos in range(H):
            s, x = path[:pos], path[pos]
            z, r = float(acceptance(P[s], Q[s], F(lam))), float(P[s][x] / Q[s][x])
            tis = min(z, c1 / lam) * min(r, max(c1 / z, lam))
            assert (t.keep * t.weight)[i, pos] == pytest.approx(tis, rel=1e-12)


def test_c2_below_lam_z_the_cap_leaves_pure_rejection():
    """C2: c1 < lam Z gives weight c1 on every accepted token, c1 a in expectation."""
    world = some_world(0)
    t = terms(world, jp("expected", lam=3.0, c1=0.1))
    np.testing.assert_allclose(t.weight, 0.1 * t.count, rtol=1e-12)
    assert np.all(terms(world, jp(lam=3.0, c1=0.1)).weight == pytest.approx(0.1))


# ---- C3: the four normalisers --------------------------------------------------------------------


@pytest.mark.parametrize("lam", [F(1, 2), F(1), F(2)])
def test_c3_the_four_limits(lam):
    """C3: Z in the weight and the denominator decide between E[Z mu], its share, mu, mu / Z."""
    d, base = distribution_of_states(Q), sum(prob(path, Q) * REWARD.get(path, 0) for path in PATHS)
    z = {s: acceptance(P[s], Q[s], lam) for s in P}
    mean_z = sum(d[s] * z[s] for s in P)
    future = {(s, x): _future(s, x) - base for s in P for x in range(V)}
    mu = {s: [_score_mean(P[s], [future[s, x] for x in range(V)], y) for y in range(V)] for s in P}
    token = np.array([[float(H * d[s] * m) for m in mu[s]] for s in P])
    damped = np.array([[float(H * d[s] * z[s] * m) for m in mu[s]] for s in P])
    world, share = world_of(), float(mean_z)
    found = {
        (zs, per): moments(world, jp(lam=float(lam), z=zs, per=per)).mean
        for zs in ("state", "batch")
        for per in ("proposed", "accepted")
    }
    assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13)
    assert_close(found["state", "proposed"], damped)
    assert_close(found["state", "accepted"], damped / share)
    assert_close(found["batch", "proposed"], share * token)
    assert_close(found["batch", "accepted"], token)


def _future(s: tuple, x: int) -> F:
    """Expected reward after token x in state s when the actor continues."""
    path = (*s, x)
    if len(path) == H:
        return F(REWARD.get(path, 0))
    return sum((Q[path][y] * _future(path, y) for y in range(V)), F(0))


def _score_mean(p: list[F], f: list[F], y: int) -> F:
    return sum((p[x] * f[x] * ((x == y) - p[y]) for x in range(V)), F(0))


def test_c3_accepted_pairs_need_the_batch_z_in_their_weight():
    """C3: d p / (distribution of accepted pairs) = Zbar max(lam, r): the batch's Z, in every
    state."""
    world, lam = world_of(), 1.5
    d = {s: float(x) for s, x in distribution_of_states(Q).items()}
    z = jackpot.acceptance_rate(world.log_p, world.log_q, lam)
    mean_z = sum(d[s] * z[i] for i, s in enumerate(P))
    after = np.exp(jackpot.post_rejection(world.log_p, world.log_q, lam))
    for i, s in enumerate(P):
        for x in range(V):
            accepted = d[s] * z[i] / mean_z * after[i, x]
            exact = d[s] * float(P[s][x]) / accepted
            assert exact == pytest.approx(mean_z * max(lam, float(P[s][x] / Q[s][x])), rel=1e-12)


ONE_TOKEN = ((0.7, 0.3), (0.4, 0.6), 1.2)  # p, q, lam


def _one_token_moments(mask: Literal["coin", "expected"]):
    p, q, lam = ONE_TOKEN
    log_p, log_q = np.log([p]), np.log([q])
    world = World(make_tree(2, 1), log_p, log_p, log_q, np.array([1.0, 0.0]))
    return moments(world, jp(mask, lam=lam, per="accepted"))


def test_c3_the_ratio_estimators_error_is_of_order_one_over_n():
    """Two tokens, one position, N of them enumerated exactly: N bias and N variance converge.

    What the delta method leaves out falls as 1 / N, so doubling N about halves it.
    """
    m = _one_token_moments("expected")
    off = []
    for n in (40, 80):
        mean, variance = _exact_ratio(*ONE_TOKEN, n, "expected")
        off.append((n * (mean - m.mean[0, 0]) - m.drift[0, 0], n * variance - m.variance))
    scales = (m.drift[0, 0], m.variance)
    assert abs(m.drift[0, 0]) > 0.002
    for (at_40, at_80), scale in zip(zip(*off, strict=True), scales, strict=True):
        assert abs(at_80) < 0.6 * abs(at_40)
        assert abs(at_80) < 0.05 * abs(scale)


def test_c3_with_one_token_per_path_the_coins_ratio_has_no_bias_at_all():
    """Given how many tokens were accepted, each is a draw from q~: only empty batches are off."""
    m = _one_token_moments("coin")
    p, q, lam = ONE_TOKEN
    nothing = 1 - sum(min(q[x], p[x] / lam) for x in (0, 1))
    assert abs(m.drift[0, 0]) < 1e-15
    for n in (1, 2, 5):
        mean, _ = _exact_ratio(*ONE_TOKEN, n, "coin")
        assert mean == pytest.approx(m.mean[0, 0] * (1 - nothing**n), rel=1e-12)
    mean, variance = _exact_ratio(*ONE_TOKEN, 80, "coin")
    assert 80 * variance == pytest.approx(m.variance, rel=0.02)


def _exact_ratio(p, q, lam, n, mask) -> tuple[float, float]:
    """Mean and trace of the covariance of sum(G) / sum(count) over n draws of one token each."""
    a = [min(1.0, p[x] / (lam * q[x])) for x in (0, 1)]
    z = sum(q[x] * a[x] for x in (0, 1))
    w = [z * max(lam, p[x] / q[x]) for x in (0, 1)]
    adv = (1.0 - q[0], -q[0])
    # the gradient is (g, -g): one number per token
    slope = [w[x] * adv[x] * ((x == 0) - p[0]) for x in (0, 1)]
    cells = [(q[x] * a[x], slope[x], 1.0) for x in (0, 1)] + [(1 - z, 0.0, 0.0)]
    if mask == "expected":
        cells = [(q[x], a[x] * slope[x], a[x]) for x in (0, 1)] + [(0.0, 0.0, 0.0)]
    first = second = 0.0
    for i in range(n + 1):
        for j in range(n + 1 - i):
            k = n - i - j
            chance = math.comb(n, i) * math.comb(n - i, j)
            chance *= cells[0][0] ** i * cells[1][0] ** j * cells[2][0] ** k
            count = sum(c * cell[2] for c, cell in zip((i, j, k), cells, strict=True))
            total = sum(c * cell[1] for c, cell in zip((i, j, k), cells, strict=True))
            value = total / count if count else 0.0
            first, second = first + chance * value, second + chance * value**2
    return first, 2 * (second - first**2)


# ---- C4: caps ------------------------------------------------------------------------------------


def test_c4_no_token_moves_jackpot_by_more_than_c1():
    """C4: the multiplier is min(Z p_new / q, c1 a) min(1, c2 r_theta) <= c1; TIS's has no bound."""
    world, c1, c2, lam = world_of(), F(1), F(5, 4), F(1)
    t = terms(world, jp(c1=float(c1), c2=float(c2), lam=float(lam)))
    bound_by_c2 = 0
    for i, path in enumerate(PATHS):
        for pos in range(H):
            s, x = path[:pos], path[pos]
            r, step = P[s][x] / Q[s][x], P[s][x] / REF[s][x]
            z, a = acceptance(P[s], Q[s], lam), min(F(1), r / lam)
            multiplier = min(z * r, c1 * a) * min(F(1), c2 * step)
            bound_by_c2 += c2 * step < 1
            assert (t.keep * t.weight)[i, pos] == pytest.approx(float(multiplier), rel=1e-12)
    assert bound_by_c2 > 0
    assert np.max(t.weight) <= float(c1) + 1e-12
    stale = some_world(0, staleness=1.0)
    assert np.max(terms(stale, Estimator("", "tis", cap=1.0, target="ref")).weight) > 3
    assert np.max(terms(stale, Estimator("", "tis", cap=1.0, target="new")).weight) <= 1
    assert np.max(terms(stale, jp(c1=1.0)).weight) <= 1 + 1e-12


# ---- C5: what rejection is best at ---------------------------------------------------------------


def _population(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q, p = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n))
    return q, p / q


@pytest.mark.parametrize("cost_ratio", [0.003, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_c5_cost_optimal_lam_solves_its_equation_and_beats_every_other(seed, cost_ratio):
    """C5: lam^2 (c_g / c_b + Z) = E_p max(lam, r), and no lam on a fine grid is cheaper."""
    q, r = _population(seed)
    lam = subsampling.cost_optimal_lam(q, r, cost_ratio)

    def parts(x: float) -> tuple[float, float]:
        z = sum(min(qi, qi * ri / x) for qi, ri in zip(q, r, strict=True))
        return z, sum(qi * ri * max(x, ri) for qi, ri in zip(q, r, strict=True))

    z, second = parts(lam)
    assert lam**2 * (cost_ratio + z) == pytest.approx(second, rel=1e-12)
    best = (cost_ratio + z) * second
    assert subsampling.price(q, r, lam, cost_ratio) == pytest.approx(best, rel=1e-12)
    for x in np.geomspace(lam / 20, lam * 20, 801):
        other_z, other = parts(x)
        assert best <= (cost_ratio + other_z) * other * (1 + 1e-12)


def test_c5_free_proposals_mean_plain_rejection_and_dear_ones_no_rejection():
    """C5: c_g = 0 gives lam = max r; lam falls as generation gets dearer, to below min r."""
    q, r = _population(3)
    lams = [subsampling.cost_optimal_lam(q, r, c) for c in (0.0, 0.1, 1.0, 10.0, 1e8)]
    assert lams[0] == pytest.approx(r.max(), rel=1e-12)
    assert all(b < a for a, b in itertools.pairwise(lams))
    assert lams[-1] < r.min()


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.8])
def test_c5_magnitudes_give_the_least_second_moment_at_their_budget(budget):
    """C5: a = min(1, r |f| / lam) beats OBRS, uniform and random rules of the same budget."""
    q, r = _population(4, n=30)
    size = np.random.default_rng(5).exponential(size=30)
    a = subsampling.magnitude_rule(q, r, size, budget)
    assert sum(q * a) == pytest.approx(budget, rel=1e-12)

    def second(rule) -> float:
        return sum(qi * (ri * f) ** 2 / ai for qi, ri, f, ai in zip(q, r, size, rule, strict=True))

    best = second(a)
    assert subsampling.second_moment(q, r, size, a) == pytest.approx(best, rel=1e-12)
    rng = np.random.default_rng(6)
    rules = [subsampling.random_rule(q, budget, rng) for _ in range(200)]
    assert all(sum(q * rule) == pytest.approx(budget, rel=1e-9) for rule in rules)
    near = [np.clip(a * np.exp(0.05 * rng.standard_normal(30)), 0, 1) for _ in range(200)]
    for rule in [*rules, subsampling.magnitude_rule(q, r, np.ones(30), budget), *near]:
        spent = sum(q * rule)
        # any rule: its second moment is bounded by the optimum at what it spends (scaled down)
        assert second(rule) * max(1.0, spent / budget) >= best * (1 - 1e-9)
    flat = np.full(30, budget)
    assert second(flat) > best


def test_c5_where_no_token_is_certain_the_optimum_is_cauchy_schwarz():
    """C5: a small budget gives E_q[r |f|]^2 / budget, the Cauchy-Schwarz bound, exactly."""
    q, r = _population(7)
    size = np.random.default_rng(8).exponential(size=12) + 0.1
    a = subsampling.magnitude_rule(q, r, size, 0.01)
    assert a.max() < 1
    bound = sum(q * r * size) ** 2 / 0.01
    assert subsampling.second_moment(q, r, size, a) == pytest.approx(bound, rel=1e-12)


def test_c5_tokens_without_gradient_cost_nothing():
    """C5: |f| = 0 is never accepted, and the budget goes to the others."""
    q, r = _population(9)
    size = np.where(np.arange(12) % 3 == 0, 0.0, 1.0)
    a = subsampling.magnitude_rule(q, r, size, 0.2)
    assert np.all(a[size == 0] == 0)
    assert np.all(a[size > 0] > 0)
    assert sum(q * a) == pytest.approx(0.2, rel=1e-12)
    blind = np.where(size > 0, 0.0, 1.0)
    assert subsampling.second_moment(q, r, size, blind) == INF


# ---- C6: what a rejected token takes with it -----------------------------------------------------


@pytest.mark.parametrize("lam", [0.6, 1.0, 2.5])
def test_c6_a_state_counts_as_the_product_of_min_q_p_over_lam(lam):
    """Claim 1: uncapped, the mean gradient of a state is mu(s) Z(s) E_p of its score times what
    its paths earn, mu the product of min(q, p / lam) on the way: not the actor's frequency."""
    lam = F(lam)
    base = sum(prob(path, Q) * REWARD.get(path, 0) for path in PATHS)
    for s in P:
        mu = F(1)
        for t in range(len(s)):
            mu *= min(Q[s[:t]][s[t]], P[s[:t]][s[t]] / lam)
        z = acceptance(P[s], Q[s], lam)
        ahead = [
            sum(prob((*s, x, *rest), Q) / prob_of(s, Q) / Q[s][x] * REWARD.get((*s, x, *rest), 0)
                for rest in itertools.product(range(V), repeat=H - len(s) - 1))
            for x in range(V)
        ]  # fmt: skip
        wanted = [
            mu * z * sum(P[s][x] * (ahead[x] - base) * ((x == y) - P[s][y]) for x in range(V))
            for y in range(V)
        ]
        for mask in ("coin", "expected"):
            found = moments(world_of(), jp(mask, lam=float(lam), scope="prefix")).mean
            assert found[list(P).index(s)] == pytest.approx([float(w) for w in wanted], rel=RTOL)


def prob_of(s, distributions) -> F:
    return math.prod((distributions[s[:t]][s[t]] for t in range(len(s))), start=F(1))


def test_c6_states_the_policy_never_reaches_train_nothing():
    """What no weight on single tokens does (C3): a rejected token takes what follows with it."""
    world = world_of(p=P_DEAD, ref=P_DEAD)
    below = 1  # the state after root token 0
    for mask in ("coin", "expected"):
        assert np.all(moments(world, jp(mask, scope="prefix")).mean[below] == 0)
        assert np.linalg.norm(moments(world, jp(mask)).mean[below]) > 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_c6_at_no_mismatch_nothing_is_rejected(seed):
    world = some_world(seed, kl=0.0, spread=0.0)
    for one, other in (
        (jp(), jp(scope="prefix")),
        (jp("expected"), jp("expected", scope="prefix")),
    ):
        a, b = moments(world, one), moments(world, other)
        np.testing.assert_allclose(a.mean, b.mean, rtol=RTOL, atol=1e-13)
        assert a.variance == pytest.approx(b.variance, rel=RTOL)


@pytest.mark.parametrize("kl", [0.03, 0.3, 1.0])
def test_c6_on_small_trees_prefixes_point_nearer_to_the_true_gradient(kl):
    """As a mean over worlds, with their spread: the table of docs/theory_estimators.md."""
    token, prefix = estimator_studies.JACKPOT[1], estimator_studies.JACKPOT[5]
    assert (prefix.scope, prefix.mask, token.mask) == ("prefix", "expected", "expected")
    cases = [
        estimator_studies.world_with_targets(make_tree(5, 3), seed, kl=kl) for seed in range(12)
    ]
    rows = [[estimator_studies.describe(case, e) for e in (token, prefix)] for case in cases]
    gain = np.array([b["cos_true"] - a["cos_true"] for a, b in rows])
    assert gain.mean() > 2 * gain.std(ddof=1) / math.sqrt(len(gain))


def test_c6_a_ratio_of_dependent_coins_is_refused():
    with pytest.raises(ValueError, match="not independent"):
        moments(some_world(0), jp(scope="prefix", per="accepted"))


# ---- errors, samples, the command ----------------------------------------------------------------


@pytest.mark.parametrize(
    "est", [jp(lam=3.0), jp(lam=3.0, z="batch", per="accepted"), jp(lam=2.0, scope="prefix")]
)
def test_predicted_error_is_the_error_of_sampled_batches(est):
    """Seeded Monte Carlo, 6000 batches of 60 paths: within 4 standard errors of the formula."""
    world = some_world(0)
    true = gradient(world, world.log_p, world.log_p)
    draws = sample_estimates(world, est, 60, 6000, seed=1)
    errors = np.sum((draws - true) ** 2, axis=(1, 2)) / np.sum(true**2)
    standard_error = errors.std(ddof=1) / math.sqrt(errors.size)
    assert standard_error < 0.02 * errors.mean()
    assert abs(errors.mean() - moments(world, est).mse(true, 60)) < 4 * standard_error


def test_error_after_the_best_step_is_the_least_over_all_steps():
    """1 - cos^2 / (1 + noise / N) is the minimum over constants of E|s G - g|^2 / |g|^2."""
    world = some_world(1)
    true = gradient(world, world.log_p, world.log_p)
    m = moments(world, jp())
    errors = [
        (np.sum((s * m.mean - true) ** 2) + s**2 * m.variance / 50) / np.sum(true**2)
        for s in np.linspace(0, 3, 30001)
    ]
    assert m.mse_best_step(true, 50) == pytest.approx(min(errors), abs=1e-7)
