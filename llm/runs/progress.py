"""One line on stderr that says where a long job is and when it will end."""

from __future__ import annotations

import os
import sys
import time


class Progress:
    """Rewrites its line on a terminal; elsewhere, or with TERM=dumb, prints one now and then."""

    def __init__(self, label: str, total: int, done: int = 0, silent: bool = False) -> None:
        self.label, self.total, self.first, self.silent = label, total, done, silent
        self.start = self.shown = time.monotonic()
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, done: int, text: str) -> None:
        now = time.monotonic()
        if self.silent:
            return
        if done < self.total and now - self.shown < (0.2 if self.live else 10.0):
            return
        self.shown = now
        line = f"{self.label}: {done}/{self.total}  {text}  ETA {self._left(done, now)}"
        sys.stderr.write(f"\r\x1b[2K{line}" if self.live else line + "\n")
        sys.stderr.flush()

    def _left(self, done: int, now: float) -> str:
        """Time left at the mean pace of the steps made here: those before a resume count for none
        of it, and before the first there is no pace."""
        if done >= self.total:
            return "0:00"
        if done <= self.first:
            return "unknown"
        left = round((now - self.start) / (done - self.first) * (self.total - done))
        minutes, seconds = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

    def close(self) -> None:
        if self.live and not self.silent:
            sys.stderr.write("\n")
