"""Output that nobody reads ends nothing."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm import output
from llm.output import SteadyStream


@pytest.fixture
def pipe():
    read, write = os.pipe()
    with os.fdopen(write, "w", buffering=1) as stream:
        yield read, stream


def test_what_a_reader_reads_arrives(pipe):
    read, stream = pipe
    steady = SteadyStream(stream)
    assert steady.write("hello\n") == 6 and not steady.isatty()
    steady.writelines(["a\n", "b\n"])
    steady.flush()
    assert os.read(read, 99) == b"hello\na\nb\n" and steady.failed() == ""
    os.close(read)


def test_a_reader_that_left_is_no_error_and_libraries_may_go_on_writing(pipe):
    read, stream = pipe
    os.close(read)
    steady = SteadyStream(stream)
    for _ in range(3):
        assert steady.write("x\n") == 2
    steady.flush()
    assert steady.error is not None and steady.error.errno == errno.EPIPE
    assert steady.failed() == ""
    assert os.write(stream.fileno(), b"by itself") == 9


def test_a_full_disk_is_said():
    with open("/dev/full", "w", buffering=1, encoding="utf-8") as full:
        steady = SteadyStream(full)
        steady.write("lost\n")
        assert "cannot write to /dev/full: No space left" in steady.failed()


def test_what_an_encoding_lacks_is_escaped():
    raw = io.BytesIO()
    steady = SteadyStream(io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    steady.write("r\u00e9sum\u00e9\n")
    assert raw.getvalue() == b"r\\xe9sum\\xe9\n"


def test_progress_is_left_out_where_nobody_reads_it(pipe, monkeypatch):
    """A reader that stopped would stop the training."""
    monkeypatch.setattr(output, "_WAIT_SECONDS", 0.01)
    read, stream = pipe
    steady = SteadyStream(stream, drop=True)
    for length in (9_999, 99_999, 70_001):  # none a multiple of what a pipe holds
        steady.write("x" * length + "\n")
    assert steady.error is None
    assert 4_000 < len(os.read(read, 1 << 20)) <= 1 << 16
    os.close(read)


CLOSED = """import os
from llm.output import open_standard_streams
open_standard_streams()
print("to nobody", flush=True)
with open(os.environ["FILE"], "w") as file:
    assert file.fileno() > 2 and os.get_inheritable(1)
    os.write(1, b"a library")
"""


def test_streams_that_were_closed_get_the_null_device(tmp_path):
    """The next file would have the number 1, and what libraries print would stand in it."""
    closing = ["sh", "-c", 'exec "$0" -S -c "$1" <&- >&- 2>&-', sys.executable, CLOSED]
    here = {"FILE": str(tmp_path / "rows"), "PYTHONPATH": str(Path(output.__file__).parents[1])}
    assert subprocess.run(closing, env={**os.environ, **here}).returncode == 0
    assert (tmp_path / "rows").read_text() == ""
