"""`~` is the home folder in every path among settings and flags, wherever it stands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from llm import settings
from llm.__main__ import _COMMANDS, main
from llm.errors import ConfigError
from llm.settings import sections
from llm.settings.paths import PATHS, SOURCES, expanded_settings, path_of
from llm.settings.schema import Settings

HOME = "/home/me"
WRITTEN = {  # a setting, as it is written: as it is read
    "run.folder": ("~/a", f"{HOME}/a"),
    "pretrain.folder": ("~/kept", f"{HOME}/kept"),
    "policy.path": ("~/m", f"{HOME}/m"),
    "actor.path": ("~", HOME),
    "reward.function": ("~/r.py:reward", f"{HOME}/r.py:reward"),
    "task.source": ("gsm8k:~/train.jsonl", f"gsm8k:{HOME}/train.jsonl"),
    "task.eval_source": (
        "own=~/a.jsonl, math500:~/b.jsonl,x=aime24:~/c,~/d.jsonl,dir/~/e.jsonl,owner/f~g",
        f"own={HOME}/a.jsonl, math500:{HOME}/b.jsonl,x=aime24:{HOME}/c,{HOME}/d.jsonl,"
        "dir/~/e.jsonl,owner/f~g",
    ),
}
NO_PATHS = {  # texts that name no file
    "reward.callable",
    *("task.instruction", "task.system_prompt", "task.template_arguments"),
    *("task.split", "task.eval_split", "task.prompt_column", "task.answer_column", "run.device"),
}


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", HOME)


def texts(kind: type, prefix: str = "") -> set[str]:
    """Names of all settings that are free text, in every class of every union."""
    found = set()
    for name, field in sections.settings_of(kind).items():
        classes = sections.classes_of(field)
        for inner in classes:
            found |= texts(inner, f"{prefix}{name}.")
        if not classes and field is str:
            found.add(f"{prefix}{name}")
    return found


def test_every_setting_that_is_a_text_is_known_to_name_a_file_or_not():
    assert texts(Settings) == {*PATHS, *SOURCES} | NO_PATHS
    assert set(WRITTEN) == {*PATHS, *SOURCES}


@pytest.mark.parametrize("key", WRITTEN)
@pytest.mark.parametrize("given", ["file", "flag"])
def test_a_setting_is_expanded_from_a_file_and_a_flag(tmp_path, key, given):
    """policy.path and actor.path are given together, and a source needs a model."""
    written, wanted = WRITTEN[key]
    models = {"policy.path": "m", "actor.path": "m"} if key not in ("pretrain.folder",) else {}
    task = {"task.type": "problems", "task.source": "rows.jsonl"} if key[:4] == "task" else {}
    table = models | task | {key: written}
    if given == "file":
        lines = (f'{name} = "{value}"\n' for name, value in table.items())
        (tmp_path / "c.toml").write_text("".join(lines))
        cfg = settings.load([str(tmp_path / "c.toml")], [])
    else:
        cfg = settings.load([], [f"--{name}={value}" for name, value in table.items()])
    assert settings.flatten(cfg)[key] == wanted
    assert expanded_settings(settings.flatten(cfg)) == {}


def test_a_configuration_file_is_found_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.toml").write_text("[run]\nseed = 7\n")
    assert settings.resolve("~/c.toml").run.seed == 7


def test_a_shape_is_looked_for_in_the_home_folder(capsys):
    flags = ["--gpus", "1", "--gpu-memory", "1GB", "--policy.path", "m", "--actor.path", "m"]
    code = main(["plan", *flags, "--model-sizes", "policy=~/none"])
    assert code == 2 and f"policy '{HOME}/none' is not known" in capsys.readouterr().err


class Parser(Exception):
    """The one that a command would have parsed its words with."""


def parser_of(command: str, monkeypatch) -> argparse.ArgumentParser:
    def caught(self: argparse.ArgumentParser, *words: Any) -> None:
        raise Parser(self)

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, caught)
    with pytest.raises(Parser) as found:
        main([command, "x"])
    return found.value.args[0]


FLAGS = {  # those that are paths, by command
    "eval": {"run", "out"},
    "report": {"run", "out"},
    "compare": {"runs", "out"},
    "export": {"run", "to"},
    "fetch": {"out", "wheel"},
    "plan": set(),
}
NO_PATH_FLAGS = {"plan": {"model_sizes"}, "export": {"checkpoint"}}


@pytest.mark.parametrize("command", sorted(_COMMANDS.keys() - {"train", "doctor"}))
def test_every_flag_that_is_a_path_is_expanded(command, monkeypatch):
    """`train` and `doctor` read settings alone."""
    found = parser_of(command, monkeypatch)._actions
    assert {a.dest for a in found if a.type is path_of} == FLAGS[command]
    free = {a.dest for a in found if a.type in (None, Path, str) and a.nargs != 0 and not a.choices}
    assert free == NO_PATH_FLAGS.get(command, set())
    assert path_of("~/a") == Path(HOME, "a")


@pytest.mark.parametrize("key", [*PATHS, *SOURCES])
def test_a_tilde_that_names_no_home_folder_is_refused_by_the_settings_name(key):
    """A folder of that very name would be made in the working directory, and found by nobody."""
    written, _ = WRITTEN[key]
    wrong = written.replace("~", "~nobody-of-this-name", 1)
    with pytest.raises(ConfigError, match=rf"--{key} ~nobody-of-this-name.* names no home folder"):
        expanded_settings({key: wrong})


def test_a_flag_and_a_file_without_a_home_folder_are_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="~nobody-here names no home folder"):
        path_of("~nobody-here/x")
    with pytest.raises(ConfigError, match="~nobody-here names no home folder"):
        settings.load(["~nobody-here/c.toml"], [])


def test_a_path_is_expanded_once(tmp_path, monkeypatch):
    """A folder may be called ~: ./~ names it, and its files are not looked for at home."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "c.toml").write_text("[run]\nseed = 7\nfolder = './~/run'\n")
    folder = path_of("./~")
    cfg = settings.load([folder / "c.toml"], [])
    assert cfg.run.seed == 7 and cfg.run.folder == "./~/run"
    assert settings.resolve(folder / "c.toml") == cfg
    with pytest.raises(ConfigError, match=rf"cannot read config file {HOME}/c\.toml"):
        settings.load(["~/c.toml"], [])
