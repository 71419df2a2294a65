"""Configuration files and flags, read in order, and the resolved configuration as a file.

Each file is a layer of settings, all flags together are the last one; a later layer wins. What the
settings are is in schema.py, how a layer applies in sections.py, what is refused in validation.py.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.errors import ConfigError
from llm.regular_files import read_text

from .schema import ModelConfig, Settings
from .sections import Word, default_values, flat_table, flatten, nested_table, settings_of, updated
from .validation import IDLE_TYPES, check, without_effect

__all__ = ["Config", "ConfigError", "ModelConfig", "dump", "flatten", "load", "resolve"]


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


def load(files: Sequence[str], flags: Sequence[str], prog: str = "python -m llm train") -> Config:
    """Read TOML files, then flags; a later one wins, and another `type` starts its section anew.

    Raises:
        ConfigError: a file that is missing or not TOML, an unknown key (with a suggestion), a
            value of the wrong type, out of bounds, or without effect.
        SystemExit: for --help, after printing it.
    """
    layers = [Layer(read_table(Path(name)), f"{name}: ") for name in files]
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
    return Layer(read_table(Path(given)), f"{given}: ")


def _states(layers: Sequence[Layer]) -> list[Settings]:
    """The defaults, and what each layer makes of what is before it."""
    states = [Settings()]
    for layer in layers:
        states.append(updated(states[-1], layer.table, layer.source))
    return states


def _merged(layers: Sequence[Layer]) -> Config:
    """The last state, less the settings that had an effect where they were given and lost it to a
    later layer."""
    states = _states(layers)
    last = states[-1]
    idle = [without_effect(state) for state in states]
    given = {key: i for i, layer in enumerate(layers, start=1) for key in layer.keys}

    def overridden(key: str) -> bool:
        return any(key not in idle[i] for i in range(given.get(key, 0), len(layers)))

    while keys := [key for key in without_effect(last) if overridden(key)]:
        default = default_values(last) | IDLE_TYPES
        last = updated(last, nested_table({keys[0]: default[keys[0]]}))
    last = updated(last, nested_table(_expanded(flatten(last))))
    return Config(**{name: getattr(last, name) for name in settings_of(Settings)})


_PATHS = "run.folder pretrain.folder policy.path actor.path task.source task.eval_source".split()


def _expanded(flat: Mapping[str, Any]) -> dict[str, str]:
    """The paths that start with ~, in full: a shell does so only where ~ starts a word."""
    paths = {k: flat[k] for k in _PATHS if k in flat and flat[k].startswith("~")}
    return {key: os.path.expanduser(path) for key, path in paths.items()}


_DEPTH_MAX = 8  # sections in sections: more than any setting has, less than Python's own limit


def read_table(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or is the config.toml of older code.
    """
    try:
        table = tomllib.loads(read_text(path))
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
    if path.name == "config.toml" and "warmup" in table and "pretrain" not in table:
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


def dump(cfg: Config) -> str:
    """The resolved configuration as TOML that `load` reads back to an equal one."""
    return "\n".join(
        line
        for name in settings_of(type(cfg))
        for line in [*_section_lines(getattr(cfg, name), name), ""]
    )


def _section_lines(section: Any, name: str) -> list[str]:
    values = {key: getattr(section, key) for key in settings_of(type(section))}
    inside = {k: v for k, v in values.items() if dataclasses.is_dataclass(v)}
    lines = [f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in values.items() if k not in inside)]
    for key, part in inside.items():
        lines += ["", *_section_lines(part, f"{name}.{key}")]
    return lines


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
