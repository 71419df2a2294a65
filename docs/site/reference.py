"""The pages of public functions and classes: which there are, and their text for autodoc.

Names are read from the source, so nothing is imported. Sphinx imports the modules, with stand-ins
for packages that the documentation's environment does not have (conf.py).
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
INTERNAL = {  # modules that no user imports
    "jackpot.arrays",
    "jackpot.torch.checks",
    "jackpot.torch.corrector_settings",
    "jackpot.torch.token_layout",
    "jackpot.torch.z_tail",
}


class Reference(NamedTuple):
    """A page. modules: documented under their own names. package: one whose __all__ comes first,
    under the names that its users import."""

    title: str
    package: str
    modules: tuple[str, ...]


def modules_of(*packages: str) -> tuple[str, ...]:
    """The modules of packages, those inside inner packages left out."""
    files = [f for p in packages for f in sorted((ROOT / p.replace(".", "/")).glob("*.py"))]
    names = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files]
    return tuple(n for n in names if not n.endswith("__init__") and n not in INTERNAL)


PAGES = {
    "jackpot": Reference("jackpot", "jackpot", modules_of("jackpot")),
    "jackpot_torch": Reference("jackpot.torch", "jackpot.torch", modules_of("jackpot.torch")),
    "jackpot_adapters": Reference("jackpot.adapters", "", modules_of("jackpot.adapters")),
    "llm": Reference("llm", "llm.settings", ("llm.errors",)),
    "sim": Reference("sim", "", modules_of("sim.oracle", "sim.worlds")),
}


def documents() -> list[tuple[str, str]]:
    """(title, page) of each."""
    return [(page.title, f"docs/generated/{name}") for name, page in PAGES.items()]


def source_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exported(package: str) -> dict[str, list[str]]:
    """{module: names} of a package's __all__, in the order of its imports."""
    tree = ast.parse(source_of(package).read_text(encoding="utf-8"))
    return {
        f"{package}.{node.module}": [alias.name for alias in node.names]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.level == 1
    }


def public(module: str) -> dict[str, str]:
    """{name: "function" or "class"} of what a module defines, in its order."""
    kinds = {ast.FunctionDef: "function", ast.ClassDef: "class"}
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    return {
        node.name: kinds[type(node)]
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


def names(page: Reference) -> dict[str, list[tuple[str, str]]]:
    """{module: [(kind, full name)]} of a page; an exported name stands under its package."""
    own = exported(page.package) if page.package else {}
    found = {}
    for module in dict.fromkeys([*own, *page.modules]):
        short = own.get(module, [])
        found[module] = [
            (kind, f"{page.package if name in short else module}.{name}")
            for name, kind in public(module).items()
            if name in short or module in page.modules
        ]
    return found


def text(page: Reference) -> str:
    """The page as reStructuredText."""
    lines = [_heading(page.title, "="), rst(_docstring(page.title)), ""]
    lines += _train() if page.title == "llm" else []
    for module, entries in names(page).items():
        lines += [_heading(module, "-"), rst(_docstring(module)), ""]
        for kind, name in entries:
            lines += [f".. auto{kind}:: {name}", *["   :members:"] * (kind == "class"), ""]
    return "\n".join(lines)


def _train() -> list[str]:
    """`llm.train`, a module that can be called, so autodoc sees no function."""
    tree = ast.parse(source_of("llm.training.python_api").read_text(encoding="utf-8"))
    (call,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__call__")
    call.args.args = call.args.args[1:]  # without self
    arguments, result = ast.unparse(call.args), ast.unparse(call.returns or ast.Constant(None))
    sections = re.compile(r"^(Args|Raises):\n((?: +.*\n?)+)", re.M)  # as lists
    doc = sections.sub(
        lambda m: f"{m[1]}:\n\n{textwrap.dedent(m[2])}", ast.get_docstring(call) or ""
    )
    body = rst(doc)
    head = f".. py:function:: llm.train({arguments}) -> {result}"
    return [head, "   :module:", "", textwrap.indent(body, "   "), ""]


def _heading(title: str, line: str) -> str:
    return f"{title}\n{line * len(title)}\n"


def _docstring(module: str) -> str:
    return ast.get_docstring(ast.parse(source_of(module).read_text(encoding="utf-8"))) or ""


def rst(docstring: str) -> str:
    """A docstring of ours as reStructuredText: code in single backticks, no other markup."""
    return "\n".join(rst_lines(docstring.splitlines()))


def rst_lines(lines: list[str]) -> list[str]:
    """The same by lines. An indented paragraph after a colon is code."""
    result: list[str] = []
    lines = _fields(lines)
    code = -1  # the indentation of the line before a block of code; -1: none
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code >= 0 and line.strip() and indent <= code:
            code = -1
        if code >= 0:
            result.append(line)
            continue
        after = [x for x in lines[i + 1 :] if x.strip()]
        gap = i + 1 < len(lines) and not lines[i + 1].strip()
        line = _escaped(line)
        if line.endswith((":", ".")) and gap and after and _deeper(after[0], indent):
            code = indent
            line += ":" if line.endswith(":") else "\n\n::"
        result.append(line)
    return _raises(result)


_FIELD = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*): \S")


def _fields(lines: list[str]) -> list[str]:
    """Paragraphs of "name: meaning", one below the other, as lists."""
    result: list[str] = []
    inside = False
    for i, line in enumerate(lines):
        first = i == 0 or not lines[i - 1].strip()
        if first:
            block = itertools.takewhile(str.strip, lines[i:])
            inside = bool(_FIELD.match(line)) and sum(map(bool, map(_FIELD.match, block))) > 1
        if inside and _FIELD.match(line):
            name, _, meaning = line.partition(": ")
            result.append(f"- `{name}`: {meaning}")
        else:
            result.append(f"  {line.lstrip()}" if inside and line.strip() else line)
    return result


def _deeper(line: str, indent: int) -> bool:
    return len(line) - len(line.lstrip()) >= indent + 4


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(f"`{part}`" if part.startswith("`") else _plain(part) for part in parts)


def _plain(text: str) -> str:
    """Text outside code; a page of the documentation becomes a link."""
    text = re.sub(r"([\\*|]|(?<=\w)_(?!\w))", r"\\\1", text)
    return re.sub(r"\bdocs/(\w+)\.md\b", r":doc:`docs/\1.md </docs/\1>`", text)


def _raises(lines: list[str]) -> list[str]:
    """A line of "Raises:" that names no exception ("As `f`.") as text."""
    result: list[str] = []
    for line in lines:
        if result and result[-1].strip() == "Raises:" and not re.match(r"\s+[\w, ]+:", line):
            indent = result.pop().index("R")
            result += ["", f"{' ' * indent}**Raises**: {line.strip()}"]
        else:
            result.append(line)
    return result
