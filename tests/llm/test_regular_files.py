"""Only regular files are opened, links followed only where a user named them, JSON is bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm import regular_files
from llm.regular_files import open_here, read_json, read_text


@pytest.mark.parametrize("mode", ["rb", "wb", "ab", "a+", "x"])
def test_a_link_is_neither_followed_nor_its_target_changed(tmp_path, mode):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        open_here(tmp_path / "link", mode)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    with pytest.raises(OSError, match="symbolic link"):
        open_here(tmp_path / "dangling", mode)
    assert (tmp_path / "target").read_text() == "mine" and not (tmp_path / "made").exists()


def test_a_fifo_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_text(path)
        with pytest.raises(OSError, match="not a regular file"):
            open_here(path, "rb")


def test_what_a_user_names_may_be_a_link(tmp_path):
    (tmp_path / "target").write_bytes(b"\xef\xbb\xbfmine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert read_text(tmp_path / "link") == "mine"
    with pytest.raises(OSError, match="symbolic link"):
        read_text(tmp_path / "link", follow=False)


def test_a_file_above_its_limit_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "f").write_text("12345")
    assert read_text(tmp_path / "f", 5) == "12345"
    monkeypatch.setattr(regular_files, "JSON_BYTES_MAX", 4)
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_json(tmp_path / "f")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "\xff"])
def test_json_that_is_deep_huge_cut_or_no_utf8_is_a_value_error(tmp_path, text):
    (tmp_path / "f").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError):
        read_json(tmp_path / "f")


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
