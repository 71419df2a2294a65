"""metrics.jsonl takes no name that is not defined, and every definition says something."""

from __future__ import annotations

import pytest

from llm.runs import metrics_files
from llm.runs.metrics import METRICS, check_names, page


@pytest.mark.parametrize("kind", ["files", "another rank"])
def test_a_metric_without_a_definition_is_refused_and_nothing_is_written(tmp_path, kind):
    files = metrics_files.RunFiles(tmp_path, {}) if kind == "files" else metrics_files.NoFiles()
    row = {"step": 0, "pass_rte": 0.5}
    with pytest.raises(ValueError, match=r"'pass_rte' has no definition \(perhaps pass_rate\?\)"):
        files.write("metrics", {"step": 0}, row)
    if kind == "files":
        assert (tmp_path / "metrics.jsonl").read_bytes() == b""
        files.write("decisions", row)  # other files have other columns
        assert metrics_files.read(tmp_path / "decisions.jsonl") == [row]


def test_what_is_defined_is_written(tmp_path):
    row = dict.fromkeys(METRICS, 1.0)
    metrics_files.RunFiles(tmp_path, {}).write("metrics", row)
    assert metrics_files.read(tmp_path / "metrics.jsonl") == [row]


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="'zzz' has no definition: define it"):
        check_names(["zzz"])


def test_the_page_holds_one_row_for_each_metric():
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(METRICS) > 50
    for (name, text), row in zip(METRICS.items(), rows, strict=True):
        assert row == f"| `{name}` | {text.replace('|', '&#124;')} |"
        assert row.count("|") == 3, "a bar within a cell ends it"
        assert len(text.split()) >= 3, name


def test_metrics_of_an_evaluation_set_are_declared_by_their_pattern():
    check_names(["mean_at_k_math500", "pass_at_k_own_2"])
    with pytest.raises(ValueError, match="'mean_at_1_math500' has no definition"):
        check_names(["mean_at_1_math500"])
