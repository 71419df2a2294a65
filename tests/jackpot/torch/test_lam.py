"""Lam per state, per batch and tracked: it spends its budget or takes the largest in reach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from correction_cases import draw, log_softmax, uniform, weights_of

from jackpot.torch.correction import CorrectionInputs, CorrectionState, next_state, token_weights
from jackpot.torch.lam import batch_lam, state_lam

INF = float("inf")


def test_a_budget_per_state_is_spent_with_the_tail_as_one_token():
    """Thm 3.4 on k + 1 tokens: sum min(q, p / lam) = budget in each state, summed in numpy."""
    p, q = log_softmax(15, 60, 50), log_softmax(16, 60, 50)
    top = q.topk(7, dim=-1)
    for budget in (0.3, 0.9, 0.999):
        lam, within = state_lam(p.gather(1, top.indices), top.values, budget)
        rows = [x.double().exp().numpy() for x in (p.gather(1, top.indices), top.values)]
        rows_p, rows_q = (np.hstack([x, 1 - x.sum(1, keepdims=True)]) for x in rows)
        z = np.minimum(rows_q, rows_p / lam.numpy()[:, None]).sum(1)
        assert z == pytest.approx(budget, abs=1e-6) and bool(within.all())


def test_a_state_whose_budget_is_out_of_reach_takes_the_largest_lam_that_accepts_the_rest():
    """p = 0 on the tail, on a known token, on everything, nearly on everything: no exception."""
    q = torch.log(torch.tensor([[0.5, 0.3]])).expand(5, 2)
    p = torch.log(torch.tensor([[0.4, 0.6], [0.0, 0.9], [0.0, 0.0], [0.0, 1e-38], [0.0, 0.0]]))
    p[4, 0] = -1000.0
    lam, within = state_lam(p, q, 0.9)
    assert within.tolist() == [False] * 5
    assert lam[:3].tolist() == pytest.approx([0.8, 0.5, 5.0], rel=1e-6)  # 0.4/0.5, 0.1/0.2, 1/0.2
    assert bool(torch.isfinite(lam.float()).all()) and bool((lam.float() > 0).all())


@pytest.mark.parametrize("miss", [5e-5, -5e-5])
def test_rows_whose_float32_sums_miss_one_have_a_lam_at_every_budget(miss):
    """The sums of float32 log_softmax over 150,000 tokens miss 1 by up to 5e-5."""
    q = torch.log_softmax(torch.arange(20.0), 0)[None] + miss
    p = torch.log_softmax(torch.arange(20.0) * 0.5, 0)[None] - miss
    for budget in (0.5, 0.99, 1.0):
        lam, _ = state_lam(p, q, budget)
        z = torch.minimum(q.double().exp(), p.double().exp() / lam[:, None]).sum()
        assert float(z) == pytest.approx(budget, abs=2e-4)


def test_a_budget_out_of_the_batchs_reach_takes_the_largest_lam_that_accepts_the_rest():
    """E3: p = 0 on half of the tokens; on all; ratios that no float32 lam could follow."""
    half = torch.tensor([-INF, 0.5, -INF, -0.5])
    lam, within = batch_lam(half, 0.9)
    assert lam == pytest.approx(np.exp(-0.5), rel=1e-6) and not within
    assert batch_lam(torch.full((3,), -INF), 0.9) == (1.0, False)
    lam, within = batch_lam(torch.tensor([1e3, 1e3, -1e3]), 0.6)
    assert 0 < lam < 3e38 and within
    w = weights_of(
        torch.log(torch.tensor([[1.0, 0.0], [0.5, 0.5]])),
        torch.log(torch.tensor([[0.5, 0.5], [0.5, 0.5]])),
        torch.tensor([1, 0]),
        uniform(2),
        lam_from="batch",
    )
    assert w.infeasible.tolist() == [1.0, 1.0] and w.weight.tolist() == [0.0, 1.0]


def test_a_tracked_lam_judges_a_steps_tokens_by_the_steps_before():
    """E3: other tokens, same lam; only the first step takes its own, within the limits."""
    tracks = {"lam_from": "tracked", "budget": 0.7}
    state = CorrectionState(log_lam=float(np.log(1.7)))
    for seed in (1, 2):
        p, q = log_softmax(seed, 30, 6, 1.0), log_softmax(seed + 5, 30, 6, 1.0)
        w = weights_of(p, q, draw(q), uniform(30), state=state, **tracks)
        assert w.lam.tolist() == pytest.approx([1.7] * 30)
    first = weights_of(p, q, draw(q), uniform(30), **tracks)
    spent = np.minimum(1.0, np.exp(first.log_ratio.double().numpy()) / float(first.lam[0]))
    assert spent.mean() == pytest.approx(0.7, rel=1e-6)
    for low, high, expected in ((5.0, 9.0, 5.0), (0.001, 0.01, 0.01)):
        limits = {"lam_min": low, "lam_max": high}
        w = weights_of(p, q, draw(q), uniform(30), **tracks, **limits)
        assert float(w.lam[0]) == pytest.approx(expected)


def tracked(log_ratio, state, **limits):
    q = torch.full_like(log_ratio, -30.0)
    inputs = CorrectionInputs(
        logp_inf=q,
        logp_ref=q + log_ratio,
        logp_new=q + log_ratio,
        topk_logp_inf=torch.zeros(len(q), 1),
        topk_logp_target=torch.zeros(len(q), 1),
        in_topk=torch.ones(len(q), dtype=torch.bool),
        uniform=torch.zeros(len(q)),
        sequence=torch.zeros(len(q)),
    )
    w = token_weights(inputs, state, lam_from="tracked", budget=0.5, **limits)
    return next_state(state, [w], tracked=True, budget=0.5, **limits)


def test_log_lam_moves_by_its_decay_and_every_move_is_written_down():
    """All ratios 2: half of them are accepted at lam 4. log lam: 0.9 log 3 + 0.1 log 4."""
    state, (decision,) = tracked(torch.full((8,), 2.0).log(), CorrectionState(float(np.log(3))))
    assert state.log_lam == pytest.approx(0.9 * np.log(3) + 0.1 * np.log(4), rel=1e-6)
    assert decision["setting"] == "correction.lam" and not decision["limited"]
    assert decision["before"] == pytest.approx(3) and decision["after"] == pytest.approx(
        np.exp(state.log_lam)
    )
    assert "acceptance 0.6667, budget 0.5" in decision["reason"]
    state, (decision,) = tracked(torch.full((8,), 2.0).log(), CorrectionState())
    assert np.exp(state.log_lam) == pytest.approx(4, rel=1e-5)
    assert decision["before"] == pytest.approx(4) == decision["after"]


def test_lam_stops_at_its_limits_and_stays_where_the_budget_is_out_of_reach():
    past = CorrectionState(float(np.log(3)))
    state, (decision,) = tracked(torch.full((8,), 9.0).log(), past, lam_max=3.1)
    assert np.exp(state.log_lam) == pytest.approx(3.1) and decision["limited"]
    state, (decision,) = tracked(torch.full((8,), 0.01).log(), past, lam_min=2.9)
    assert np.exp(state.log_lam) == pytest.approx(2.9) and decision["limited"]
    gone = torch.tensor([-INF, -INF, 0.0])
    state, (decision,) = tracked(gone, past)
    assert state.log_lam == past.log_lam and decision["limited"]
    assert "out of reach (p > 0 on 0.3333" in decision["reason"]
