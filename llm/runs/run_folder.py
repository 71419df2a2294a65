"""The run folder: what it must hold before training starts, and whether it may be resumed."""

from __future__ import annotations

import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import IO

from llm import distributed
from llm.checkpoints.checkpoint import IDENTITY_IGNORES, write_json
from llm.settings.loading import Config, ConfigError, dump, flatten, read_table
from llm.settings.sections import flat_table

_PACKAGES = ("torch", "transformers", "numpy", "safetensors")
_OPTIONAL = (
    "peft",
    "torchao",
    "accelerate",
    "math-verify",
    "reasoning-gym",
    "datasets",
    "pyarrow",
    "tensorboard",
    "wandb",
    "trackio",
)
_locks: dict[Path, IO[str]] = {}  # of this process; closing one frees it


def prepare(cfg: Config) -> Path:
    """Create or reopen the run folder: config.toml and provenance.json; locked for this process.

    Raises:
        ConfigError: the folder cannot be written, is in use by another process, or holds something
            else or another configuration. What it holds is then unchanged.
    """
    folder = Path(cfg.run.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"0" * 65536)
        probe.unlink()
        _lock(folder)
    except OSError as e:
        raise ConfigError(f"cannot write to run folder {folder}: {e.strerror or e}") from e
    try:
        _fill(folder, cfg)
    except BaseException:
        release(folder)
        raise
    return folder


def release(folder: Path) -> None:
    """Let other processes use a prepared run folder; the end of this process does so too."""
    lock = _locks.pop(folder.resolve(), None)
    if lock is not None:
        lock.close()


def _lock(folder: Path) -> None:
    """A lock of the kernel's: gone when this process is, even after SIGKILL; not inherited."""
    if folder.resolve() in _locks:
        return
    file = (folder / ".lock").open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        file.seek(0)
        holder = file.read().strip() or "?"
        file.close()
        if e.errno not in (errno.EACCES, errno.EAGAIN):
            return  # a file system without locks
        raise ConfigError(
            f"{folder} is in use by process {holder}: wait for it, stop it, or choose another "
            "--run.folder"
        ) from e
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _locks[folder.resolve()] = file


def _fill(folder: Path, cfg: Config) -> None:
    config = folder / "config.toml"
    if config.exists():
        check_same(config, cfg)
    elif (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists():
        raise ConfigError(f"{folder} holds a run without config.toml; choose another --run.folder")
    else:
        draft = folder / "config.toml.draft"
        draft.write_text(dump(cfg), encoding="utf-8")
        os.replace(draft, config)
    _append_provenance(folder / "provenance.json")


def check_same(config: Path, cfg: Config) -> None:
    """Refuse a run folder whose config.toml is not this configuration."""
    there, own = flat_table(read_table(config)), flatten(cfg)
    differs = [
        f"{k} ({there.get(k, 'absent')!r} there, {own.get(k, 'absent')!r} now)"
        for k in own | there
        if k not in IDENTITY_IGNORES and there.get(k) != own.get(k)
    ]
    if differs:
        raise ConfigError(
            f"{config.parent} holds a run with other settings: {', '.join(differs)}. "
            "Choose another --run.folder, or start with the settings it has"
        )


def _append_provenance(path: Path) -> None:
    """One entry for each start of this run: what code, libraries and command it ran."""
    try:
        entries = json.loads(path.read_text()) if path.exists() else []
    except ValueError as e:
        raise ConfigError(f"{path} is damaged ({e}); move it away") from e
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "ranks": distributed.world_size(),
        "python": platform.python_version(),
        "device": f"cpu ({os.cpu_count()} cores, {platform.machine()})",
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **{name: version for name in _OPTIONAL if (version := _version(name))},
    }
    write_json(path, [*entries, entry])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git(*args: str) -> str:
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
