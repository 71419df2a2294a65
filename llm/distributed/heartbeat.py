"""Ranks that watch each other, so that the end of one is noticed, named, and ends the others.

Every rank counts up a number of its own in the store that torchrun keeps (it outlives the ranks),
and reads those of the others. This goes on in a thread while training computes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time

import torch.distributed as dist

from llm.wakeup_pipe import WakeupPipe

_BEAT_SECONDS = 0.5
_MISSED_SECONDS = 4.0  # without a beat, after a collective failed: that rank has ended
_GIVE_UP_SECONDS = 180.0  # without a beat: stopped, or its machine is gone; computing beats on
_TOLD_SECONDS = 4.0  # the same once torchrun, which sees ranks end, has sent SIGTERM


class Heartbeat(threading.Thread):
    def __init__(self, store: dist.Store, rank: int, ranks: int) -> None:
        super().__init__(daemon=True)
        self._store, self.rank = store, rank
        self._others = [r for r in range(ranks) if r != rank]
        self._seen: dict[int, tuple[bytes, float]] = {}  # last beat, and when it was new
        self._lock, self._done, self._count = threading.Lock(), threading.Event(), 0
        self._pipe: WakeupPipe | None = None
        self._signal = 0
        store.set(f"process/{rank}", f"{_process_space()} {os.getpid()}")
        self._beat()

    def listen(self) -> None:
        """Hear of signals also while the main thread waits in a library. Main thread only."""
        self._pipe = WakeupPipe()

    def run(self) -> None:
        silent = 0.0  # since when the store has not answered; 0: it does
        while not self._done.wait(_BEAT_SECONDS):
            self._hear()
            try:
                self._check_peers()
            except RuntimeError:
                silent = silent or time.monotonic()
                self._end_if_late("torchrun", silent)
                continue
            silent = 0.0
            for other, (_, since) in self._seen.items():
                self._end_if_late(f"rank {other}", since, other)

    def stop(self) -> None:
        """End the thread, and wait for that: a process that ends while it asks the store would be
        aborted by Python's own end."""
        self._done.set()
        if self.is_alive():
            self.join(_MISSED_SECONDS)
        if self._pipe is not None:
            self._pipe.stop()
            self._pipe.close()
            self._pipe = None

    def report(self, message: str) -> bool:
        """Leave word of the end of the run; whether this was the first word."""
        try:
            with self._lock:
                return self._store.add("reported", 1) == 1
        except RuntimeError:
            return True

    def who_ended(self) -> str:
        """After a collective failed: a sentence about the rank that ended; waits until it is sure.
        "" where none is missing."""
        end = time.monotonic() + 2 * _MISSED_SECONDS
        while time.monotonic() < end:
            now = time.monotonic()
            missing = [r for r, (_, since) in self._seen.items() if now - since > _MISSED_SECONDS]
            if missing:
                return (
                    f"rank {', '.join(map(str, sorted(missing)))} ended without a word (killed, or "
                    "out of memory?), so all ranks end"
                )
            if self._reported():
                return "another rank ended, and has said why"
            time.sleep(_BEAT_SECONDS)
        return ""

    def _reported(self) -> bool:
        try:
            with self._lock:
                return self._store.check(["reported"])
        except RuntimeError:
            return False

    def _hear(self) -> None:
        if self._pipe is not None:
            numbers = self._pipe.numbers(0.0)
            self._signal = self._signal or next(iter(numbers), 0)

    def _beat(self) -> None:
        self._count += 1
        self._store.set(f"beat/{self.rank}", str(self._count))

    def _check_peers(self) -> None:
        with self._lock:
            self._beat()
            values = {r: self._store.get(f"beat/{r}") for r in self._others}
        for other, value in values.items():
            if self._seen.get(other, (b"",))[0] != value:
                self._seen[other] = (value, time.monotonic())

    def _end_if_late(self, what: str, since: float, silent: int = -1) -> None:
        """The main thread may wait for a rank that is gone, and would for hours. A rank of this
        machine that is stopped, so deaf to SIGTERM too, is killed."""
        limit = _TOLD_SECONDS if self._signal else _GIVE_UP_SECONDS
        if time.monotonic() - since < limit:
            return
        if self.report(what):
            with contextlib.suppress(OSError):
                sys.stderr.write(
                    f"error: {what} has not answered for {limit:.0f} s, so all ranks end\n"
                )
                sys.stderr.flush()
        with contextlib.suppress(RuntimeError, OSError, ValueError):
            kept = self._store.get(f"process/{silent}") if silent >= 0 else b""
            space, _, number = kept.decode().rpartition(" ")
            if space == _process_space():
                os.kill(int(number), signal.SIGKILL)
        os._exit(128 + self._signal if self._signal else 1)


def _process_space() -> str:
    """Where process numbers mean the same: one kernel, one container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.urandom(8).hex()}"  # nobody's: kills nothing
