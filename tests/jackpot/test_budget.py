"""Thresholds from budgets (docs/theory.md: A3, B1, B2, E1, E3), against rational arithmetic."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from array_api_compat import array_namespace
from backends import (
    BACKENDS,
    NUMPY,
    STRICT,
    TORCH,
    TORCH32,
    divergence,
    floats,
    in_float64,
    on_every_backend,
    random_rows,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from importing import module_at

from jackpot import (
    acceptance_rate,
    common_lam_for_budget,
    lam_for_budget,
    lam_from_samples,
    post_rejection,
)
from jackpot.budget import _FLOAT64, _solve
from sim.oracle import exact
from sim.worlds.strategies import batches, budgets, pairs, ratios, state_weights

SLACK = {b: 1e-6 if b is TORCH32 else 1e-12 for b in BACKENDS}


def sort_rows(log_p, log_q, budget):
    """The benchmark's independent solver: sort the ratios, then a closed form."""
    solver = module_at(Path(__file__).parents[2] / "benchmarks" / "lam_solver.py")
    return solver.sort_rows(log_p, log_q, budget)


def within_reach(batch, budget) -> None:
    """Keep only budgets that every state can spend."""
    assume(all(budget <= exact.reach(p, q) for p, q in zip(*batch, strict=True)))


def check_lam(backend, lam, p, q, budget) -> None:
    """lam against the oracle, as precisely as the budget determines it (B4): rtol / elasticity."""
    want = exact.lam_for_budget(p, q, budget)
    below = sum(pi for pi, qi in zip(p, q, strict=True) if qi and pi < want * qi)
    elasticity = float(below / (want * budget)) or 1.0
    assert lam == pytest.approx(float(want), rel=10 * backend.rtol / elasticity)


def rate(p, q, lam) -> Fraction:
    """Z at the very float the core returned."""
    return exact.acceptance_rate(p, q, Fraction(float(lam)))


# One lam per state


@on_every_backend
@given(batch=batches(), budget=budgets())
def test_lam_spends_exactly_the_budget(backend, batch, budget):
    """Thm 3.4, existence: Z(lam(b)) = b, Z taken in rational arithmetic."""
    within_reach(batch, budget)
    log_p, log_q = map(backend.logs, batch)
    lam = backend.numpy(lam_for_budget(log_p, log_q, float(budget)))
    for p, q, x in zip(*batch, lam, strict=True):
        assert float(rate(p, q, x)) == pytest.approx(float(budget), rel=backend.rtol)


@on_every_backend
@given(pair=pairs(), data=st.data())
def test_lam_is_the_largest_that_fits(backend, pair, data):
    """A3: unique below the reach; at the reach (budget 1 too) the smallest common ratio."""
    p, q = pair
    reach = exact.reach(p, q)
    assume(reach)
    budget = data.draw(st.just(reach) | st.integers(1, 60).map(lambda n: reach * n / 60))
    lam = lam_for_budget(backend.logs(p), backend.logs(q), float(budget))
    check_lam(backend, float(backend.numpy(lam)), p, q, budget)


@in_float64
def test_lam_may_be_a_ratio(backend):
    """B2: a token with r = lam is accepted for certain; the ratios are 1/2, 1 and 2."""
    p, q = np.array([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
    lam = lam_for_budget(backend.array(np.log(p)), backend.array(np.log(q)), 0.75)
    backend.check(lam, 1.0)


@in_float64
def test_a_newton_step_may_end_on_a_ratio(backend):
    """B2: the first step, P / budget = 1, is a ratio but not the root; its token counts once."""
    p, q = [0.25, 0.125, 0.125, 0.5, 0.0], [0.75, 0.125, 0.0625, 0.0, 0.0625]
    with np.errstate(divide="ignore"):
        lam = lam_for_budget(backend.array(np.log(p)), backend.array(np.log(q)), 0.5)
    backend.check(lam, 0.8)


@in_float64
@given(pair=pairs(covered=True))
def test_at_budget_1_lam_is_the_smallest_ratio(backend, pair):
    """A3: every lam <= min p / q accepts everything; the largest of them is returned."""
    p, q = pair
    assume(all(p))
    lam = lam_for_budget(backend.logs(p), backend.logs(q), 1.0)
    backend.check(lam, min(pi / qi for pi, qi in zip(p, q, strict=True)))


@on_every_backend
@given(batch=batches(), data=st.data())
def test_a_budget_per_state_is_spent_by_each(backend, batch, data):
    """An array of budgets is the rows' numbers one by one."""
    reach = [exact.reach(p, q) for p, q in zip(*batch, strict=True)]
    assume(all(reach))
    share = st.integers(1, 20).map(lambda n: Fraction(n, 20))
    budget = [r * data.draw(share) for r in reach]
    log_p, log_q = map(backend.logs, batch)
    lam = backend.numpy(lam_for_budget(log_p, log_q, backend.array(budget)))
    for p, q, b, x in zip(*batch, budget, lam, strict=True):
        check_lam(backend, x, p, q, b)


@on_every_backend
@pytest.mark.parametrize("budget", [0.25, 0.9, 1.0])
def test_equal_distributions_need_one_over_the_budget(backend, budget):
    """p = q, all ratios tied: Z = min(1, 1 / lam); v = 1 is the simplest such distribution."""
    for q in ([Fraction(1)], [Fraction(1, 5), Fraction(4, 5)], [Fraction(1, 3)] * 3):
        lam = lam_for_budget(backend.logs(q), backend.logs(q), budget)
        backend.check(lam, 1 / budget)


@on_every_backend
def test_leading_axes_and_every_kind_of_number_are_kept(backend):
    """Shape (2, 3, v) gives (2, 3); the budget may be int, numpy scalar, 0-d or (2, 3)."""
    log_p, log_q = map(backend.array, random_rows((2, 3, 5), seed=5))
    for budget in (np.float64(0.75), np.float32(0.75), backend.array(0.75)):
        lam = lam_for_budget(log_p, log_q, budget)
        backend.check(acceptance_rate(log_p, log_q, lam), np.full((2, 3), 0.75))
    wanted = np.array([[0.5, 0.6, 0.7], [0.8, 0.9, 0.95]])
    lam = lam_for_budget(log_p, log_q, backend.array(wanted))
    backend.check(acceptance_rate(log_p, log_q, lam), wanted)
    backend.check(lam_for_budget(log_q, log_q, 1), np.ones((2, 3)))


@on_every_backend
def test_an_empty_batch_needs_no_lams(backend):
    """Leading dimension 0."""
    empty = backend.array(np.zeros((0, 3)))
    backend.check(lam_for_budget(empty, empty, 0.5), np.zeros(0))
    backend.check(lam_for_budget(empty, empty, backend.array(np.zeros(0))), np.zeros(0))


@on_every_backend
def test_many_blocks_of_rows_are_solved_like_single_rows(backend):
    """Rows are solved in blocks of 2^17 numbers; no row is lost, repeated or moved."""
    n, v = 70, 5000
    log_p, log_q = map(backend.array, random_rows((n, v), seed=6))
    budget = backend.array(np.linspace(0.3, 0.95, n))
    lam = backend.numpy(lam_for_budget(log_p, log_q, budget))
    for i in (0, 25, 26, 27, 52, 69):
        backend.check(lam_for_budget(log_p[i, :], log_q[i, :], budget[i]), lam[i])


@on_every_backend
@pytest.mark.parametrize("budget", [0.5, 0.95])
def test_a_whole_vocabulary_spends_its_budget(backend, budget):
    """v = 151,936: Z in exactly rounded float64 sums."""
    log_p, log_q = map(backend.array, random_rows((2, 151_936), seed=7))
    lam = backend.numpy(lam_for_budget(log_p, log_q, budget))
    p, q = np.exp(floats(backend.numpy(log_p))), np.exp(floats(backend.numpy(log_q)))
    z = [math.fsum(np.minimum(q[i], p[i] / lam[i])) for i in range(2)]
    backend.check(backend.array(z), [budget, budget])


@pytest.mark.parametrize("shape", [(40, 300), (2, 151_936)])
def test_newton_agrees_with_a_sort(shape):
    """B1, B2: two exact algorithms, one Z, to 1e-13."""
    log_p, log_q = random_rows(shape, seed=8)
    budget = np.linspace(0.5, 0.99, shape[0])
    pair = lam_for_budget(log_p, log_q, budget), sort_rows(log_p, log_q, budget)
    p, q = np.exp(log_p), np.exp(log_q)
    ours, theirs = (
        [math.fsum(np.minimum(*row)) for row in zip(q, p / x[:, None], strict=True)] for x in pair
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", [NUMPY, TORCH, STRICT], ids=lambda b: b.name)
@given(batch=batches(), budget=budgets())
def test_the_solver_is_right_on_every_librarys_own_arrays(backend, batch, budget):
    """The public function moves CPU arrays to numpy; elsewhere these lines run as they are."""
    within_reach(batch, budget)
    log_p, log_q = map(backend.logs, batch)
    wanted = backend.array([budget] * len(batch[0]))
    lam, reach = _solve(array_namespace(log_p), log_p, log_q, wanted, _FLOAT64)
    backend.check(reach, [exact.reach(p, q) for p, q in zip(*batch, strict=True)])
    for p, q, x in zip(*batch, backend.numpy(lam), strict=True):
        check_lam(backend, x, p, q, budget)


@pytest.mark.parametrize("backend", [NUMPY, TORCH], ids=lambda b: b.name)
@pytest.mark.parametrize("budget", [1e-6, 0.5, 0.999999])
def test_two_thousand_ratios_from_e_minus_600_to_e_600_are_solved(backend, budget):
    """B2: Newton ends by itself, without a bracket, however wide the ratios are."""
    half = np.linspace(-600, 600, 2000) / 2
    log_p, log_q = half - 300.0, -half - 300.0
    log_p, log_q = (x - np.log(np.exp(x).sum()) for x in (log_p, log_q))
    lam = lam_for_budget(backend.array(log_p), backend.array(log_q), budget)
    log_m = np.minimum(log_q, log_p - np.log(float(backend.numpy(lam))))
    assert math.fsum(np.exp(log_m)) == pytest.approx(budget, rel=1e-11)


@on_every_backend
def test_extreme_masses_have_their_lam(backend):
    """Ratios e^+-1999 beside an ordinary one: only the ordinary token can be spent."""
    log_p = backend.array([-math.log(2), -2000.0, -math.log(2), -math.inf])
    log_q = backend.array([-2000.0, -math.log(2), -math.log(2), -math.inf])
    backend.check(lam_for_budget(log_p, log_q, 0.25), 2.0)
    backend.check(lam_for_budget(log_p, log_q, 0.4), 1.25)
    with pytest.raises(ValueError, match=r"below the smallest .*row \(\); lower the budget"):
        lam_for_budget(log_p, log_q, 0.75)


@on_every_backend
def test_a_tiny_target_on_the_proposals_tokens_is_still_spent(backend):
    """Log-probabilities are compared, not probabilities: lam = 1e-30 is an ordinary answer."""
    log_p = backend.array([0.0, 0.0 - 30 * math.log(10)])
    log_q = backend.array([-math.inf, 0.0])
    lam = lam_for_budget(log_p, log_q, 0.5)
    backend.check(acceptance_rate(log_p, log_q, lam), 0.5)


def test_no_gradient_flows_through_lam():
    """lam is a constant of the step, though its inputs are differentiable."""
    log_p, log_q = (torch.from_numpy(x).requires_grad_() for x in random_rows((2, 4), seed=9))
    budget = torch.tensor([0.5, 0.6], dtype=torch.float64, requires_grad=True)
    assert not lam_for_budget(log_p, log_q, budget).requires_grad
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert isinstance(common_lam_for_budget(log_p, log_q, 0.5, weight), float)
    assert isinstance(lam_from_samples(log_p - log_q, 0.5), float)


# Refusals


@on_every_backend
@given(pair=pairs(), lost=st.integers(1, 19), share=st.integers(1, 20))
def test_a_budget_out_of_reach_is_refused_and_the_reach_named(backend, pair, lost, share):
    """A3: no lam > 0 accepts more than q(supp p)."""
    lost = Fraction(lost, 20)
    p, q = [Fraction(0), *pair[0]], [lost, *((1 - lost) * x for x in pair[1])]
    reach = exact.reach(p, q)
    budget = reach + (1 - reach) * Fraction(share, 20)
    with pytest.raises(ValueError, match=r"out of reach.* reachable maximum") as error:
        lam_for_budget(backend.logs(p), backend.logs(q), float(budget))
    named = float(str(error.value).split("reachable maximum ")[1].split(";")[0])
    assert named == pytest.approx(float(reach), rel=backend.rtol, abs=1e-12)


@on_every_backend
def test_the_row_that_cannot_spend_is_named(backend):
    """The index is over the leading axes, in whatever block the row was solved."""
    log_p, log_q = random_rows((7, 10, 3000), seed=10)
    log_p[5, 3, 1:] = -math.inf
    with pytest.raises(ValueError, match=r"budget 0.9.* out of reach in row \(5, 3\)"):
        lam_for_budget(backend.array(log_p), backend.array(log_q), 0.9)


@on_every_backend
def test_a_budget_may_exceed_the_reach_by_rounding_only(backend):
    """Slack 1e-12 (1e-6 in float32); within it, the answer is that for the reach."""
    p, q = [Fraction(1, 2), Fraction(1, 2), Fraction(0)], [Fraction(1, 4)] * 2 + [Fraction(1, 2)]
    log_p, log_q = backend.logs(p), backend.logs(q)
    backend.check(lam_for_budget(log_p, log_q, 0.5 + 0.5 * SLACK[backend]), 2.0)
    with pytest.raises(ValueError, match=r"reachable maximum 0\.(5|49999)"):
        lam_for_budget(log_p, log_q, 0.5 + 5 * SLACK[backend])


@on_every_backend
def test_disjoint_supports_reach_nothing_not_even_within_the_slack(backend):
    """Reach 0: no lam at all, however small the budget."""
    log_p, log_q = backend.array([0.0, -math.inf]), backend.array([-math.inf, 0.0])
    for budget in (0.5, 0.5 * SLACK[backend]):
        with pytest.raises(ValueError, match="reachable maximum 0;"):
            lam_for_budget(log_p, log_q, budget)


@on_every_backend
def test_a_lam_no_float_can_hold_is_refused(backend):
    """1 / budget overflows: said, and not returned as inf or as the largest float."""
    same = backend.array([[0.0, -math.inf]])
    budget = 1e-40 if backend is TORCH32 else 1e-310
    with pytest.raises(ValueError, match=r"needs a lam above the largest .*float"):
        lam_for_budget(same, same, budget)


# One lam for many states


@on_every_backend
@given(batch=batches(overlap=True), budget=budgets(), data=st.data())
def test_a_common_lam_spends_the_mean_budget(backend, batch, budget, data):
    """E1: sum_s d_s Z_s(lam) = budget, d normalised, states of weight 0 left out."""
    d = data.draw(state_weights(len(batch[0])))
    reach = [exact.reach(p, q) for p, q in zip(*batch, strict=True)]
    assume(budget * sum(d) <= sum(x * r for x, r in zip(d, reach, strict=True)))
    log_p, log_q = map(backend.logs, batch)
    lam = common_lam_for_budget(log_p, log_q, float(budget), backend.array(d))
    spent = sum(x * rate(p, q, lam) for p, q, x in zip(*batch, d, strict=True)) / sum(d)
    assert float(spent) == pytest.approx(float(budget), rel=backend.rtol)


@in_float64
@given(batch=batches(overlap=True), share=st.integers(1, 20))
def test_without_weights_all_states_count_alike(backend, batch, share):
    """E1 with d = 1 / n, up to the whole reach, where the smallest ratio of all is the answer."""
    ps, qs = batch
    d = [Fraction(1)] * len(ps)
    budget = sum(map(exact.reach, ps, qs), Fraction(0)) / len(ps) * Fraction(share, 20)
    want = exact.common_lam_for_budget(ps, qs, budget, d)
    lam = common_lam_for_budget(backend.logs(ps), backend.logs(qs), float(budget))
    again = common_lam_for_budget(
        backend.logs(ps), backend.logs(qs), float(budget), backend.array(d)
    )
    assert isinstance(lam, float)
    assert [lam, again] == pytest.approx([float(want)] * 2, rel=1e-10)


@in_float64
@given(batch=batches(covered=True, overlap=True), tenths=st.integers(1, 9))
def test_a_common_lam_beats_equal_budgets_in_both_criteria(backend, batch, tenths):
    """E1: mean KL_s(common) <= joint KL(common) <= mean KL_s(equal Z_s)."""
    ps, qs = batch
    budget = min(map(exact.reach, ps, qs)) * Fraction(tenths, 10)
    log_p, log_q = backend.logs(ps), backend.logs(qs)
    common = common_lam_for_budget(log_p, log_q, float(budget))
    rates = [float(rate(p, q, common)) for p, q in zip(ps, qs, strict=True)]

    def mean_kl(lam):
        rows = backend.numpy(post_rejection(log_p, log_q, lam))
        targets = backend.numpy(log_p)
        return sum(divergence("kl_p_q", x, y) for x, y in zip(targets, rows, strict=True)) / len(ps)

    tilt = -sum(math.log(z / float(budget)) for z in rates) / len(ps)  # KL(d || d~)
    joint = mean_kl(common) + tilt
    backend.at_most(mean_kl(common), joint)
    backend.at_most(joint, mean_kl(lam_for_budget(log_p, log_q, float(budget))))


@on_every_backend
def test_a_single_state_without_leading_axes_has_its_own_lam(backend):
    """Shape (v,) is one state."""
    log_p, log_q = map(backend.array, random_rows((6,), seed=11))
    lam = float(backend.numpy(lam_for_budget(log_p, log_q, 0.8)))
    assert common_lam_for_budget(log_p, log_q, 0.8) == pytest.approx(lam, rel=10 * backend.rtol)
    one = backend.array(3.0)
    assert common_lam_for_budget(log_p, log_q, 0.8, one) == pytest.approx(
        lam, rel=10 * backend.rtol
    )


@on_every_backend
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, -1.0], r"state_weight must lie in \[0, inf\), got -1"),
        ([1.0, math.inf], r"state_weight must lie in \[0, inf\), got inf"),
        ([1.0, math.nan], "state_weight holds NaN"),
        ([0.0, 0.0], "positive, finite sum, got 0"),
        ([1.0], r"state_weight has shape \(1,\); it must be a number or have shape \(2,\)"),
        (1.0, r"state_weight must be an array of shape \(2,\)"),
    ],
)
def test_weights_that_are_no_frequencies_are_refused(backend, weight, message):
    """E1: d is a distribution over the states."""
    log_p, log_q = map(backend.array, random_rows((2, 3), seed=12))
    with pytest.raises(ValueError, match=message):
        common_lam_for_budget(log_p, log_q, 0.5, backend.array(weight))
    with pytest.raises(ValueError, match=r"state_weight must be an array of shape \(2,\)"):
        common_lam_for_budget(log_p, log_q, 0.5, 1.0)


@on_every_backend
def test_no_state_has_no_common_lam(backend):
    """An empty batch has no mean."""
    empty = backend.array(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"empty batch of states \(shape \(0, 3\)\)"):
        common_lam_for_budget(empty, empty, 0.5)


@on_every_backend
def test_a_common_budget_out_of_reach_is_refused(backend):
    """The reachable maximum is the mean of the states' own, here (1 + 1/4) / 2."""
    log_p = backend.logs([[Fraction(1), Fraction(0)], [Fraction(1), Fraction(0)]])
    log_q = backend.logs([[Fraction(1), Fraction(0)], [Fraction(1, 4), Fraction(3, 4)]])
    with pytest.raises(ValueError, match=r"budget 0.7 is out of reach.* 0\.62(5|49999)"):
        common_lam_for_budget(log_p, log_q, 0.7)


# One lam from samples


@on_every_backend
@given(drawn=st.lists(ratios(), min_size=1, max_size=8), budget=budgets())
def test_sampled_ratios_accept_the_budget_on_average(backend, drawn, budget):
    """E3: mean min(1, r / lam) = budget."""
    assume(budget * len(drawn) <= sum(r > 0 for r in drawn))
    lam = lam_from_samples(backend.logs(drawn), float(budget))
    assert isinstance(lam, float)
    mean = sum(min(Fraction(1), r / Fraction(lam)) for r in drawn) / len(drawn)
    assert float(mean) == pytest.approx(float(budget), rel=backend.rtol)
    want = exact.lam_from_ratios(drawn, budget)
    below = sum(r for r in drawn if r < want) / len(drawn)
    elasticity = float(below / (want * budget)) or 1.0
    assert lam == pytest.approx(float(want), rel=10 * backend.rtol / elasticity)


@on_every_backend
def test_samples_of_any_shape_are_one_bag(backend):
    """(b, t) tokens and their flat list give one lam."""
    log_r = random_rows((4, 6), seed=13)[0]
    lam = lam_from_samples(backend.array(log_r), 0.7)
    assert lam == lam_from_samples(backend.array(log_r.reshape(-1)), 0.7)


@on_every_backend
def test_ratios_no_float_can_hold_are_solved_or_refused(backend):
    """E3 at e^+-2000: accepted for certain, or the lam is out of range, in words."""
    lam = lam_from_samples(backend.array([2000.0, 0.0, 0.0]), 0.5)
    assert lam == pytest.approx(4.0, rel=backend.rtol)
    assert lam_from_samples(backend.array([2000.0, 0.0]), 1.0) == pytest.approx(1.0, rel=1e-12)
    with pytest.raises(ValueError, match=r"budget 0.5 needs a lam above the largest float64"):
        lam_from_samples(backend.array([2000.0, 2000.0]), 0.5)
    with pytest.raises(ValueError, match=r"budget 0.5 needs a lam below the smallest float64"):
        lam_from_samples(backend.array([-2000.0, -2000.0]), 0.5)


@on_every_backend
@pytest.mark.parametrize(
    ("log_ratio", "budget", "message"),
    [
        ([], 0.5, "holds no tokens"),
        ([0.0, math.nan], 0.5, r"log_ratio holds 1 NaN, the first at index \(1,\)"),
        ([0.0, math.inf], 0.5, "log_ratio holds inf, i.e. q = 0"),
        ([0.0, -math.inf], 0.75, "budget 0.75 is out of reach.* maximum 0.5;"),
        ([-math.inf], 1e-13, "reachable maximum 0;"),
        ([0.0], 0.0, r"budget must lie in \(0, 1\], got 0"),
        ([0.0], 1.5, r"budget must lie in \(0, 1\], got 1.5"),
        ([0.0], math.nan, "budget holds NaN"),
    ],
)
def test_samples_that_have_no_lam_are_refused(backend, log_ratio, budget, message):
    """E3: reachability is the share of tokens with p > 0."""
    with pytest.raises(ValueError, match=message):
        lam_from_samples(backend.array(log_ratio), budget)
