"""Configuration files and flags, read in order, and the resolved configuration as a file.

Each file is a layer of settings, all flags together are the last one; a later layer wins. What the
settings are is in schema.py, how a layer applies in sections.py, what is refused in validation.py.
"""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.errors import ConfigError
from llm.regular_files import read_text

from .paths import expanded, expanded_settings
from .renamed import old_names
from .schema import ModelConfig, Settings
from .sections import Word, default_values, flat_table, flatten, nested_table, settings_of, updated
from .validation import IDLE_TYPES, applicable, check, refuse_idle, without_effect

__all__ = [
    "Config",
    "ConfigError",
    "ModelConfig",
    "applicable",
    "dump",
    "flatten",
    "load",
    "resolve",
]


@dataclass(frozen=True)
class Config(Settings):
    """A run's settings: every one within its bounds, and with an effect.

    Raises:
        ConfigError: from `check`.
    """

    def __post_init__(self) -> None:
        check(self)


class Layer:
    """Settings that are given together. source: put before a key in messages."""

    def __init__(self, table: Mapping[str, Any], source: str) -> None:
        self.table, self.source = table, source
        self.keys = set(flat_table(table))


def load(
    files: Sequence[str | Path], flags: Sequence[str], prog: str = "python -m llm train"
) -> Config:
    """Read TOML files, then flags; a later one wins, and another `type` starts its section anew.

    Args:
        files: a text as a user writes it, with `~` for the home folder, or a Path as it is.

    Raises:
        ConfigError: a file that is missing or not TOML, an unknown key (with a suggestion), a
            value of the wrong type, out of bounds, or without effect.
        SystemExit: for --help, after printing it.
    """
    layers = [_layer(name) for name in files]
    layers.append(Layer(_table_of([f for f in flags if f not in _HELP]), "--"))
    if not _HELP.isdisjoint(flags):
        from .help import help_text

        sys.stdout.write(help_text(_states(layers)[-1], prog))
        raise SystemExit(0)
    return _merged(layers)


def resolve(*layers: Mapping[str, Any] | str | Path) -> Config:
    """The same from layers, each a TOML file or a dict; the last one wins.

    Args:
        layers: files by name, and {'section.name': value} or {'section': {'name': value}}.

    Raises:
        ConfigError: as `load`.
    """
    return _merged([_layer(one) for one in layers])


def _layer(given: Mapping[str, Any] | str | Path) -> Layer:
    if isinstance(given, Mapping):
        return Layer(nested_table(flat_table(given)), "--")
    path = given if isinstance(given, Path) else Path(expanded(given))
    return Layer(read_table(path), f"{given}: ")


def _states(layers: Sequence[Layer]) -> list[Settings]:
    """The defaults, and what each layer makes of what is before it."""
    states = [Settings()]
    for layer in layers:
        state = updated(states[-1], layer.table, layer.source)
        states.append(updated(state, nested_table(expanded_settings(flatten(state)))))
    return states


def _merged(layers: Sequence[Layer]) -> Config:
    """The last state, less the settings that had an effect where they were given and lost it to a
    later layer. One that never had any is refused, even with its default value."""
    states = _states(layers)
    last = states[-1]
    idle = [without_effect(state) for state in states]
    given = _given(layers, states)

    def overridden(key: str) -> bool:
        return any(key not in idle[i] for i in range(given.get(key, 0), len(layers)))

    while True:
        flat, default, now = flatten(last), default_values(last) | IDLE_TYPES, without_effect(last)
        for key, needed in now.items():
            none = key in IDLE_TYPES and flat[key] == default[key]  # none of it is what there is
            if key in given and not overridden(key) and not none:
                refuse_idle(key, flat[key], needed)
        lost = [key for key in now if overridden(key) and flat[key] != default[key]]
        if not lost:
            break
        last = updated(last, nested_table({lost[0]: default[lost[0]]}))
    return Config(**{name: getattr(last, name) for name in settings_of(Settings)})


def _given(layers: Sequence[Layer], states: Sequence[Settings]) -> dict[str, int]:
    """The layer, from 1, that gave each setting the value that it has in the end."""
    given: dict[str, int] = {}
    for i, layer in enumerate(layers, start=1):
        before, after = flatten(states[i - 1]), flatten(states[i])
        anew = tuple(
            key.removesuffix("type")
            for key in after  # a setting may choose a type without naming it
            if key.endswith(".type") and before.get(key) != after[key]
        )
        given = {key: j for key, j in given.items() if not key.startswith(anew)}
        given |= dict.fromkeys(layer.keys, i)
    return given


_BYTES_MAX = 1_000_000  # of a configuration file: a hundred times what all settings take
_DEPTH_MAX = 8  # sections in sections: more than any setting has, less than Python's own limit


def read_table(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or is the config.toml of older code.
    """
    try:
        table = tomllib.loads(read_text(path, _BYTES_MAX))
    except OSError as e:
        raise ConfigError(f"cannot read config file {path}: {e.strerror or e}") from e
    except ValueError as e:  # TOML, UTF-8, and numbers of thousands of digits
        raise ConfigError(f"{path} is not TOML: {e}") from e
    except RecursionError as e:
        raise ConfigError(f"{path} is nested too deeply to be a configuration") from e
    level: list[Any] = [table]
    for _ in range(_DEPTH_MAX):
        level = [x for part in level for x in part.values() if isinstance(x, dict)]
    if level:
        raise ConfigError(f"{path} is nested too deeply to be a configuration")
    refuse_old(path, table)
    return table


def refuse_old(path: Path, table: Mapping[str, Any]) -> None:
    """Raises ConfigError if these are the tables of a run folder of before the settings' names."""
    if path.name == "config.toml" and old_names(table):
        raise ConfigError(
            f"{path} is of a run from before 0.1.0, and settings were renamed since: train it "
            "again in another --run.folder, or use the code that wrote it"
        )


_HELP = {"-h", "--help"}
_ALONE = {*_HELP, "--dry-run"}  # flags without a value


def _table_of(flags: Sequence[str]) -> dict[str, Any]:
    """Flags, `--section.name value` or `--section.name=value`, as nested tables of words."""
    flat: dict[str, Any] = {}
    words = iter(flags)
    for word in words:
        if not word.startswith("--"):
            raise ConfigError(
                f"{word!r} is neither a configuration file (NAME.toml) nor a setting "
                "(--section.name value)"
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"--{key} needs a value")
        flat[key.replace("-", "_")] = Word(value)
    return nested_table(flat)


def dump(cfg: Settings) -> str:
    """The resolved configuration as TOML that `load` reads back to an equal one.

    Settings without effect are left out, with the sections that hold no others.
    """
    keys = applicable(cfg)
    sections = (_section_lines(getattr(cfg, name), name, keys) for name in settings_of(type(cfg)))
    return "\n".join("\n".join(lines) + "\n" for lines in sections if lines)


def _section_lines(section: Any, name: str, keys: Mapping[str, Any]) -> list[str]:
    """Those of a section whose names are among `keys`."""
    lines, inside = [], []
    for key in settings_of(type(section)):
        value = getattr(section, key)
        if dataclasses.is_dataclass(value):
            part = _section_lines(value, f"{name}.{key}", keys)
            inside += ["", *part] if part else []
        elif f"{name}.{key}" in keys:
            lines.append(f"{key} = {_toml(value)}")
    return [f"[{name}]", *lines, *inside] if lines or inside else []


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
        letters = (plain.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in value)
        return f'"{"".join(letters)}"'
    return repr(value)


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """Configuration files, wherever they stand, and flags with their values."""
    files: list[str] = []
    flags: list[str] = []
    for i, word in enumerate(argv):
        after = argv[i - 1] if i else ""
        value = after.startswith("--") and "=" not in after and after not in _ALONE
        (files if word.endswith(".toml") and not value else flags).append(word)
    return files, flags
