"""The solvers that claims compare with, by hand."""

from fractions import Fraction as F

import pytest
from claim_cases import examined

from sim.claims import solvers as solver
from sim.oracle import exact


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


def test_a_repaired_point_is_a_distribution_under_the_caps():
    caps = (F(1, 3), F(1, 2), F(1, 2))
    for found in ([0.4, 0.3, 0.2], [0.3, 0.3, 0.45], [-1e-9, 0.5, 0.5], [0.1, 0.1, 0.1]):
        point = solver.repaired(found, caps)
        assert sum(point) == 1
        assert all(0 <= x <= cap for x, cap in zip(point, caps, strict=True))


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
    """A distribution in C_b that is not OBRS's fails all three exact certificates."""
    true = exact.post_rejection

    def crooked(p, q, lam):
        after = true(p, q, lam)
        return [(a + b) / 2 for a, b in zip(after, q, strict=True)]  # still in C_b

    monkeypatch.setattr(exact, "post_rejection", crooked)
    for id in ("A1-dual", "A1-first-order", "A1-linprog"):
        assert examined(id).violations, id
