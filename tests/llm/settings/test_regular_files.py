"""Only regular files are read and written, and no more than asked for."""

from __future__ import annotations

import os

import pytest

from llm.settings.regular_files import open_here, read_text


def test_a_link_inside_a_run_folder_is_refused_for_reading_and_writing(tmp_path):
    (tmp_path / "real").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for mode in ("r", "w", "ab"):
        with pytest.raises(OSError, match="symbolic link"):
            open_here(tmp_path / "link", mode)
    assert read_text(tmp_path / "link") == "kept"  # a configuration may be linked to


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        open_here(tmp_path / "fifo", "r")
    with pytest.raises(OSError, match="not a regular file"):
        read_text(tmp_path / "fifo")


def test_a_text_of_more_bytes_than_asked_for_is_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfab")
    assert read_text(tmp_path / "text", most=5) == "ab"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_text(tmp_path / "text", most=4)
