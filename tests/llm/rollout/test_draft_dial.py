"""The lam or price that follows the acceptance of earlier steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from llm.rollout.draft_dial import DraftDial, open_dial
from llm.settings.schema import FixedDraftLam, TrackedDraftLam, TrackedPriceDraftLam

LAM = TrackedDraftLam(budget=0.9, gain=0.5, min=0.2)
PRICE = TrackedPriceDraftLam(budget=0.9, gain=0.5, price=0.4, min=0.1, max=2.0)


def test_twice_the_rejections_move_it_by_two_to_the_gain():
    """Down a lam, up a price; half of them move it back."""
    lam, price = DraftDial(LAM), DraftDial(PRICE)
    assert lam.value == 1.0 and price.value == 0.4
    decision = lam.move(0.8)
    assert lam.value == pytest.approx(1 / math.sqrt(2))
    assert (decision["before"], decision["after"]) == (1.0, lam.value)
    assert decision["setting"] == "rollout.mode.lam.value" and not decision["limited"]
    assert price.move(0.8)["setting"] == "rollout.mode.lam.price"
    assert price.value == pytest.approx(0.4 * math.sqrt(2))
    lam.move(0.95)
    price.move(0.95)
    assert lam.value == pytest.approx(1.0) and price.value == pytest.approx(0.4)


def test_one_step_moves_it_by_at_most_e_to_the_gain_and_within_its_limits():
    price = DraftDial(PRICE)
    price.move(0.0)
    assert price.value == pytest.approx(0.4 * math.exp(0.5))
    for rate, wanted in ((0.0, 2.0), (1.0, 0.1)):
        for _ in range(9):
            decision = price.move(rate)
        assert price.value == wanted and decision["limited"]
    lam = DraftDial(LAM)
    assert lam.move(1.0)["limited"] and lam.value == 1.0  # lossless accepts more than the budget
    for _ in range(9):
        lam.move(0.0)
    assert lam.value == 0.2


@pytest.mark.parametrize("is_price", [False, True])
def test_it_is_led_to_the_lam_that_accepts_the_budget(is_price):
    """A state with p = (.5, .3, .2) and q = (.2, .3, .5): Z = .5 + min(.5, .2 / lam)."""
    dial = DraftDial(replace(PRICE if is_price else LAM, gain=0.2))
    for _ in range(60):
        lam, price = dial.value, dial.value
        if is_price:  # .5 / (lam + price) - .2 = .5 - .2 / lam
            low, lam = 1e-9, 1.0
            for _ in range(60):
                middle = (low + lam) / 2
                over = 0.5 / (middle + price) - 0.2 > max(0.5 - 0.2 / middle, 0)
                low, lam = (middle, lam) if over else (low, middle)
        rate = 0.5 + min(0.5, 0.2 / lam)
        dial.move(rate)
    assert rate == pytest.approx(0.9, abs=1e-3)


def test_it_is_kept_and_read_back():
    dial, other = DraftDial(PRICE), DraftDial(PRICE)
    dial.move(0.77)
    other.load_state_dict(dial.state_dict())
    assert other.value == dial.value != 0.4
    assert open_dial(FixedDraftLam()) is None and isinstance(open_dial(LAM), DraftDial)


@pytest.mark.parametrize("value", [[0.05], [3.0], [float("nan")], [0.4, 0.4], []])
def test_what_cannot_be_its_value_is_refused(value):
    with pytest.raises(ValueError, match="lam or price of drafting"):
        DraftDial(PRICE).load_state_dict({"value": torch.tensor(value, dtype=torch.float64)})
    with pytest.raises(ValueError, match="is one number"):
        DraftDial(PRICE).load_state_dict({})
