"""Limits on the form of the code that ruff does not know."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("jackpot", "sim", "llm", "paper_figures")
LINES_MAX = 60


def long_functions(source: str) -> list[tuple[str, int]]:
    """Name and lines, signature and docstring included, of each function above the limit."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]
    lines = [(f.name, (f.end_lineno or 0) - f.lineno + 1) for f in functions]
    return [(name, n) for name, n in lines if n > LINES_MAX]


def test_no_function_is_longer_than_60_lines():
    files = [p for top in PACKAGES for p in (ROOT / top).rglob("*.py")]
    assert len(files) > 100
    long = {
        str(p.relative_to(ROOT)): found
        for p in files
        if (found := long_functions(p.read_text("utf-8")))
    }
    assert not long, f"split these functions: {long}"


def test_the_limit_counts_signature_and_docstring():
    body = "    x = 1\n" * (LINES_MAX - 2)
    assert long_functions(f"def f(\n):\n{body}") == []
    assert long_functions(f'def f(\n):\n    """One more."""\n{body}') == [("f", LINES_MAX + 1)]


def test_no_file_holds_the_marks_of_an_unresolved_merge():
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    tops = (*PACKAGES, "benchmarks", "tests", "docs")
    files = [
        p for top in tops for p in (ROOT / top).rglob("*") if p.suffix in (".py", ".md", ".toml")
    ]
    files += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    held = [p.name for p in files if any(f"\n{m}" in p.read_text("utf-8") for m in marks)]
    assert held == []
