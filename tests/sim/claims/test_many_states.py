"""Claims on many states, by hand."""

import math
from fractions import Fraction as F

import pytest
from claim_cases import examined, example

from sim.claims import many_states as many
from sim.oracle import exact


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
