"""Output that nobody reads ends nothing."""

from __future__ import annotations

import errno
import os

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
