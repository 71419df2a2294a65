"""Rows that are damaged are left out of a report and said."""

import json

import pytest
from report_runs import Page, token_row, write_rows

from llm.commands import report
from llm.report.run_files import read_run

HISTOGRAM = {"edges": [0, 1], "counts": [1, 2, 3]}
HISTOGRAMS = {"tokens": 6, "log_ratio": HISTOGRAM, "weight": HISTOGRAM, "accept_prob": HISTOGRAM}
NO_EDGES = {"edges": [], "counts": [1]}


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("samples", {"tokens": ["a"], "logp_inf": [1, 2]}, "logp_inf holds 2 values for 1 tokens"),
        ("samples", {"tokens": 5}, "tokens is 5, not a list"),
        ("samples", {"tokens": [5]}, "tokens is a list, not a list of texts"),
        ("samples", {"tokens": ["a"], "accept_prob": ["x"]}, "accept_prob is a list, not a list"),
        ("samples", {"tokens": ["a"], "weight": [10**400]}, "weight is a list, not a list of"),
        ("samples", {"tokens": ["a"], "weight": None}, "weight is missing or null"),
        ("samples", {"tokens": ["a"], "reward": "good"}, "reward is 'good', not a number"),
        ("histograms", {"log_ratio": 1, "weight": 2, "accept_prob": 3}, "tokens is missing"),
        ("histograms", {**HISTOGRAMS, "log_ratio": 1}, "log_ratio is 1, not a histogram"),
        ("histograms", {**HISTOGRAMS, "weight": NO_EDGES}, "weight.edges is a list, not a"),
        (
            "histograms",
            {**HISTOGRAMS, "weight": HISTOGRAM | {"counts": [1]}},
            "weight holds 1 counts",
        ),
        ("histograms", {**HISTOGRAMS, "weight": HISTOGRAM | {"zeros": "x"}}, "weight.zeros is 'x'"),
        ("metrics", {"tokens": "x"}, "tokens is 'x', not a number"),
        ("metrics", {"seconds_eval": []}, "seconds_eval is a list, not a number"),
        ("metrics", {"other": 10**400}, "other is a huge integer"),
        ("metrics", {"step": 10**400}, "step is a huge integer"),
        ("decisions", {"step": True}, "step is True"),
        ("decisions", [1], "not a JSON object"),
    ],
)
def test_a_row_of_another_shape_is_left_out_and_said(run, name, row, why):
    """Its file and its line are named; the other rows are shown."""
    before = read_run(run)
    path = run / f"{name}.jsonl"
    lines = len(path.read_text().splitlines())
    added = {"step": 50, **row} if isinstance(row, dict) else row
    with path.open("a") as file:
        file.write(json.dumps(added) + "\n")
    files = read_run(run)
    (note,) = files.notes
    assert note.startswith(f"{path.name}: left out") and f"line {lines + 1} ({why}" in note
    assert files._replace(notes=[]) == before
    assert why in " ".join(Page(report.document(files)).texts)


def test_rows_that_the_trainer_writes_of_a_diverging_run_are_kept(run):
    """null and NaN stand for what is not finite, and names of one's own may hold anything."""
    row = {"step": 41, "tokens": None, "seconds_eval": None, "kl_policy_actor": float("nan")}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "alarms": ["kl"], "mine": {"a": "b"}}) + "\n\n")
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps(token_row(41, ["a"], [1], weight=[None], reward=None)) + "\n")
    files = read_run(run)
    assert files.notes == []
    assert (files.rows[-1]["step"], files.samples[-1]["step"]) == (41, 41)
    assert "step 41" in report.document(files)


def test_many_bad_rows_are_counted_not_listed(run):
    write_rows(run / "samples.jsonl", [{"step": s, "tokens": 5} for s in range(50)])
    (note,) = read_run(run).notes
    assert "line 1 (" in note and "line 3 (" in note
    assert note.endswith("and 47 more")
