"""The counterexamples to what is printed in the paper, by hand."""

import math
from fractions import Fraction as F

import pytest
from claim_cases import finding

from sim.claims import registry
from sim.oracle import exact


def test_theorem_3_3_is_not_strict_below_the_largest_ratio():
    """r = (3/2, 3/4): at lam = 1/2 < 3/2 both tokens are accepted for certain, so q~ = q."""
    p, q = (F(1, 2), F(1, 2)), (F(1, 3), F(2, 3))
    assert registry.CLAIMS["Thm3.3-if"].example == {"p": p, "q": q, "lam": F(1, 2)}
    assert exact.accept_prob(p, q, F(1, 2)) == [1, 1]
    assert exact.post_rejection(p, q, F(1, 2)) == [F(1, 3), F(2, 3)]


def test_theorem_3_3_is_strict_above_the_largest_ratio():
    """lam = 2 > 3/2: a = (3/4, 3/8), q a = (1/4, 1/4), so q~ = p, closer than q."""
    p, q = (F(1, 2), F(1, 2)), (F(1, 3), F(2, 3))
    assert registry.CLAIMS["Thm3.3-only-if"].example == {"p": p, "q": q, "lam": F(2)}
    assert exact.accept_prob(p, q, F(2)) == [F(3, 4), F(3, 8)]
    assert exact.post_rejection(p, q, F(2)) == [F(1, 2), F(1, 2)]


def test_theorem_3_4_has_no_lam_above_the_shared_mass():
    """p = (1, 0), q = (1/2, 1/2): Z <= 1/2 for every lam, so nothing accepts 3/4."""
    p, q = (F(1), F(0)), (F(1, 2), F(1, 2))
    assert registry.CLAIMS["Thm3.4-exists"].example == {"p": p, "q": q, "budget": F(3, 4)}
    assert exact.acceptance_rate(p, q, F(1, 10**9)) == F(1, 2)
    with pytest.raises(ValueError, match=r"3/4 is not in \(0, 1/2\]"):
        exact.lam_for_budget(p, q, F(3, 4))


def test_algorithm_1_without_mask_gives_9_16_instead_of_3_8():
    """p = (1/2, 1/2), q = (1/4, 3/4), lam = 1: Z = 3/4; token 2 has w = 3/4, a = 2/3. E_q over
    token 2: without the mask 3/4 * 3/4, with it 3/4 * 2/3 * 3/4 = Z * 1/2."""
    found = finding("Alg1-no-mask", cases=1)
    assert found.largest_violation == pytest.approx(9 / 16 - 3 / 8, rel=1e-15)


def test_two_distributions_share_the_least_tv():
    """q / b = (1/3, 1/2, 1/2): OBRS (1/3, 1/3, 1/3) and (1/3, 1/4, 5/12) both miss p by 1/6."""
    example = registry.CLAIMS["A2-tv-unique"].example
    p, q, budget, rival = (example[k] for k in ("p", "q", "budget", "rival"))
    lam = exact.lam_for_budget(p, q, budget)
    assert exact.post_rejection(p, q, lam) == [F(1, 3)] * 3
    assert sum(rival) == 1
    assert all(a <= b / budget for a, b in zip(rival, q, strict=True))
    assert sum(abs(a - b) for a, b in zip(p, rival, strict=True)) / 2 == F(1, 6)
    assert exact.tv(p, [F(1, 3)] * 3) == F(1, 6)


def test_kl_is_not_cut_tenfold_at_95_percent():
    """p = (.9, .1), q = (.5, .5): q a = (.5, .45), so KL goes from .368 to .327 nats."""
    found = finding("Fig2-tenfold", cases=1)
    before = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    after = 0.9 * math.log(0.9 * 0.95 / 0.5) + 0.1 * math.log(0.1 * 0.95 / 0.45)
    assert (before, after) == pytest.approx((0.3681, 0.3273), abs=1e-4)
    assert found.largest_violation == pytest.approx(after - before / 10, rel=1e-12)
