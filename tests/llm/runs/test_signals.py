"""Signals ask a run to save and end; a second one interrupts."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import threading
import time

import llm_process
import pytest
from optional import not_none
from training_runs import TINY, rows, start

from llm import train
from llm.checkpoints.checkpoint import latest
from llm.models import pretraining
from llm.runs import signals
from llm.runs.signals import Overdue, Signals, Stopped

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129, signal.SIGUSR1: 138}


@pytest.mark.parametrize(("number", "code"), CODES.items())
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


def test_what_was_ignored_stays_ignored(monkeypatch):
    """As SIGHUP is under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.requested
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_wait_without_end_is_left_in_time_and_says_so(capfd):
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Stopped) as stopped, Signals(0.1):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(60)
    assert (stopped.value.exit_code, stopped.value.saved) == (138, False)
    assert signal.getsignal(signal.SIGUSR1) is before
    assert "SIGUSR1: the run saves and ends, within 0.1 s" in capfd.readouterr().err


def test_what_is_being_saved_is_not_interrupted(capfd):
    with Signals(0.05) as interrupts, interrupts.saving():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
    assert interrupts.exit_code == 143
    assert capfd.readouterr().err.count("a checkpoint is being written, and waited for") == 1


def test_the_end_of_what_was_being_saved_is_followed_by_the_end_of_the_run_or_that_is_overdue():
    with pytest.raises(Stopped), Signals(0.05) as interrupts:
        with interrupts.saving():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        time.sleep(0.5)  # to say good-bye
        interrupts.seconds = 0.0
        time.sleep(60)
    assert interrupts.seconds == 0.0


def test_where_nothing_is_saved_a_signal_interrupts_at_once_and_again_if_that_was_swallowed():
    before, start = signal.getsignal(signal.SIGTERM), time.monotonic()
    with pytest.raises(Overdue) as overdue, Signals(0.1, at_once=True):
        with contextlib.suppress(BaseException):  # as a library may
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        assert time.monotonic() - start < 30
        time.sleep(60)
    assert overdue.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_of_two_the_inner_answers_and_the_outer_again_afterwards():
    """A run in a command: it saves at its own time, and nobody interrupts it."""
    with pytest.raises(Overdue), Signals(60.0, at_once=True) as outer:
        with Signals(60.0) as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.exit_code == 143
        assert not outer.requested
        os.kill(os.getpid(), signal.SIGHUP)
    assert outer.exit_code == 129


def test_somebody_else_who_listens_hears_of_a_signal_too():
    read, write = os.pipe()
    os.set_blocking(write, False)
    former = signal.set_wakeup_fd(write)
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert os.read(read, 1) == bytes([signal.SIGTERM])
        assert signal.set_wakeup_fd(former) == write
    finally:
        signal.set_wakeup_fd(former)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ((0.1, 1, False), "does not answer; it ends now"),
        ((0.1, 1, True), "does not answer; it ends now"),
        ((60.0, 2, True), "a second signal"),
    ],
)
def test_a_main_thread_that_is_deaf_inside_a_library_is_ended(tmp_path, case, said):
    """It waits for a lock of the C library that it holds itself, which no signal interrupts."""
    process = llm_process.called(functools.partial(_deaf, *case), stderr=tmp_path / "log.txt")
    process.join(30)
    assert process.exitcode == 143, (tmp_path / "log.txt").read_text()
    assert said in (tmp_path / "log.txt").read_text()


def _deaf(seconds: float, count: int, at_once: bool) -> None:
    signals.UNWIND_SECONDS = 0.2
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_init(lock, None)
    library.pthread_mutex_lock(lock)

    def send() -> None:
        for _ in range(count):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)  # two that wait to be delivered would be one

    with Signals(seconds, at_once=at_once):
        threading.Timer(0.05, send).start()
        library.pthread_mutex_lock(lock)


def test_a_second_ctrl_c_ends_a_run_whose_disk_does_not_answer(tmp_path):
    """Its first one is answered in words: a large checkpoint takes its time."""
    process = llm_process.called(_saving_without_end, stderr=tmp_path / "log.txt")
    process.join(30)
    assert process.exitcode == 130, (tmp_path / "log.txt").read_text()
    first, second, third = (tmp_path / "log.txt").read_text().splitlines()
    assert "saves and ends" in first and "a second Ctrl-C ends the run without it" in second
    assert "what is being saved does not end" in third


def _saving_without_end() -> None:
    signals.UNWIND_SECONDS = 0.2
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_init(lock, None)
    library.pthread_mutex_lock(lock)

    def send() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    with Signals(0.1) as interrupts, interrupts.saving():
        threading.Timer(0.05, send).start()
        library.pthread_mutex_lock(lock)


@pytest.mark.parametrize("phase", ["rollout", "update"])
def test_a_step_that_takes_too_long_is_dropped_and_the_run_goes_on_exactly(
    tmp_path, pretrained, monkeypatch, phase
):
    """While it samples, the steps before it are saved; in its updates the last checkpoint holds."""
    flags = ("--run.steps", "6", "--run.checkpoint-every", "3", "--run.stop-seconds", "0.1")
    start(tmp_path / "whole", pretrained, *flags)
    name = {"rollout": "with_rewards", "update": "split_minibatches"}[phase]
    original, calls = getattr(train, name), []

    def signalling(*args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(60)
        return original(*args)

    monkeypatch.setattr(train, name, signalling)
    with pytest.raises(Stopped) as stopped:
        start(tmp_path / "cut", pretrained, *flags)
    assert (stopped.value.exit_code, stopped.value.saved) == (129, phase == "rollout")
    kept = latest(tmp_path / "cut/checkpoints")
    assert (kept and kept.name) == ("step_00000002" if phase == "rollout" else None)
    start(tmp_path / "cut", pretrained, *flags)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert rows(tmp_path / "cut", "samples") == rows(tmp_path / "whole", "samples")


def test_a_dropped_step_leaves_a_checkpoint_that_the_same_reward_function_goes_on_from(
    tmp_path, pretrained, monkeypatch
):
    """What is saved then belongs to the run as any checkpoint does, its function's digest too."""
    (tmp_path / "own.py").write_text("def half(**columns):\n    return 0.5\n")
    own = ("--reward.function", f"{tmp_path / 'own.py'}:half")
    flags = ("--run.steps", "3", "--run.stop-seconds", "0.1", *own)
    original, calls = train.with_rewards, []

    def signalling(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return original(*args)

    monkeypatch.setattr(train, "with_rewards", signalling)
    with pytest.raises(Stopped):
        start(tmp_path / "run", pretrained, *flags)
    assert not_none(latest(tmp_path / "run/checkpoints")).name == "step_00000001"
    start(tmp_path / "run", pretrained, *flags)
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2, 3]


def test_outside_the_main_thread_no_handler_is_touched():
    before, found = signal.getsignal(signal.SIGTERM), []

    def body():
        with Signals() as interrupts:
            found.append((interrupts.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def test_sigterm_saves_exits_with_143_and_the_run_goes_on_exactly(tmp_path, pretrained):
    flags = ("--run.steps", "30", "--run.checkpoint-every", "30")
    start(tmp_path / "whole", pretrained, *flags)
    where = ("--run.folder", str(tmp_path / "cut"), "--pretrain.folder", str(pretrained))
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
    kept = not_none(latest(tmp_path / "cut/checkpoints"))
    assert 3 <= int(kept.name[-8:]) == len(rows(tmp_path / "cut")) < 30
    start(tmp_path / "cut", pretrained, *flags)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_sigterm_in_a_pretraining_saves_it(tmp_path, monkeypatch):
    """The signal arrives in the pretraining's step 10; the pretraining goes on from there."""
    original, calls = pretraining.demonstrations, []

    def signalling(*args):
        calls.append(1)
        if len(calls) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(pretraining, "demonstrations", signalling)
    with pytest.raises(Stopped) as stopped:
        start(tmp_path / "r", tmp_path / "pretrained")
    assert stopped.value.exit_code == 143
    (folder,) = (tmp_path / "pretrained").glob("policy-*")
    assert not_none(latest(folder / "checkpoints")).name == "step_00000010"
    start(tmp_path / "r", tmp_path / "pretrained", "--run.steps", "12")
    assert len(calls) == 120 + 80
