"""SIGTERM and Ctrl-C as a wish that training looks at between steps, so that it can save first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """A signal asked for the end; everything is saved."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped by a signal, exit code {exit_code}")
        self.exit_code = exit_code


class Signals:
    """While entered, SIGTERM and the first SIGINT only set `signal`; a second SIGINT interrupts.

    The former handlers come back on leaving. Outside the main thread, where Python takes no signal
    handlers, nothing is ever set.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupted = False
        self._former: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to save and exit."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program ended by that signal: 143 or 130; 0 if none came."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            # None: it was not set from Python, and cannot be set again from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.signal = self.signal or number
