"""Runs of the figures: what names them and what is kept."""

import ast

import pytest
from figure_runs import SEED

from paper_figures.experiments import run_store
from paper_figures.experiments.configurations import run


@pytest.fixture
def code(monkeypatch, tmp_path):
    """A function: the version of the code if a module had this appended."""
    found = run_store._file

    def version(module: str, appended: str) -> str:
        changed = tmp_path / "changed.py"
        changed.write_text(found(module).read_text() + appended)
        monkeypatch.setattr(run_store, "_file", lambda m: changed if m == module else found(m))
        return run_store.code_version.__wrapped__()

    return version


def test_any_setting_gives_a_run_another_name():
    base = run("chain", "jackpot", SEED)
    others = [
        base._replace(seed=SEED + 1),
        base._replace(method="tis"),
        base._replace(world="chain weak"),
        run("chain", "jackpot", SEED, correction__lam=0.99),
        run("chain", "jackpot", SEED, run__eval_every=15),
    ]
    names = {run_store.folder(r).name for r in (base, *others)}
    assert len(names) == 1 + len(others)


def test_where_it_lies_is_no_part_of_a_name(tmp_path):
    base = run("chain", "jackpot", SEED)
    assert run_store.folder(base, tmp_path).name == run_store.folder(base).name
    assert run_store.folder(base, tmp_path).parent == tmp_path


@pytest.mark.parametrize("module", ["llm.training.evaluation", "jackpot.weights"])
def test_a_change_of_code_changes_the_version_and_words_do_not(code, module):
    assert run_store._file(module) is not None
    same = code(module, "\n# a remark\n\n")
    assert same == run_store.code_version()
    assert code(module, "\nADDED = 1\n") != same


def test_a_docstring_is_no_code():
    one, other = (ast.parse(f'def f(x):\n    "{text}"\n    return x\n') for text in ("a", "b"))
    assert ast.dump(run_store._without_docstrings(one)) == ast.dump(
        run_store._without_docstrings(other)
    )
