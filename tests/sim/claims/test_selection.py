"""Claims on selections, by hand; and that the registry notices a wrong selector."""

from fractions import Fraction as F

import numpy as np
import pytest
from claim_cases import examined, example

from jackpot import selection
from sim.claims import selection as claims


def test_the_best_subset_takes_both_ends():
    """0, 1, 3, 4: of pairs (0, 4); of triples (0, 1, 4) and (0, 3, 4), spread 26, the first."""
    rewards = [F(x) for x in (1, 4, 0, 3)]
    assert claims.best_subset(rewards, 2) == (1, 2)
    assert claims.spread(rewards, (0, 1, 2)) == claims.spread(rewards, (1, 2, 3)) == 26
    assert claims.best_subset(rewards, 3) == (0, 1, 2)


def test_pods_turns_the_gradient_of_three_rewards():
    """All n = m = 2 kept: half of the true gradient, (-4, -1, 5)/9. At n = 4 the middle completion
    turns against it."""
    probs, rewards = example("PODS-bias")["probs"], example("PODS-bias")["rewards"]
    truth = claims.true_gradient(probs, rewards)
    assert truth == [F(-4, 9), F(-1, 9), F(5, 9)]
    assert claims.kept_gradient(probs, rewards, 2, 2) == [x / 2 for x in truth]
    kept = claims.kept_gradient(probs, rewards, 4, 2)
    assert kept[0] / truth[0] != kept[2] / truth[2]
    assert examined("PODS-bias", cases=1).violations


def test_masks_have_probability_1_and_their_kept_share():
    patterns = list(claims.masks([F(1, 3), F(0)]))
    assert patterns == [(F(2, 3), (True, True)), (F(1, 3), (False, True))]


def test_the_mean_over_the_kept_by_hand():
    """g = (1, 1), P = (1/2, 0): (2 + 1)/2 or 1, each with probability 1/2; 5/4 instead of 1."""
    assert examined("HT-mean-over-kept", cases=1).largest_violation == 1 / 4


def test_removing_half_for_certain_by_hand():
    """g = (1, 2): 2 (2)/2 = 2 instead of 3/2."""
    assert examined("HT-floor", cases=1).largest_violation == 1 / 2


def faults():
    """(function of jackpot.selection, what to put in its place, the claim that must notice)."""
    pods, prune = selection.pods, selection.horvitz_thompson

    def kept_weight_1(*a):
        keep, _ = prune(*a)
        return keep, keep.astype(float)

    def anybody(score, rate, share, rng):
        return prune(score[::-1], rate, share, rng)

    def all_candidates(score, rate, share, rng):
        return prune(score, rate, 1.0, rng)

    return [
        ("pods", lambda r, m: pods(r, m, "max_reward"), "PODS-subset"),
        ("pods", lambda r, m: np.argsort(r)[:m], "PODS-subset"),
        ("pods", lambda r, m: pods(r, m)[::-1], "PODS-subset"),
        ("horvitz_thompson", kept_weight_1, "HT-unbiased"),
        ("horvitz_thompson", anybody, "HT-unbiased"),
        ("horvitz_thompson", all_candidates, "HT-unbiased"),
    ]


@pytest.mark.parametrize(("name", "wrong", "id"), faults())
def test_a_wrong_selector_is_noticed(monkeypatch, name, wrong, id):
    monkeypatch.setattr(selection, name, wrong)
    found = examined(id, cases=100)
    assert found.violations and not found.error


def test_a_subset_that_is_not_the_most_varied_is_noticed(monkeypatch):
    monkeypatch.setattr(claims, "best_subset", lambda rewards, m: tuple(range(m)))
    assert examined("PODS-subset").violations and examined("PODS-two-values").violations
