"""Claims on objectives: values by hand, and faults in the lab that they must notice."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
from claim_cases import examined, example

from sim.claims import objectives as claims
from sim.studies import objectives as lab


def test_raising_the_low_bound_lowers_bapos_share():
    """r = (1, .7, .7, 1), A = (1, -1, -1, -1): 1 / 3.4 at low .6, and 1 / 3.8 at low .9, where the
    clipped tokens contribute .9 each; by gradient they are gone, and the share is 1 / 2."""
    e = example("BAPO-value-low")
    case = e["r"], e["A"], e["mass"]
    for low, by, negative in ((".6", "value", "2.4"), (".9", "value", "2.8"), (".9", "grad", "1")):
        assert claims.parts(*case, F(low), F(2), by) == (1, F(negative))


def test_dmpos_target_with_its_baseline_by_hand():
    """exp(R / alpha) = (4, 1, 1, 1) on four equally likely paths: p* = (4, 1, 1, 1) / 7 and
    p_- = (1, 4, 4, 4) / 13. By the first token's logit the gradient is 5/13 - 5/7."""
    start = (F(1, 4),) * 4
    best = claims.tilted(start, (F(4), F(1), F(1), F(1)))
    worst = claims.tilted(start, (F(1, 4), F(1), F(1), F(1)))
    assert best == (F(4, 7), F(1, 7), F(1, 7), F(1, 7))
    assert worst == (F(1, 13), F(4, 13), F(4, 13), F(4, 13))
    first, second = claims.conditionals(best)
    found = claims.path_gradient(
        tuple(b - a for a, b in zip(best, worst, strict=True)), first, second
    )
    assert found[0] == F(5, 13) - F(5, 7)


def test_minpros_third_weight_by_hand():
    """p = (3/4, 1/4), q = (1/4, 3/4): rho = (3, 1/3). E min(rho_1, rho_2) = 3/16 + 15/16 / 3 = 1/2,
    and that is the mean weight, since rho_3 is independent with mean 1; min(3, 1/3) < 1 = 3 / 3,
    and min(1/3, 1/3) > 1/9."""
    ratio = [F(3), F(1, 3)]
    q = [F(1, 4), F(3, 4)]
    mean = sum(q[i] * q[j] * min(ratio[i], ratio[j]) for i in (0, 1) for j in (0, 1))
    assert mean == F(1, 2)
    assert examined("MINPRO-bias", cases=1).largest_violation == 0.5


def faults():
    """(function of the lab, what to put in its place, the claim that must notice)."""
    own = {name: getattr(lab, name) for name in dir(lab)}

    def cumulative(log_rho, low, high):  # the whole product in place of the minimum
        return np.clip(np.exp(np.cumsum(log_rho, axis=1)), low, high)

    def inclusive(log_rho, low, high):  # the minimum counts the token itself
        return np.exp(log_rho + np.minimum.accumulate(log_rho, axis=1))

    def one_more(log_rho, advantage, mass, tau):
        return own["m2po_threshold"](log_rho, advantage, mass, 1.5 * tau)

    return [
        ("bapo_bounds", lambda r, a, m, w, by, *g: own["bapo_bounds"](r, a, m, w / 2, by, *g),
         "BAPO-share"),
        ("bapo_share", lambda *a: own["bapo_share"](*a[:-1], "grad"), "BAPO-share"),
        ("dmpo", lambda new, pre, q, r, alpha, base, s: own["dmpo"](
            new, pre, q, r, alpha, "self", s), "DMPO-gradient"),
        ("dmpo", lambda new, pre, q, r, *rest: own["dmpo"](new, q, q, r, *rest), "DMPO-gradient"),
        ("optimal_value", lambda pre, r, beta: float((np.exp(pre) * r).sum()),
         "ASTAR-zero-residual"),
        ("a_star_po", lambda new, pre, r, v, beta: own["a_star_po"](new, pre, -r, v, beta),
         "ASTAR-zero-residual"),
        ("m2po_threshold", one_more, "M2PO-second-moment"),
        ("m2po", lambda log_rho, a, t: own["m2po"](log_rho, a, t * 1.0001), "M2PO-second-moment"),
        ("m2po", lambda log_rho, a, t: own["m2po"](log_rho, -a, t), "M2PO-second-moment"),
        ("minpro", cumulative, "MINPRO-mean"),
        ("minpro", inclusive, "MINPRO-mean"),
        ("divergence", lambda p, q, kind, k: own["divergence"](p, q, "binary_tv", k),
         "DPPO-tv-order"),
        ("divergence", lambda p, q, kind, k: 2 * own["divergence"](p, q, kind, k),
         "DPPO-tv-order"),
        ("divergence", lambda p, q, kind, k: own["divergence"](q, p, kind, k), "DPPO-tv-order"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong", "id"), faults())
def test_a_fault_in_the_lab_is_noticed(monkeypatch, name, wrong, id):
    monkeypatch.setattr(lab, name, wrong)
    found = examined(id, cases=40)
    assert found.violations and not found.error
