"""Workers of `--rollout.engine.type process` that need not load torch: each is forked from one that
has loaded it and runs nothing else. It has a process id, pipes and an environment of its own, as a
worker has that `python -m` starts; test_worker.py and test_subprocess_engine.py start those too.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import types
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import IO, Any

import llm_process
import torch

from llm.rollout.engines import subprocess_engine, worker


class _ForkedWorker:
    """What an engine needs of `subprocess.Popen`."""

    def __init__(self, line: Connection, command: list[str], stderr: IO[bytes], env: dict) -> None:
        child_in, parent_in = os.pipe()
        parent_out, child_out = os.pipe()
        said, says = os.pipe()
        line.send((command[-1], env))
        for descriptor in (child_in, child_out, stderr.fileno(), says):
            send_handle(line, descriptor, 0)
        for descriptor in (child_in, child_out, says):
            os.close(descriptor)
        self.stdin = open(parent_in, "wb", buffering=0)
        self.stdout = open(parent_out, "rb", buffering=0)
        self._status = open(said, encoding="ascii")
        self.pid = int(self._status.readline())

    def wait(self) -> int:
        """The exit code, -9 after a SIGKILL."""
        if not self._status.closed:
            self._code = int(self._status.readline())
            self._status.close()
        return self._code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def opened() -> Connection:
    """A line to a new process that forks workers until the line is closed."""
    ours, theirs = llm_process.CONTEXT.Pipe()
    llm_process.CONTEXT.Process(target=_fork_as_asked, args=(theirs,), daemon=True).start()
    theirs.close()
    return ours


@contextlib.contextmanager
def through(line: Connection) -> Iterator[None]:
    """Engines of this process fork their workers. Any other command is run as it is."""

    def start(command: list[str], **how: Any) -> Any:
        if command[1:3] != ["-m", worker.__name__]:
            return subprocess.Popen(command, **how)
        return _ForkedWorker(line, command, how["stderr"], how["env"])

    former = subprocess_engine.subprocess
    forking: Any = types.SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)
    subprocess_engine.subprocess = forking
    try:
        yield
    finally:
        subprocess_engine.subprocess = former


def _fork_as_asked(line: Connection) -> None:
    importlib.import_module("transformers.models.qwen3.modeling_qwen3")
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for workers
    while True:
        try:
            folder, env = line.recv()
        except EOFError:
            return
        descriptors = [recv_handle(line) for _ in range(4)]
        if os.fork() == 0:
            line.close()
            _fork_and_wait(Path(folder), env, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_and_wait(folder: Path, env: dict[str, str], descriptors: list[int]) -> None:
    """Say a worker's process id, then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        for number, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, number)
        for descriptor in descriptors:
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(env)
        try:
            worker.main(folder)
        finally:
            os._exit(1)
    *pipes, says = descriptors
    for descriptor in pipes:
        os.close(descriptor)
    os.write(says, b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(says, b"%d\n" % code)
    os._exit(0)
