"""The run folder: what it must hold before training starts, and whether it may be resumed."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from llm import distributed
from llm.checkpoints.atomic_files import drop, write_text
from llm.checkpoints.checkpoint import best, latest, write_json
from llm.regular_files import open_here, read_json
from llm.settings.loading import Config, ConfigError, applicable, dump, read_table
from llm.settings.resuming import changed, identity_of, shown
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

    A folder that holds no run yet takes any settings, also those that a start left there which
    failed; a config.toml that no start wrote is kept, so it must say the same. The settings of a
    run that goes on with others are written by `claim`, once everything that can be refused has
    been looked at.

    Raises:
        ConfigError: the folder cannot be written, is in use by another process, or holds something
            else, another run, older code's settings, or more steps than are asked for. What it
            holds is then unchanged.
    """
    folder = Path(cfg.run.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_links(folder)
        probe = folder / ".writable"
        probe.write_bytes(b"0" * 65536)
        probe.unlink(missing_ok=True)  # another start may have removed it
        _lock(folder)
    except OSError as e:
        release(folder)
        raise ConfigError(f"cannot write to run folder {folder}: {e.strerror or e}") from e
    try:
        _fill(folder, cfg)
    except BaseException:
        release(folder)
        raise
    return folder


@contextlib.contextmanager
def prepared(cfg: Config) -> Iterator[Path]:
    """The prepared run folder while entered."""
    folder = prepare(cfg)
    try:
        yield folder
    finally:
        release(folder)


def _refuse_links(folder: Path) -> None:
    """Nothing in a run folder may lead out of it, or keep a reader waiting.

    Raises:
        ConfigError: a symbolic link, FIFO, socket or device in the folder or its checkpoints.
    """
    for parent in (folder, folder / "checkpoints", *(folder / "checkpoints").glob("*")):
        for entry in sorted(parent.iterdir()) if parent.is_dir() else ():
            odd = entry.is_symlink() or not (entry.is_file() or entry.is_dir())
            if odd:
                what = "a symbolic link" if entry.is_symlink() else "neither a file nor a folder"
                raise ConfigError(
                    f"{entry} is {what}, and a run folder must hold its files themselves. "
                    "Remove it (to keep a run on another disk, let --run.folder name that place)"
                )


def release(folder: Path) -> None:
    """Let other processes use a prepared run folder; the end of this process does so too."""
    lock = _locks.pop(folder.resolve(), None)
    if lock is not None:
        lock.close()


def _lock(folder: Path) -> None:
    """A lock of the kernel's: gone when this process is, even after SIGKILL; not inherited."""
    if folder.resolve() in _locks:
        return
    file = open_here(folder / ".lock", "a+")
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
    _locks[folder.resolve()] = file  # from here on `release` closes it
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()


def _fill(folder: Path, cfg: Config) -> None:
    if holds_run(folder):
        check_same(folder, cfg)
    else:
        check_no_run(folder, cfg)
        _write_config(folder, cfg)
    _append_provenance(folder / "provenance.json", cfg.run.device)


def _write_config(folder: Path, cfg: Config) -> None:
    write_text(folder / "config.toml", dump(cfg))


def check_no_run(folder: Path, cfg: Config) -> None:
    """Of a folder that holds no run, refuse a config.toml of older code, and one that somebody put
    there and that says something else. A start writes provenance.json beside its own, which the
    next start may replace.

    Raises:
        ConfigError: what was found.
    """
    config = folder / "config.toml"
    if not config.exists():
        return
    there = flat_table(read_table(config))  # refuses older code's
    if (folder / "provenance.json").exists():
        return
    differs = changed(there, applicable(cfg))
    if differs:
        others = {key: pair for key, pair in differs.items() if key in there}
        how = f"says {shown(others)}" if others else "does not hold every setting"
        raise ConfigError(
            f"{config} is not of a run, and would be replaced: it {how}. Move it away (if it is "
            "meant, give it as the configuration), or choose another --run.folder"
        )


def holds_run(folder: Path) -> bool:
    """Whether a first step was made here: there are rows, checkpoints, or a summary. What a start
    leaves that failed before is no run, and binds nobody: neither does the best checkpoint of the
    evaluation with which the first step begins, which holds the models as they were."""
    rows, checkpoints = folder / "metrics.jsonl", folder / "checkpoints"
    has_rows = rows.is_file() and rows.stat().st_size > 0
    kept = latest(checkpoints) is not None or _is_of_a_step(best(checkpoints))
    return has_rows or kept or (folder / "summary.json").exists()


def _is_of_a_step(checkpoint: Path | None) -> bool:
    if checkpoint is None:
        return False
    try:
        return bool(read_json(checkpoint / "state.json")["step"] != 0)
    except (OSError, ValueError, TypeError, KeyError):
        return True  # whoever loads it says what is wrong with it


def settings_there(folder: Path) -> dict[str, Any]:
    """{'section.name': value} of the run in `folder`.

    Raises:
        ConfigError: config.toml is lost or is no TOML.
    """
    config = folder / "config.toml"
    if not config.exists():
        raise ConfigError(f"{folder} holds a run without config.toml; choose another --run.folder")
    return flat_table(read_table(config))


def check_same(folder: Path, cfg: Config) -> None:
    """Refuse a folder that holds another run, or more steps of this one than are asked for."""
    differs = changed(identity_of(settings_there(folder)), identity_of(applicable(cfg)))
    if differs:
        raise ConfigError(
            f"{folder} holds a run with other settings: {shown(differs)}. "
            "Choose another --run.folder, or start with the settings it has"
        )
    newest = latest(folder / "checkpoints")
    done = int(newest.name.lstrip(".")[5:13]) if newest else 0
    if done > cfg.run.steps:
        raise ConfigError(
            f"{folder} holds {done} steps, and --run.steps is {cfg.run.steps}: a run is not "
            f"shortened. Give at least {done}, or another --run.folder"
        )


def is_complete(folder: Path, cfg: Config) -> bool:
    """Whether all steps that are asked for are done and summed up."""
    if not (folder / "summary.json").exists():
        return False
    return bool(settings_there(folder).get("run.steps") == cfg.run.steps)


def summary(folder: Path) -> dict[str, Any]:
    """What a complete run wrote at its end.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / "summary.json"
    try:
        result: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as e:
        raise ConfigError(f"cannot read {path}: {e}; remove it, and start again") from e
    return result


def claim(folder: Path, cfg: Config) -> dict[str, tuple[Any, Any]]:
    """Before the first step: the run is from here on as configured now, and not complete.

    Returns:
        The settings that were others, as `changed`; those of identity never are.
    """
    config = folder / "config.toml"
    there = flat_table(read_table(config)) if config.exists() else {}
    differs = changed(there, applicable(cfg))
    if differs:
        _write_config(folder, cfg)
    (folder / "summary.json").unlink(missing_ok=True)
    kept = best(folder / "checkpoints")
    if kept is not None and not holds_run(folder):
        drop(kept)  # of a start that failed in its first step, with other settings perhaps
    return differs if there else {}


def _append_provenance(path: Path, device: str) -> None:
    """One entry for each start of this run: what code, libraries and command it ran."""
    try:
        entries = read_json(path) if path.exists() else []
        if not isinstance(entries, list):
            raise ValueError("it holds no list")
    except ValueError as e:
        raise ConfigError(f"{path} is damaged ({e}); move it away") from e
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "ranks": distributed.world_size(),
        "python": platform.python_version(),
        "device": _device(device),
        **{name: _version(name) for name in _PACKAGES},
        **{name: version for name in _OPTIONAL if (version := _version(name))},
    }
    write_json(path, [*entries, entry])


def _device(name: str) -> str:
    """What a run with that run.device computes on."""
    cpu = f"cpu ({os.cpu_count()} cores, {platform.machine()})"
    gpu = distributed.takes_cuda(name) and torch.cuda.is_available()  # `open_device` refuses others
    return f"{torch.cuda.get_device_name()}, {cpu}" if gpu else cpu


_EVALUATION = ("run.eval_prompts", "run.eval_completions")


def note_evaluation_change(folder: Path, differs: Mapping[str, tuple[Any, Any]]) -> None:
    """Keep in the entry of this start that its pass rates are of other prompts or completions.

    Args:
        differs: the settings that are others now, as `claim` returns them.
    """
    path = folder / "provenance.json"
    changes = {key: list(differs[key]) for key in _EVALUATION if key in differs}
    if changes:
        *earlier, last = read_json(path)
        write_json(path, [*earlier, {**last, "evaluation_changed": changes}])


def evaluation_changes(folder: Path) -> dict[str, tuple[Any, Any]]:
    """{setting: (at first, now)} of what a run's pass rates are of, where a start changed it."""
    try:
        entries = read_json(folder / "provenance.json")
        noted = [e["evaluation_changed"] for e in entries if "evaluation_changed" in e]
        pairs = [(key, *pair) for one in noted for key, pair in one.items() if key in _EVALUATION]
        first = {key: before for key, before, _ in reversed(pairs)}
        now = {key: after for key, _, after in pairs}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # nothing that a run could not be summed up without
    return {key: (first[key], now[key]) for key in now if first[key] != now[key]}


def first_date(folder: Path) -> datetime.date | None:
    """The day (UTC) of the first start in a run folder; None where there was none."""
    try:
        first = read_json(folder / "provenance.json")[0]
        return datetime.datetime.fromisoformat(first["time"]).date()
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


@functools.cache
def _version(package: str) -> str:
    """Empty for a package that is not installed."""
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
