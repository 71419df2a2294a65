"""Bounds and estimates of Z where only the top k of the proposal are known."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
from correction_cases import bound_of, draw, log_softmax, uniform, weights_of

from jackpot.torch.correction import CorrectionState, next_state
from jackpot.torch.lam import state_lam
from jackpot.torch.z_tail import tail_floor, tail_terms
from llm.models.lm_head.threshold_scan import above


def tail_of(p, top, lam):
    high = above(p, tail_floor(top.values, lam))
    return tail_terms(p.gather(1, top.indices), top.values, *high, lam)


def test_dropped_tail_never_exceeds_z_and_lumped_never_falls_below_it():
    """D1: the known tokens alone are a lower bound, with the tail as one token an upper bound, and
    the sharper bound of the tail ratio lies between them."""
    p, q, x = log_softmax(7, 50, 30), log_softmax(8, 50, 30), torch.zeros(50, dtype=torch.int64)
    exact = torch.minimum(p.exp(), q.exp()).sum(-1)
    for k in (1, 5, 20):
        lower, sharp, upper = (
            weights_of(p, q, x, uniform(50), k=k, z_tail=tail).z
            for tail in ("dropped", "ratio", "lumped")
        )
        assert bool((lower <= exact + 1e-6).all()) and bool((upper >= exact - 1e-6).all())
        assert bool((sharp >= exact - 1e-6).all()) and bool((sharp <= upper + 1e-6).all())
        assert float((upper - lower).max()) > 0.01
    assert float((upper - sharp).max()) > 0.001


@pytest.mark.parametrize("lam", [0.5, 1.0, 2.0, "per state"])
def test_the_tail_bound_of_a_state_is_the_formula(lam):
    """D2: U' = min(q_T, sum over the tail of min(c, p / lam)), token by token in numpy."""
    p, q = log_softmax(9, 30, 25), log_softmax(10, 30, 25)
    top = q.topk(6, dim=-1)
    lams = torch.linspace(0.3, 3.0, 30) if lam == "per state" else torch.full((30,), lam)
    found = tail_of(p, top, lams if lam == "per state" else lam)
    for i in range(30):
        known = set(top.indices[i].tolist())
        tail = [j for j in range(25) if j not in known]
        q_tail = q[i].double().exp()[tail].sum().item()
        cap = top.values[i].min().double().exp().item()
        capped = sum(min(cap, p[i, j].double().exp().item() / float(lams[i])) for j in tail)
        assert float(found[i]) == pytest.approx(min(q_tail, capped), abs=1.1e-4)


def test_equal_policies_have_the_same_tail_to_the_last_bit():
    """Where q_T is little more than the rounding of 1 - sum, and lam is just below 1."""
    p = log_softmax(19, 4000, 60, 6.0)
    top = p.topk(20, dim=-1)
    tail = tail_of(p, top, 1.0)
    assert float(tail.median()) < 1e-4
    for lam in (0.9999, 0.99, 0.3):
        assert torch.equal(tail_of(p, top, lam), tail)


def test_the_tail_ratio_finds_the_mean_rate_that_both_bounds_miss():
    """D4: fed with the steps before, the mean of Z_K + beta U' is the mean of Z."""
    state = CorrectionState()
    p, q = log_softmax(11, 3000, 40, 1.0), log_softmax(12, 3000, 40, 1.0)
    exact = float(torch.minimum(p.exp(), q.exp()).sum(-1).mean())
    means = {}
    for tail in ("dropped", "lumped"):
        z = weights_of(p, q, draw(q), uniform(3000), k=8, z_tail=tail).z
        means[tail] = float(z.mean())
    for step in range(4):
        w = weights_of(p, q, draw(q, step), uniform(3000, step), k=8, state=state)
        state, decisions = next_state(state, [w])
        assert decisions == []
    assert means["dropped"] < exact - 0.1 and means["lumped"] > exact + 0.05
    assert float(w.z.mean()) == pytest.approx(exact, abs=0.01)


def test_the_tail_statistic_is_summed_over_a_steps_updates_and_fades():
    """0.9 of the past, plus sum of a and of U'/q_T over the tokens outside q's top k, by hand."""
    p, q = log_softmax(13, 20, 12), log_softmax(14, 20, 12)
    x, start = draw(q), CorrectionState(None, 3.0, 5.0)
    w = weights_of(p, q, x, uniform(20), k=4, state=start)
    top = q.topk(4, dim=-1)
    bound = tail_of(p, top, 1.0).double()
    a = g = 0.0
    for i in range(20):
        if int(x[i]) not in top.indices[i].tolist():
            a += min(1.0, float((p[i, x[i]] - q[i, x[i]]).double().exp()))
            g += float(bound[i]) / (1.0 - float(top.values[i].double().exp().sum()))
    assert a > 0.0
    state, _ = next_state(start, [w, w])
    assert state.tail_accepted == pytest.approx(0.9 * 3 + 2 * a, rel=1e-5)
    assert state.tail_bound == pytest.approx(0.9 * 5 + 2 * g, rel=1e-4)
    assert next_state(start, [w, w], tracked=True)[0].tail_bound == state.tail_bound
    assert CorrectionState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state


def test_the_sharp_tail_bound_is_used_wherever_lam_is_known_in_the_forward_pass():
    """Not for lam = batch and the first tracked step, nor where nothing reads it."""
    p, q = log_softmax(17, 10, 12), log_softmax(18, 10, 12)
    top = q.topk(4, dim=-1)

    def bound(state=CorrectionState(), **settings):  # noqa: B008
        of_topk = p.gather(1, top.indices)
        return bound_of(state, of_topk, top.values, partial(above, p), **settings)

    lam = state_lam(p.gather(1, top.indices), top.values, 0.9)[0]
    log_lam = float(np.log(17.0))
    past = CorrectionState(log_lam=log_lam)
    known = {
        "fixed": (bound(lam=5.0), 5.0),
        "state": (bound(lam_from="state"), lam),
        "tracked": (bound(past, lam_from="tracked"), float(np.exp(log_lam))),
    }
    for found, value in known.values():
        assert torch.equal(found, tail_of(p, top, value))
    assert len({float(found.sum()) for found, _ in known.values()}) == 3
    for settings in (
        {"lam_from": "batch"},
        {"lam_from": "tracked"},
        {"z": "batch"},
        {"z": "none"},
        {"z_tail": "lumped"},
        {"type": "tis"},
    ):
        assert bound(**settings) is None
