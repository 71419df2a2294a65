"""Output that nobody reads any more must not end a computation; imports nothing of ours."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_WAIT_SECONDS = 0.1  # for a reader that does not read: each line costs it


class SteadyStream:
    """A text stream whose `write` and `flush` never raise OSError.

    The first failure is kept in `error`, and the stream writes nothing from then on.

    Args:
        stream: stdout or stderr.
        drop: leave out what a full pipe would not take, rather than wait for its reader: for
            progress, not for results.
    """

    def __init__(self, stream: TextIO, *, drop: bool = False) -> None:
        self._stream, self._drop = stream, drop
        if isinstance(stream, io.TextIOWrapper):  # a name that its encoding lacks ends nothing
            stream.reconfigure(errors="backslashreplace")
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        pieces = [text]
        if self._drop:  # a pipe with room takes so many bytes, and may make a longer text wait
            size = select.PIPE_BUF // 4  # characters, of at most four bytes each
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
        for piece in pieces:
            if self.error is not None or (self._drop and self._is_full()):
                break
            self._attempt(lambda piece=piece: self._stream.write(piece))
            if self._drop:
                self.flush()
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.error is None:
            self._attempt(self._stream.flush)

    def failed(self) -> str:
        """Why results did not arrive; "" if they did, or if the reader left, as `head` does."""
        if self.error is None or self.error.errno == errno.EPIPE:
            return ""
        return f"cannot write to {self._stream.name}: {self.error.strerror or self.error}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _is_full(self) -> bool:
        try:
            return not select.select([], [self._stream.fileno()], [], _WAIT_SECONDS)[1]
        except (OSError, ValueError):
            return False

    def _attempt(self, act: Any) -> None:
        try:
            act()
        except OSError as e:
            self.error = e
            with contextlib.suppress(OSError, ValueError):  # libraries write there by themselves
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


def open_standard_streams() -> None:
    """Give each of stdin, stdout and stderr that was closed (`>&-`, some daemons) the null device.

    Otherwise the next file that is opened has its number, and gets what libraries print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)  # as those that a shell gives
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))


def tell_torchrun(message: str) -> None:
    """Have torchrun's own report, which follows and is long, end with the reason."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        info = {"py_callstack": message, "timestamp": str(int(time.time()))}
        content = {"message": {"message": message, "extraInfo": info}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps(content), encoding="utf-8")
