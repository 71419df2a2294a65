"""A step's row: updates averaged, tokens together, phases timed; its line on the terminal."""

from __future__ import annotations

from typing import Any

import torch

from jackpot.torch.correction import TokenWeights
from jackpot.torch.diagnostics import correction_metrics
from llm.training.record import Record, merged, progress_text, start_text


def weights(*values: float) -> TokenWeights:
    x = torch.tensor(values)
    return TokenWeights(x, x.log(), x, x, x, x, x, x)


def test_metrics_of_updates_are_averaged_and_those_of_tokens_are_over_all_tokens():
    """Two updates of 1 and 3 tokens: a mean of means would weigh them alike."""
    parts, anything = [weights(4.0), weights(1.0, 1.0, 2.0)], object()
    record = Record(3, evaluated=True)
    for own, loss in zip(parts, (1.0, 3.0), strict=True):
        record.add_update(anything, own, {"loss": loss})  # type: ignore[arg-type]
    record.skip_update()
    assert record.updates_begun == 3
    record.merge_updates("tis")
    assert record.row["loss"] == 2.0 and record.row["updates_skipped"] == 1
    assert record.row["weight_mean"] == 2.0
    assert record.first_update is not None and record.first_update[1] is parts[0]
    together = correction_metrics([weights(4.0, 1.0, 1.0, 2.0)], "tis")
    assert {k: record.row[k] for k in together} == together


def test_a_step_without_any_update_has_no_metrics_of_updates():
    assert merged([], [], "tis") == {}


def test_a_metric_that_some_updates_lack_is_the_mean_of_the_others():
    updates = [{"loss": 1.0}, {"loss": 3.0, "m2po_threshold": 0.5}, {"loss": 5.0}]
    found = merged(updates, [weights(1.0)] * 3, "tis")
    assert (found["loss"], found["m2po_threshold"]) == (3.0, 0.5)


def test_a_phase_is_timed_under_its_name():
    record = Record(0, evaluated=False)
    with record.timed("rollout"):
        record.add({"tokens": 5})
    assert record.row.keys() == {"step", "tokens", "seconds_rollout"}
    assert record.row["seconds_rollout"] > 0


def test_the_line_of_a_step_names_what_was_measured_and_what_was_alarming():
    row: dict[str, Any] = {"tokens": 30, "seconds_rollout": 1.0, "seconds_update": 2.0}
    row |= {"reward_mean": 0.25, "alarms": []}
    assert progress_text(row) == "reward 0.250  10 tokens/s"
    row |= {"kl_inf_target_k3": 0.1, "accept_rate": 0.9, "alarms": ["kl", "entropy"]}
    assert progress_text(row) == (
        "reward 0.250  KL(q,p) 0.1000  accept 0.900  10 tokens/s  ALARM kl, entropy"
    )


def test_the_start_names_the_actor_its_distance_and_bad_rows():
    said = start_text("separate", 2, 0, {"kl_policy_actor": 0.5})
    assert "actor: separate" in said and "0.5 nats" in said and "2 bad rows skipped" in said
    assert "skipped" not in start_text("separate", 0, 0, {"kl_policy_actor": 0.5})
