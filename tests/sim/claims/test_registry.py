"""A claim: its verdict follows its checks."""

import dataclasses
import functools
import math
from fractions import Fraction as F

import pytest
from claim_cases import tiny, verdict_of

from sim.claims import registry
from sim.oracle import intervals


def test_verdicts_follow_the_checks():
    assert verdict_of(registry.at_most(1, 1), registry.below(1, 2)) == registry.HOLDS
    assert verdict_of(registry.at_most(1, 1), registry.below(1, 1)) == registry.FAILS
    assert verdict_of() == registry.UNDECIDED  # nothing was checked, so nothing holds
    undecided = registry.certainly_below(lambda: intervals.log(F(2)), lambda: intervals.log(F(2)))
    assert verdict_of(undecided) == registry.UNDECIDED


def test_a_conditional_claim_draws_on_until_its_condition_is_met():
    """Asked for 2 cases: the first check comes at draw 150 of the 202 allowed, and ends it."""
    draws = []

    def body(draw, first):
        draws.append(draw)
        if len(draws) >= first:
            yield registry.equal(1, 1)

    for first, made, verdict in (
        (1, 2, registry.HOLDS),
        (150, 150, registry.HOLDS),
        (203, 202, registry.UNDECIDED),
    ):
        draws.clear()
        claim = dataclasses.replace(tiny("s", []), check=functools.partial(body, first=first))
        assert registry.verdict(registry.examine(claim, 2, 0), {}) == verdict
        assert len(draws) == made


def test_a_correction_of_a_true_statement_is_not_a_correction():
    printed = registry.examine(tiny("s", [registry.equal(1, 1)]), 1, 0)
    corrected = dataclasses.replace(tiny("t", [registry.equal(1, 1)]), corrects="x")
    found = registry.examine(corrected, 1, 0)
    assert registry.verdict(found, {"x": printed}) == registry.HOLDS


def test_an_exception_is_reported_not_hidden():
    def boom(draw):
        raise ZeroDivisionError("nothing accepted")
        yield

    claim = dataclasses.replace(tiny("s", []), check=boom)
    found = registry.examine(claim, 3, 0)
    assert registry.verdict(found, {}) == registry.ERROR
    assert found.worst_case["error"] == "ZeroDivisionError: nothing accepted"


def test_a_claim_must_state_something_and_have_its_own_name():
    with pytest.raises(ValueError, match="states nothing"):
        registry.claim("new", "here")(lambda draw: iter(()))
    with pytest.raises(ValueError, match="two claims are called A0-tv"):
        registry.claim("A0-tv", "here")(test_verdicts_follow_the_checks)


def test_infinite_divergences_compare_as_infinity():
    inf = lambda: intervals.kl_p_q((F(1, 2), F(1, 2)), (F(1), F(0)))  # noqa: E731
    assert inf() == math.inf
    assert not registry.certainly_at_most(inf, inf).broken
    assert registry.certainly_below(inf, inf).broken
    assert registry.certainly_at_most(inf, lambda: F(3)).broken


def test_close_demands_zeros_and_infinities_exactly():
    assert not registry.close([0.0, 1 / 3, math.inf], [F(0), F(1, 3), math.inf]).broken
    for wrong in ([1e-300, 1 / 3, math.inf], [0.0, 0.3333333333, math.inf], [0.0, 1 / 3, 1e300]):
        assert registry.close(wrong, [F(0), F(1, 3), math.inf]).broken
    assert registry.close([math.nan], [F(1)]).broken
