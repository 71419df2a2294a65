"""Files that are read and written as what they seem: regular, and no link to somewhere else.

A FIFO or a device would keep its reader waiting, and a symbolic link in a folder of somebody else
may lead anywhere.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

JSON_BYTES_MAX = 64_000_000  # of a file that describes a checkpoint or a run: thousands of entries


def open_here(path: Path, mode: str) -> IO[Any]:
    """`open` for a file inside a run folder; text is UTF-8.

    Raises:
        OSError: as `open`; also for a symbolic link and for what is not a regular file.
    """
    return open_regular(path, mode, follow=False)


def read_text(path: Path, most: int | None = None, *, follow: bool = True) -> str:
    """Text (UTF-8, a byte order mark is dropped) of a regular file.

    follow: whether the path may be a symbolic link to one.

    Raises:
        OSError: it cannot be read, is not regular, or has more than `most` bytes.
        ValueError: it is not UTF-8.
    """
    with open_regular(path, "rb", follow=follow) as file:
        data: bytes = file.read() if most is None else file.read(most + 1)
    if most is not None and len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data.decode("utf-8-sig")


def read_json(path: Path) -> Any:
    """What a JSON file inside a run folder holds.

    Raises:
        OSError: as `read_text`, of at most JSON_BYTES_MAX bytes, symbolic links refused.
        ValueError: it is not JSON, or is nested too deeply.
    """
    text = read_text(path, JSON_BYTES_MAX, follow=False)
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def irregular(path: Path) -> str:
    """What stands at a path instead of a regular file or a link to one; "" for these two."""
    try:
        mode = path.stat().st_mode
    except OSError as e:  # the link's target is missing, or links lead to each other
        return f"a symbolic link that leads to no file ({e.strerror})"
    named = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else named.get(stat.S_IFMT(mode), "a device")


def open_regular(path: Path, mode: str, *, follow: bool = True) -> IO[Any]:
    """`open` for a regular file; text is UTF-8. follow: whether the path may be a symbolic link.

    Raises:
        OSError: as `open`; also for what is not a regular file.
    """

    def opener(name: str, flags: int) -> int:
        if not follow and os.path.islink(name):
            what = "it is a symbolic link, and a run folder must hold the file itself"
            raise OSError(errno.ELOOP, what, name)
        # without O_NONBLOCK the opening of a FIFO waits for its other end
        more = os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        descriptor = os.open(name, flags | more, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return descriptor

    encoding = None if "b" in mode else "utf-8"
    return open(path, mode, encoding=encoding, opener=opener)
