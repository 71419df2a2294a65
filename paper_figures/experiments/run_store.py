"""Runs as folders, each named by its whole configuration and the code that trains it.

A finished run is found again under that name, and a change of a setting or of the code gives
another name: nothing is trained twice and nothing stale is read.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llm.settings.loading import Config, flatten, resolve

from .configurations import RunSpec, layers

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("JACKPOT_FIGURE_RUNS", ROOT / "runs" / "paper")).absolute()
ENTRY_POINTS = (  # where training and evaluation start: two commands, and processes of their own
    "llm.commands.train",
    "llm.commands.evaluate",
    "llm.rollout.engines.worker",
    "llm.rewards.function_worker",
    "llm.rewards.math_verifier_worker",
    "llm.tokenizers.template_worker",
)
_LIBRARIES = ("torch", "transformers", "numpy")
_PLACES = {"run.folder", "pretrain.folder"}  # where things lie changes no number


def resolved(run: RunSpec, home: Path = HOME) -> Config:
    """The whole configuration of a run, its folder included.

    Raises:
        ConfigError: a setting that does not exist, or that nothing would read.
    """
    wanted = layers(run)
    text = repr((wanted, home))
    if text not in _configurations:  # a figure asks for the same runs many times
        cfg = resolve(*wanted)
        places = {"run.folder": str(home / key(cfg))}
        if cfg.pretrain.folder:
            places["pretrain.folder"] = str(home / "pretrained")
        _configurations[text] = resolve(*wanted, places)
    return _configurations[text]


_configurations: dict[str, Config] = {}


def flat(run: RunSpec, home: Path = HOME) -> dict[str, Any]:
    """The same as {'section.name': value}."""
    return flatten(resolved(run, home))


def folder(run: RunSpec, home: Path = HOME) -> Path:
    return Path(resolved(run, home).run.folder)


def key(cfg: Config) -> str:
    """16 hexadecimal digits of the settings and of the code."""
    own = {k: v for k, v in flatten(cfg).items() if k not in _PLACES}
    text = json.dumps([own, code_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished(run: RunSpec, home: Path = HOME) -> bool:
    """Whether it ran to its end, or diverged: both are results."""
    return (folder(run, home) / "outcome.json").exists()


def outcome(run: RunSpec, home: Path = HOME) -> dict[str, Any]:
    """How it ended: `exit` (0, or 3 where it diverged), `message`, `seconds`, `code`."""
    return dict(json.loads((folder(run, home) / "outcome.json").read_text()))


@functools.cache
def code_version() -> str:
    """12 hexadecimal digits of all code that training can reach, comments and docstrings left out,
    and of the versions of the libraries that compute."""
    code = sorted((name, module.code) for name, module in _modules(ENTRY_POINTS).items())
    versions = [importlib.metadata.version(library) for library in _LIBRARIES]
    text = json.dumps([code, versions])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def reached(entry_points: Iterable[str] = ENTRY_POINTS) -> dict[str, Path]:
    """Modules of llm and jackpot that importing the entry points could load, and their files.

    Whatever a file names in an import is followed, inside functions too; so is the `__init__` of
    each package on the way to a module, which Python runs first.
    """
    return {name: module.path for name, module in _modules(entry_points).items()}


class _Module(NamedTuple):
    """code: its tree without docstrings, as text. imports: modules that it names."""

    path: Path
    code: str
    imports: frozenset[str]


def _modules(entry_points: Iterable[str]) -> dict[str, _Module]:
    modules: dict[str, _Module] = {}
    todo = list(entry_points)
    while todo:
        name = todo.pop()
        if name in modules or (path := _file(name)) is None:
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        code, imports = _read(path.read_text(encoding="utf-8"), package)
        modules[name] = _Module(path, code, imports)
        todo += [name.rpartition(".")[0], *imports]
    return modules


@functools.cache
def _read(source: str, package: str) -> tuple[str, frozenset[str]]:
    """(code, imports) of a file of `package`."""
    tree = ast.parse(source)
    imports = frozenset(_imported(tree, package))
    return ast.dump(_without_docstrings(tree)), imports


def _file(module: str) -> Path | None:
    """Where a module of ours lies; None for those of others, and for what is no module."""
    if module.split(".")[0] not in ("llm", "jackpot"):
        return None
    path = ROOT / module.replace(".", "/")
    places = (path / "__init__.py", path.with_suffix(".py"))  # Python prefers the package
    return next((p for p in places if p.is_file()), None)


def _imported(tree: ast.AST, package: str) -> set[str]:
    """Modules that a file of `package` names in imports, wherever they stand; relative ones of any
    level. Of `from a import b` both a and a.b, which may be a module."""
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            inside = above[: len(above) + 1 - node.level] if node.level else []
            base = ".".join([*inside, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in _statements(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [x for x in body if not _is_text(x)]  # type: ignore[attr-defined]
    return tree


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The tree and every statement in it, those above first. Expressions are left out: they hold
    neither imports nor docstrings, and are nine tenths of a tree."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inside = getattr(node, name, None)
            if isinstance(inside, list):  # of a conditional expression it is no list
                todo += inside


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
