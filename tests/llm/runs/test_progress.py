"""The progress line."""

import pytest

from llm.runs import progress


def shown(monkeypatch, capsys, total, first, clock, done):
    """The last progress line after `done` steps at second `clock`."""
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    bar = progress.Progress("run", total, first)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    bar.show(done, "text")
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("total", "first", "clock", "done", "left"),
    [
        (100, 0, 20.0, 1, "33:00"),  # the first step counts as one
        (100, 90, 20.0, 92, "1:20"),  # 10 s a step: those before the resume took no time here
        (100, 90, 20.0, 90, "unknown"),
        (5000, 0, 100.0, 10, "13:51:40"),
        (100, 0, 20.0, 100, "0:00"),
    ],
)
def test_the_time_left_is_that_of_the_steps_made_here(
    monkeypatch, capsys, total, first, clock, done, left
):
    line = shown(monkeypatch, capsys, total, first, clock, done)
    assert line == f"run: {done}/{total}  text  ETA {left}\n"
