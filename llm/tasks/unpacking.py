"""What a parquet file unpacks to, looked at before it is unpacked: a small file can hold much.

Values that repeat are kept once in a file. Kept so in memory too, a batch of rows has the size that
it has in the file, and what its rows would take as Python objects can be computed first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ROW_GROUP_BYTES_MAX = 1 << 33  # as it is encoded; writers make groups of 128 MB to 1 GB
VALUES_MAX = 1 << 28  # of a column in a row group: with lists there may be many in a row
ROW_BYTES_MAX = 1 << 26  # of all columns that are read, pictures among them
_BATCH_ROWS = 256
_BATCH_BYTES_MAX = 1 << 28


def check_row_groups(metadata: Any) -> None:
    """Raises ValueError if a row group would fill the memory."""
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        size = group.total_byte_size
        if size > ROW_GROUP_BYTES_MAX:
            raise ValueError(f"row group {i} has {size} bytes, more than {ROW_GROUP_BYTES_MAX}")
        values = max((group.column(j).num_values for j in range(group.num_columns)), default=0)
        if values > VALUES_MAX:
            raise ValueError(f"row group {i} has {values} values, more than {VALUES_MAX}")


def repeating(schema: Any) -> list[str]:
    """Columns whose repeated values can be kept once: texts and bytes, also inside others.

    Raises:
        ValueError: values of one size that is larger than a row may be.
    """
    columns = [schema.column(i) for i in range(len(schema))]
    wide = next((c for c in columns if c.length > ROW_BYTES_MAX), None)
    if wide is not None:
        raise ValueError(f"values of {wide.path[:40]!r} have {wide.length} bytes each")
    return [c.path for c in columns if c.physical_type == "BYTE_ARRAY"]


def rows_of(file: Any, columns: list[str] | None) -> Iterator[dict[str, Any] | str]:
    """Each row of an open file, or why it is none; columns: None for all."""
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
        if sum(map(unpacked_bytes, batch.columns)) <= _BATCH_BYTES_MAX:
            yield from batch.to_pylist()
            continue
        for i in range(batch.num_rows):
            row = batch.slice(i, 1)
            size = sum(map(unpacked_bytes, row.columns))
            if size > ROW_BYTES_MAX:
                yield f"it unpacks to {size} bytes, more than {ROW_BYTES_MAX}"
            else:
                yield row.to_pylist()[0]


def unpacked_bytes(values: Any) -> int:
    """What an Arrow array takes when each of its values stands for itself."""
    import pyarrow
    import pyarrow.compute as compute

    kind = values.type
    if pyarrow.types.is_dictionary(kind):
        each = compute.binary_length(values.dictionary)
        return int(compute.sum(compute.take(each, values.indices)).as_py() or 0)
    if pyarrow.types.is_struct(kind):
        return sum(map(unpacked_bytes, values.flatten()))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return unpacked_bytes(values.flatten())
    return int(values.nbytes)
