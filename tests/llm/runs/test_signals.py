"""Signals ask a run to save and end; a second one interrupts."""

from __future__ import annotations

import os
import signal
import threading
import time

import llm_process
import pytest
from training_runs import TINY, rows, start

from llm.checkpoints.checkpoint import latest
from llm.models import pretraining
from llm.runs.signals import Signals, Stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_for_a_save_and_former_handlers_come_back(number, code):
    before = signal.getsignal(number)
    with Signals() as interrupts:
        assert not interrupts.requested and interrupts.exit_code == 0
        os.kill(os.getpid(), number)
        assert interrupts.requested and interrupts.exit_code == code
        os.kill(os.getpid(), signal.SIGTERM)  # asked for again: still saving
        assert interrupts.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_no_handler_is_touched():
    before, found = signal.getsignal(signal.SIGTERM), []

    def body():
        with Signals() as interrupts:
            found.append((interrupts.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_sigterm_saves_exits_with_143_and_the_run_goes_on_exactly(tmp_path, warm):
    flags = ("--run.steps", "60", "--run.checkpoint-every", "30")
    start(tmp_path / "whole", warm, *flags)
    where = ("--run.folder", str(tmp_path / "cut"), "--pretrain.folder", str(warm))
    log = tmp_path / "log.txt"
    process = llm_process.started("train", *TINY, *flags, *where, stderr=log)
    file, deadline = tmp_path / "cut/metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if file.exists() and file.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.005)
    process.terminate()
    process.join(60)
    said = log.read_text()
    assert process.exitcode == 143, said
    assert "stopped by a signal, after saving" in said
    kept = latest(tmp_path / "cut/checkpoints")
    assert 3 <= int(kept.name[-8:]) == len(rows(tmp_path / "cut")) < 30
    start(tmp_path / "cut", warm, *flags)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_sigterm_in_a_warm_up_saves_it(tmp_path, monkeypatch):
    """The signal arrives in the warm-up's step 10; the warm-up goes on from there."""
    original, calls = pretraining.demonstrations, []

    def signalling(*args):
        calls.append(1)
        if len(calls) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(pretraining, "demonstrations", signalling)
    with pytest.raises(Stopped) as stopped:
        start(tmp_path / "r", tmp_path / "warm")
    assert stopped.value.exit_code == 143
    (folder,) = (tmp_path / "warm").glob("policy-*")
    assert latest(folder / "checkpoints").name == "step_00000010"
    start(tmp_path / "r", tmp_path / "warm", "--run.steps", "12")
    assert len(calls) == 120 + 80
