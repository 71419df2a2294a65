"""Files and folders that are complete or absent, whenever the process dies.

A folder is written under a hidden name, flushed to disk and renamed. What it replaces is renamed
aside first and deleted last, so `standing` finds the old or the new one at every moment.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llm.regular_files import open_here


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small file (UTF-8) atomically. A symbolic link there is replaced, not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    with open_here(draft, "x") as file:
        file.write(text)
    _flush(draft)
    os.replace(draft, path)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write and flush a file; an OSError carries its name, whichever library raised it."""
    try:
        write(path)
        _flush(path)
    except SafetensorError as e:
        code = re.search(r"os error (\d+)", str(e))
        number = int(code.group(1)) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from e
    except OSError as e:
        raise OSError(e.errno or errno.EIO, e.strerror or str(e), str(path)) from e


def write_folder(
    final: Path, fill: Callable[[Path], None], needed: int, *, alone: bool = True
) -> None:
    """Make the folder `final`, new or replaced, from what `fill` writes into the draft it is given.

    alone: nobody else writes into the folder above, so what a kill left there is removed first.

    Raises:
        OSError: fewer than `needed` bytes free, or an error while writing; nothing was changed.
    """
    folder = final.parent
    folder.mkdir(parents=True, exist_ok=True)
    if alone:
        recover(folder)
    else:
        _drop_dead_drafts(final)
    require_space(folder, final.name, needed)
    draft = folder / f".draft.{final.name}.{os.getpid()}"
    try:
        draft.mkdir()
        fill(draft)
        _flush(draft)
    except BaseException as e:
        if isinstance(e, Exception) or not alone:  # nobody would remove it but the next of its name
            shutil.rmtree(draft, ignore_errors=True)
        raise
    aside = _backup(final)
    if final.exists():
        os.replace(final, aside)
    os.replace(draft, final)
    _flush(folder)
    if aside.exists():
        drop(aside)


def _drop_dead_drafts(final: Path) -> None:
    """Delete the drafts of `final` whose process is gone, and nothing else beside it."""
    for draft in final.parent.glob(f".draft.{final.name}.*"):
        number = draft.name.rpartition(".")[2]
        if number.isdigit() and (int(number) == os.getpid() or not _is_running(int(number))):
            shutil.rmtree(draft, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def require_space(folder: Path, what: str, needed: int) -> None:
    """Raises OSError if fewer than `needed` bytes are free on the disk of `folder`."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"no space left: {what} takes {needed / 1e6:.1f} MB, {free / 1e6:.1f} are free",
            str(folder),
        )


def existing(final: Path) -> Path | None:
    """`final`, or where it was put while its successor moves in; None if it was never complete."""
    return next((p for p in (final, _backup(final)) if p.is_dir()), None)


def existing_all(folder: Path, pattern: str) -> list[Path]:
    """`standing` of every folder whose name matches, in the order of their names."""
    names = os.listdir(folder) if folder.is_dir() else []
    matches = (re.fullmatch(rf"\.?({pattern})(?:\.aside)?", n) for n in names)
    paths = [existing(folder / name) for name in sorted({m.group(1) for m in matches if m})]
    return [path for path in paths if path is not None]


def recover(folder: Path) -> None:
    """After a kill: put back what stands aside without a successor, delete all other leftovers."""
    for aside in folder.glob(".*.aside"):
        final = folder / aside.name[1 : -len(".aside")]
        if final.exists():
            drop(aside)
        else:
            os.replace(aside, final)
    for leftover in (*folder.glob(".draft.*"), *folder.glob(".dropped.*")):
        shutil.rmtree(leftover)


def drop(path: Path) -> None:
    """Delete a folder; renamed first, so that a kill leaves no half of it under a good name."""
    dropped = path.with_name(f".dropped.{path.name.lstrip('.').removesuffix('.aside')}")
    if dropped.exists():
        shutil.rmtree(dropped)
    os.replace(path, dropped)
    shutil.rmtree(dropped)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open_here(path, "rb") as file:
        opened: Any = file
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _backup(final: Path) -> Path:
    return final.with_name(f".{final.name}.aside")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
