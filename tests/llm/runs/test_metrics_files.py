"""Rows fit their checkpoint, and a file that something else removed or changed is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm.errors import RunFilesError
from llm.runs.metrics_files import MetricsFile, RunFiles, read


def row(step: int) -> str:
    return json.dumps({"step": step}) + "\n"


def three(tmp_path: Path, name: str = "metrics") -> Path:
    """Rows of the steps 0, 1 and 2, and half of another."""
    path = tmp_path / f"{name}.jsonl"
    path.write_text(row(0) + row(1) + row(2) + '{"st')
    return path


def test_rows_after_the_checkpoint_are_dropped_by_cut_and_not_before(tmp_path):
    path = three(tmp_path)
    before = path.read_bytes()
    file = MetricsFile(path, 2 * len(row(0)), step=2)
    assert path.read_bytes() == before
    file.cut()
    file.write({"step": 2})
    assert read(path) == [{"step": 0}, {"step": 1}, {"step": 2}]
    assert file.size() == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "rows", "step", "message"),
    [
        ("metrics", 1, 2, "are 1 rows"),  # a row of step 1 would be lost
        ("metrics", 0, 2, "are 0 rows"),
        ("metrics", 3, 2, "end in a row of step 2"),
        ("samples", 1, 2, "are followed by a row of step 1, which would be lost"),
        ("samples", 3, 2, "end in a row of step 2"),
    ],
)
def test_bytes_that_do_not_fit_the_steps_are_refused(tmp_path, name, rows, step, message):
    path = three(tmp_path, name)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"{name}.jsonl does not fit .* they {message}"):
        MetricsFile(path, rows * len(row(0)), step)
    assert path.read_bytes() == before


def test_bytes_that_end_within_a_row_are_refused(tmp_path):
    with pytest.raises(ValueError, match="they end within a row"):
        MetricsFile(three(tmp_path), len(row(0)) + 3, step=2)


def test_samples_of_some_steps_only_fit(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text(row(0) * 4 + row(8) * 4)
    MetricsFile(path, 4 * len(row(0)), step=5)
    MetricsFile(path, 8 * len(row(0)), step=9)


@pytest.mark.parametrize("how", ["removed", "cut", "grown", "folder"])
def test_a_file_removed_or_changed_while_the_run_goes_on_is_an_error_with_the_row(tmp_path, how):
    """It is not made anew, and what could not be written is told."""
    folder = tmp_path / "run"
    folder.mkdir()
    files = RunFiles(folder, {})
    files.cut()
    files.write("metrics", {"step": 0})
    path = folder / "metrics.jsonl"
    if how == "folder":
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    elif how == "removed":
        path.unlink()
    else:
        path.write_text("" if how == "cut" else row(0) + row(7))
    with pytest.raises(RunFilesError, match=r"metrics.jsonl was removed or .*\"pass_rate\": 0.5"):
        files.write("metrics", {"step": 1, "pass_rate": 0.5})
    with pytest.raises(RunFilesError, match="was removed or changed"):
        files.sizes()
    assert not path.exists() or '"step": 1' not in path.read_text()
