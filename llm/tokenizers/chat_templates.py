"""Chat templates, rendered in a process of their own, which bounds them in time and memory."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 10.0  # of one rendering: a thousand messages take some milliseconds
TEMPLATE_MAX = 1_000_000  # characters: the largest published templates have some 20,000
_START_SECONDS = 120.0  # of the process, which imports a part of transformers
_CHARACTER_BYTES = 12  # that JSON takes at most


class TemplateError(ValueError):
    """A chat template that fails, or that takes too long, too much memory, or too many characters;
    the message says what it does, after a subject that whoever catches it knows."""


class _Renderer:
    """The process; it renders one template at a time, and is started anew where it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, job: Mapping[str, Any], seconds: float, most_bytes: int) -> dict[str, Any]:
        """The reply; {"failed": why} where none comes in time. most_bytes: of the reply."""
        data = json.dumps(job).encode() + b"\n"
        with self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self.end()
                    self._process = _started()
                    if self._talk(b"", _START_SECONDS, 1000) is None:
                        raise TemplateError("cannot be rendered: its process does not start")
                reply = self._talk(data, seconds, most_bytes)
            except BaseException:
                self.end()  # an interrupt must not leave it with half a conversation
                raise
            if reply is None:
                self.end()
                return {"failed": f"it takes more than {seconds:g} s, or ended its process"}
            return reply

    def _talk(self, data: bytes, seconds: float, most_bytes: int) -> dict[str, Any] | None:
        """Send a line, and receive one; None where that does not come to an end."""
        assert self._process is not None
        pipes = self._process.stdin, self._process.stdout
        assert pipes[0] is not None and pipes[1] is not None
        unsent, received = memoryview(data), bytearray()
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipes[1], selectors.EVENT_READ)
            if unsent:
                selector.register(pipes[0], selectors.EVENT_WRITE)
            while not received.endswith(b"\n"):
                ready = selector.select(max(0.0, end - time.monotonic()))
                if not ready or len(received) > most_bytes:
                    return None
                for key, _ in ready:
                    if key.fileobj is pipes[1]:
                        part = os.read(key.fd, 1 << 16)
                        if not part:
                            return None
                        received += part
                        continue
                    try:
                        unsent = unsent[os.write(key.fd, unsent[: 1 << 16]) :]
                    except OSError:  # it is dead
                        return None
                    if not unsent:
                        selector.unregister(pipes[0])
        reply: dict[str, Any] = json.loads(received)
        return reply

    def end(self) -> None:
        """Kill it, and wait for that."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _started() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return process


_renderer = _Renderer()  # of this process, shared by all its tokenizers
atexit.register(_renderer.end)


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    variables: Mapping[str, Any],
    most: int,
) -> str:
    """What a chat template makes of messages, exactly as transformers renders it.

    Args:
        variables: what it can read besides: special tokens, add_generation_prompt, arguments.
        most: characters of the result.

    Raises:
        TemplateError: it fails, takes longer than SECONDS or too much memory, or makes more.
    """
    job = {
        "template": template,
        "messages": list(messages),
        "variables": dict(variables),
        "most": most,
        "seconds": SECONDS,
    }
    reply = _renderer.ask(job, SECONDS, _CHARACTER_BYTES * most + 10_000)
    shown = repr(messages[-1]["content"][:100])
    if "failed" in reply:
        raise TemplateError(f"fails on {shown}: {reply['failed']}")
    if "characters" in reply:
        raise TemplateError(f"makes {reply['characters']} characters of {shown}")
    return str(reply["text"])


def template_variables(template: str) -> set[str] | None:
    """Names that a chat template reads and does not set itself; None if it cannot be parsed."""
    from jinja2 import meta

    parsed = _parsed(template)
    return None if parsed is None else set(meta.find_undeclared_variables(parsed))


def drawn_at_random(template: str) -> str:
    """What makes a chat template give another text each time; "" if nothing does."""
    from jinja2 import nodes

    parsed = _parsed(template)
    if parsed is None:
        return ""
    filters = {one.name for one in parsed.find_all(nodes.Filter)} & {"random"}
    names = {one.name for one in parsed.find_all(nodes.Name)} & {"lipsum"}
    return ", ".join(sorted(filters | names))


class _OfAnyName(dict[str, Any]):
    """Filters or tests of every name, which Jinja cannot compute beforehand: they ask for what a
    template has only when it is rendered."""

    def get(self, name: str, default: Any = None) -> Any:
        from jinja2 import pass_context

        return pass_context(lambda *_, **__: None)


def _parsed(template: str) -> Any:
    """The syntax tree of a template, None of one that has none. Nothing of it is computed, also not
    what Jinja could compute beforehand: `'x' * 10**10` has no variables."""
    import jinja2
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    environment.intercepted_binops = frozenset(environment.default_binop_table)
    environment.filters, environment.tests = _OfAnyName(), _OfAnyName()
    try:
        return environment.parse(template)
    except (jinja2.TemplateError, RecursionError):
        return None
