"""Alarms: which fires, when, and what it does; the guard against NaN and inf."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from optional import not_none

from llm.checkpoints.checkpoint import save_state
from llm.errors import Diverged
from llm.runs.alarms import Alarms, AlarmState, next_alarms, writable
from llm.settings.schema import AlarmConfig, LowerAction

GOOD = {"kl_inf_target_k3": 0.1, "ratio_max": 2.0, "accept_rate": 0.9, "entropy_policy": 1.0}
ALL = AlarmConfig(kl_max=0.5, ratio_max=100.0, accept_min=0.3, entropy_min=0.2)
BAD = {
    "kl": {"kl_inf_target_k3": 0.6},
    "ratio": {"ratio_max": 101.0},
    "acceptance": {"accept_rate": 0.29},
    "entropy": {"entropy_policy": 0.19},
    "non_finite": {"loss_policy": math.nan},
}


def test_no_alarm_within_limits_or_on_them():
    on = {"kl_inf_target_k3": 0.5, "ratio_max": 100.0, "accept_rate": 0.3, "entropy_policy": 0.2}
    for row in (GOOD, on):
        assert next_alarms(ALL, AlarmState(), row) == (AlarmState(), [], None)


@pytest.mark.parametrize("name", BAD)
def test_each_alarm_fires_alone_and_by_name(name):
    _, fired, decision = next_alarms(ALL, AlarmState(), GOOD | BAD[name])
    assert fired == [name] and decision is not None
    assert decision.alarm == name and decision.action == "stop"


def test_alarms_are_off_by_default_but_for_non_finite_values():
    wild = {"kl_inf_target_k3": 1e9, "ratio_max": 1e9, "accept_rate": 0.0, "entropy_policy": 0.0}
    assert next_alarms(AlarmConfig(), AlarmState(), wild)[1] == []
    assert next_alarms(AlarmConfig(), AlarmState(), {"x": -math.inf})[1] == ["non_finite"]


@pytest.mark.parametrize("metric", GOOD)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_in_any_metric_are_an_alarm_at_once(metric, value):
    """NaN is neither above nor below a limit; patience is for finite values."""
    cfg = dataclasses.replace(ALL, patience=5)
    assert next_alarms(cfg, AlarmState(), GOOD | {metric: value})[1] == ["non_finite"]


def test_patience_counts_steps_in_a_row():
    cfg, state, seen = dataclasses.replace(ALL, patience=3), AlarmState(), []
    for row in "bbgbbbb":
        values = GOOD | (BAD["kl"] if row == "b" else {})
        state, fired, _ = next_alarms(cfg, state, values)
        seen.append(len(fired))
    assert seen == [0, 0, 0, 0, 0, 1, 0]


def test_lowering_multiplies_the_factor_so_many_times_and_then_stops():
    cfg = dataclasses.replace(ALL, action=LowerAction(factor=0.25, lowerings_max=2), patience=2)
    state, seen = AlarmState(), []
    for _ in range(6):
        state, _, decision = next_alarms(cfg, state, GOOD | BAD["entropy"])
        seen.append((decision.action, decision.before, decision.after) if decision else None)
    low = [("lower", 1.0, 0.25), ("lower", 0.25, 0.0625), ("stop", 0.0625, 0.0625)]
    assert seen == [None, low[0], None, low[1], None, low[2]]


def test_a_skipped_update_is_the_alarm_non_finite_though_its_metrics_are_absent():
    cfg = dataclasses.replace(ALL, action=LowerAction())
    _, fired, decision = next_alarms(cfg, AlarmState(), {"reward_mean": 0.5, "updates_skipped": 1})
    assert fired == ["non_finite"] and decision is not None
    assert decision.action == "lower" and decision.after == 0.5
    assert "update was skipped" in decision.reason


def test_a_limit_whose_metric_is_absent_is_an_error_not_a_silent_gap():
    with pytest.raises(KeyError, match=r"alarm.kl_max is 0.5, and this step has no kl_inf"):
        next_alarms(ALL, AlarmState(), {"ratio_max": 1.0})
    assert next_alarms(AlarmConfig(), AlarmState(), {})[1] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kl", r"step 7: alarm kl: kl_inf_target_k3 0.6 is above --alarm.kl_max 0.5"),
        ("acceptance", r"accept_rate 0.29 is below --alarm.accept_min 0.3"),
        ("non_finite", r"alarm non_finite: loss_policy is NaN or inf"),
    ],
)
def test_stopping_names_alarm_value_limit_step_checkpoint_and_remedy(tmp_path, name, message):
    kept = save_state(tmp_path, 5, {"policy": torch.nn.Linear(1, 1)}, {})
    alarms = Alarms(ALL, tmp_path)
    assert alarms.check(GOOD | BAD[name]) == [name]
    with pytest.raises(Diverged, match=message) as found:
        alarms.enforce(7)
    assert f"Last good checkpoint: {kept}" in str(found.value)
    assert "What to do: " in str(found.value)


def test_before_the_first_step_no_learning_rate_is_blamed(tmp_path):
    """Models that mask different ids have an infinite KL, whatever the rates are."""
    alarms = Alarms(ALL, tmp_path)
    alarms.check(GOOD | {"kl_policy_actor": math.inf})
    with pytest.raises(Diverged, match="mask the same ids in both") as found:
        alarms.enforce(0)
    assert "learning rate" not in str(found.value)


def test_the_state_goes_through_a_checkpoint_and_a_resumed_run_decides_the_same():
    cfg = dataclasses.replace(ALL, action=LowerAction(), patience=2)
    whole, rows = Alarms(cfg, Path("none")), [GOOD | BAD["kl"], GOOD | BAD["ratio"]] * 4
    rows = [*rows, *[GOOD | BAD["kl"]] * 5]
    expected = []
    for row in rows:
        whole.check(row)
        expected.append((whole.state, whole.decision))
    for cut in range(len(rows)):
        first = Alarms(cfg, Path("none"))
        for row in rows[:cut]:
            first.check(row)
        second, found = Alarms(cfg, Path("none"), json.loads(json.dumps(first.to_json()))), []
        for row in rows[cut:]:
            second.check(row)
            found.append((second.state, second.decision))
        assert found == expected[cut:]
    assert [d.action for _, d in expected if d] == ["lower", "lower"]


def test_going_on_does_not_raise_and_the_decision_is_a_line_like_the_controllers(tmp_path):
    alarms = Alarms(dataclasses.replace(ALL, action=LowerAction()), tmp_path)
    alarms.check(GOOD | BAD["kl"])
    alarms.enforce(1)
    line = not_none(alarms.decision).entry()
    assert set(line) == {"setting", "before", "after", "reason", "limited"}
    assert (line["before"], line["after"], line["limited"]) == (1.0, 0.5, False)
    json.dumps(line, allow_nan=False)


def test_a_row_with_nan_can_be_written_without_it():
    row = {"step": 3, "loss": math.nan, "ratio_max": math.inf, "alarms": ["non_finite"], "kl": 0.1}
    assert writable(row) == {"step": 3, "alarms": ["non_finite"], "kl": 0.1}
    json.dumps(writable(row), allow_nan=False)
