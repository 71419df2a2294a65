"""Formulas of log-probabilities against plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from jackpot.torch.logprobs import chosen, log_tail, with_tail


def test_the_log_probability_of_each_position_is_its_own_tokens():
    logp = torch.arange(12.0).view(1, 3, 4)
    assert chosen(logp, torch.tensor([[3, 0, 2]])).tolist() == [[3.0, 4.0, 10.0]]


def test_the_tail_is_what_the_known_tokens_leave_and_none_where_rounding_exceeds_1():
    known = torch.tensor([[0.5, 0.2], [0.75, 0.25], [0.75, 0.2500001]]).log()
    tail = log_tail(known)
    assert float(tail[0]) == pytest.approx(math.log(0.3), rel=1e-6)
    assert tail[1:].tolist() == [-math.inf, -math.inf]
    assert torch.equal(with_tail(known), torch.cat([known, tail[:, None]], dim=1))
