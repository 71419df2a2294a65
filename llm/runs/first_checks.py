"""What can be refused by the settings alone, before anything is loaded: folders, files, packages.

Whoever opens these things says what is wrong with them too, minutes later perhaps.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from llm.errors import ConfigError
from llm.settings.schema import FunctionReward, ModelConfig, RewardConfig, Settings

_PARTS_MAX = 200  # of a path, which Python makes one inside another
_PART_BYTES_MAX = 255


def check_first(cfg: Settings) -> None:
    """Refuse what this machine lacks: folders to write to, the reward function, packages, cores.

    Raises:
        ConfigError: naming the setting, what was found, and what to do.
    """
    check_folder(Path(cfg.run.folder), "--run.folder")
    if cfg.pretrain.folder and not Path(cfg.pretrain.folder).is_dir():  # else it may be complete
        check_folder(Path(cfg.pretrain.folder), "--pretrain.folder")
    check_reward_function(cfg.reward)
    check_packages(cfg)
    check_threads(cfg.run.threads)


def check_folder(folder: Path, setting: str) -> None:
    """Raises ConfigError where no folder can be made or written in."""
    if len(folder.parts) > _PARTS_MAX:
        raise ConfigError(
            f"cannot write to {setting} {str(folder)[:100]}...: it has {len(folder.parts)} parts, "
            f"more than {_PARTS_MAX}; choose another"
        )
    if any(len(os.fsencode(part)) > _PART_BYTES_MAX for part in folder.parts):
        raise ConfigError(
            f"cannot write to {setting} {str(folder)[:100]}...: a name in it has more than "
            f"{_PART_BYTES_MAX} bytes, which no file system takes; choose another"
        )
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise ConfigError(
            f"cannot write to {setting} {folder}: {there} is no folder; choose another"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"cannot write to {setting} {folder}: no permission to write in {there}; choose another"
        )


def check_reward_function(reward: RewardConfig) -> None:
    """Raises ConfigError where there is no such file or module. Nothing of it is executed: what it
    holds is seen when it is loaded."""
    if not isinstance(reward, FunctionReward):
        return
    name = reward.function
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        if not Path(place).is_file():
            what = "is not a regular file" if os.path.lexists(place) else "does not exist"
            raise ConfigError(
                f"--reward.function {name} cannot be loaded: {Path(place).absolute()} {what}. Give "
                "FILE.py:NAME or package.module:NAME"
            )
    elif not is_installed(place.partition(".")[0]):
        raise ConfigError(
            f"--reward.function {name} cannot be loaded: there is no module "
            f"{place.partition('.')[0]} in the working directory or among the installed packages. "
            "Give FILE.py:NAME or package.module:NAME"
        )


def check_packages(cfg: Settings) -> None:
    """Raises ConfigError for a setting whose package is not installed."""
    tracker = cfg.run.tracker
    if tracker != "none" and not is_installed(tracker):
        raise ConfigError(
            f"--run.tracker {tracker} needs a package that is not installed ({tracker}): "
            f"pip install -e '.[{tracker}]' in the checkout, or set --run.tracker none"
        )
    for role in ("policy", "actor"):
        part = getattr(cfg, role)
        if isinstance(part, ModelConfig) and part.lora.rank and not is_installed("peft"):
            raise ConfigError(
                f"--{role}.lora.rank {part.lora.rank} needs peft: pip install -e '.[peft]' in the "
                "checkout"
            )
    if cfg.actor.type == "quantized" and not is_installed("torchao"):
        raise ConfigError(
            "--actor.type quantized needs torchao: pip install -e '.[torchao]' in the checkout"
        )


def check_threads(threads: int) -> None:
    """Raises ConfigError for more threads than this process may use cores. Each of them would wait
    for the others in turn; and a run folder is read on other machines, so no setting's bound says
    it."""
    cores = usable_cores()
    if threads > cores:
        raise ConfigError(
            f"--run.threads {threads} is more than the cores that this process may use, of which "
            f"{cores} {'was' if cores == 1 else 'were'} found: give at most {cores}"
        )


def usable_cores() -> int:
    """Cores that this process may use; of the machine where the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
