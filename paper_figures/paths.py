"""Where figures read and write."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"  # ignored by git
PAPER_FIG2 = HERE / "data" / "paper_fig2.csv"  # the few points that the paper's text and page state
LADDER = HERE / "data" / "ladder_smollm2.csv"  # benchmarks/smollm2_ladder.py
PAPER_TABLES = HERE / "data" / "paper_tables.csv"  # Tables 1 to 3 of the paper


def path_of(text: str) -> Path:
    """A path; `~` is the home folder behind "=" too, where no shell expands it."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}; give the whole path") from error


def out_dir(text: str) -> Path:
    """A folder to write into, made if its parent exists; refused before any work otherwise."""
    path = path_of(text)
    if path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is a file; give a folder")
    if not path.is_dir():
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it first")
        if not os.access(path.parent, os.W_OK):
            raise argparse.ArgumentTypeError(f"cannot make {text}: {path.parent} is not writable")
        try:
            path.mkdir()
        except OSError as error:
            raise argparse.ArgumentTypeError(f"cannot make {text}: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} is not writable; give another folder")
    return path
