"""Claims on solvers, Z from few tokens, estimators, many states and trajectories: by hand, and with
faults planted. (That each has its declared verdict is in tests/sim/claims/test_check.py.)"""

import math
from fractions import Fraction as F

import numpy as np
import pytest

import jackpot
from sim.claims import check, registry
from sim.claims import estimators as est
from sim.claims import many_states as many
from sim.claims import solvers as solver
from sim.claims import top_k as few
from sim.claims import trajectories as paths
from sim.oracle import exact, intervals
from sim.studies import subsampling

check.load_claims()
HALVES = (F(1, 2), F(1, 2))


def examined(id, cases=40, seed=0):
    """The finding of one claim; of its example alone if cases is 1."""
    return registry.examine(registry.CLAIMS[id], cases, seed)


def example(id):
    return registry.CLAIMS[id].example


# Counterexamples by hand: the expected values are worked out in the docstrings.


def test_z_approx_of_a_uniform_law_stays_at_one_half():
    """p = q uniform on 4 tokens, k = 2: Z = 1, the two known tokens hold 1/2."""
    assert example("Zapprox-consistent")["k"] == 2
    found = examined("Zapprox-consistent", cases=1)
    assert found.violations == 1 and found.largest_violation == 0.5


def test_kappa_inflates_the_state_without_a_tail():
    """Z = (1, 1), Z_approx = (1, 1/2): kappa = 2 / 1.5 = 4/3, and kappa Z_approx = (4/3, 2/3)."""
    assert few.mean_kappa([F(1), F(1)], [F(1), F(1, 2)]) == F(4, 3)
    found = examined("kappa-state", cases=1)
    assert found.violations == 2 and found.largest_violation == pytest.approx(1 / 3)
    found = examined("kappa-bound", cases=1)
    assert found.violations == 1 and found.largest_violation == pytest.approx(1 / 3)
    # coins: Z = (1/2, 1): accepted shares 1/2 and 1, equally likely, mean 3/4, over mean Z_approx
    assert few.mean_kappa([F(1, 2), F(1)], [F(1, 2), F(1, 2)]) == F(3, 2)


def test_two_proposals_with_the_same_stored_data_have_two_z_approx():
    """Stored: q(token 1) = 1/2. p = (.1, .1, .1, .7), lam 1, k 1: V_k = {1, 4}. With q(4) = 0,
    Z_approx = .1; with q(4) = 1/4 it is .1 + .25. Both q are laws with the same top token."""
    e = example("D2-union")
    for q, z in ((e["q"], F(1, 10)), (e["other_q"], F(7, 20))):
        assert sum(q) == 1 and q[0] == F(1, 2) and max(q[1:]) < F(1, 2)
        assert few.paper_z(e["p"], q, e["lam"], 1) == z
    assert examined("D2-union", cases=1).largest_violation == 0.25


def test_knowing_z_k_can_cost_variance():
    """p = q, lam = 1: a = 1 has no variance; 1/2 + 1(x in T) has variance 1/4."""
    assert examined("D3-tail-better", cases=1).largest_violation == 0.25


def test_equation_5_keeps_the_factor_z_of_each_state():
    """Z = (1, 3/4), f = 1 in state 1 only: E[Z mu] = 1/2, but Zbar E[mu] = 7/8 * 1/2."""
    found = examined("Eq5-objective", cases=1)
    assert found.largest_violation == pytest.approx(1 / 2 - 7 / 16, rel=1e-15)


def test_tis_without_a_clip_moves_a_token_ninefold():
    """p_ref = q, so TIS's weight is 1; r_theta = .9 / .1 = 9 against a cap of 2."""
    assert examined("C4-tis-bound", cases=1).largest_violation == 7.0


def test_a_common_lam_wastes_rejections_on_a_matched_state():
    """State 1 has p = q. At mean acceptance 11/16 the common lam is 4/3: Z = (3/4, 5/8), and state
    2 becomes (2/5, 3/5), not (1/2, 1/2). The split (1, 3/8) makes both states exact: mean KL 0."""
    e = example("E2-common")
    lam = exact.common_lam_for_budget(e["p"], e["q"], e["budget"], e["d"])
    assert lam == F(4, 3)
    p, q = e["p"][1], e["q"][1]
    assert exact.acceptance_rate(p, q, lam) == F(5, 8)
    assert exact.post_rejection(p, q, lam) == [F(2, 5), F(3, 5)]
    assert (F(1) + F(3, 8)) / 2 == e["budget"]
    assert exact.post_rejection(p, q, exact.lam_for_budget(p, q, F(3, 8))) == [F(1, 2), F(1, 2)]
    kl = (math.log(5 / 4) + math.log(5 / 6)) / 4
    assert examined("E2-common", cases=1).largest_violation == pytest.approx(kl, rel=1e-12)


def test_the_slope_of_kl_in_the_acceptance_falls():
    """p = (1/2, 1/2), q = (1/4, 3/4), z > 1/2: lam = (1/2) / (z - 1/4). At z = 9/10 the slope is
    10/9 - 10/13; at 99/100 it is 100/99 - 50/74, smaller."""
    p, q = example("E2-convex")["p"], example("E2-convex")["q"]
    early, late = F(10, 9) - F(10, 13), F(100, 99) - F(50, 74)
    assert many.kl_slope(p, q, F(9, 10)) == early > many.kl_slope(p, q, F(99, 100)) == late
    assert examined("E2-convex", cases=1).violations == 1


def laws(id):
    """P, Q and Q~ of a resampling example."""
    e = example(id)
    rows = e["p1"], e["q1"], e["p2"], e["q2"]
    after = paths.resampled(*rows, e["lam"])
    return paths.joint(e["p1"], e["p2"]), paths.joint(e["q1"], e["q2"]), after


def test_resampling_can_raise_the_tv_of_trajectories():
    """lam = 1/2 rejects only a first token: q1 = (9/20, 11/20) becomes (9/19, 10/19). Twice the TV:
    before .03 + .33 + .015 + .315 = .69, after 132/190 = .6947."""
    target, before, after = laws("E4-resample-tv")
    assert target == (F(3, 8), F(3, 8), F(1, 8), F(1, 8))
    assert before == (F(81, 200), F(9, 200), F(11, 100), F(11, 25))
    assert after == (F(81, 190), F(9, 190), F(2, 19), F(8, 19))
    assert exact.tv(target, before) == F(69, 200) < exact.tv(target, after) == F(33, 95)


def test_resampling_can_raise_chi2_of_trajectories():
    """1 + chi2 = sum p1^2 / q1 (1 + chi2_x), where 1 + chi2_A = (1/4) / (99/100) + 25 = 2500/99 and
    chi2_B = 0; q1(A) falls from 1/4 to (1/5) / (19/20) = 4/19."""
    target, before, after = laws("E4-resample-chi2")
    first = F(2500, 99)
    assert 1 + exact.chi2_p_q(target, before) == first / 25 + F(81, 75)
    assert 1 + exact.chi2_p_q(target, after) == first * F(19, 400) + F(81, 100) * F(19, 15)
    assert exact.chi2_p_q(target, after) > exact.chi2_p_q(target, before)


def test_resampling_can_raise_the_reverse_kl_of_trajectories():
    """lam = 5/2: q1 = (.1, .9) becomes (5/19, 14/19), and after A q = (.01, .99) becomes (.2, .8)
    against p = (.9, .1); after B nothing differs."""
    target, before, after = laws("E4-resample-reverse")
    assert after == (F(1, 19), F(4, 19), F(7, 19), F(7, 19))
    kl_a = 0.01 * math.log(1 / 90) + 0.99 * math.log(9.9)
    early = 0.1 * math.log(1 / 3) + 0.9 * math.log(9 / 7) + 0.1 * kl_a
    kl_a = 0.2 * math.log(2 / 9) + 0.8 * math.log(8)
    late = 5 / 19 * math.log(50 / 57) + 14 / 19 * math.log(20 / 19) + 5 / 19 * kl_a
    assert float(intervals.kl_q_p(target, before).mid) == pytest.approx(early, rel=1e-12)
    assert float(intervals.kl_q_p(target, after).mid) == pytest.approx(late, rel=1e-12)
    assert late > early
    assert examined("E4-resample-reverse", cases=1).violations == 2  # and chi2(.||P)


def test_resampling_can_raise_hellinger_and_js():
    """q1 = (3/4, 1/4) becomes (2/3, 1/3). Affinity: sqrt(1/2) (sqrt(q1 A) + sqrt(q1 B) / 10), since
    after B only p = 1/100 is reached: from .6477 down to .6182."""
    target, before, after = laws("E4-resample-hellinger")
    assert after == (F(1, 3), F(1, 3), F(1, 3), F(0))
    affinity = [math.sqrt(0.5) * (math.sqrt(a) + math.sqrt(1 - a) / 10) for a in (3 / 4, 2 / 3)]
    found = [1 - float(intervals.hellinger2(target, x).mid) for x in (before, after)]
    assert found == pytest.approx(affinity, rel=1e-12) and affinity[1] < affinity[0]
    assert examined("E4-resample-hellinger", cases=1).violations == 2


def test_masking_can_move_accepted_pairs_away():
    """Zbar = .99 + .01 * .6 = .996; the change is log .996 + .99 * .5 * log(.9 / .5) = .287."""
    change = math.log(0.996) + 0.495 * math.log(1.8)
    assert change == pytest.approx(0.287, abs=1e-3)
    found = examined("E4-mask-kl", cases=1)
    assert found.largest_violation == pytest.approx(change, rel=1e-12)


def test_the_least_hockey_stick_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/4, 3/8, 3/8), b = 3/4: caps (1/3, 1/2, 1/2). E_1 = 1/2 - 1/3;
    E_2 = max(-1, 0) = 0; E_{1/2} = max(1/2, 1/2 - 1/6 = 1/3) = 1/2."""
    p, caps = (F(1, 2), F(1, 4), F(1, 4)), (F(1, 3), F(1, 2), F(1, 2))
    best = exact.post_rejection(p, (F(1, 4), F(3, 8), F(3, 8)), F(1))
    assert best == [F(1, 3)] * 3
    for g, value in ((F(1), F(1, 6)), (F(2), F(0)), (F(1, 2), F(1, 2))):
        assert exact.hockey_stick(p, best, g) == value
        point, y, mu = solver.linear_program(p, caps, g)
        assert solver.dual_bound(p, caps, g, y, mu) <= value <= exact.hockey_stick(p, point, g)


def test_a_repaired_point_is_a_law_under_the_caps():
    caps = (F(1, 3), F(1, 2), F(1, 2))
    for found in ([0.4, 0.3, 0.2], [0.3, 0.3, 0.45], [-1e-9, 0.5, 0.5], [0.1, 0.1, 0.1]):
        point = solver.repaired(found, caps)
        assert sum(point) == 1
        assert all(0 <= x <= cap for x, cap in zip(point, caps, strict=True))


# Faults: the ledger must object.


def squared(p, q, lam):
    """A wrong rule: it rejects too much of what q has too much of."""
    return [min(F(1), a / (lam * b)) ** 2 if b else F(a > 0) for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize(
    "id",
    ["A1-dual", "A1-first-order", "A1-linprog", "A1-slsqp", "A7-top-p", "Zapprox-below",
     "D1-bounds", "D3-means", "C3-limits", "C3-weight", "C5-cost", "E1-grid", "E2-slope",
     "E3-forgiving", "E4-resample-gain", "E4-mask", "E4-sequence"],
)  # fmt: skip
def test_a_wrong_acceptance_rule_is_noticed(monkeypatch, id):
    monkeypatch.setattr(exact, "accept_prob", squared)
    found = examined(id)
    assert found.violations and not found.error


def core_faults():
    """(module, function, what to put in its place, the claim that must notice)."""
    samples, track, ratios = jackpot.lam_from_samples, jackpot.track_lam, exact.lam_from_ratios
    return [
        (jackpot, "lam_from_samples", lambda r, b: samples(r, b) * (1 + 1e-9), "E3-sample"),
        (jackpot, "lam_from_samples", lambda r, b: samples(np.maximum(r, -9), b), "E3-sample"),
        (jackpot, "track_lam", lambda x, r, b, d: track(x, r, b, 1 - d), "E3-track"),
        (jackpot, "track_lam", lambda x, r, b, d: track(None, r, b, d), "E3-track"),
        (jackpot, "track_lam", lambda x, r, b, d: track(x or 0.0, r, b, d), "E3-track"),
        (jackpot, "track_lam", lambda x, r, b, d: track(x, np.maximum(r, -9), b, d), "E3-track"),
        (exact, "lam_from_ratios", lambda r, b: ratios(r, b / 2), "E3-sample"),
        (exact, "kappa", lambda a, z: sum(z) / len(z), "kappa-mean"),
        (exact, "expected_weight", lambda r, lam, z, c1: min(z * r, c1), "C4-multiplier"),
        (exact, "hockey_stick", lambda p, q, g: exact.tv(p, q), "A1-dual"),
        (subsampling, "cost_optimal_lam", lambda m, r, c: float(max(r)), "C5-cost"),
        (solver, "dual_bound", lambda p, caps, g, y, mu: sum(y) + mu, "A1-linprog"),
        (few, "top_k", lambda row, k: sorted(range(len(row)), key=lambda i: row[i])[:k],
         "D2-known"),
        (paths, "resampled", lambda p1, q1, p2, q2, lam: paths.joint(
            exact.post_rejection(p1, q1, lam), q2), "E4-resample-gain"),
        (many, "accepted", lambda d, ps, qs, lams, b: paths.joint(d, qs), "E1-grid-kl"),
        (est, "second_moment", lambda q, size, a: sum(a), "C5-neyman"),
    ]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "wrong", "id"), core_faults())
def test_a_fault_is_noticed(monkeypatch, module, name, wrong, id):
    monkeypatch.setattr(module, name, wrong)
    assert examined(id).violations


@pytest.mark.parametrize(
    "divergence", ["kl_p_q", "kl_q_p", "js", "hellinger2", "chi2_p_q", "chi2_q_p"]
)
def test_a_solver_that_stops_early_is_noticed(monkeypatch, divergence):
    """If SLSQP gave its starting point back, the value would be too far above OBRS's."""
    true = solver.convex_program
    stopped = lambda name, p, q, caps: q if name == divergence else true(name, p, q, caps)  # noqa: E731
    monkeypatch.setattr(solver, "convex_program", stopped)
    assert examined("A1-slsqp").violations


def test_rejecting_the_wrong_end_is_not_optimal(monkeypatch):
    """A law in C_b that is not OBRS's fails all three exact certificates."""
    true = exact.post_rejection

    def crooked(p, q, lam):
        after = true(p, q, lam)
        return [(a + b) / 2 for a, b in zip(after, q, strict=True)]  # still in C_b

    monkeypatch.setattr(exact, "post_rejection", crooked)
    for id in ("A1-dual", "A1-first-order", "A1-linprog"):
        assert examined(id).violations, id
