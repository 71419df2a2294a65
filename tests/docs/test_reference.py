"""Every public function and class of the packages is on a page of the reference."""

import ast
import sys
from pathlib import Path

import pytest

import jackpot

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs/site"))
import reference  # noqa: E402

LISTED = {
    name
    for page in reference.PAGES.values()
    for entries in reference.names(page).values()
    for _, name in entries
}


def test_every_name_that_the_packages_export_is_listed_as_it_is_imported():
    assert {f"jackpot.{name}" for name in jackpot.__all__} <= LISTED
    tree = ast.parse((ROOT / "jackpot/torch/__init__.py").read_text(encoding="utf-8"))
    (names,) = (ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    assert len(names) > 5
    assert {f"jackpot.torch.{name}" for name in names} <= LISTED


def test_every_public_function_and_class_is_listed():
    """By its own name or by the one that its package exports."""
    files = [
        f
        for folder in ("jackpot", "sim/oracle", "sim/worlds")
        for f in ROOT.glob(f"{folder}/**/*.py")
    ]
    modules = {".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files}
    modules = {m for m in modules if not m.endswith("__init__")}
    assert modules >= reference.INTERNAL
    for module in modules - reference.INTERNAL:
        for name in reference.public(module):
            package = module.rpartition(".")[0]
            assert {f"{module}.{name}", f"{package}.{name}"} & LISTED, f"{module}.{name}"


def test_no_function_is_listed_twice():
    for page in reference.PAGES.values():
        names = [name for entries in reference.names(page).values() for _, name in entries]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_documents_each_of_its_names(name):
    page = reference.PAGES[name]
    text = reference.text(page)
    for entries in reference.names(page).values():
        assert all(f".. auto{kind}:: {full}\n" in text for kind, full in entries)


def test_training_from_python_is_documented_as_it_is_called():
    text = reference.text(reference.PAGES["llm"])
    assert ".. py:function:: llm.train(cfg: Config, *, reward:" in text
    assert {"llm.settings.resolve", "llm.settings.load", "llm.settings.Config"} <= LISTED


@pytest.mark.parametrize(
    ("docstring", "lines"),
    [
        ("KL(p || q) of `a*b`.", [r"KL(p \|\| q) of ``a*b``."]),
        ("So:\n\n    f(x)", ["So::", "", "    f(x)"]),
        ("Raises:\n    As `f`.", ["", "**Raises**: As ``f``."]),
        ("Raises:\n    ValueError: as `f`.", ["Raises:", "    ValueError: as ``f``."]),
        ("a: one.\nNo list.", ["a: one.", "No list."]),
        ("See docs/theory.md, A3.", ["See :doc:`docs/theory.md </docs/theory>`, A3."]),
        ("a: one\n    more.\nb, c: two", ["- ``a``: one", "  more.", "- ``b, c``: two"]),
    ],
)
def test_a_docstring_becomes_restructured_text(docstring, lines):
    assert reference.rst(docstring).split("\n") == lines
