"""`python -m llm`: help, unknown commands and dry runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm import __main__, settings
from llm.__main__ import main
from llm.runs import run_folder

llm: Any = importlib.import_module("llm")  # it finds its names when they are asked for

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "llm/configs").glob("*.toml"))


def test_help_needs_neither_torch_nor_tyro():
    code = "import sys; from llm.__main__ import main; main(['--help']); "
    code += "sys.exit(int(bool({'torch', 'tyro', 'transformers'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "python -m llm train CONFIG.toml" in done.stdout


def test_unknown_commands_and_missing_runs_say_what_there_is(capsys, tmp_path):
    assert main(["trian"]) == 2
    assert "there are: train, doctor, plan, eval, report, compare, fetch" in capsys.readouterr().err
    assert main(["eval", str(tmp_path)]) == 2
    assert "holds no config.toml" in capsys.readouterr().err


def test_a_working_directory_that_is_gone_is_said(tmp_path, monkeypatch, capsys):
    """torch would end the process without a word of it."""
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert __main__._run() == 2
    assert "working directory cannot be used (No such file" in capsys.readouterr().err


def test_a_complete_run_names_the_settings_that_have_no_effect_without_another_step(
    tmp_path, capsys
):
    """They may change, and take effect from the next step on."""
    flags = ["--run.folder", str(tmp_path), "--run.steps", "9"]
    run_folder.release(run_folder.prepare(settings.load([], flags)))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    (tmp_path / "summary.json").write_text("{}")
    assert main(["train", *flags, "--run.threads", "1"]) == 0  # a place
    assert capsys.readouterr().out.endswith("a larger --run.steps goes on with it\n")
    assert main(["train", *flags, "--run.eval-every", "2"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("these have no effect: run.eval_every (10 there, 2 now)\n")


def test_dry_run_prints_the_resolved_configuration_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "r"
    flags = ["--run.folder", str(folder), "--correction.lam.value", "1.5", "--dry-run"]
    assert main(["train", str(CONFIGS[0]), *flags]) == 0
    section = '[correction.lam]\ntype = "fixed"\nvalue = 1.5\n'
    assert section in capsys.readouterr().out and not folder.exists()


def test_train_alone_says_what_to_do_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 2
    said = capsys.readouterr().err
    assert "tiny_cpu.toml --run.folder runs/mine" in said and "--help" in said
    assert all(path.name in said for path in CONFIGS) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("given", [[], ["--run.folder", "mine"]])
def test_train_says_which_folder_it_takes_where_none_was_given(
    given, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--run.device", "tpu", *given]) == 2  # refused once there is a folder
    said = capsys.readouterr().err
    assert (tmp_path / ("mine" if given else "runs/default")).is_dir()
    first = "error: --run.device tpu" if given else "run folder: runs/default, the default of"
    assert said.startswith(first)


def test_train_in_one_process_is_no_sharded_training(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--run.sharding", "fsdp", "--run.device", "tpu"]) == 2
    said = capsys.readouterr().err
    assert "--run.sharding fsdp would have no effect" in said and not any(tmp_path.iterdir())
    with pytest.raises(llm.ConfigError, match=r"--run\.sharding fsdp would have no effect"):
        llm.train(llm.load({"run.sharding": "fsdp", "run.device": "tpu"}))  # ends in any case
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["llm train llm/configs/tiny_cpu.toml", "sim check", "paper_figures fig2"]
)
def test_a_python_without_the_packages_is_told_which_to_use(command):
    """-S: no site-packages, as of a system's Python."""
    words = [sys.executable, "-S", "-m", *command.split()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert "lacks a package" in done.stderr and ".venv/bin/python" in done.stderr
    assert "Traceback" not in done.stderr


def test_torchrun_is_given_the_reason_for_its_own_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert main(["train", "nowhere.toml"]) == 2
    said = json.loads((tmp_path / "error.json").read_text())["message"]
    assert "cannot read config file nowhere.toml" in said["message"]
    assert said["message"] in capsys.readouterr().err
    assert said["extraInfo"]["py_callstack"] == said["message"]  # what torchrun prints


def test_the_last_line_says_whether_its_two_pass_rates_are_comparable(monkeypatch, capsys):
    """A resumed run may be evaluated on other prompts than it was at first."""
    from llm.commands import train as command

    cfg = settings.load([], ["--run.folder", "a"])
    summary = {"pass_rate_first": 0.25, "pass_rate_last": 0.5, "steps": 3}
    changed = {"evaluation_changed": {"run.eval_prompts": [128, 64]}}
    monkeypatch.setattr(command, "_trained", lambda cfg, folder: summary)
    assert command.run_config(cfg) == 0
    assert capsys.readouterr().out == "a: pass rate 0.250 -> 0.500 after 3 steps\n"
    monkeypatch.setattr(command, "_trained", lambda cfg, folder: summary | changed)
    assert command.run_config(cfg) == 0
    out = capsys.readouterr().out
    assert "after 3 steps (not comparable: the evaluation was changed on the way" in out
    assert "run.eval_prompts 128 -> 64)" in out
