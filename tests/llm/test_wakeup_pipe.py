"""Numbers of signals are read from a pipe, by whoever listens."""

from __future__ import annotations

import signal

from llm.wakeup_pipe import WakeupPipe


def test_numbers_are_heard_by_all_who_listen_but_the_silenced_and_the_former_comes_back():
    former = signal.signal(signal.SIGUSR1, lambda *_: None)
    outer = WakeupPipe()
    try:
        for silenced, heard in ((None, bytes([signal.SIGUSR1])), (outer, b"")):
            inner = WakeupPipe(silenced)
            signal.raise_signal(signal.SIGUSR1)
            assert inner.numbers(5.0) == bytes([signal.SIGUSR1])
            assert outer.numbers(0.0) == heard
            inner.wake()
            assert inner.numbers(0.0) == b"\0" and outer.numbers(0.0) == b""
            inner.stop()
            inner.close()
        signal.raise_signal(signal.SIGUSR1)
        assert outer.numbers(5.0) == bytes([signal.SIGUSR1])
    finally:
        outer.stop()
        outer.close()
        signal.signal(signal.SIGUSR1, former)
