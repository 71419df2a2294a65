"""A reward function's call: what it is given, and what counts as a reward."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import repeat

import numpy as np
import pytest

from llm.rewards import function_worker
from llm.rewards.function_worker import (
    as_reward,
    call_function,
    described,
    load_function,
    own_modules,
)

GIVEN = {"prompt": "p", "completion": "c", "answer": "a", "finished": True, "level": 3}


@pytest.mark.parametrize(
    ("value", "reward"),
    [(1, 1.0), (True, 1.0), (-0.25, -0.25), (Fraction(1, 4), 0.25), (np.float32(0.5), 0.5)],
)
def test_any_finite_number_is_a_reward(value, reward):
    found = as_reward(value)
    assert type(found) is float and found == reward


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *[(None, "no number"), ("1", "no number"), (b"1", "no number"), ([1.0], "no number")],
        *[(math.nan, "nan"), (-math.inf, "-inf"), (1e16, "largest"), (1j, "no number")],
        (10**400, "no number .OverflowError"),
        *[(np.complex64(1 + 2j), "no number"), (np.array([1 + 2j]), "no number")],
        *[(np.float32("nan"), "nan"), (np.ones(2), "no number"), (type("K" * 999, (), {})(), "KK")],
    ],
)
def test_nothing_else_is(value, message):
    assert message.partition(" .")[0] in str(as_reward(value)) and isinstance(as_reward(value), str)
    assert len(str(as_reward(value))) < 250


def test_a_function_is_given_the_arguments_that_it_takes():
    assert call_function(lambda prompt, level: len(prompt) + level, GIVEN, None) == [4.0]
    assert call_function(lambda **columns: len(columns), GIVEN, None) == [5.0]
    assert call_function(lambda completion, **columns: len(columns), GIVEN, None) == [4.0]
    assert call_function(lambda: 3, GIVEN, None) == [3.0]
    with pytest.raises(TypeError, match="difficulty"):
        call_function(lambda difficulty: 1.0, GIVEN, None)


def test_a_batch_needs_a_list_of_its_own_length():
    lists = {"completion": ["a", "bb"]}
    assert call_function(lambda completion: map(len, completion), lists, 2) == [1.0, 2.0]
    assert call_function(lambda completion: np.ones(2), lists, 2) == [1.0, 1.0]
    found = call_function(lambda completion: [1.0, math.nan], lists, 2)
    assert found[0] == 1.0 and isinstance(found[1], str)
    for wrong in ([1.0], [1.0] * 3, 1.0, "12", {"a": 1, "b": 2}, None, {0.5, 1.0}, repeat(1.0)):
        with pytest.raises(ValueError, match="rewards"):
            call_function(lambda completion, wrong=wrong: wrong, lists, 2)


def test_memory_that_ends_is_said_and_ends_the_worker():
    def greedy() -> float:
        raise MemoryError

    found = function_worker.answer(greedy, {"arguments": {}, "count": None}, 5)
    assert found == {"failed": "out of memory: more than 5 MiB (reward.memory)", "last": True}


def test_an_exception_is_described_with_its_line_and_in_bounds(tmp_path):
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    (tmp_path / "mine.py").write_text("def f(**columns):\n    raise KeyError('x' * 10_000)\n")
    function, *_ = load_function(f"{tmp_path}/mine.py:f", [])
    with pytest.raises(KeyError) as caught:
        function()
    text = described(caught.value)
    assert text.startswith("KeyError: 'xxx") and text.endswith("(mine.py, line 2)")
    assert len(text) < 500 and described(Rude()) == "Rude"


def test_a_function_is_found_in_a_file_and_in_a_package(tmp_path, monkeypatch):
    """The digest changes with the file, and with nothing else."""
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper.py").write_text("VALUE = 2.0\n")
    file = tmp_path / "mine.py"
    file.write_text("import helper\ndef f(**columns):\n    return helper.VALUE\n")
    function, digest, _ = load_function(f"{file}:f", [])
    assert function() == 2.0
    assert load_function(f"{file}:f", [])[1] == digest
    function, other, _ = load_function("mine:f", [str(tmp_path)])
    assert function() == 2.0 and other == digest
    file.write_text(file.read_text() + "\n")
    assert load_function(f"{file}:f", [])[1] != digest
    with pytest.raises(ValueError, match=r"no function 'g'; its functions: f"):
        load_function(f"{file}:g", [])


SOURCES = {  # of a folder with a reward function in mine.py; the others in order of discovery
    "mine.py": "import json, helper\ndef f(**columns):\n    from tools.deep import rules\n",
    "helper.py": "import importlib\nimportlib.import_module('late')\n__import__(helper_name)\n",
    "late.py": "import mine, helper\n",  # in a circle
    "tools/__init__.py": "",
    "tools/deep/__init__.py": "from . import sums\nfrom .. import shared\n",
    "tools/deep/rules.py": "this is no Python\n",
    "tools/deep/sums.py": "",
    "tools/shared.py": "from llm.rewards import answers\n",
}
UNUSED = {"beside.py": "", "tools/other.py": "", "json/__init__.txt": "", "data.json": "1"}


def test_the_modules_that_a_function_imports_from_its_own_folder_have_digests(tmp_path):
    """Also those that they import, of packages, within functions, and by name; not the others."""
    for name, source in {**SOURCES, **UNUSED}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(source)
    file = tmp_path / "mine.py"
    found = own_modules(file, file.read_bytes(), "")
    assert sorted(found) == sorted(SOURCES.keys() - {"mine.py"})
    (tmp_path / "tools/deep/sums.py").write_text("# other rules")
    now = own_modules(file, file.read_bytes(), "")
    assert [name for name in found if found[name] != now[name]] == ["tools/deep/sums.py"]
    inner = tmp_path / "tools/deep/__init__.py"  # of tools.deep: below its outermost package
    assert sorted(own_modules(inner, inner.read_bytes(), "tools.deep")) == [
        *("tools/__init__.py", "tools/deep/sums.py", "tools/shared.py"),
    ]


def test_of_an_installed_package_only_its_own_modules_have_digests(tmp_path):
    home = tmp_path / "site-packages"
    (home / "kit").mkdir(parents=True)
    for name in ("kit/__init__.py", "kit/part.py", "other.py", "alone.py"):
        (home / name).write_text("import other, kit.part\n")
    source = (home / "kit/__init__.py").read_bytes()
    assert list(own_modules(home / "kit/__init__.py", source, "kit")) == ["kit/part.py"]
    assert own_modules(home / "alone.py", source, "") == {}


def test_the_number_of_modules_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(function_worker, "MODULES_MAX", 2)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.py").write_text("")
    with pytest.raises(ValueError, match="more than 2 modules of its own folder"):
        own_modules(tmp_path / "mine.py", b"import a, b, c", "")
