"""`python -m llm`: help, unknown commands and dry runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llm.__main__ import main

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


def test_dry_run_prints_the_resolved_configuration_and_writes_nothing(tmp_path, capsys):
    folder = tmp_path / "r"
    flags = ["--run.folder", str(folder), "--correction.lam", "1.5", "--dry-run"]
    assert main(["train", str(CONFIGS[0]), *flags]) == 0
    assert "lam = 1.5" in capsys.readouterr().out and not folder.exists()


def test_train_alone_says_what_to_do_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 2
    said = capsys.readouterr().err
    assert "tiny_cpu.toml --run.folder runs/mine" in said and "--help" in said
    assert all(path.name in said for path in CONFIGS) and not any(tmp_path.iterdir())
