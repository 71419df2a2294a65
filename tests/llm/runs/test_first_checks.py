"""What the settings alone tell is refused before torch is imported, and nothing is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from llm import settings
from llm.errors import ConfigError
from llm.runs.first_checks import check_first

LATE = {  # what was refused after the models were opened: a word of the refusal
    "--reward.function nowhere.py:f": "nowhere.py does not exist",
    "--reward.function folder.py:f": "folder.py is not a regular file",
    "--reward.function pipe.py:f": "pipe.py is not a regular file",
    "--reward.function no_such_package.module:f": "there is no module no_such_package",
    "--run.folder /dev/null": r"--run.folder /dev/null: /dev/null is no folder",
    "--run.folder file/run": "file is no folder",
    "--run.folder link/run": "link is no folder",
    "--pretrain.folder file": "--pretrain.folder file: .*file is no folder",
    "--run.tracker wandb": r"needs a package that is not installed \(wandb\)",
    "--run.tracker trackio": r"needs a package that is not installed \(trackio\)",
    "--policy.lora.rank 4": r"--policy.lora.rank 4 needs peft",
    "--actor.lora.rank 4": r"--actor.lora.rank 4 needs peft",
    "--actor.type quantized": "quantized needs torchao",
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for package in ("wandb", "trackio", "peft", "torchao"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    return tmp_path


@pytest.mark.parametrize("flags", LATE)
def test_what_cannot_work_is_refused_by_the_settings_alone(here, flags):
    before = sorted(here.iterdir())
    with pytest.raises(ConfigError, match=LATE[flags]):
        check_first(settings.load([], flags.split()))
    assert sorted(here.iterdir()) == before


def test_more_threads_than_cores_are_refused_with_the_number_found(monkeypatch):
    """The cores that this process may use, not those of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7})
    check_first(settings.load([], ["--run.threads", "3"]))
    with pytest.raises(ConfigError, match=r"threads 4 is more .* 3 were found: give at most 3"):
        check_first(settings.load([], ["--run.threads", "4"]))


def test_a_folder_of_pretrained_models_need_not_be_writable(here, monkeypatch):
    """It may hold them; where it does not, their pretraining says so."""
    (here / "models").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "models")
    check_first(settings.load([], ["--run.folder", "run", "--pretrain.folder", "models"]))


def test_what_can_work_passes_and_nothing_is_executed_or_made(here):
    (here / "mine.py").write_text("raise SystemExit\n")
    for flags in ("", "--reward.function mine.py:f", "--reward.function json:loads",
                  "--run.folder a/b/c", "--run.tracker tensorboard"):  # fmt: skip
        before = sorted(here.iterdir())
        check_first(settings.load([], flags.split()))
        assert sorted(here.iterdir()) == before
