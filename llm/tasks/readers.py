"""Rows of a file or hub data set, one by one, with where each came from. Data are never executed.

Only text formats and parquet are read; a line of JSON has a largest size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from llm.errors import ConfigError, kind_of
from llm.hub import require_on_hub
from llm.regular_files import open_regular

from . import unpacking

LINE_BYTES_MAX = 1 << 20  # of a row: prompts and answers are thousands of characters at most
FILE_BYTES_MAX = 1 << 36  # every start reads it all; the largest published files have 15 GB

SourceRow = tuple[str, dict[str, Any] | str]
"""("line 3", the row), or ("line 3", why it is none)."""


def jsonl_rows(path: Path) -> Iterator[SourceRow]:
    """Rows of a JSON Lines file; blank lines are none.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with open_regular(path, "rb") as file:
            _check_size(path, file)
            for number, line in enumerate(_lines(file), 1):
                if line is None:
                    yield f"line {number}", f"longer than {LINE_BYTES_MAX} bytes"
                elif line.strip():
                    yield f"line {number}", _parsed(line)
    except ConfigError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a path that holds NUL
        raise ConfigError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
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
    return row if isinstance(row, dict) else f"not an object but {kind_of(row)}"


class NotThere(LookupError):
    """A row lacks a column; the message says what it has."""


def cell(row: dict[str, Any], column: str) -> Any:
    """The value of a column: of that very name, or inside others, as in reward_model.ground_truth.

    Raises:
        NotThere: see there.
    """
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            raise NotThere(f"no column {column!r}, but {_inside(row, column)}")
        value = value[part]
    return value


def _inside(row: dict[str, Any], column: str) -> str:
    top = column.split(".")[0]
    first = row.get(top)
    own = f", and in {top!r} {shown(list(first))}" if isinstance(first, dict) else ""
    return shown(list(row)) + own


def parquet_rows(path: Path, columns: list[str], all_columns: bool = False) -> Iterator[SourceRow]:
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
        with open_regular(path, "rb") as source:
            _check_size(path, source)
            with pyarrow.parquet.ParquetFile(source) as plain:
                top = _top_columns(str(path), columns, plain.schema_arrow.names)
                unpacking.check_row_groups(plain.metadata)
                once = unpacking.repeating(plain.schema)
            with pyarrow.parquet.ParquetFile(source, read_dictionary=once) as file:
                rows = unpacking.rows_of(file, None if all_columns else top)
                for number, row in enumerate(rows, 1):
                    yield f"row {number}", row
    except ConfigError:
        raise
    except OSError as e:
        raise ConfigError(f"cannot read {path} as parquet: {e.strerror or str(e)[:200]}") from e
    except (ValueError, NotImplementedError) as e:  # pyarrow's own derive from these
        raise ConfigError(f"cannot read {path} as parquet: {str(e)[:200]}") from e


def _check_size(path: Path, file: IO[bytes]) -> None:
    size = os.fstat(file.fileno()).st_size
    if size > FILE_BYTES_MAX:
        raise ConfigError(
            f"{path} has {size} bytes, and at most {FILE_BYTES_MAX} are read at every start: give "
            "a part of it"
        )


def hub_rows(
    name: str, config: str | None, split: str, columns: list[str], all_columns: bool = False
) -> Iterator[SourceRow]:
    """Rows of a hub data set's split, only the named columns unless all are wanted.

    Raises:
        ConfigError: `datasets` is missing or so old that it would run a data set's own code; the
            data set, split or a column does not exist; the hub does not answer.
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
    require_on_hub(name, "data set")
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        raise ConfigError(
            f"cannot load split {split!r} of the hub data set {name}: {str(e)[:300]}"
        ) from e
    top = _top_columns(f"{name}[{split}]", columns, list(rows.column_names))
    for number, row in enumerate(rows if all_columns else rows.select_columns(top), 1):
        yield f"row {number}", row


def _top_columns(where: str, wanted: list[str], present: list[str]) -> list[str]:
    """Names of the columns that hold those wanted, which may lie inside them.

    Raises:
        ConfigError: one that is not there.
    """
    top = [c if c in present else c.split(".")[0] for c in wanted]
    missing = [c for c, holder in zip(wanted, top, strict=True) if holder not in present]
    if missing:
        raise ConfigError(
            f"{where} has no column {missing[0]!r}, but {shown(present)}: name the columns with "
            "--task.prompt_column and --task.answer_column"
        )
    return list(dict.fromkeys(top))


def shown(names: list[str]) -> str:
    """Column names for a message; a file may name them anything, at any length."""
    text = ", ".join(repr(n[:40]) for n in names[:10])
    return text + (f" and {len(names) - 10} more" if len(names) > 10 else "") if names else "none"
