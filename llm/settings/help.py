"""The text of --help: the settings that apply, their values and their meaning."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Container, Iterator
from typing import Any, Literal, get_args, get_origin

from .sections import classes_of, settings_of, types_of
from .validation import without_effect


def help_text(settings: Any, prog: str) -> str:
    """Every setting of these sections that has an effect, with the value that it has in them.

    Args:
        settings: a dataclass of sections; those that are unions list their types.
        prog: the command, for the first line.
    """
    lead = (
        f"usage: {prog} [CONFIG.toml ...] [--section.name value ...]\n\n"
        "Train a policy from another model's rollouts. Files are read in order, flags come last.\n"
        "Another `type` starts its section anew. Below is what applies after the files and flags\n"
        "given here: --correction.type tis --help shows the settings of that type.\n"
    )
    lines, idle = [lead], without_effect(settings)
    for name, hint in settings_of(type(settings)).items():
        lines += _section(getattr(settings, name), hint, name, idle)
    if idle:
        these = "; ".join(f"{key} (needs {needed})" for key, needed in idle.items())
        many = f"{len(idle)} settings do" if len(idle) > 1 else "1 setting does"
        lines.append(_indented(f"{many} not apply here: {these}.", 0))
    return "\n".join(lines) + "\n"


def _section(section: Any, hint: Any, key: str, idle: Container[str]) -> Iterator[str]:
    if f"{key}.type" in idle:
        return
    docs: dict[str, str] = field_docs(type(section))
    nested = []
    choices = types_of(hint)
    own = {n: k for n, k in settings_of(type(section)).items() if f"{key}.{n}" not in idle}
    if own:
        yield f"[{key}]"
    for name, kind in own.items():
        value = getattr(section, name)
        if classes_of(kind):
            nested.append((value, kind, f"{key}.{name}", docs.get(name, "")))
        elif name == "type":
            yield f"  --{key}.type {{{','.join(choices)}}} (now {value})"
            yield _indented(docs.get(name, ""))
            for cls in dict.fromkeys(choices.values()):
                names = ", ".join(n for n, c in choices.items() if c is cls)
                theirs = ", ".join(x for x in settings_of(cls) if x != "type") or "none"
                yield _indented(f"{names}: {_sentence(cls)} Settings: {theirs}.")
        else:
            yield f"  --{key}.{name} {_placeholder(kind)} (now {_shown(value)})"
            yield _indented(docs.get(name, ""))
    if own:
        yield ""
    for value, kind, inside, doc in nested:
        if doc and f"{inside}.type" not in idle:
            yield _indented(doc, 2)
        yield from _section(value, kind, inside, idle)


def _placeholder(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(str(x) for x in get_args(kind)) + "}"
    return {bool: "{True,False}", int: "INT", float: "FLOAT"}.get(kind, "TEXT")


def _shown(value: Any) -> str:
    return '""' if value == "" else str(value)


def _indented(text: str, by: int = 6) -> str:
    return textwrap.fill(" ".join(text.split()), 96, initial_indent=" " * by,
                         subsequent_indent=" " * by)  # fmt: skip


def _sentence(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def field_docs(cls: Any) -> dict[str, str]:
    """The docstring under each field of a dataclass and of its bases, by name."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not object:
            docs |= _docs_of(base.__module__).get(base.__name__, {})
    return docs


@functools.cache
def _docs_of(module: str) -> dict[str, dict[str, str]]:
    """{class: {field: docstring under it}} of a module's source."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            docs[node.name] = {
                field.target.id: text.value.value
                for field, text in pairs
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }  # fmt: skip
    return docs
