"""Answers judged by math-verify in worker processes, each bounded in time, memory and size.

A worker has one answer at a time. If it is late it is killed and replaced; if it dies it is
replaced; either way that answer counts as wrong, and is counted. Nothing is pickled: a job and its
result are lines of JSON. The worst case, n different answers that are all too slow, takes
n / workers * (seconds + about 2 for a new worker).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from llm.errors import ConfigError

LONGEST = 1000  # characters of an expression; with the gold one far below what a pipe holds
_START_SECONDS = 60.0
_FAILURES_MAX = 5  # workers in a row that end without having judged anything
_GOLD_SECONDS = 5.0  # a gold answer is read once, so a busy machine need not refuse it
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")


class VerifierError(ConfigError):
    """No worker can judge anything: the surroundings are at fault, no answer is."""


@dataclass
class _VerifierProcess:
    process: subprocess.Popen
    deadline: float
    job: int | None = None
    ready: bool = False
    received: bytes = b""

    @property
    def replies(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()


class Verifier:
    """Compares expressions as mathematics. Workers start when first needed, and again if lost."""

    def __init__(self, workers: int, seconds: float) -> None:
        """Args: workers: processes; seconds: for one answer, without a worker's start.

        Raises:
            ConfigError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError(
                "--reward.type math_verify needs a package that is not installed: "
                "pip install -e '.[math]' in the checkout, or choose --reward.type number or exact"
            )
        self.seconds, self._size = seconds, workers
        self._workers: list[_VerifierProcess] = []
        self._failures = self._timeouts = self._crashes = 0

    def equal(self, pairs: list[tuple[str, str]]) -> list[bool]:
        """For each (gold, answer), both LaTeX: are they equal? Equal pairs are judged once."""
        fit = [p for p in pairs if 0 < len(p[0]) <= LONGEST and 0 < len(p[1]) <= LONGEST]
        different = list(dict.fromkeys(fit))
        verdicts = self._run([{"gold": g, "answer": a} for g, a in different], self.seconds)
        verdict = dict(zip(different, verdicts, strict=True))
        seen = [verdict.get(pair, "wrong") for pair in pairs]
        self._timeouts += seen.count("late")
        self._crashes += seen.count("lost")
        return [v == "right" for v in seen]

    def readable(self, golds: list[str]) -> list[bool]:
        """For each gold answer: is it one that math-verify can compare with?"""
        different = list(dict.fromkeys(g for g in golds if 0 < len(g) <= LONGEST))
        verdicts = self._run([{"gold": g} for g in different], max(self.seconds, _GOLD_SECONDS))
        verdict = dict(zip(different, verdicts, strict=True))
        return [verdict.get(g) == "right" for g in golds]

    def counts(self) -> dict[str, int]:
        """Answers that were too slow, and that ended their worker, since the last call."""
        counts = {"score_timeouts": self._timeouts, "score_crashes": self._crashes}
        self._timeouts = self._crashes = 0
        return counts

    def close(self) -> None:
        """End all workers and wait for them."""
        for worker in list(self._workers):
            self._drop(worker)

    def _run(self, jobs: list[dict[str, str]], seconds: float) -> list[str]:
        """A verdict for each job, in order: right, wrong, late or lost."""
        verdicts = ["lost"] * len(jobs)
        waiting = deque(range(len(jobs)))
        try:
            while waiting or any(w.job is not None for w in self._workers):
                self._assign(jobs, waiting, seconds)
                deadline = min((w.deadline for w in self._workers), default=0.0)
                timeout = max(deadline - time.monotonic(), 0.0)
                readable = wait([w.replies for w in self._workers], timeout)
                for worker in list(self._workers):
                    if worker.replies in readable:
                        self._receive(worker, verdicts)
                    elif time.monotonic() > worker.deadline:
                        self._time_out(worker, verdicts)
        except BaseException:
            self.close()  # an interrupt must not leave a worker with half a conversation
            raise
        return verdicts

    def _assign(self, jobs: list[dict[str, str]], waiting: deque[int], seconds: float) -> None:
        busy = sum(w.job is not None for w in self._workers)
        while len(self._workers) < min(self._size, busy + len(waiting)):
            self._workers.append(_start(seconds))
        for worker in list(self._workers):
            if worker.ready and worker.job is None and waiting:
                worker.job, worker.deadline = waiting[0], time.monotonic() + seconds
                try:
                    self._send(worker, jobs[waiting[0]])
                    waiting.popleft()
                except OSError as e:  # it died while idle, which no answer is to blame for
                    self._fail(worker, str(e))

    def _send(self, worker: _VerifierProcess, job: dict[str, str]) -> None:
        assert worker.process.stdin is not None
        worker.process.stdin.write(json.dumps(job).encode() + b"\n")  # fits into the empty pipe

    def _receive(self, worker: _VerifierProcess, verdicts: list[str]) -> None:
        """Take in what a worker says; it may also have died, or talk nonsense."""
        data = os.read(worker.replies, 4096)
        worker.received += data
        if data and not worker.received.endswith(b"\n") and len(worker.received) <= 4096:
            return
        try:
            value: Any = json.loads(worker.received)
            known = isinstance(value, dict)
        except (ValueError, RecursionError):
            known = False
        worker.received = b""
        if worker.job is None:
            if known and value.get("ready") is True and not worker.ready:
                worker.ready, worker.deadline = True, float("inf")
            else:
                self._fail(worker, str(value.get("error")) if known else "it ended")
        elif known and isinstance(value.get("ok"), bool):
            verdicts[worker.job] = "right" if value["ok"] else "wrong"
            worker.job, worker.deadline, self._failures = None, float("inf"), 0
        else:  # "lost" is what the verdict is already
            self._failures = 0
            self._drop(worker)

    def _time_out(self, worker: _VerifierProcess, verdicts: list[str]) -> None:
        if worker.job is None:
            self._fail(worker, f"it was not ready after {_START_SECONDS:g} s")
        else:
            verdicts[worker.job], self._failures = "late", 0
            self._drop(worker)

    def _fail(self, worker: _VerifierProcess, reason: str) -> None:
        """A worker that ended without blame on an answer: replaced, but not for ever."""
        self._drop(worker)
        self._failures += 1
        if self._failures >= _FAILURES_MAX:
            self._failures = 0
            raise VerifierError(
                f"{_FAILURES_MAX} math-verify workers in a row ended before they could judge an "
                f"answer; the last: {reason}. Is there memory for --reward.workers "
                f"{self._size}, and does `import math_verify` work?"
            )

    def _drop(self, worker: _VerifierProcess) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            pipe.close()


def _start(seconds: float) -> _VerifierProcess:
    """A worker without this process's secrets, and unable to import from this package's folder."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            str(Path(__file__).with_name("math_verifier_worker.py")),
            str(seconds),
        ],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
    )
    return _VerifierProcess(process, deadline=time.monotonic() + _START_SECONDS)
