"""The Makefile names what exists, and its help names every target."""

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llm.settings.loading import load

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][\w-]*):(?!=)", TEXT, re.M))
make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")


def said(*words: str) -> str:
    """By make, from outside of any other make."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def commands() -> list[list[str]]:
    """What `make demo` runs with Python, the environment taken as made: module and arguments."""
    lines = said("--dry-run", "--old-file", ".venv/.installed", "demo").splitlines()
    return [line.split(" -m ", 1)[1].split() for line in lines if "bin/python -m " in line]


@make
def test_help_lists_every_target():
    listed = {line.split()[1] for line in said("help").splitlines()}
    assert "demo-PART" in listed
    parts = {t for t in TARGETS if t.startswith("demo-")}
    assert listed - {"demo-PART"} == TARGETS - {"help"} - parts
    (line,) = (line for line in said("help").splitlines() if "demo-PART" in line)
    assert set(line.split(": ")[1].split(", ")) == {t.removeprefix("demo-") for t in parts}


def test_no_target_is_taken_for_a_file():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", TEXT, re.M)
    (parts,) = re.findall(r"^DEMO_PARTS := (.*)$", TEXT, re.M)
    assert set(phony.replace("$(DEMO_PARTS)", parts).split()) == TARGETS


@make
def test_the_demo_trains_three_runs_with_one_pretraining():
    """From configurations that exist; each run has a folder of its own, where its part draws it."""
    trained = [words for words in commands() if words[:2] == ["llm", "train"]]
    runs = [load(words[2:], []) for words in trained]
    assert {cfg.run.folder for cfg in runs} == {
        f"runs/demo/{name}" for name in ("jackpot", "none", "tis_distill")
    }
    assert {cfg.pretrain.folder for cfg in runs} == {runs[0].pretrain.folder} != {""}
    for cfg in runs:
        assert (cfg.pretrain, cfg.policy, cfg.task) == (
            runs[0].pretrain,
            runs[0].policy,
            runs[0].task,
        )


@make
def test_the_other_commands_of_the_demo_exist():
    import paper_figures.commands
    import sim.commands

    others = [words for words in commands() if words[0] != "llm"]
    assert sorted(words[:2] for words in others) == [
        ["paper_figures", "demo"],
        ["paper_figures", "fig2"],
        ["sim", "check"],
    ]
    known = {"sim": sim.commands.COMMANDS, "paper_figures": paper_figures.commands.FIGURES}
    for package, name, *_ in others:
        assert hasattr(importlib.import_module(known[package][name][0]), "main")


@make
def test_every_file_that_a_recipe_names_exists():
    for path in re.findall(r"(?:llm|tests|benchmarks)/[\w/.]+\.(?:py|toml)", TEXT):
        assert (ROOT / path).is_file(), path
    assert "make check" in (ROOT / ".ci/run").read_text()
    assert "test" in said("--dry-run", "--old-file", ".venv/.installed", "check")
