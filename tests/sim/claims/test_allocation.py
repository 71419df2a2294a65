"""Claims on allocations, by hand; and that the registry notices a wrong allocator."""

from fractions import Fraction as F

import numpy as np
import pytest
from claim_cases import examined, example

from jackpot import allocation
from sim.claims import allocation as claims


def test_enumerated_groups_have_probability_1_and_binomial_counts():
    joint = {(F(1), F(0)): F(1, 4), (F(-1), F(0)): F(3, 4)}
    groups = list(claims.groups(joint, 3))
    assert sum(chance for chance, _ in groups) == 1
    wins = {sum(k for k, r, _ in rows if r == 1): chance for chance, rows in groups}
    assert wins == {0: F(27, 64), 1: F(27, 64), 2: F(9, 64), 3: F(1, 64)}


def test_compositions_are_all_allocations_within_the_bounds():
    assert list(claims.compositions(7, (2, 2), (4, 5))) == [(2, 5), (3, 4), (4, 3)]
    assert len(list(claims.compositions(12, (2,) * 3, (9,) * 3))) == 28


def test_a_score_that_depends_on_the_reward_has_another_variance():
    """z = r, n = 2: the gradient is (r1 - r2)^2 / 2, 2 with probability 3/8, so its variance is
    3/2 - 9/16 = 15/16; the formula has 4 (3/4) (3/16) = 9/16."""
    assert claims.group_moments({(F(1), F(1)): F(1, 4), (F(-1), F(-1)): F(3, 4)}, 2, True) == (
        F(3, 4),
        F(15, 16),
    )
    assert examined("VIP-signal", cases=1).largest_violation == 15 / 16 - 9 / 16


def test_greedy_from_two_by_hand():
    """(5, 3): (1/4)(4/25) + (6/25)(2/9); (4, 4): (1/4 + 6/25)(3/16)."""
    excess = F(1, 25) + F(4, 75) - F(49, 100) * F(3, 16)
    assert examined("VIP-low-two", cases=1).largest_violation == pytest.approx(float(excess))
    assert excess > 0


def test_the_released_allocation_by_hand():
    """The two differ in the first two counts: .0099 / 5 + .09 / 11 > .0099 / 4 + .09 / 12."""
    assert sum(example("VIP-authors-vector")["released"]) == 64
    assert F(99, 50_000) + F(9, 1100) > F(99, 40_000) + F(3, 400)
    assert examined("VIP-authors-vector", cases=1).violations == 3
    as_one = [float(x) if x < F(4, 5) else 1.0 for x in claims.AUTHORS["p"]]
    rloo = allocation.vip(as_one, 64, 4, 12)
    np.testing.assert_array_equal(rloo, claims.AUTHORS["released"])


def test_equal_exponents_are_equal_values():
    """Two prompts that are alike may exchange their counts; others may not."""
    alike = [claims.exponents([F(1, 3), F(1, 3)], n, 4, F(2)) for n in ((2, 5), (5, 2))]
    other = [claims.exponents([F(1, 3), F(1, 2)], n, 4, F(2)) for n in ((2, 5), (5, 2))]
    assert alike[0] == alike[1] and other[0] != other[1]


def faults():
    """(function of jackpot.allocation, what to put in its place, the claim that must notice)."""
    a = {name: getattr(allocation, name) for name in ("vip", "coba", "coba_value")}
    even = lambda p, total, low: allocation.uniform(len(p), total)  # noqa: E731

    def one_moved(p, total, *rest, **keywords):
        counts = a["vip"](p, total, *rest, **keywords)
        counts[np.argmax(counts)] -= 1
        counts[np.argmin(counts)] += 1
        return counts

    return [
        ("vip", lambda p, total, low, high, kind: even(p, total, low), "VIP-optimum"),
        ("vip", one_moved, "VIP-optimum"),
        ("vip", lambda p, t, low, high, kind: a["vip"](p, t, low, high), "VIP-optimum"),
        ("vip", lambda p, *r: a["vip"](np.clip(p, 0.2, 1), *r), "VIP-optimum"),
        ("rloo_variance", allocation.dr_grpo_variance, "VIP-variance"),
        ("dr_grpo_variance", lambda *x: allocation.rloo_variance(*x) / 4, "VIP-variance"),
        ("coba", lambda p, total, *r: even(p, total, r[3]), "COBA-optimum"),
        ("coba", lambda p, t, a_, *r: a["coba"](p, t, 11 - a_, *r), "COBA-optimum"),
        ("coba", lambda p, t, a_, k, tau, *r: a["coba"](p, t, a_, k, 9.0, *r), "COBA-optimum"),
        ("coba", lambda p, t, a_, *r: a["coba"](p, t, 11 - a_, *r), "COBA-direction"),
        ("coba_value", lambda n, p, **k: a["coba_value"](n, p, **k) * 1.001, "COBA-value"),
        ("coba_value", lambda n, p, **k: a["coba_value"](n, p, **k) + 1e-9, "COBA-value"),
    ]


@pytest.mark.parametrize(("name", "wrong", "id"), faults())
def test_a_wrong_allocator_is_noticed(monkeypatch, name, wrong, id):
    monkeypatch.setattr(allocation, name, wrong)
    found = examined(id, cases=100)
    assert found.violations and not found.error


def test_a_wrong_variance_formula_is_noticed(monkeypatch):
    monkeypatch.setattr(claims, "variance_of", lambda estimator, n: F(1, n))
    assert examined("VIP-variance").violations
