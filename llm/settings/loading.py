"""The one parser for configuration files and flags, and the resolved configuration as a file.

A TOML file is turned into flags (`[correction] lam = 1.2` -> `--correction.lam 1.2`) and the user's
own flags follow, so one parser checks both and the last word wins. The settings themselves are in
settings.py, what is refused in config_checks.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from llm.errors import ConfigError

from .schema import (
    ActorConfig,
    AlarmConfig,
    ControlConfig,
    CorrectionConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RolloutConfig,
    RunConfig,
    TaskConfig,
    WarmupConfig,
)
from .validation import check, flatten

__all__ = ["Config", "ConfigError", "CorrectionConfig", "ModelConfig", "dump", "flatten", "load"]


@dataclass(frozen=True)
class Config:
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: ModelConfig = field(default_factory=ModelConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check(self)

    @property
    def actor_is_trained(self) -> bool:
        return self.loss.actor_ppo or self.loss.distill_coef > 0


def load(files: list[str], flags: list[str], prog: str = "python -m llm train") -> Config:
    """Read TOML files, then flags; the last word wins.

    Raises:
        ConfigError: a file that is missing or not TOML, an unknown key (with a suggestion), a
            value of the wrong type, out of bounds, or without effect.
        SystemExit: from the flag parser, for the same faults in a flag, or for --help.
    """
    import tyro

    args = [arg for name in files for arg in _file_flags(Path(name))]
    return tyro.cli(
        Config,
        args=args + flags,
        prog=prog,
        description="Train a policy from another model's rollouts.",
        config=(tyro.conf.FlagConversionOff,),
    )


def _file_flags(path: Path) -> list[str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read config file {path}: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not TOML: {e}") from e
    types = {
        f"{section}.{name}": kind
        for section, cls in get_type_hints(Config).items()
        for name, kind in get_type_hints(cls).items()
    }
    flags = []
    for section, values in table.items():
        for name, value in (values if isinstance(values, dict) else {"": values}).items():
            key = f"{section}.{name}".rstrip(".")
            if key not in types:
                raise ConfigError(f"{path}: unknown key {key}{_suggestion(key, list(types))}")
            _check_type(path, key, value, types[key])
            flags += [f"--{key}", str(value)]
    return flags


def _check_type(path: Path, key: str, value: Any, kind: Any) -> None:
    """A number given as text, or a float where a count belongs, is refused before the parser."""
    if get_origin(kind) is Literal:
        kind = type(get_args(kind)[0])
    allowed = {int: (int,), float: (int, float), bool: (bool,)}.get(kind, (str,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "str")
        raise ConfigError(f"{path}: {key} must be a {wanted}, got {value!r}")


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    best = same_name or close
    return f"; perhaps you meant {best[0]}?" if best else "; see python -m llm train --help"


def dump(cfg: Config) -> str:
    """The resolved configuration as TOML that `load` reads back to an equal one."""
    lines = []
    for section in dataclasses.fields(cfg):
        lines.append(f"[{section.name}]")
        part = getattr(cfg, section.name)
        lines += [f"{f.name} = {_toml(getattr(part, f.name))}" for f in dataclasses.fields(part)]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """Configuration files, wherever they stand, and flags with their values."""
    files: list[str] = []
    flags: list[str] = []
    for i, word in enumerate(argv):
        after = argv[i - 1] if i else ""
        value = after.startswith("--") and "=" not in after and after != "--dry-run"
        (files if word.endswith(".toml") and not value else flags).append(word)
    return files, flags
