"""Once this is imported no file is flushed to the disk: no test sees a power cut, and a tiny run
would wait some sixty times for the disk."""

from __future__ import annotations

import os


def _check(descriptor: int) -> None:
    """What `os.fsync` refuses is refused here too: a number that is no open file's."""
    os.fstat(descriptor)


os.fsync = _check  # type: ignore[assignment]
