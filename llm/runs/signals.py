"""Signals: a wish that training looks at between steps, so that it can save first; elsewhere the
end at once. A thread reads their numbers from a pipe, and sees to it that none waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

from llm.errors import Interruption
from llm.wakeup_pipe import WakeupPipe

# Batch systems say that the time is up by TERM or USR1, a closed terminal by HUP. Each means: save.
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
UNWIND_SECONDS = 2.5  # from `Overdue` to the end by force, unless something is being saved
# More than ranks take to find out which of them ended (heartbeat.py); with the above less than 10.
AT_ONCE_SECONDS = 7.0

_entered: list[Signals] = []  # the last one answers


class Stopped(Exception):
    """A signal asked for the end. saved: whether all that was done is in a checkpoint."""

    def __init__(self, exit_code: int, saved: bool = True) -> None:
        super().__init__(f"stopped by a signal, exit code {exit_code}")
        self.exit_code, self.saved = exit_code, saved


class Overdue(Interruption):
    """Raised in the main thread: a signal has to be answered now, wherever the run is."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Signals:
    """While entered, the first of `NUMBERS` only sets `signal`; a second SIGINT interrupts.

    A second one of the others does not: batch systems send TERM to a process and to its group, or
    again after some seconds, and what is being saved would be lost. `seconds` bounds the wait.

    A signal that was ignored before stays ignored, as SIGHUP under nohup. The former handlers come
    back on leaving. Outside the main thread, where Python takes no signal handlers, nothing is ever
    set. Of several that are entered the innermost answers.

    Args:
        seconds: after so long `Overdue` is raised in the main thread, and leaves as `Stopped`. A
            main thread that is deaf to it is ended `UNWIND_SECONDS` later. Not while `saving`,
            unless a second SIGINT comes: a disk may never answer.
        at_once: for where nothing is to be saved: the first signal raises `Overdue` itself, which
            leaves as it is, so that what it passes can say where that was. It is raised again
            after `seconds`, if a library swallowed it. A second signal ends the process.
    """

    def __init__(self, seconds: float = 5.0, *, at_once: bool = False) -> None:
        self.signal: int | None = None
        self.seconds, self._at_once = seconds, at_once
        self._noted = self._interrupted = self._overdue = self._leaving = False
        self._saving = threading.Lock()
        self._former: dict[int, Any] = {}
        self._pipe: WakeupPipe | None = None
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
        self._pipe = WakeupPipe(silenced=_entered[-1]._pipe if _entered else None)
        for number in NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._note)
        _entered.append(self)
        self._watch = threading.Thread(target=self._watch_pipe, args=[self._pipe], daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving = True
        if self._pipe is not None and self._watch is not None:
            self._pipe.stop()
            self._pipe.wake()  # the thread's end
            self._watch.join(UNWIND_SECONDS)
            _entered.remove(self)
            self._pipe.close()
            self._pipe = self._watch = None
        for number, handler in self._former.items():
            # None: it was not set from Python, and cannot be set again from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
        if isinstance(error, Overdue) and not self._at_once:
            raise Stopped(self.exit_code, saved=False) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread."""
        if self._leaving:
            return  # all was done when it came
        first, self._noted = not self._noted, True
        self.signal = self.signal or number
        if self._overdue or (self._at_once and first):
            self._overdue = False  # once: what unwinds is not interrupted again
            raise Overdue(self.exit_code)
        if number == signal.SIGINT and self._interrupted and not self._at_once:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT

    def _watch_pipe(self, pipe: WakeupPipe) -> None:
        """The thread: hears of signals, and sees to it that the first one is answered in time."""
        heard: list[int] = []
        end = None  # when the first signal is overdue
        saving = False  # whether that was so when it was
        while True:
            numbers = pipe.numbers(None if end is None else max(0.0, end - time.monotonic()))
            if b"\0" in numbers:
                return
            if numbers:
                heard += [n for n in numbers if n in self._former and _entered[-1] is self]
                end = self._deadline(heard, end) if heard else None
                continue
            if saving or self._saving.locked():
                if not saving:
                    self._say("a checkpoint is being written, and waited for; a second Ctrl-C ends "
                              "the run without it")  # fmt: skip
                saving = self._saving.locked()
                if saving and heard.count(signal.SIGINT) > 1:
                    if self._left_alone(pipe, heard):
                        self._end("what is being saved does not end; what was saved before is kept")
                    return
                # the end of a checkpoint ends the run, for which it gets a second
                end = time.monotonic() + (0.1 if saving else 1.0)
                continue
            self._overdue = True
            signal.pthread_kill(threading.main_thread().ident or 0, self.signal or 0)
            if self._left_alone(pipe, heard):
                self._end("what the run waits for does not answer; it ends now, and what was saved "
                          "is kept")  # fmt: skip
            return

    def _deadline(self, heard: list[int], end: float | None) -> float:
        """When signals are overdue of which the last has just been heard; end: so far."""
        now = time.monotonic()
        self.signal = self.signal or heard[0]
        if self._at_once and len(heard) > 1:
            self._end("a second signal; what was saved is kept")
        if end is None:
            if not self._at_once:
                self._say(f"the run saves and ends, within {self.seconds:g} s or without")
            return now + self.seconds
        # the main thread hears of a second Ctrl-C by itself, unless it is deaf
        return min(end, now + UNWIND_SECONDS) if heard.count(signal.SIGINT) > 1 else end

    def _left_alone(self, pipe: WakeupPipe, heard: list[int]) -> bool:
        """Whether `Signals` was not left in the time that unwinding may take, and nothing is being
        saved that is still waited for: a second Ctrl-C waits for nothing."""
        end = time.monotonic() + UNWIND_SECONDS
        while (left := end - time.monotonic()) > 0:
            numbers = pipe.numbers(left)
            if b"\0" in numbers:
                return False
            heard += numbers
            if self._saving.locked() and heard.count(signal.SIGINT) < 2:  # the state before a step
                end = time.monotonic() + UNWIND_SECONDS
        return heard.count(signal.SIGINT) > 1 or not self._saving.locked()

    def _end(self, text: str) -> NoReturn:
        self._say(text)
        os._exit(self.exit_code)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{signal.Signals(self.signal or 0).name}: {text}\n")
            sys.stderr.flush()
