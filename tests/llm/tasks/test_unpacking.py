"""A small parquet file may unpack to much: it is measured before it is unpacked."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet
import pytest
import sections
from toy_tokenizers import Words

from llm.errors import ConfigError
from llm.tasks import unpacking
from llm.tasks.factory import open_task


def written(path, prompts: pa.Array, **more) -> str:
    answers = pa.array([str(i) for i in range(len(prompts))])
    table = pa.table({"prompt": prompts, "answer": answers})
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False, **more)
    return str(path)


def opened(path: str, **more):
    return open_task(sections.task(type="problems", source=path, **more), Words(), sections.EXACT)


LONG = "long " * 400_000  # 2 MB, kept once
BOMB = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 200, pa.int32()), pa.array([LONG, "short"]))


def test_a_value_that_many_rows_share_is_not_unpacked_for_each(tmp_path, monkeypatch):
    """400 MB of rows in a file of 2 kB; rows of a size that fits are still looked at."""
    path = tmp_path / "bomb.parquet"
    source = written(path, BOMB)
    assert path.stat().st_size < 9000
    with pyarrow.parquet.ParquetFile(path, read_dictionary=["prompt"]) as file:
        (first, *_) = file.iter_batches(batch_size=256)
        assert unpacking.unpacked_bytes(first.column("prompt")) == 128 * (len(LONG) + 5)
    monkeypatch.setattr(unpacking, "_BATCH_BYTES_MAX", 1 << 22)
    monkeypatch.setattr(unpacking, "ROW_BYTES_MAX", 1 << 20)
    with pytest.raises(ConfigError, match=r"row 1: it unpacks to 2000\d\d\d bytes, more than 1048"):
        opened(source)
    peak = pa.default_memory_pool().max_memory()
    assert peak is None or peak < 100_000_000


def test_lists_and_objects_are_measured_with_all_that_they_hold():
    texts = pa.array(["a" * 10, "b" * 20, "a" * 10]).dictionary_encode()
    objects = pa.StructArray.from_arrays([texts, texts], names=["x", "y"])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3]), objects)
    assert unpacking.unpacked_bytes(objects) == 80
    assert unpacking.unpacked_bytes(lists) == 80
    assert unpacking.unpacked_bytes(lists.slice(1, 1)) == 20
    assert unpacking.unpacked_bytes(pa.array([1, 2], pa.int64())) == 16


@pytest.mark.parametrize(
    ("limit", "said"),
    [("VALUES_MAX", "row group 0 has 400 values"), ("ROW_BYTES_MAX", "values of 'prompt' have 8")],
)
def test_many_values_and_wide_ones_are_refused_before_they_are_read(
    tmp_path, monkeypatch, limit, said
):
    monkeypatch.setattr(unpacking, limit, 7)
    source = written(tmp_path / "a.parquet", pa.array([b"12345678"] * 400, pa.binary(8)))
    with pytest.raises(ConfigError, match=said):
        opened(source)
