"""Numbers of signals at once, also while the main thread waits inside a library.

Python runs a signal's handler in the main thread, between two instructions. A main thread that
waits inside a library, for another rank say, runs none. The system itself writes the signal's
number into a pipe, which another thread can read.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal


class WakeupPipe:
    """Made and closed in the main thread, read in another. Who listened before hears too."""

    def __init__(self, silenced: WakeupPipe | None = None) -> None:
        """silenced: hears nothing meanwhile, if it is the one that listened before."""
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        known = silenced is not None and silenced._write == self._former
        self._pass_on = self._former >= 0 and not known

    def numbers(self, seconds: float | None) -> bytes:
        """Those of the next signals, a byte each; b"" if none came in time. 0: it was woken.

        seconds: to wait; None: without end.
        """
        if not select.select([self._read], [], [], seconds)[0]:
            return b""
        numbers = os.read(self._read, 64)
        if self._pass_on:
            with contextlib.suppress(OSError):
                os.write(self._former, numbers.replace(b"\0", b""))
        return numbers

    def wake(self) -> None:
        """Let its reader read a 0, which is no signal's number."""
        os.write(self._write, b"\0")

    def stop(self) -> None:
        """Signals go where they went before."""
        signal.set_wakeup_fd(self._former)

    def close(self) -> None:
        """After `stop`, when nobody reads any more."""
        os.close(self._read)
        os.close(self._write)
