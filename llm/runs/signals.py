"""Signals as a wish that training looks at between steps, so that it can save first.

Python runs a signal's handler in the main thread, between two instructions. A main thread that
waits inside a library, for another rank say, runs none. A thread of its own therefore reads the
signals' numbers from a pipe, which the system writes at once, and sees to it that none waits for
ever.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

# Batch systems say that the time is up by TERM or USR1, a closed terminal by HUP. Each means: save.
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
UNWIND_SECONDS = 2.5  # from `Overdue` to the end by force, unless something is being saved


class Stopped(Exception):
    """A signal asked for the end. saved: whether all that was done is in a checkpoint."""

    def __init__(self, exit_code: int, saved: bool = True) -> None:
        super().__init__(f"stopped by a signal, exit code {exit_code}")
        self.exit_code, self.saved = exit_code, saved


class Overdue(BaseException):
    """Raised in the main thread: a signal was not answered in time, wherever the run is."""


class Signals:
    """While entered, the first of `NUMBERS` only sets `signal`; a second SIGINT interrupts.

    A signal that was ignored before stays ignored, as SIGHUP under nohup. The former handlers come
    back on leaving. Outside the main thread, where Python takes no signal handlers, nothing is ever
    set.

    Args:
        seconds: after so long `Overdue` is raised in the main thread, and leaves as `Stopped`. A
            main thread that is deaf to it is ended `UNWIND_SECONDS` later. Not while `saving`.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        self.signal: int | None = None
        self.seconds = seconds
        self._interrupted = self._overdue = self._leaving = False
        self._saving = threading.Lock()
        self._former: dict[int, Any] = {}
        self._former_pipe = -1
        self._pipe = (-1, -1)
        self._watch: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether to save and exit."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program ended by that signal: 143 or 130; 0 if none came."""
        return 0 if self.signal is None else 128 + self.signal

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """While entered nothing is overdue: half a checkpoint helps nobody."""
        with self._saving:
            yield

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        for number in NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._note)
        self._former_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._watch = threading.Thread(target=self._watch_pipe, daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving = True
        if self._watch is not None:
            signal.set_wakeup_fd(self._former_pipe)
            os.write(self._pipe[1], b"\0")  # no signal's number: the thread's end
            self._watch.join(UNWIND_SECONDS)
            self._watch = None
            for end in self._pipe:
                os.close(end)
        for number, handler in self._former.items():
            # None: it was not set from Python, and cannot be set again from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
        if isinstance(error, Overdue):
            raise Stopped(self.exit_code, saved=False) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._overdue and not self._leaving:
            self._overdue = False  # once: what unwinds is not interrupted again
            raise Overdue
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.signal = self.signal or number

    def _watch_pipe(self) -> None:
        """The thread: notes the first signal, and what happens when nobody answers it."""
        end = None  # when the first signal is overdue
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            if select.select([self._pipe[0]], [], [], left)[0]:
                numbers = os.read(self._pipe[0], 64)
                if b"\0" in numbers:
                    return
                if self._former_pipe >= 0:  # somebody else listens too
                    with contextlib.suppress(OSError):
                        os.write(self._former_pipe, numbers)
                known = [n for n in numbers if n in self._former]
                if known and end is None:
                    self.signal = self.signal or known[0]
                    end = time.monotonic() + self.seconds
                    self._say(f"the run saves and ends, within {self.seconds:g} s or without")
                continue
            if self._saving.locked():
                with self._saving:  # waits for the end of a checkpoint, which ends the run
                    end = time.monotonic() + 1.0
                continue
            self._overdue = True
            signal.pthread_kill(threading.main_thread().ident or 0, self.signal or 0)
            if not self._left_alone():
                return
            self._say("what the run waits for does not answer; it ends now, and the last "
                      "checkpoint is kept")  # fmt: skip
            os._exit(self.exit_code)

    def _left_alone(self) -> bool:
        """Whether `Signals` was not left in the time that unwinding may take."""
        end = time.monotonic() + UNWIND_SECONDS
        while (left := end - time.monotonic()) > 0:
            if select.select([self._pipe[0]], [], [], left)[0]:
                if b"\0" in os.read(self._pipe[0], 64):
                    return False
            elif self._saving.locked():  # the state before this step
                end = time.monotonic() + UNWIND_SECONDS
        return not self._saving.locked()

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{signal.Signals(self.signal or 0).name}: {text}\n")
            sys.stderr.flush()
