"""Command-line values that are refused, with a reason, before any work starts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too small; give a whole number of at least 1")
    return value


def seed(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed; give a whole number >= 0")
    return int(text)


def path_of(text: str) -> Path:
    """A path; `~` is the home folder behind "=" too, where no shell expands it."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; give the whole path") from error


def output_file(text: str) -> Path:
    """A file that can be written, in a folder that exists."""
    path = path_of(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"cannot write {text}: there is no folder {path.parent}; make it first"
        )
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}: {target} is not writable")
    return path


def study_parser(name: str, description: str) -> argparse.ArgumentParser:
    """--out, --seed and --quick of `python -m sim name`, which writes into runs/name."""
    p = argparse.ArgumentParser(prog=f"python -m sim {name}", description=description)
    default = Path("runs") / name
    p.add_argument("--out", type=path_of, default=default, help=f"default {default}")
    p.add_argument("--seed", type=seed, default=0, help="default 0")
    p.add_argument("--quick", action="store_true", help="fewer states and tokens; seconds")
    return p


def can_write(name: str, folder: Path) -> bool:
    """Make the folder of `python -m sim name`; False, and why on stderr, where name.csv cannot be
    written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.csv").touch()
    except OSError as error:
        print(
            f"python -m sim {name}: cannot write to --out {folder}: {error.strerror}; "
            "name another folder",
            file=sys.stderr,
        )
        return False
    return True
