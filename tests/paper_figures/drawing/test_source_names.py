"""Names in Figure 3 are what Python imports, and a stale name is refused."""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path

import pytest
from importing import imported
from optional import not_none

from paper_figures.drawing import source_names
from paper_figures.drawing.source_names import StaleName
from paper_figures.figures import fig3

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def copy(tmp_path) -> Path:
    """The source that the figure reads, to be changed."""
    for package in ("llm", "jackpot"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    return tmp_path


def source_of(real) -> Path:
    return Path(not_none(inspect.getsourcefile(real)))


def change(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))


def test_every_box_is_what_python_imports_under_that_name():
    """The source scan against the import system: same file, same line."""
    names = {name for node in fig3.NODES.values() for name, _ in node.names}
    assert len(names) > 12
    for name in names:
        found, real = source_names.find(name), imported(name)
        real = inspect.unwrap(real)
        assert source_of(real) == ROOT / found.file, name
        _, line = inspect.getsourcelines(real)
        decorators = len(found.node.decorator_list)
        assert line == found.node.lineno - decorators, name


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "jackpot/torch/losses.py",
            "def ppo_clip_sum(",
            "def ppo_clip_total(",
            "no ppo_clip_sum; perhaps",
        ),
        ("llm/models/actors.py", "def refresh(", "def follow(", "no refresh"),
        ("jackpot/__init__.py", "obrs_weight,", "", "no obrs_weight"),
        ("llm/training/weights.py", "token_weights(", "weights_of(", "does not call token_weights"),
        ("llm/rollout/batch.py", "logp_inf: torch", "logq: torch", "takes no logp_inf; perhaps"),
        ("llm/train.py", '"loss_distill"', '"loss_kl"', "takes no loss_distill"),
    ],
)
def test_a_renamed_thing_is_an_error_that_names_it(copy, file, old, new, said):
    fig3.verify(copy)
    source_names._tree.cache_clear()
    change(copy, file, old, new)
    with pytest.raises(StaleName, match=said):
        fig3.verify(copy)


def test_a_module_that_is_gone_is_an_error(copy):
    (copy / "jackpot/torch/correction.py").unlink()
    with pytest.raises(StaleName, match="has no correction"):
        fig3.verify(copy)


def test_names_are_found_in_folders_of_any_depth_and_through_their_init_files(tmp_path):
    (tmp_path / "p/a/b").mkdir(parents=True)
    (tmp_path / "p/a/b/deep.py").write_text("class Head:\n    def read(self, x): ...\n")
    (tmp_path / "p/a/__init__.py").write_text("from .tools import hammer\n")
    (tmp_path / "p/a/tools.py").write_text("\n\ndef hammer(nail): ...\n")
    assert source_names.find("p.a.b.deep.Head.read", tmp_path).place == "p/a/b/deep.py:2"
    assert source_names.find("p.a.hammer", tmp_path).place == "p/a/tools.py:3"
    assert source_names.find("p.a.tools.hammer", tmp_path).takes == {"nail"}
    for name, said in (
        ("p.a.b.dep.Head", "p/a/b has no dep; perhaps deep"),
        ("p.a.hamer", "has no hamer; perhaps hammer"),
        ("p.a.c.deep.Head", "p/a has no c"),
        ("p.a.b.deep.Haed", "has no Haed; perhaps Head"),
    ):
        with pytest.raises(StaleName, match=said):
            source_names.find(name, tmp_path)


@pytest.mark.parametrize("name", ["llm.settings.load", "llm.distributed.all_gather"])
def test_a_name_that_a_folder_hands_on_is_found_where_it_is_defined(name):
    folder, _, last = name.rpartition(".")
    real = inspect.unwrap(getattr(importlib.import_module(folder), last))
    assert ROOT / source_names.find(name).file == source_of(real)


def test_all_names_of_figure_3_resolve():
    """Its boxes, and the callers that its arrows are read from."""
    names = {n for node in fig3.NODES.values() for pair in node.names for n in pair if n}
    assert len(names) > 20
    for name in names:
        assert (ROOT / source_names.find(name).file).is_file(), name
