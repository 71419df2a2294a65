"""state.json is believed only when every value in it can be right."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest

from jackpot.torch.control import Controls
from llm.errors import CheckpointError
from llm.training.saved_state import saved_state

CHECKPOINT = Path("run/checkpoints/step_00000003")
GOOD = {
    "step": 3,
    "bytes": {"metrics": 90, "decisions": 0, "samples": 7, "histograms": 7},
    "controls": {"distill_coef": 1, "actor_lr_factor": 1.0, "policy_lr_factor": 0.5},
    "correction": {"log_lam": None, "tail_accepted": 1.0, "tail_bound": 2.0},
    "alarms": {
        **{"kl": 0, "ratio": 0, "acceptance": 2, "entropy": 0},
        **{"lr_factor": 0.5, "lowerings": 1},
    },
    "best": 0.25,
}


def test_what_a_run_wrote_is_taken_back():
    state = saved_state(GOOD, CHECKPOINT)
    assert (state.step, state.best, state.bytes) == (3, 0.25, GOOD["bytes"])
    assert state.controls == Controls(1.0, 1.0, 0.5) and state.correction.log_lam is None
    assert state.alarms["acceptance"] == 2
    assert saved_state({**GOOD, "best": None}, CHECKPOINT).best is None
    aside = CHECKPOINT.with_name(".step_00000003.aside")
    assert saved_state(GOOD, aside).step == saved_state(GOOD, Path("run/best")).step == 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("step", "3", "step is '3', not a whole number"),
        ("step", True, "step is True, not a whole number"),
        ("step", -1, "step is -1, not a whole number"),
        ("step", 4, "step is 4, and the checkpoint is called step_00000003"),
        ("step", 10**400, "step is 1000"),
        ("bytes", [], r"bytes is \[\], not an object"),
        ("bytes.metrics", 1.5, r"bytes.metrics is 1.5, not a whole number"),
        ("bytes.metrics", None, "bytes.metrics is None"),
        ("bytes.other", 1, "bytes holds other, which is unknown"),
        ("controls.distill_coef", math.nan, "controls.distill_coef is nan, not a finite number"),
        ("controls.policy_lr_factor", -1, "controls.policy_lr_factor is -1, not .* at least 0"),
        ("controls.actor_lr_factor", "1", "controls.actor_lr_factor is '1'"),
        ("correction.log_lam", math.inf, "correction.log_lam is inf"),
        ("correction.tail_bound", None, "correction.tail_bound is None"),
        ("alarms.lowerings", 0.5, "alarms.lowerings is 0.5"),
        ("alarms.lr_factor", math.inf, "alarms.lr_factor is inf"),
        ("best", "0.2", "best is '0.2'"),
        ("best", math.nan, "best is nan"),
        ("more", 1, "it holds more, which is unknown"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_by_name(key, value, message):
    state: Any = copy.deepcopy(GOOD)
    *path, name = key.split(".")
    (state[path[0]] if path else state)[name] = value
    refused = rf"step_00000003/state.json cannot be right: {message}.*remove .*step_00000003"
    with pytest.raises(CheckpointError, match=refused):
        saved_state(state, CHECKPOINT)


@pytest.mark.parametrize("key", ["step", "bytes", "controls", "bytes.samples", "alarms.kl"])
def test_what_is_missing_is_refused_by_name(key):
    """Without its bytes, every row would be dropped."""
    state: Any = copy.deepcopy(GOOD)
    *path, name = key.split(".")
    del (state[path[0]] if path else state)[name]
    with pytest.raises(CheckpointError, match=f"cannot be right: {path[0] if path else 'it'} lack"):
        saved_state(state, CHECKPOINT)
