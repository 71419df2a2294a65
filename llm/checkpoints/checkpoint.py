"""Checkpoints that are complete or absent, and the guard that lets nothing non-finite train.

A checkpoint is a folder `step_00000050` (or `best`) with one safetensors file per part,
`state.json`, and `manifest.json`, which holds size and SHA-256 of every file and the settings of
the run. Optimiser state is stored as tensors too: nothing is ever unpickled. A kill at any moment
leaves everything older readable: `latest` and `best` find it (how: atomic_files.py).

Random numbers are functions of (seed, purpose, step) and prompts of (seed, step), so the step is
the data position and the state of every random stream.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llm import distributed
from llm.errors import CheckpointError
from llm.regular_files import read_json
from llm.settings.resuming import changed, identity_of
from llm.settings.validation import flatten

from . import atomic_files
from .atomic_files import digest, drop, existing, existing_all, write_file, write_folder, write_json
from .state_tensors import (
    StatefulPart,
    StatefulParts,
    bytes_of,
    frozen_digest,
    load_state_dict,
    state_dict_of,
)

__all__ = [
    "CheckpointError",
    "at_step",
    "best",
    "identity",
    "latest",
    "load_state",
    "names",
    "require_space",
    "save_best",
    "save_state",
    "write_json",
]

_FORMAT = 2
_SLACK = 1 << 20  # bytes for headers and JSON


def identity(cfg: Any) -> dict[str, str]:
    """What makes a checkpoint this run's: the settings of a `Config` that resuming.py says."""
    return {k: repr(v) for k, v in identity_of(flatten(cfg)).items()}


def save_state(
    folder: Path,
    step: int,
    parts: StatefulParts,
    state: dict[str, Any],
    keep: int = 2,
    identity: dict[str, str] | None = None,
) -> Path:
    """Write a checkpoint atomically, then drop all but the newest `keep`. On rank 0; of several
    ranks all must call, to put together what is spread over them.

    Raises:
        OSError: no room or no permission, with the file's name; older checkpoints are untouched.
    """
    final = folder / f"step_{step:08d}"
    _write(final, parts, {**state, "step": step}, identity)
    for old in _all(folder)[:-keep] if distributed.is_main() else ():
        drop(old)
    return final


def save_best(
    folder: Path,
    step: int,
    parts: StatefulParts,
    state: dict[str, Any],
    identity: dict[str, str] | None = None,
) -> Path:
    """Write `folder`/best, as `save_state` does; `best` finds a complete one throughout.

    Raises:
        OSError: no room or no permission, with the file's name; the former best is untouched.
    """
    _write(folder / "best", parts, {**state, "step": step}, identity)
    return folder / "best"


def require_space(folder: Path, parts: StatefulParts) -> None:
    """Raises OSError if a first checkpoint of these parts has no room in `folder`."""
    atomic_files.require_space(folder, "a checkpoint", _needed(parts))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    checkpoints = _all(folder)
    return checkpoints[-1] if checkpoints else None


def best(folder: Path) -> Path | None:
    """The complete checkpoint of the best evaluation, if there is one."""
    return existing(folder / "best")


def at_step(folder: Path, step: int) -> Path | None:
    """The complete checkpoint after so many steps, if it is kept."""
    return existing(folder / f"step_{step:08d}")


def names(folder: Path) -> list[str]:
    """Of the complete checkpoints, oldest first, and the best."""
    there = [*_all(folder), *filter(None, [best(folder)])]
    return [path.name.strip(".").removesuffix(".aside") for path in there]


def load_state(
    checkpoint: Path, parts: StatefulParts, identity: dict[str, str] | None = None
) -> dict[str, Any]:
    """Check a checkpoint, restore these parts in place and return the saved state.

    Args:
        checkpoint: from `latest` or `best`.
        parts: all of the run's, or those wanted.
        identity: of this run, to refuse another run's; None: whose it is does not matter.

    Raises:
        CheckpointError: a file missing, truncated, altered, of another shape or another run, named;
            or the checkpoint was removed or replaced while it was read.
    """
    manifest = _manifest(checkpoint)
    _check_identity(checkpoint, manifest, identity)
    if checkpoint.is_symlink():
        raise CheckpointError(f"{checkpoint} is a symbolic link: put the checkpoint itself there")
    for name in parts:
        if f"{name}.safetensors" not in manifest["files"]:
            raise CheckpointError(f"{checkpoint} holds no part {name!r}: it is another run's")
    for file in manifest["files"]:
        _check_file(checkpoint / file, manifest["files"][file]["bytes"])
    wanted = ["state.json", *(f"{name}.safetensors" for name in parts)]
    for file in wanted:
        if _digest(checkpoint / file) != manifest["files"][file]["sha256"]:
            raise CheckpointError(
                f"{checkpoint / file} was altered after it was written (its SHA-256 differs); "
                f"{_older(checkpoint)}"
            )
    for name, part in parts.items():
        path = checkpoint / f"{name}.safetensors"
        if manifest["frozen"].get(name, "") != frozen_digest(part):
            raise CheckpointError(
                f"{path} was trained on top of other frozen weights than this run's {name} has: "
                "the base model differs. Put the base model back, or choose another --run.folder"
            )
        try:
            load_state_dict(part, load_file(path))
        except OSError as e:
            raise _unreadable(path, e) from e
        except (SafetensorError, KeyError, RuntimeError, ValueError) as e:
            raise CheckpointError(f"{path} does not fit this run: {e}") from e
    try:
        state = read_json(checkpoint / "state.json")
    except OSError as e:
        raise _unreadable(checkpoint / "state.json", e) from e
    except ValueError as e:
        raise CheckpointError(f"{checkpoint / 'state.json'}: {e}; {_older(checkpoint)}") from e
    if not isinstance(state, dict):
        raise CheckpointError(f"{checkpoint / 'state.json'} is no object; {_older(checkpoint)}")
    _check_step(checkpoint, state.get("step"))
    if _manifest(checkpoint) != manifest:  # the parts may be of two checkpoints
        raise CheckpointError(f"{checkpoint} was replaced while it was read; read it again")
    return state


def _write(
    final: Path, parts: StatefulParts, state: dict[str, Any], identity: dict[str, str] | None
) -> None:
    if not distributed.is_main():
        for part in parts.values():
            state_dict_of(part)
        return

    def fill(draft: Path) -> None:
        for name, part in parts.items():
            _save_part(draft / f"{name}.safetensors", part)
        write_file(draft / "state.json", lambda path: write_json(path, state))
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": digest(path)}
            for path in sorted(draft.iterdir())
        }
        frozen = {name: mark for name, part in parts.items() if (mark := frozen_digest(part))}
        body = {"format": _FORMAT, "files": files, "frozen": frozen, "identity": identity}
        write_file(draft / "manifest.json", lambda path: write_json(path, body))

    write_folder(final, fill, _needed(parts))


def _needed(parts: StatefulParts) -> int:
    return sum(bytes_of(part) for part in parts.values()) + _SLACK


def _save_part(path: Path, part: StatefulPart) -> None:
    write_file(path, lambda p: save_file(state_dict_of(part), p))


def _manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "manifest.json"
    try:
        manifest = read_json(path)
        complete = {"format", "files", "frozen", "identity"}
        if (
            not isinstance(manifest, dict)
            or set(manifest) != complete
            or manifest["format"] != _FORMAT
        ):
            raise ValueError(f"it is not a manifest of format {_FORMAT}")
        _check_manifest(manifest)
    except (OSError, ValueError) as e:
        raise CheckpointError(f"cannot read {path}: {e}; {_older(checkpoint)}") from e
    return manifest


def _check_manifest(manifest: dict[str, Any]) -> None:
    """Raises ValueError unless everything in it has its type and files lie in the checkpoint."""
    files, frozen, identity = manifest["files"], manifest["frozen"], manifest["identity"]
    for entry in (files, frozen, {} if identity is None else identity):
        if not isinstance(entry, dict):
            raise ValueError("files, frozen and identity must be objects")
    texts = [*frozen.values(), *({} if identity is None else identity).values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("frozen and identity must hold texts")
    for name, file in files.items():
        if not re.fullmatch(r"\w+\.(safetensors|json)", name, flags=re.ASCII):
            raise ValueError(f"{name[:80]!r} is no file of a checkpoint")
        size, mark = (file.get("bytes"), file.get("sha256")) if isinstance(file, dict) else (0, 0)
        if type(size) is not int or not isinstance(mark, str):
            raise ValueError(f"{name} has no size and digest")
    if "state.json" not in files:
        raise ValueError("it names no state.json")


def _check_step(checkpoint: Path, step: Any) -> None:
    named = re.match(r"\.?step_(\d{8})", checkpoint.name)  # the best has no number in its name
    fits = type(step) is int and 0 <= step < 10**8 and (not named or int(named.group(1)) == step)
    if not fits:
        raise CheckpointError(
            f"{checkpoint / 'state.json'} cannot be right: step is {step!r:.80}, and the "
            f"checkpoint is called {checkpoint.name}; {_older(checkpoint)}"
        )


def _check_identity(checkpoint: Path, manifest: dict, identity: dict[str, str] | None) -> None:
    written_by = manifest["identity"]
    if identity is None:
        return
    if written_by is None:
        raise CheckpointError(f"{checkpoint} does not say which run it is of; remove it")
    changes = changed(identity_of(written_by), identity_of(identity))
    if not changes:
        return
    differs = [f"{k} ({a} there, {b} now)" for k, (a, b) in list(changes.items())[:5]]
    more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
    raise CheckpointError(
        f"{checkpoint} is of a run with other settings: {', '.join(differs)}{more}. "
        "Remove it, or choose another --run.folder"
    )


def _check_file(path: Path, size: int) -> None:
    try:
        status = path.lstat()
    except OSError as e:
        raise _unreadable(path, e) from e
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file; {_older(path.parent)}")
    on_disk = status.st_size
    if on_disk != size:
        raise CheckpointError(
            f"{path} holds {on_disk} bytes, {size} were written; {_older(path.parent)}"
        )


def _digest(path: Path) -> str:
    try:
        return digest(path)
    except OSError as e:
        raise _unreadable(path, e) from e


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if not path.parent.is_dir():
        return CheckpointError(
            f"cannot read {path}: {path.parent.name} was removed meanwhile, as a run does with "
            "old checkpoints; try again"
        )
    return CheckpointError(f"cannot read {path}: {error.strerror or error}; {_older(path.parent)}")


def _older(checkpoint: Path) -> str:
    return f"remove {checkpoint} to use an older one"


def _all(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return existing_all(folder, r"step_\d{8}")
