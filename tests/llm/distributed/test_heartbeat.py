"""A stopped heartbeat leaves nothing in the store."""

from __future__ import annotations

import threading
import time

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
    watch = Heartbeat(SlowStore(), 0, 2)
    watch.start()
    assert asking.wait(20)
    watch.stop()
    assert not watch.is_alive()
    watch.stop()  # once more, as after an error
