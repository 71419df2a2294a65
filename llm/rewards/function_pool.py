"""Worker processes that call a reward function of the user's, each bounded in time and memory.

A worker has one call at a time. If it is late it is killed and replaced, and so are the processes
that it started; if it dies it is replaced. Nothing is pickled: a call and its reply are lines of
JSON. Workers have this process's environment, since the function is the user's own, and a mark in
it (`_MARK`), by which processes are found that left the worker's group.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llm.errors import ConfigError
from llm.settings.schema import FunctionReward

from .function_worker import LARGEST

_START_SECONDS = 120.0  # of a worker, whose function may load a model of its own
_STARTS_MAX = 3  # workers in a row that end before they are ready
_REPLY_MAX = 1 << 20  # bytes, and so many more for each completion of a call:
_REPLY_EACH = 1 << 10
_MARK = "JACKPOT_REWARD_WORKER"  # in the environment of a worker, and of what it starts
_ROUNDS_MAX = 20  # of looking for marked processes: one that starts others for ever is left alone


class RewardError(ConfigError):
    """A reward function that cannot be called, or that fails where failures stop the run."""


class Reply(NamedTuple):
    """What came of a call. outcome: "rewards", "failed", "late" or "lost".

    rewards: a number for each completion or, in place of it, what is wrong with it.
    """

    outcome: str
    rewards: list[float | str]
    message: str = ""


@dataclass
class _FunctionWorker:
    process: subprocess.Popen
    mark: str
    deadline: float
    unsent: memoryview
    job: int | None = None
    ready: bool = False
    received: bytearray = field(default_factory=bytearray)
    reply_max: int = _REPLY_MAX


class FunctionPool:
    """Calls one function. A first worker starts at once, others when they are needed.

    digest: SHA-256 of the function's file; modules: of those that it imports from its own folder,
    by path. needed: names of the arguments without a default.
    """

    def __init__(self, cfg: FunctionReward) -> None:
        """Raises RewardError where the function cannot be loaded, with the reason."""
        self._cfg, self._size = cfg, 1 if cfg.batched else cfg.workers
        self._workers: list[_FunctionWorker] = []
        self._selector = selectors.DefaultSelector()
        self._failed_starts = 0
        self.digest = ""
        self.modules: dict[str, str] = {}
        self.needed: list[str] = []
        try:
            self._start()
            while not self._workers or not self._workers[0].ready:
                self._turn([], [])
        except BaseException:
            self.close()
            raise

    def call(self, jobs: Sequence[tuple[dict[str, Any], int | None]]) -> list[Reply]:
        """What came of each call, in order.

        Args:
            jobs: (keyword arguments, number of rewards wanted in a list or None for a single one).

        Raises:
            RewardError: workers cannot start any more, or the function's file has changed.
        """
        replies = [Reply("lost", [])] * len(jobs)
        waiting = deque(range(len(jobs)))
        try:
            while waiting or any(w.job is not None for w in self._workers):
                self._assign(jobs, waiting)
                self._turn(jobs, replies)
        except BaseException:
            self.close()  # an interrupt must not leave a worker with half a conversation
            raise
        return replies

    def close(self) -> None:
        """End all workers and what they started, and wait for them."""
        for worker in list(self._workers):
            self._drop(worker)

    def _assign(
        self, jobs: Sequence[tuple[dict[str, Any], int | None]], waiting: deque[int]
    ) -> None:
        busy = sum(w.job is not None for w in self._workers)
        while len(self._workers) < min(self._size, busy + len(waiting)):
            self._start()
        for worker in self._workers:
            if worker.ready and worker.job is None and waiting:
                worker.job = waiting.popleft()
                arguments, count = jobs[worker.job]
                worker.reply_max = _REPLY_MAX + _REPLY_EACH * (count or 1)
                self._say(worker, {"arguments": arguments, "count": count})
                worker.deadline = time.monotonic() + self._cfg.seconds

    def _turn(
        self, jobs: Sequence[tuple[dict[str, Any], int | None]], replies: list[Reply]
    ) -> None:
        """Wait for one thing to happen, and take it in."""
        seconds_left = min(w.deadline for w in self._workers) - time.monotonic()
        for key, events in self._selector.select(max(seconds_left, 0.0)):
            worker = key.data
            if worker not in self._workers:
                continue  # dropped in this very turn
            if events & selectors.EVENT_WRITE:
                self._send(worker)
            else:
                self._receive(worker, replies)
        for worker in list(self._workers):
            if time.monotonic() > worker.deadline:
                if worker.job is None:
                    self._fail(worker, f"it was not ready after {_START_SECONDS:g} s")
                    continue
                seconds = f"no reply within {self._cfg.seconds:g} s (reward.seconds)"
                replies[worker.job] = Reply("late", [], seconds)
                self._drop(worker)

    def _say(self, worker: _FunctionWorker, value: dict[str, Any]) -> None:
        """Queue a line, which `_send` writes as the pipe takes it."""
        assert worker.process.stdin is not None
        worker.unsent = memoryview(json.dumps(value).encode() + b"\n")
        self._selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)

    def _send(self, worker: _FunctionWorker) -> None:
        pipe = worker.process.stdin
        assert pipe is not None
        try:
            worker.unsent = worker.unsent[os.write(pipe.fileno(), worker.unsent) :]
        except BlockingIOError:
            return
        except OSError:  # it is dead, which its output says too
            worker.unsent = worker.unsent[:0]
        if not worker.unsent:
            self._selector.unregister(pipe)

    def _receive(self, worker: _FunctionWorker, replies: list[Reply]) -> None:
        """Take in what a worker says; it may also have died, or talk nonsense."""
        assert worker.process.stdout is not None
        data = os.read(worker.process.stdout.fileno(), 1 << 16)
        worker.received += data
        if (
            data
            and not worker.received.endswith(b"\n")
            and len(worker.received) <= worker.reply_max
        ):
            return
        value = _parsed(bytes(worker.received))
        worker.received.clear()
        if worker.job is None:
            self._ready_or_fail(worker, value)
            return
        job, worker.job, worker.deadline = worker.job, None, float("inf")
        if "rewards" in value:
            replies[job] = Reply("rewards", value["rewards"])
        elif "failed" in value:
            replies[job] = Reply("failed", [], str(value["failed"]))
        else:
            replies[job] = Reply("lost", [], f"its worker ended ({_end(worker.process)})")
        if "last" in value or not value:
            self._drop(worker)

    def _ready_or_fail(self, worker: _FunctionWorker, value: dict[str, Any]) -> None:
        if "ready" not in value or worker.ready:
            self._fail(worker, str(value.get("failed") or f"it ended ({_end(worker.process)})"))
            return
        of_now = value["digest"], value["modules"]
        if self.digest and of_now != (self.digest, self.modules):
            raise RewardError(
                f"the file of --reward.function {self._cfg.function}, or a module of its folder, "
                "changed while it was in use: put it back as it was and start again, or start "
                "another run"
            )
        (self.digest, self.modules), self.needed = of_now, value["needed"]
        worker.ready, worker.deadline, self._failed_starts = True, float("inf"), 0

    def _fail(self, worker: _FunctionWorker, reason: str) -> None:
        """A worker that ended without a call: replaced, but not for ever."""
        was_ready = worker.ready
        self._drop(worker)
        self._failed_starts += not was_ready
        if not self.digest or self._failed_starts >= _STARTS_MAX:
            raise RewardError(
                f"--reward.function {self._cfg.function} cannot be loaded: {reason}. Give FILE.py:"
                f"NAME or package.module:NAME; its worker has --reward.memory {self._cfg.memory} "
                "MiB of address space"
            )

    def _start(self) -> None:
        mark = secrets.token_hex(16)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("function_worker.py"))],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, _MARK: mark},
                start_new_session=True,  # a group of its own, which is killed as a whole
            )
        except OSError as e:
            raise RewardError(
                f"no worker can be started for --reward.function {self._cfg.function}: "
                f"{e.strerror or e}. Are there too many processes or open files? --reward.workers "
                f"is {self._cfg.workers}"
            ) from e
        until = time.monotonic() + _START_SECONDS
        worker = _FunctionWorker(process, mark, until, memoryview(b""))
        self._workers.append(worker)
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        cfg = self._cfg
        self._say(
            worker,
            {
                "function": cfg.function,
                "path": [p or os.getcwd() for p in sys.path],
                "seconds": cfg.seconds,
                "memory": cfg.memory,
            },
        )

    def _drop(self, worker: _FunctionWorker) -> None:
        self._workers.remove(worker)
        with contextlib.suppress(OSError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        _kill_marked(worker.mark)
        worker.process.wait()
        for pipe in (worker.process.stdin, worker.process.stdout):
            assert pipe is not None
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
            pipe.close()


def _kill_marked(mark: str) -> None:
    """End the processes that have this mark: those that left their worker's group by setsid, or
    outlived their parent. Linux alone shows the environment of a process; without it none is found.
    """
    entry, killed = f"{_MARK}={mark}".encode(), set[int]()
    for _ in range(_ROUNDS_MAX):
        alive = {pid for pid in _processes() if pid not in killed and _has(pid, entry)}
        if not alive:
            return
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed |= alive


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _has(pid: int, entry: bytes) -> bool:
    """Whether an entry stands in a process's environment; False for one of somebody else's."""
    try:
        return entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _parsed(line: bytes) -> dict[str, Any]:
    """A reply of the right shape; {} for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    rewards = value.get("rewards", [])
    good = isinstance(rewards, list) and all(_is_reward(x) for x in rewards)
    return value if good else {}


def _is_reward(x: Any) -> bool:
    """Also of a worker whose function writes replies of its own: no NaN, and no huge integer."""
    return isinstance(x, str) or (isinstance(x, int | float) and abs(x) <= LARGEST)


def _end(process: subprocess.Popen) -> str:
    """How a process ended, or that it talks nonsense. It is left to be waited for."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if end is not None:
            exited = end.si_code == os.CLD_EXITED
            return f"exit code {end.si_status}" if exited else f"signal {end.si_status}"
        time.sleep(0.01)
    return "what it said is no reply"
