"""The run folder: what it must hold before training starts, and whether it may be resumed."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path

from .checkpoint import write_json
from .config import Config, ConfigError, dump, flatten

_MAY_DIFFER = {"run.folder"}  # a run may be moved


def prepare(cfg: Config) -> Path:
    """Create or reopen the run folder: config.toml and provenance.json.

    Raises:
        ConfigError: the folder cannot be written, holds something else, or another configuration.
    """
    folder = Path(cfg.run.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"0" * 65536)
        probe.unlink()
    except OSError as e:
        raise ConfigError(f"cannot write to run folder {folder}: {e.strerror}") from e
    config = folder / "config.toml"
    if config.exists():
        _check_same(config, cfg)
    elif (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists():
        raise ConfigError(f"{folder} holds a run without config.toml; choose another --run.folder")
    else:
        draft = folder / "config.toml.draft"
        draft.write_text(dump(cfg), encoding="utf-8")
        os.replace(draft, config)
    _append_provenance(folder / "provenance.json")
    return folder


def _check_same(config: Path, cfg: Config) -> None:
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"cannot read {config}: {e}") from e
    found = {f"{s}.{k}": v for s, values in table.items() for k, v in values.items()}
    differs = [
        f"{k} ({found.get(k)!r} there, {v!r} now)"
        for k, v in flatten(cfg).items()
        if k not in _MAY_DIFFER and found.get(k) != v
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
    packages = ("torch", "transformers", "numpy", "safetensors")
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "device": f"cpu ({os.cpu_count()} cores, {platform.machine()})",
        **{name: importlib.metadata.version(name) for name in packages},
    }
    write_json(path, [*entries, entry])


def _git(*args: str) -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
