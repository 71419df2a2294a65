"""One line on stderr that says where a long job is and when it will end."""

from __future__ import annotations

import sys
import time


class Progress:
    """Rewrites its line on a terminal; elsewhere prints a line now and then."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self.label, self.total, self.first = label, total, done
        self.start = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def show(self, done: int, text: str) -> None:
        now = time.monotonic()
        if done < self.total and now - self.shown < (0.2 if self.live else 10.0):
            return
        self.shown = now
        rate = (now - self.start) / max(1, done - self.first)
        left = int(rate * (self.total - done))
        line = f"{self.label}: {done}/{self.total}  {text}  ETA {left // 60}:{left % 60:02d}"
        sys.stderr.write(f"\r\x1b[2K{line}" if self.live else line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\n")
