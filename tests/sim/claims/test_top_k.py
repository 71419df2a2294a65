"""Claims on Z from few tokens, by hand."""

from fractions import Fraction as F

import pytest
from claim_cases import examined, example

from sim.claims import top_k as few


def test_z_approx_of_a_uniform_distribution_stays_at_one_half():
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
    Z_approx = .1; with q(4) = 1/4 it is .1 + .25. Both q are distributions with the same top
    token."""
    e = example("D2-union")
    for q, z in ((e["q"], F(1, 10)), (e["other_q"], F(7, 20))):
        assert sum(q) == 1 and q[0] == F(1, 2) and max(q[1:]) < F(1, 2)
        assert few.paper_z(e["p"], q, e["lam"], 1) == z
    assert examined("D2-union", cases=1).largest_violation == 0.25


def test_knowing_z_k_can_cost_variance():
    """p = q, lam = 1: a = 1 has no variance; 1/2 + 1(x in T) has variance 1/4."""
    assert examined("D3-tail-better", cases=1).largest_violation == 0.25
