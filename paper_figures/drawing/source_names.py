"""Names of the code's own functions, read from its source (ast; nothing is imported or run).

A picture of the code is right as long as every name in it is found here: a function that was
renamed, moved, or is no longer called from where the picture says is an error, with a suggestion.
"""

from __future__ import annotations

import ast
import difflib
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
Definition = ast.FunctionDef | ast.ClassDef


class StaleName(ValueError):
    """A name that the source does not have, or does not use as said."""


class NamedDefinition(NamedTuple):
    """Where a name is defined, and what it takes: a function's parameters, a class's fields and
    what its `__init__` takes."""

    node: Definition
    file: str
    takes: frozenset[str]

    @property
    def place(self) -> str:
        return f"{self.file}:{self.node.lineno}"


def find(name: str, root: Path = ROOT) -> NamedDefinition:
    """The definition of a dotted name, such as `llm.train.train` or `jackpot.accept_prob`.

    Follows a package's `from .module import name`; a class's method is `module.Class.method`.

    Raises:
        StaleName: there is none.
    """
    package, *rest = name.split(".")
    file, rest = _file(root, package, rest)
    if not rest:
        raise StaleName(f"{name} is a module; name a function or a class in it")
    body = _tree(file).body
    for i, part in enumerate(rest):
        defined = {n.name: n for n in body if isinstance(n, Definition)}
        origin = _origins(file).get(part)
        if part not in defined and i == 0 and origin:
            parents = file.parent.relative_to(root).parts
            return find(".".join((*parents, origin, *rest)), root)
        if part not in defined:
            raise StaleName(
                _missing(name, part, file.relative_to(root), [*defined, *_origins(file)])
            )
        body = defined[part].body
    node = defined[part]
    return NamedDefinition(node, file.relative_to(root).as_posix(), _takes(node))


def check_call(name: str, caller: str, root: Path = ROOT) -> None:
    """`name` is called somewhere in `caller`, by its own last part: f(...), module.f(...).

    Raises:
        StaleName: it is not.
    """
    place = find(caller, root)
    called = {
        getattr(n.func, "id", getattr(n.func, "attr", ""))
        for n in ast.walk(place.node)
        if isinstance(n, ast.Call)
    }
    last = name.rsplit(".", 1)[-1]
    if last not in called:
        raise StaleName(f"{caller} ({place.place}) does not call {last}{_hint(last, called)}")


def check_carried(carried: str, targets: list[str], root: Path = ROOT) -> str:
    """The first target of which `carried` is a parameter or field, or a string in its body.

    Strings count for functions only: a class has its fields.

    Raises:
        StaleName: there is none.
    """
    known: set[str] = set()
    for target in targets:
        definition = find(target, root)
        inside = [] if isinstance(definition.node, ast.ClassDef) else ast.walk(definition.node)
        if carried in definition.takes | {n.value for n in inside if isinstance(n, ast.Constant)}:
            return target
        known |= definition.takes
    raise StaleName(
        f"{', '.join(targets)} ({definition.place}) takes no {carried}{_hint(carried, known)}"
    )


def _file(root: Path, package: str, rest: list[str]) -> tuple[Path, list[str]]:
    """The source file of a module, in folders of any depth, and what follows its name."""
    folder, rest = root / package, list(rest)
    if not folder.is_dir():
        raise StaleName(f"there is no package {package}")
    while rest and (folder / rest[0]).is_dir():
        folder = folder / rest.pop(0)
    if rest and (module := folder / f"{rest[0]}.py").is_file():
        return module, rest[1:]
    init = folder / "__init__.py"
    where = folder.relative_to(root)
    if len(rest) > 1 and not (init.is_file() and rest[0] in _origins(init)):
        known = [p.stem for p in folder.glob("*.py")] + [p.name for p in folder.glob("*/")]
        raise StaleName(_missing(".".join((*where.parts, *rest)), rest[0], where, known))
    return init, rest


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _origins(file: Path) -> dict[str, str]:
    """For each name of `from .module import name` in a package's __init__: the module."""
    if file.name != "__init__.py":
        return {}
    statements = [n for n in _tree(file).body if isinstance(n, ast.ImportFrom) and n.level == 1]
    return {alias.name: n.module for n in statements if n.module for alias in n.names}


def _takes(node: Definition) -> frozenset[str]:
    if isinstance(node, ast.ClassDef):
        fields = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        own = (t.id for t in fields if isinstance(t, ast.Name))
        return frozenset(own).union(*map(_takes, inits))
    a = node.args
    return frozenset(x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs))


def _missing(name: str, part: str, where: Path, known: list[str]) -> str:
    return f"{name}: {where.as_posix()} has no {part}{_hint(part, known)}"


def _hint(word: str, known) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; perhaps {close[0]}?" if close else ""
