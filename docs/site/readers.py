"""Which modules of `llm/` read each setting, found in their source. Nothing of `llm/` is imported
but the declarations of settings.

A read is an attribute of a section, or a question for its type. What an expression holds is known
from annotations, from names and attributes that are called `cfg`, and from assignments.
"""

from __future__ import annotations

import ast
import functools
import itertools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, get_args

from llm.settings import schema
from llm.settings.schema import Settings
from llm.settings.sections import all_keys, classes_of, settings_of

ROOT = Path(__file__).resolve().parents[2]
# Read where the walk does not see it: {setting: module}.
_LIMITS = ("alarm.kl_max", "alarm.ratio_max", "alarm.accept_min", "alarm.entropy_min")
_TEXTS = ("task.system_prompt", "task.instruction", "task.template_arguments")
DECLARED = {
    **dict.fromkeys(_LIMITS, "runs/alarms.py"),
    "objective.baseline.coef": "training/whole_completions.py",
    **dict.fromkeys(_TEXTS, "commands/export_parts.py"),
}


class Section(NamedTuple):
    """An object that an expression may hold. prefix: "rollout.", or None where only the class is
    known, which may stand in several places."""

    cls: type
    prefix: str | None


Held = frozenset[Section]
NOTHING: Held = frozenset()
ALL = frozenset({Section(Settings, "")})
MODELS = frozenset({Section(schema.ModelConfig, None)})  # of the two roles


@functools.cache
def readers() -> dict[str, list[str]]:
    """{setting: modules, as paths inside llm/}, sorted, without those of llm/settings/."""
    found = {key: set(modules) for key, modules in walked().items()}
    for key, module in DECLARED.items():
        found.setdefault(key, set()).add(module)
    for key in set(all_keys(Settings)) - found.keys():  # a type that is asked for by what it has
        section = key.removesuffix("type")
        others = (modules for other, modules in found.items() if other.startswith(section))
        found |= {key: set().union(*others)} if key.endswith(".type") else {}
    return {key: sorted(modules) for key, modules in found.items()}


@functools.cache
def walked() -> dict[str, set[str]]:
    """{setting: modules} as the walk finds them."""
    texts = {
        f.relative_to(ROOT / "llm").as_posix(): f.read_text("utf-8")
        for f in (ROOT / "llm").rglob("*.py")
    }
    trees = {n: ast.parse(t) for n, t in texts.items() if "cfg" in t or "llm.settings" in t}
    returns = _returned(trees)
    rules = {
        function.name: _Walk(tree, returns, {}).keys_of(function)
        for name, tree in trees.items()
        if name.startswith("settings/")
        for function in _functions(tree)
        if any(_arguments(function, {}).values())
    }
    found: dict[str, set[str]] = {}
    for name, tree in trees.items():
        if not name.startswith("settings/"):
            for key in _Walk(tree, returns, rules).keys_of(tree):
                found.setdefault(key, set()).add(name)
    return found


def _functions(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    return (node for node in tree.body if isinstance(node, ast.FunctionDef))


def _classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    return (node for node in tree.body if isinstance(node, ast.ClassDef))


def _returned(trees: dict[str, ast.Module]) -> dict[str, Held]:
    """{function: sections that it returns}, by its annotation."""
    places: list[ast.Module | ast.ClassDef] = []
    for tree in trees.values():
        places += [tree, *_classes(tree)]
    functions = (function for place in places for function in _functions(place))
    found = {f.name: _annotated(f.returns, {}) for f in functions}
    return {name: held for name, held in found.items() if held}


def _annotated(node: ast.expr | None, aliases: dict[str, Held]) -> Held:
    """The sections that an annotation names. aliases: the module's own names of types."""
    if isinstance(node, ast.BinOp):
        return _annotated(node.left, aliases) | _annotated(node.right, aliases)
    name = node.id if isinstance(node, ast.Name) else ""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = node.attr if node.value.id == "schema" else ""
    if name in ("Config", "Settings"):
        return ALL
    if name in aliases:
        return aliases[name]
    hint = getattr(schema, name, None)
    classes = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    here = (c for c in classes if isinstance(c, type) and c.__module__ == schema.__name__)
    return frozenset(Section(cls, None) for cls in here)


@functools.cache
def _places() -> list[tuple[str, type]]:
    """(prefix, class) of every section and each of its types."""

    def inside(cls: type, prefix: str) -> Iterator[tuple[str, type]]:
        yield prefix, cls
        for name, hint in settings_of(cls).items():
            for inner in classes_of(hint):
                yield from inside(inner, f"{prefix}{name}.")

    return list(inside(Settings, ""))


@functools.cache
def _properties() -> dict[tuple[str, str], set[str]]:
    """{(class, property): attributes of self that it reads}."""
    tree = ast.parse(Path(schema.__file__).read_text("utf-8"))
    return {
        (cls.name, f.name): {n.attr for n in ast.walk(f) if _is_self(n)}
        for cls in tree.body
        if isinstance(cls, ast.ClassDef)
        for f in cls.body
        if isinstance(f, ast.FunctionDef)
    }  # fmt: skip


def _is_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )


@functools.cache
def _here(section: Section) -> list[tuple[str, type]]:
    """Where the section may stand: of a base class, wherever one of its subclasses does."""
    places = [(p, c) for p, c in _places() if issubclass(c, section.cls)]
    return [(p, c) for p, c in places if section.prefix in (None, p)] or []


@functools.cache
def attribute(held: Held, name: str) -> tuple[set[str], Held]:
    """The settings that `expression.name` reads, and the sections that it holds."""
    keys: set[str] = set()
    inner: set[Section] = set()
    for prefix, cls in {place for section in held for place in _here(section)}:
        hint = settings_of(cls).get(name)
        if hint is None:
            parts = [_properties().get((c.__name__, name), set()) for c in cls.__mro__]
            own = next(filter(None, parts), set()) & settings_of(cls).keys()
            for part in own:
                read, held_there = attribute(frozenset({Section(cls, prefix)}), part)
                keys |= read | attribute(held_there, "type")[0]
        elif classes_of(hint):
            inner |= {Section(c, f"{prefix}{name}.") for c in classes_of(hint)}
        else:
            keys.add(f"{prefix}{name}")
    return keys, frozenset(inner)


class _Walk:
    """One module. rules: the settings that functions of llm/settings/ read for their callers."""

    def __init__(self, tree: ast.Module, returns: dict[str, Held], rules: dict[str, set[str]]):
        self.returns, self.rules = returns, rules
        self.keys: set[str] = set()
        self.attributes: dict[str, Held] = {}  # of the module's classes, by name
        self.scope: dict[str, Held] = {}
        self.aliases: dict[str, Held] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._add(self.aliases, node.targets[0].id, _annotated(node.value, {}))
        for cls in _classes(tree):
            self._fields(cls)

    def _fields(self, cls: ast.ClassDef) -> None:
        """Annotated fields, and what __init__ and others assign to self from their arguments."""
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                held = _annotated(node.annotation, self.aliases)
                self._add(self.attributes, node.target.id, held)
        for function in _functions(cls):
            outer, self.scope = self.scope, _arguments(function, self.aliases)
            for inside in _own_nodes(function):
                if isinstance(inside, ast.Assign):
                    pairs = (p for t in inside.targets for p in _pairs(t, inside.value))
                    for target, value in pairs:
                        if _is_self(target):
                            self._add(self.attributes, target.attr, self.held(value))
            self.scope = outer

    def keys_of(self, node: ast.AST) -> set[str]:
        """The settings that are read anywhere inside."""
        self.keys = set()
        self._block(node, {})
        return self.keys

    def _block(self, node: ast.AST, outer: dict[str, Held]) -> None:
        """A module, class or function: first its names, then its expressions."""
        own: dict[str, Held] = {}
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            own = _arguments(node, self.aliases)
        scope = self.scope = {**outer, **own}
        nodes = _own_nodes(node)
        for _ in range(2):  # an alias of an alias
            for target, value in itertools.chain.from_iterable(map(_assigned, nodes)):
                if isinstance(target, ast.Name):
                    self._add(scope, target.id, self.held(value))
        scope |= dict(self._asserted(getattr(node, "body", [])))
        for inside in nodes:
            if isinstance(inside, ast.FunctionDef | ast.ClassDef | ast.Lambda):
                self._block(inside, scope)
                self.scope = scope
            elif isinstance(inside, ast.Attribute):
                self.keys |= attribute(self.held(inside.value), inside.attr)[0]
            elif isinstance(inside, ast.Call):
                self._call(inside)
            elif isinstance(inside, ast.Match):
                self.keys |= attribute(self.held(inside.subject), "type")[0]

    def _asserted(self, body: Any) -> Iterator[tuple[str, Held]]:
        """Names that a body asserts to be of a class, with what they then hold."""
        for node in body if isinstance(body, list) else ():
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Call):
                name, *wanted = node.test.args
                classes = tuple(s.cls for w in wanted for s in _annotated(w, self.aliases))
                if isinstance(name, ast.Name) and classes:
                    held = self.held(name)
                    yield name.id, frozenset(s for s in held if issubclass(s.cls, classes)) or held

    def _call(self, call: ast.Call) -> None:
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        held = self.held(call.args[0]) if call.args else NOTHING
        if name == "isinstance":
            self.keys |= attribute(held, "type")[0]
        elif name == "vars":
            fields = {
                field for section in held for _, c in _here(section) for field in settings_of(c)
            }
            self.keys |= {key for field in fields for key in attribute(held, field)[0]}
        self.keys |= self.rules.get(name, set())

    def held(self, node: ast.expr) -> Held:
        """The sections that an expression may hold."""
        if isinstance(node, ast.Name):
            return self.scope.get(node.id, ALL if node.id == "cfg" else NOTHING)
        if isinstance(node, ast.Attribute):
            inner = attribute(self.held(node.value), node.attr)[1]
            if inner or self.held(node.value):
                return inner
            name = node.attr.removeprefix("_")
            return self.attributes.get(node.attr, ALL if name == "cfg" else NOTHING)
        if isinstance(node, ast.IfExp):
            return self.held(node.body) | self.held(node.orelse)
        if isinstance(node, ast.BoolOp):
            return frozenset().union(*map(self.held, node.values))
        if isinstance(node, ast.Tuple | ast.List):  # what a loop over it takes
            return frozenset().union(*map(self.held, node.elts))
        if isinstance(node, ast.NamedExpr):
            return self.held(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name == "getattr" and self.held(node.args[0]) == ALL:  # getattr(cfg, role)
                return MODELS
            return self.returns.get(name, NOTHING)
        return NOTHING

    @staticmethod
    def _add(names: dict[str, Held], name: str, held: Held) -> None:
        if held:
            names[name] = names.get(name, NOTHING) | held


def _arguments(function: ast.FunctionDef | ast.Lambda, aliases: dict[str, Held]) -> dict[str, Held]:
    """{argument: sections}; an argument of another type hides a name outside."""
    every = function.args
    arguments = [*every.posonlyargs, *every.args, *every.kwonlyargs]
    known = {a.arg: _annotated(a.annotation, aliases) for a in arguments}
    bare = {a.arg for a in arguments if a.annotation is None}
    return {name: held for name, held in known.items() if name != "cfg" or name not in bare}


_LEAVES = ast.Name | ast.Constant | ast.expr_context | ast.operator | ast.cmpop | ast.alias
_INNER = ast.FunctionDef | ast.ClassDef | ast.Lambda


def _own_nodes(node: ast.AST) -> list[ast.AST]:
    """The nodes inside, without those of inner functions and classes, which come themselves."""
    found: list[ast.AST] = []
    waiting = [node]
    while waiting:
        children = ast.iter_child_nodes(waiting.pop())
        inside = [child for child in children if not isinstance(child, _LEAVES)]
        found += inside
        waiting += [child for child in inside if not isinstance(child, _INNER)]
    return found


def _assigned(node: Any) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) of assignments and loops."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _pairs(target, node.value)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value:
        yield node.target, node.value
    elif isinstance(node, ast.For | ast.comprehension):
        yield node.target, node.iter


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        yield from zip(target.elts, value.elts, strict=False)
    else:
        yield target, value
