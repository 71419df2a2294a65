"""A stopped heartbeat leaves nothing in the store."""

from __future__ import annotations

import signal
import threading
import time
from typing import cast

import pytest
import torch

from llm.distributed import heartbeat
from llm.distributed.heartbeat import Heartbeat


def test_a_stopped_watch_is_no_longer_in_the_store():
    """A thread inside a call into torch when Python ends aborts the process, complete or not."""

    class SlowStore:
        def set(self, key, value):
            pass

        def get(self, key):
            asking.set()
            time.sleep(0.2)
            return b"1"

    asking = threading.Event()
    watch = Heartbeat(cast(torch.distributed.Store, SlowStore()), 0, 2)
    watch.start()
    assert asking.wait(20)
    watch.stop()
    assert not watch.is_alive()
    watch.stop()  # once more, as after an error


class Store(dict):
    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):  # type: ignore[override]
        return self[key]

    def add(self, key, n):
        return n


class Ended(BaseException):
    pass


@pytest.mark.parametrize("here", [True, False])
def test_after_a_signal_a_silent_rank_is_named_ended_and_so_are_all(monkeypatch, capfd, here):
    """The main thread waits for it inside a library, where it hears no signal. A rank of another
    machine, whose number means another process here, is left alone."""
    killed, ended = [], threading.Event()

    def end(code):
        killed.append(code)
        ended.set()
        raise Ended

    monkeypatch.setattr(heartbeat, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "_TOLD_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat.os, "_exit", end)
    monkeypatch.setattr(heartbeat.os, "kill", lambda *what: killed.append(what))
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    store = Store()
    space = heartbeat._process_space() if here else "elsewhere"
    store |= {"beat/1": b"7", "process/1": f"{space} 4321".encode()}
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    watch = Heartbeat(cast(torch.distributed.Store, store), 0, 2)
    watch.listen()
    try:
        watch.start()
        time.sleep(0.3)
        assert not ended.is_set()  # silent, but nobody asked for an end
        signal.raise_signal(signal.SIGTERM)
        assert ended.wait(20)
    finally:
        watch.stop()
        signal.signal(signal.SIGTERM, former)
    assert killed == [(4321, signal.SIGKILL)] * here + [128 + signal.SIGTERM]
    assert "rank 1 has not answered" in capfd.readouterr().err
