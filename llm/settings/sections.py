"""Sections of settings as frozen dataclasses; nothing here knows a setting.

A section whose settings depend on a choice is a union of dataclasses. Each member has a field
`type`, a Literal of the names that choose it: `type = "tis"`, then the settings of that type only.
A member may have a class variable CHOSEN_BY, the name of a setting that chooses it without `type`.
A section may hold sections.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llm.errors import ConfigError


class Word(str):
    """A value as it stands in a flag, not yet read as the type of its setting."""


def settings_of(cls: Any) -> dict[str, Any]:
    """{name: type hint} of a section's settings, `type` first."""
    return _settings_of(cls)


@functools.cache
def _settings_of(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    return {name: hints[name] for name in sorted(names, key=lambda name: name != "type")}


def classes_of(hint: Any) -> tuple[type, ...]:
    """The dataclasses of a section, from its type hint; none for a plain setting."""
    classes = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return classes if all(dataclasses.is_dataclass(x) for x in classes) else ()


def types_of(hint: Any) -> dict[str, type]:
    """{type: dataclass} of a union section; empty for a section without `type`."""
    return {
        name: cls for cls in classes_of(hint) for name in get_args(settings_of(cls).get("type"))
    }


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """{'section.name': value} in the order of declaration."""
    flat: dict[str, Any] = {}
    for name in settings_of(type(section)):
        value = getattr(section, name)
        inside = dataclasses.is_dataclass(value)
        flat |= flatten(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return flat


def flat_table(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same of nested tables, as in a TOML file."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        inside = isinstance(value, Mapping)
        flat |= flat_table(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return flat


def nested_table(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'section.name': value} as nested tables.

    Raises:
        ConfigError: a name is given a value and holds further names.
    """
    tables: dict[str, Any] = {}
    for key, value in flat.items():
        *path, name = key.split(".")
        table: Any = tables
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key} and {part} are both given: {part} is not a section")
        table[name] = value
    return tables


def default_values(section: Any, prefix: str = "") -> dict[str, Any]:
    """The defaults of a section's settings, as `flatten`, for the types that it has."""
    flat: dict[str, Any] = {}
    default = {f.name: f.default for f in dataclasses.fields(section)}
    for name in settings_of(type(section)):
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            flat |= default_values(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if name == "type" else default[name]
    return flat


def updated(section: Any, given: Mapping[str, Any], source: str = "", *, hint: Any = None) -> Any:
    """A section with other values.

    A `type` that differs from the section's replaces it: it starts from the defaults of that type,
    since earlier values belong to another choice. Values given together with `type` apply to it.

    Args:
        section: a frozen dataclass.
        given: nested tables of values; a `Word` is read as its setting's type.
        source: put before a key in messages, such as "--".
        hint: the section's type hint, where it is a union.

    Raises:
        ConfigError: an unknown setting or type (with the closest), one of another type, or a value
            of the wrong type.
    """
    return _updated(section, given, source, "", hint or type(section), type(section))


def _updated(
    section: Any, given: Mapping[str, Any], source: str, prefix: str, hint: Any, root: Any
) -> Any:
    choices = types_of(hint)
    for kind, cls in choices.items():
        if "type" not in given and getattr(cls, "CHOSEN_BY", "") in given:
            given = {"type": kind, **given}
    if choices and "type" in given:
        kind = _value(f"{source}{prefix}type", given["type"], Literal[tuple(choices)])
        if kind != section.type:
            section = choices[kind](type=kind)
    own = settings_of(type(section))
    changes: dict[str, Any] = {}
    for name, value in given.items():
        key = f"{prefix}{name}"
        if name not in own:
            raise ConfigError(_unknown(source, key, name, section, choices, given, root))
        if not classes_of(own[name]):
            changes[name] = _value(source + key, value, own[name])
        elif isinstance(value, Mapping):
            part = getattr(section, name)
            changes[name] = _updated(part, value, source, f"{key}.", own[name], root)
        else:
            best = renamed(root).get(key, f"{key}.type")
            raise ConfigError(
                f"{source}{key} is a section of settings, and was given {short_repr(value)}; "
                f"perhaps you meant {source if source == '--' else ''}{best}?"
            )
    return dataclasses.replace(section, **changes)


def _value(key: str, value: Any, kind: Any) -> Any:
    """A value as its setting's type; integers count as floats where a float is wanted."""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    kind = type(choices[0]) if choices else kind
    allowed = {int: (int,), float: (int, float), bool: (bool,)}.get(kind, (str,))
    try:
        if isinstance(value, Word):
            value = _READ[kind](value)
        elif not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ValueError
        value = kind(value)
    except (ValueError, OverflowError, KeyError) as e:
        article = "an" if kind is int else "a"
        raise ConfigError(
            f"{key} must be {article} {kind.__name__}, got {short_repr(value)}"
        ) from e
    if choices and value not in choices:
        close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        perhaps = f"; perhaps you meant {close[0]}?" if close else ""
        wanted = ", ".join(str(c) for c in choices if c != "")
        raise ConfigError(f"{key} must be one of {wanted}, got {short_repr(value)}{perhaps}")
    return value


def short_repr(value: Any) -> str:
    """A value for a message, which is to be read."""
    with contextlib.suppress(ValueError):  # an integer of more digits than Python writes
        text = repr(value)
        return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
    return "a number of thousands of digits"


def _ascii(word: str) -> str:
    """Python reads digits of every script, and no file may hold them."""
    return word if word.isascii() else ""


_READ: dict[type, Any] = {
    bool: lambda word: {"true": True, "false": False}[word.lower()],
    int: lambda word: int(_ascii(word)),
    float: lambda word: float(_ascii(word)),
    str: str,
}


def _unknown(
    source: str,
    key: str,
    name: str,
    section: Any,
    choices: Mapping[str, type],
    given: Mapping[str, Any],
    root: Any,
) -> str:
    having = [kind for kind, cls in choices.items() if name in settings_of(cls)]
    if having:
        chosen = "is" if "type" in given else "is left at"
        of = f"{key.rpartition('.')[0]}.type"
        return (
            f"{source}{key} is a setting of {of} {' or '.join(having)}, and {of} {chosen} "
            f"{section.type}: choose that type with it, or leave {key} out"
        )
    while isinstance(given[name], Mapping) and given[name]:  # a whole section that there is not
        given, name = given[name], next(iter(given[name]))
        key = f"{key}.{name}"
    known = {k: k for k in all_keys(root)} | dict(renamed(root))
    same_name = [k for k in known if k.split(".")[-1] == name]
    close = difflib.get_close_matches(key, same_name or list(known), n=1, cutoff=0.5)
    best = [known[k] for k in close or same_name]
    flag = source if source == "--" else ""
    hint = f"perhaps you meant {flag}{best[0]}?" if best else "see python -m llm train --help"
    shown = key if key.isprintable() and len(key) <= 200 else short_repr(key)
    if best and best[0] == key:
        hint = "the file has it as one name in quotes: leave the quotes out"
    unknown = f"unknown flag --{shown}" if flag else f"{source}unknown key {shown}"
    return f"{unknown}; {hint}"


def renamed(root: Any) -> Mapping[str, str]:
    """{old 'section.name': present one}, which a class of sections may have."""
    return getattr(root, "RENAMED", {})


def all_keys(hint: Any, prefix: str = "") -> Iterator[str]:
    """Every 'section.name' of every type."""
    for cls in classes_of(hint):
        for name, kind in settings_of(cls).items():
            if classes_of(kind):
                yield from all_keys(kind, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"
