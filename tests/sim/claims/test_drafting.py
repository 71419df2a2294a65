"""Claims on drafting: hand examples of the other rules, and faults that the claims notice."""

from fractions import Fraction as F

import numpy as np
import pytest
from claim_cases import finding

import jackpot
from sim.claims import registry
from sim.oracle import draft_rules, exact

P, Q, HALF = (F(1, 2), F(1, 4), F(1, 4)), (F(1, 4), F(1, 4), F(1, 2)), F(1, 2)


def test_the_rules_on_three_tokens():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2), lam = 3/4: tau = 1/6 and mu = 6/5, by hand."""
    lam, tau = F(3, 4), F(1, 6)
    assert exact.draft_law(P, Q, lam) == ([F(5, 12), F(1, 4), F(1, 3)], F(6, 5), tau)
    spread = [F(1, 4), F(1, 4), F(1, 3)]
    rest = [F(1, 2) - F(3, 16), F(1, 4) - F(3, 16), F(0)]  # (p - lam q)^+
    want = [a + tau * b / sum(rest) for a, b in zip(spread, rest, strict=True)]
    assert draft_rules.lenient(P, Q, lam) == want
    assert draft_rules.lenient_acceptance(P, Q, lam) == [F(5, 12), F(1, 4), F(1, 3)]
    assert draft_rules.regenerated(P, Q, lam) == [F(1, 3), F(7, 24), F(3, 8)]
    assert draft_rules.mixture(P, Q, tau) == [F(5, 12), F(1, 4), F(1, 3)]


def test_block_verification_keeps_what_its_paper_says():
    """arXiv 2403.10444, its first example: 10/9 drafts token by token, 11/9 by blocks of two."""
    target, proposal = [(F(1, 3), F(2, 3))] * 3, [(F(2, 3), F(1, 3))] * 3
    want = [a * b for a in target[0] for b in target[0]]
    assert draft_rules.block_distribution(target, proposal, whole=False) == (want, F(10, 9))
    assert draft_rules.block_distribution(target, proposal, whole=True) == (want, F(11, 9))


def test_rivals_stay_within_the_rejections_and_are_many():
    """All of them can be reached, none is the best distribution, and most kinds occur."""
    rng = np.random.default_rng(0)
    best, _, tau = exact.draft_law(P, (F(1, 8), F(3, 8), F(1, 2)), F(2, 3))
    rivals = list(draft_rules.rivals(rng, P, (F(1, 8), F(3, 8), F(1, 2)), F(2, 3)))
    assert len(rivals) >= 6
    assert all(sum(x) == 1 and list(x) != best for x in rivals)
    assert all(exact.tv((F(1, 8), F(3, 8), F(1, 2)), x) <= tau for x in rivals)


def test_a_residual_of_nothing_is_its_limit():
    """p on the tokens of the largest p/q: one token, ties, and q = 0 < p."""
    assert exact.draft_residual(P, Q, F(2)) == [1, 0, 0]
    assert exact.draft_residual(P, P, F(1)) == list(P)
    assert exact.draft_residual(P, (F(0), F(0), F(1)), float("inf")) == [F(2, 3), F(1, 3), 0]


WRONG_ORACLES = {  # what a wrong formula would give, and the claim that notices
    "draft_mu": (lambda p, q, tau: F(1), "F2-distribution"),
    "draft_tau": (lambda p, q, lam: exact.tv(p, q), "F2-distribution"),
    "draft_residual": (lambda p, q, mu: list(p), "F2-distribution"),
}


@pytest.mark.parametrize("name", WRONG_ORACLES)
def test_a_wrong_oracle_is_noticed(name, monkeypatch):
    """Distributions that do not sum to 1, or that the rule does not give."""
    wrong, id = WRONG_ORACLES[name]
    monkeypatch.setattr(exact, name, wrong)
    assert finding(id).verdict in (registry.FAILS, registry.ERROR)


def test_a_worse_distribution_is_noticed(monkeypatch):
    """The mixture in the place of the clipped distribution: its rivals are nearer."""

    def mixed(p, q, lam):
        tau = exact.draft_tau(p, q, lam)
        return draft_rules.mixture(p, q, tau), exact.draft_mu(p, q, tau), tau

    best = exact.draft_law

    def rivals(rng, p, q, lam):
        s = best(p, q, lam)[0]
        return [tuple(s)] if s != mixed(p, q, lam)[0] else []

    monkeypatch.setattr(draft_rules, "rivals", rivals)
    monkeypatch.setattr(exact, "draft_law", mixed)
    for id in ("F2-rational", "F2-certified"):
        assert finding(id).verdict == registry.FAILS


def test_a_wrong_core_is_noticed(monkeypatch):
    """A lam that is 1e-6 too large, and a price that is 1 % too high."""
    solve, price = jackpot.draft_law, jackpot.common_price_for_budget
    monkeypatch.setattr(
        jackpot, "draft_law", lambda *logs, budget: solve(*logs, budget=budget * (1 - 1e-6))
    )
    assert finding("F3-budget").verdict == registry.FAILS
    monkeypatch.setattr(jackpot, "draft_law", solve)
    monkeypatch.setattr(jackpot, "common_price_for_budget", lambda *given: 1.01 * price(*given))
    assert finding("F6-common").verdict == registry.FAILS
