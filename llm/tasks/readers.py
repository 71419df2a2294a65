"""Rows of a file or hub data set, one by one, with where each came from. Data are never executed.

Only text formats and parquet are read; a line of JSON has a largest size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llm.errors import ConfigError

LINE_BYTES_MAX = 1 << 20

Row = tuple[str, dict[str, Any] | str]
"""("line 3", the row), or ("line 3", why it is none)."""


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON Lines file; blank lines are none.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                if line is None:
                    yield f"line {number}", f"longer than {LINE_BYTES_MAX} bytes"
                elif line.strip():
                    yield f"line {number}", _parsed(line)
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line, or None for one that is too long; no more than one line is held in memory."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LINE_BYTES_MAX)
            yield None
        else:
            yield line


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        return f"not JSON ({str(e)[:100]})"
    return row if isinstance(row, dict) else f"not an object but a {type(row).__name__}"


def parquet_rows(path: Path, columns: list[str], all_columns: bool = False) -> Iterator[Row]:
    """Rows of a parquet file, only the named columns unless all are wanted.

    Raises:
        ConfigError: pyarrow is missing; the file cannot be read or lacks a column.
    """
    try:
        import pyarrow.parquet
    except ImportError as e:
        raise ConfigError(
            f"reading {path} needs pyarrow, which is not installed: pip install "
            "-e '.[data]' in the checkout, or give a .jsonl file"
        ) from e
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(str(path), columns, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(
                batch_size=256, columns=None if all_columns else columns
            ):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except ConfigError:
        raise
    except (OSError, ValueError, NotImplementedError) as e:  # pyarrow's own derive from these
        raise ConfigError(f"cannot read {path} as parquet: {str(e)[:200]}") from e


def hub_rows(
    name: str, config: str | None, split: str, columns: list[str], all_columns: bool = False
) -> Iterator[Row]:
    """Rows of a hub data set's split, only the named columns unless all are wanted.

    Raises:
        ConfigError: `datasets` is missing or so old that it would run a data set's own code; the
            data set, split or a column does not exist.
    """
    try:
        import datasets
    except ImportError as e:
        raise ConfigError(
            f"--task.source {name} is a hub data set and needs the package datasets, which is not "
            "installed: pip install -e '.[hub]' in the checkout, or give a .jsonl or .parquet file"
        ) from e
    if int(datasets.__version__.split(".")[0]) < 4:
        raise ConfigError(
            f"the package datasets is {datasets.__version__}; before 4 it can run code that comes "
            "with a data set: pip install 'datasets>=4'"
        )
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise ConfigError(
            f"cannot load split {split!r} of the hub data set {name}: {str(e)[:300]}"
        ) from e
    _check_columns(f"{name}[{split}]", columns, list(rows.column_names))
    for number, row in enumerate(rows if all_columns else rows.select_columns(columns), 1):
        yield f"row {number}", row


def _check_columns(where: str, wanted: list[str], present: list[str]) -> None:
    missing = [c for c in wanted if c not in present]
    if missing:
        raise ConfigError(
            f"{where} has no column {missing[0]!r}, but {shown(present)}: name the columns with "
            "--task.prompt_column and --task.answer_column"
        )


def shown(names: list[str]) -> str:
    """Column names for a message; a file may name them anything, at any length."""
    text = ", ".join(repr(n[:40]) for n in names[:10])
    return text + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"
