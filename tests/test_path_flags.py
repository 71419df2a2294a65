"""Flags of the programs beside llm that are paths: `~` is the home folder in each of them.

Those of `python -m llm` are tested in tests/llm/settings/test_paths.py.
"""

import argparse
import ast
from pathlib import Path

import pytest

from llm.settings import paths as llm_paths
from paper_figures import paths as figure_paths
from sim import arguments as sim_arguments

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "paper_figures", "benchmarks")
EXPAND = {"path_of", "output_file", "out_dir"}
PATHS = {"--out", "--json", "--png", "--model", "--pairs", "folder"}


def flags(source: str) -> dict[str, str]:
    """The `type` of each argument of argparse, by its last name; "" for one without."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if not names:  # its name is a variable; `dest` is written out
                names = [k.value.value for k in node.keywords if k.arg == "dest"]  # type: ignore[attr-defined]
            kinds = [k.value for k in node.keywords if k.arg == "type"]
            kind = kinds[0] if kinds else None
            found[str(names[-1])] = getattr(kind, "attr", getattr(kind, "id", ""))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_flag_that_is_a_path_expands_the_home_folder(package):
    """By its name, and by its type: a Path that argparse makes keeps its `~`."""
    count = 0
    for file in sorted((ROOT / package).rglob("*.py")):
        for name, kind in flags(file.read_text(encoding="utf-8")).items():
            assert kind != "Path", f"{file}: {name}"
            assert (name in PATHS) <= (kind in EXPAND), f"{file}: {name}"
            count += kind in EXPAND
    assert count > 3


@pytest.mark.parametrize("kind", [llm_paths.path_of, figure_paths.path_of, sim_arguments.path_of])
def test_the_home_folder_is_expanded_and_one_that_is_not_there_refused(kind, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert kind("~/a") == Path("/home/me/a") and kind("a/~") == Path("a/~")
    with pytest.raises(argparse.ArgumentTypeError, match=r"~nobody-here/a.*whole path"):
        kind("~nobody-here/a")


@pytest.mark.parametrize("kind", [sim_arguments.output_file, figure_paths.out_dir])
def test_what_is_checked_before_any_work_is_the_expanded_path(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kind("~/a") == tmp_path / "a"
    with pytest.raises(argparse.ArgumentTypeError, match="there is no folder"):
        kind("~/none/a")
