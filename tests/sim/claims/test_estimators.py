"""Claims on estimators, by hand."""

import pytest
from claim_cases import examined


def test_equation_5_keeps_the_factor_z_of_each_state():
    """Z = (1, 3/4), f = 1 in state 1 only: E[Z mu] = 1/2, but Zbar E[mu] = 7/8 * 1/2."""
    found = examined("Eq5-objective", cases=1)
    assert found.largest_violation == pytest.approx(1 / 2 - 7 / 16, rel=1e-15)


def test_tis_without_a_clip_moves_a_token_ninefold():
    """p_ref = q, so TIS's weight is 1; r_theta = .9 / .1 = 9 against a cap of 2."""
    assert examined("C4-tis-bound", cases=1).largest_violation == 7.0
