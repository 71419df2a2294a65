"""Claims on trajectories, by hand."""

import math
from fractions import Fraction as F

import pytest
from claim_cases import distributions, examined

from sim.oracle import exact, intervals


def test_resampling_can_raise_the_tv_of_trajectories():
    """lam = 1/2 rejects only a first token: q1 = (9/20, 11/20) becomes (9/19, 10/19). Twice the TV:
    before .03 + .33 + .015 + .315 = .69, after 132/190 = .6947."""
    target, before, after = distributions("E4-resample-tv")
    assert target == (F(3, 8), F(3, 8), F(1, 8), F(1, 8))
    assert before == (F(81, 200), F(9, 200), F(11, 100), F(11, 25))
    assert after == (F(81, 190), F(9, 190), F(2, 19), F(8, 19))
    assert exact.tv(target, before) == F(69, 200) < exact.tv(target, after) == F(33, 95)


def test_resampling_can_raise_chi2_of_trajectories():
    """1 + chi2 = sum p1^2 / q1 (1 + chi2_x), where 1 + chi2_A = (1/4) / (99/100) + 25 = 2500/99 and
    chi2_B = 0; q1(A) falls from 1/4 to (1/5) / (19/20) = 4/19."""
    target, before, after = distributions("E4-resample-chi2")
    first = F(2500, 99)
    assert 1 + exact.chi2_p_q(target, before) == first / 25 + F(81, 75)
    assert 1 + exact.chi2_p_q(target, after) == first * F(19, 400) + F(81, 100) * F(19, 15)
    assert exact.chi2_p_q(target, after) > exact.chi2_p_q(target, before)


def test_resampling_can_raise_the_reverse_kl_of_trajectories():
    """lam = 5/2: q1 = (.1, .9) becomes (5/19, 14/19), and after A q = (.01, .99) becomes (.2, .8)
    against p = (.9, .1); after B nothing differs."""
    target, before, after = distributions("E4-resample-reverse")
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
    target, before, after = distributions("E4-resample-hellinger")
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
