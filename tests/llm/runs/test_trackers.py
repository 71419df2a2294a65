"""Trackers get every number, and never stop a run; the progress line's remaining time."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from llm.runs import trackers
from llm.settings.loading import ConfigError
from llm.settings.schema import RunConfig


class FakeRun:
    """What wandb.init and trackio.init return, as far as it is used."""

    def __init__(self):
        self.rows, self.finished, self.broken = [], False, False

    def log(self, data, step=None):
        if self.broken:
            raise ConnectionError("no network")
        self.rows.append((step, data))

    def finish(self):
        self.finished = True


def fake_wandb(monkeypatch, run):
    """Keyword names of wandb.init (0.2x); anything else is a TypeError, as it is there."""
    seen: dict[str, Any] = {}

    def init(*, entity=None, project=None, dir=None, id=None, name=None, config=None, resume=None):
        seen.update(project=project, dir=dir, id=id, name=name, config=config, resume=resume)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return seen


def fake_trackio(monkeypatch, run):
    """Keyword names of trackio.init (0.27)."""
    seen: dict[str, Any] = {}

    def init(project, name=None, group=None, space_id=None, config=None, resume="never"):
        seen.update(project=project, name=name, config=config, resume=resume)
        return run

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    return seen


FAKES = {"wandb": fake_wandb, "trackio": fake_trackio}


@pytest.mark.parametrize("name", FAKES)
def test_every_finite_number_of_a_row_is_sent_with_its_step(name, monkeypatch, tmp_path):
    run = FakeRun()
    seen = FAKES[name](monkeypatch, run)
    (tmp_path / "config.toml").write_text("[run]\nseed = 3\n")
    tracker = trackers.open_tracker(RunConfig(tracker=name), tmp_path)
    tracker.log(7, {"step": 7, "reward_mean": 0.5, "tokens": 3, "alarms": ["kl"], "x": None})
    tracker.close()
    assert run.rows == [(7, {"reward_mean": 0.5, "tokens": 3.0})]
    assert run.finished
    assert seen["project"] == "jackpot"
    assert seen["config"] == {"run": {"seed": 3}}


@pytest.mark.parametrize("name", FAKES)
def test_a_resumed_run_is_the_same_run_to_the_tracker(name, monkeypatch, tmp_path):
    """Same id or name, and resume allowed; another folder of the same name is another run."""
    seen = FAKES[name](monkeypatch, FakeRun())
    found = []
    for folder in (tmp_path / "a" / "run", tmp_path / "a" / "run", tmp_path / "b" / "run"):
        folder.mkdir(parents=True, exist_ok=True)
        trackers.open_tracker(RunConfig(tracker=name), folder)
        found.append((seen.get("id"), seen["name"]))
        assert seen["resume"] == "allow"
    assert found[0] == found[1] != found[2]


def test_tensorboard_gets_the_rows_and_a_resume_hides_what_it_repeats(tmp_path):
    """Read back by tensorboard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for rows in ([(0, 1.0), (1, 2.0), (2, 99.0)], [(2, 3.0), (3, 4.0)]):
        tracker = trackers.open_tracker(RunConfig(tracker="tensorboard"), tmp_path)
        for step, value in rows:
            tracker.log(step, {"step": step, "pass_rate": value})
        tracker.close()
        assert tracker.failures == 0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("pass_rate")]
    assert found == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_an_error_that_names_the_extra(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install -e '\.\[{name}\]'"):
        trackers.open_tracker(RunConfig(tracker=name), tmp_path)


def test_a_missing_tensorboard_is_found_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[tensorboard\]"):
        trackers.open_tracker(RunConfig(tracker="tensorboard"), tmp_path)


def test_a_tracker_that_does_not_start_is_an_error(monkeypatch, tmp_path):
    def init(**_):
        raise RuntimeError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(ConfigError, match=r"does not start .*not logged in"):
        trackers.open_tracker(RunConfig(tracker="wandb"), tmp_path)


def test_a_tracker_that_breaks_warns_once_and_the_run_goes_on(monkeypatch, tmp_path, capsys):
    run = FakeRun()
    fake_wandb(monkeypatch, run)
    tracker = trackers.open_tracker(RunConfig(tracker="wandb"), tmp_path)
    tracker.log(0, {"a": 1.0})
    run.broken = True
    tracker.log(1, {"a": 1.0})
    tracker.log(2, {"a": 1.0})
    run.broken = False
    tracker.log(3, {"a": 1.0})
    assert capsys.readouterr().err.count("warning: tracker wandb failed") == 1
    assert tracker.failures == 2
    assert [step for step, _ in run.rows] == [0, 3]


def test_no_tracker_takes_everything_and_does_nothing(tmp_path):
    tracker = trackers.open_tracker(RunConfig(), tmp_path)
    tracker.log(0, {"a": 1.0})
    tracker.close()
    assert list(tmp_path.iterdir()) == []
