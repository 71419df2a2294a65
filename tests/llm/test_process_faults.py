"""Faults of processes and of the system while a run goes on: one line, nothing lost, and a run that
goes on as if nothing had been.

Each case plants one fault in a tiny run. It says with which code and word that ends, and what the
same command does once the fault is gone: it gives the rows of the uninterrupted run (AGAIN), or
says why it cannot.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llm_process
import pytest
import torch
from optional import not_none
from training_runs import rows

from llm import __main__, regular_files, settings, train
from llm.__main__ import main
from llm.checkpoints import checkpoint
from llm.commands import compare, doctor_checks, export, fetch, report
from llm.models import actors, pretraining
from llm.planning import estimate
from llm.rewards import math_verifier
from llm.rollout.engines.subprocess_engine import ProcessEngine
from llm.runs import run_folder, signals
from llm.tasks import digits
from llm.training import context, evaluation, self_test
from llm.training import run as run_module

AGAIN = ""
FLAGS = (
    "--policy.layers 1 --policy.width 32 --actor.layers 1 --actor.width 16 "
    "--pretrain.policy_steps 3 --pretrain.actor_steps 3 --pretrain.batch_size 4 "
    "--task.digits_min 1 --task.digits_max 2 --rollout.max_new_tokens 5 "
    "--rollout.prompts_per_step 2 --rollout.rollouts_per_prompt 2 --run.steps 4 --run.eval_every 2 "
    "--run.eval_prompts 2 --run.checkpoint_every 2 --run.self_test_max 0.1"
).split()
FILES = ("metrics", "samples", "histograms", "decisions")
Plant = Callable[[pytest.MonkeyPatch, Path], Any]


class ProcessKilled(BaseException):
    """Stands for SIGKILL: no handler of OSError or Exception sees it."""


def error(number: int, path: object = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def at_call(
    patch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    act: Callable[[], object],
    call: int = 1,
    when: Callable[..., bool] = lambda *args: True,
) -> None:
    """Do `act` before the n-th of the calls of a function that `when` counts."""
    original, counted = getattr(where, name), []

    def replaced(*args: Any, **more: Any) -> Any:
        if when(*args):
            counted.append(1)
            if len(counted) == call:
                act()
        return original(*args, **more)

    patch.setattr(where, name, replaced)


def raising(found: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise found

    return act


def opening(file: str, number: int, call: int = 1) -> Plant:
    """A file of the run cannot be opened for writing."""

    def when(path: Any, flags: int, *rest: Any) -> bool:
        return Path(path).name == file and bool(flags & (os.O_WRONLY | os.O_RDWR))

    return lambda patch, folder: at_call(
        patch, os, "open", raising(error(number, file)), call, when
    )


class _Full:
    """A file of which the system takes half of one write, and refuses the rest."""

    def __init__(self, file: Any, refusal: Callable[[], BaseException | None]) -> None:
        self._file, self._refusal = file, refusal

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        found = self._refusal()
        written = self._file.write(data if found is None else data[: len(data) // 2])
        if found is not None:
            raise found
        return int(written)


def writing(file: str, found: BaseException, call: int = 1) -> Plant:
    """Half of the n-th write to a file of the run arrives, then comes the end."""

    def plant(patch: pytest.MonkeyPatch, folder: Path) -> None:
        calls: list[int] = []

        def refusal() -> BaseException | None:
            calls.append(1)
            return found if len(calls) == call else None

        def opened(path: Any, mode: str, **more: Any) -> Any:
            real = open(path, mode, **more)
            return _Full(real, refusal) if Path(path).name == file else real

        patch.setattr(regular_files, "open", opened, raising=False)

    return plant


def saving(part: str, number: int, call: int = 1) -> Plant:
    """The tensor library cannot write a part of a checkpoint."""
    return lambda patch, folder: at_call(
        patch, checkpoint, "save_file", raising(error(number)), call,
        lambda tensors, path: Path(path).stem == part,
    )  # fmt: skip


def renaming(target: str, found: BaseException, call: int = 1) -> Plant:
    """What is to get this name keeps its draft's."""
    return lambda patch, folder: at_call(
        patch, os, "replace", raising(found), call, lambda a, b: Path(b).name == target
    )


def flushing(found: BaseException, call: int) -> Plant:
    return lambda patch, folder: at_call(patch, os, "fsync", raising(found), call)


def killed_after(name: str) -> Plant:
    """The end comes when this name is in place, before anything that follows."""

    def plant(patch: pytest.MonkeyPatch, folder: Path) -> None:
        original = os.replace

        def replaced(a: Any, b: Any) -> None:
            original(a, b)
            if Path(b).name == name:
                raise ProcessKilled

        patch.setattr(os, "replace", replaced)

    return plant


def before_row(step: int, act: Callable[[Path], object]) -> Plant:
    """Something else touches the folder before the row of a step is written."""
    return lambda patch, folder: at_call(
        patch, run_module.Run, "_write_row", lambda: act(folder), step + 1
    )


def append(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1}\n')


def replace_by_link(folder: Path) -> None:
    (folder / "metrics.jsonl").rename(folder / "elsewhere")
    (folder / "metrics.jsonl").symlink_to("elsewhere")


def few_bytes_free(patch: pytest.MonkeyPatch, folder: Path) -> None:
    few = shutil.disk_usage(folder.parent)._replace(free=1000)
    patch.setattr(shutil, "disk_usage", lambda _: few)


# Signals

PHASES = {  # where each is in its second call; of what happens once, in its first
    "pretraining": (pretraining, "demonstrations", 2),
    "the self-test": (train, "self_test", 1),
    "sampling": (train, "sample_rollouts", 3),
    "scoring": (train, "with_rewards", 3),
    "an update": (train, "split_minibatches", 3),
    "an evaluation": (run_module, "evaluate", 2),
    "a checkpoint": (checkpoint, "save_file", 3),
    "the last evaluation": (run_module, "last_evaluation", 1),
}


def signalled(phase: str, number: int, waiting: bool = False) -> Plant:
    """A signal in a phase, which then waits for something that never comes."""

    def act() -> None:
        os.kill(os.getpid(), number)
        if waiting:
            time.sleep(60)

    def plant(patch: pytest.MonkeyPatch, folder: Path) -> None:
        where, name, call = PHASES[phase]
        at_call(patch, where, name, act, call)
        if waiting:
            original = run_module.Signals
            patch.setattr(run_module, "Signals", lambda seconds: original(0.1))

    return plant


def at_once(where: Any, name: str, number: int = signal.SIGTERM, call: int = 1) -> Plant:
    """A signal where nothing is to be saved, and a wait without end behind it."""

    def act() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    return lambda patch, folder: at_call(patch, where, name, act, call)


def twice_interrupted(patch: pytest.MonkeyPatch, folder: Path) -> None:
    def act() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_call(patch, train, "with_rewards", act, 3)


# Memory


def no_memory(where: Any, name: str, found: BaseException, call: int = 1) -> Plant:
    return lambda patch, folder: at_call(patch, where, name, raising(found), call)


CPU = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"
GPU = "CUDA out of memory. Tried to allocate 9.00 GiB"
SAVED, WAITED = "after saving", "not finished within"
SIGNALS = {
    signal.SIGTERM: [phase for phase in PHASES if phase != "the last evaluation"],
    signal.SIGINT: ["sampling", "a checkpoint"],
    signal.SIGHUP: ["scoring", "an evaluation"],
    signal.SIGUSR1: ["pretraining", "an update"],
}

FULL, BROKEN, DENIED = (error(n) for n in (errno.ENOSPC, errno.EIO, errno.EACCES))

# {name: (fault, exit code, word of the one line, word of the next start's refusal or AGAIN)}
FAULTS: dict[str, tuple[Plant, int, str, str]] = {
    "no space for a row": (writing("metrics.jsonl", FULL, 4), 2, "No space left", AGAIN),
    "an I/O error in the first row": (writing("metrics.jsonl", BROKEN), 2, "Input/output",
                                      AGAIN),
    "no space for samples": (writing("samples.jsonl", FULL, 2), 2, "No space left", AGAIN),
    "histograms of a read-only disk": (opening("histograms.jsonl", errno.EROFS, 3), 2, "Read-only",
                                       AGAIN),
    "metrics without permission": (opening("metrics.jsonl", errno.EACCES, 4), 2, "metrics.jsonl",
                                   AGAIN),
    "a stale file handle": (opening("metrics.jsonl", errno.ESTALE, 5), 2, "Stale", AGAIN),
    "too many open files": (opening("state.json.draft", errno.EMFILE), 2, "Too many open files",
                            AGAIN),
    "no space for the policy": (saving("policy", errno.ENOSPC, 3), 2, "policy.safetensors", AGAIN),
    "no space for an optimiser": (saving("optimizer_actor", errno.ENOSPC), 2,
                                  "optimizer_actor.safetensors", AGAIN),
    "an I/O error in state.json": (writing("state.json.draft", BROKEN), 2, "Input/output",
                                   AGAIN),
    "no space for a manifest": (writing("manifest.json.draft", FULL, 2), 2,
                                "manifest.json", AGAIN),
    "a checkpoint that cannot be renamed": (renaming("step_00000004", BROKEN), 2,
                                            "Input/output", AGAIN),
    "a best checkpoint that cannot be renamed": (renaming("best", DENIED), 2,
                                                 "Permission denied", AGAIN),
    "an fsync that fails": (flushing(BROKEN, 12), 2, "Input/output", AGAIN),
    "an fsync that fails in the end": (flushing(FULL, 20), 2, "No space left",
                                       AGAIN),
    "no space for the summary": (writing("summary.json.draft", FULL), 2, "No space left",
                                 AGAIN),
    "no space for provenance": (writing("provenance.json.draft", FULL), 2, "No space left",
                                AGAIN),
    "no space for a first checkpoint": (few_bytes_free, 2, "no space left", AGAIN),
    "metrics removed": (before_row(3, lambda f: (f / "metrics.jsonl").unlink()), 2,
                        "metrics.jsonl was removed", "rows were lost"),
    "metrics cut off": (before_row(3, lambda f: os.truncate(f / "metrics.jsonl", 10)), 2,
                        "removed or changed", "rows were lost"),
    "metrics written by another": (before_row(3, append), 2, "removed or changed", AGAIN),
    "metrics replaced by a link": (before_row(3, replace_by_link), 2, "symbolic link",
                                   "symbolic link"),
    "checkpoints removed": (before_row(3, lambda f: shutil.rmtree(f / "checkpoints")), 2,
                            "checkpoints was removed", AGAIN),
    "the folder removed": (before_row(3, shutil.rmtree), 2, "removed", AGAIN),
    "killed before the first checkpoint": (
        renaming("step_00000002", ProcessKilled()), -9, "", AGAIN,
    ),
    "killed before a rename": (renaming("step_00000004", ProcessKilled()), -9, "", AGAIN),
    "killed after a rename": (killed_after("step_00000002"), -9, "", AGAIN),
    "killed between state and manifest": (killed_after("state.json"), -9, "", AGAIN),
    "killed before a checkpoint has its name": (killed_after("manifest.json"), -9, "", AGAIN),
    "killed after the best": (killed_after("best"), -9, "", AGAIN),
    "killed before the summary": (renaming("summary.json", ProcessKilled()), -9, "", AGAIN),
    "killed while flushing": (flushing(ProcessKilled(), 8), -9, "", AGAIN),
    "killed with half a row": (writing("metrics.jsonl", ProcessKilled(), 4), -9, "", AGAIN),
    **{
        f"{number.name} in {phase}": (signalled(phase, number), 128 + number, SAVED, AGAIN)
        for number, phases in SIGNALS.items() for phase in phases
    },
    "SIGHUP in the last evaluation": (signalled("the last evaluation", signal.SIGHUP), 0, "",
                                      AGAIN),
    **{
        f"SIGTERM in {phase} that waits": (signalled(phase, signal.SIGTERM, True), 143, said, AGAIN)
        for phase, said in {
            "the self-test": WAITED, "sampling": SAVED, "scoring": SAVED, "an update": WAITED,
            "an evaluation": SAVED, "the last evaluation": WAITED,
        }.items()
    },
    "two Ctrl-C": (twice_interrupted, 130, "interrupted", AGAIN),
    "no memory for models": (no_memory(context, "_with_models", MemoryError()), 2,
                             "out of memory while models were opened", AGAIN),
    "no memory in a rollout": (no_memory(train, "with_rewards", MemoryError(), 3), 2,
                               "out of memory in the rollout of step 2", AGAIN),
    "no GPU memory in an update": (
        no_memory(train, "split_minibatches", torch.OutOfMemoryError(GPU), 4), 2,
        "out of memory in the update of step 3 (CUDA out of memory", AGAIN),
    "no memory in an evaluation": (no_memory(run_module, "evaluate", RuntimeError(CPU), 2), 2,
                                   "out of memory in the evaluation of step 2", AGAIN),
    "no memory in the last evaluation": (
        no_memory(run_module, "last_evaluation", MemoryError()), 2,
        "out of memory in the evaluation after the last step", AGAIN),
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="module")
def whole(pretrained, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert trained(folder, pretrained) == 0
    return folder


def trained(folder: Path, pretrained: Path, *more: str) -> int:
    """The exit code; -9 of `ProcessKilled`, as of a process that leaves its lock to the kernel."""
    place = ("--run.folder", str(folder), "--pretrain.folder", str(pretrained))
    try:
        return main(["train", *FLAGS, *place, *more])
    except ProcessKilled:
        return -9
    finally:
        run_folder.release(folder)


def check_one_line(err: str, said: str) -> None:
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and len(errors[0]) < 8000 and said in errors[0], err[-3000:]


def check_readable(folder: Path) -> None:
    """Every checkpoint that the folder lists is complete."""
    for find in (checkpoint.latest, checkpoint.best):
        path = find(folder / "checkpoints")
        if path is not None:
            checkpoint.load_state(path, {})


def check_equal(folder: Path, whole: Path) -> None:
    for name in FILES:
        assert rows(folder, name) == rows(whole, name)
    mine, theirs = (not_none(checkpoint.latest(f / "checkpoints")) for f in (folder, whole))
    for path in sorted(theirs.glob("*.safetensors")):
        assert path.read_bytes() == (mine / path.name).read_bytes(), path.name
    assert not [p for p in folder.rglob("*") if ".draft" in p.name]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_a_run_in_one_line_and_loses_nothing(
    name, whole, pretrained, tmp_path, capsys
):
    plant, code, said, then = FAULTS[name]
    folder = tmp_path / "run"
    own = tmp_path / "pretrained" if "pretraining" in name else pretrained
    start = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, folder)
        found = trained(folder, own)
    err = capsys.readouterr().err
    assert found == code, err[-3000:]
    assert time.monotonic() - start < 50  # far less than what a wait that is not left takes
    if code > 0:
        check_one_line(err, said)
    check_readable(folder)
    if code == 0:
        check_equal(folder, whole)
        return
    again = trained(folder, own)
    err = capsys.readouterr().err
    if then == AGAIN:
        assert again == 0, err[-3000:]
        check_equal(folder, whole)
    else:
        assert again == 2
        check_one_line(err, then)
        check_readable(folder)


# One start after another in one folder, each ended in another phase

STARTS: list[tuple[Plant, int, str]] = [
    (at_once(settings, "load"), 143, "stopped by a signal; what was saved is kept"),
    (at_once(run_folder, "_git", signal.SIGUSR1), 138, "a signal before the first step"),
    (at_once(digits, "open_digits", signal.SIGHUP), 129, "a signal while data were read"),
    (no_memory(digits, "open_digits", MemoryError()), 2, "out of memory while data were read"),
    (no_memory(pretraining, "demonstrations", MemoryError(), 2), 2,
     "out of memory in the pretraining of the policy"),
    (at_once(actors, "open_actor", signal.SIGINT), 130, "a signal while models were opened"),
    (no_memory(actors, "open_actor", MemoryError()), 2,
     "out of memory while models were opened"),
    (no_memory(run_module, "open_learner", MemoryError()), 2,
     "out of memory while the run was opened"),
    (no_memory(self_test, "_of_unequal_lengths", MemoryError()), 2,
     "out of memory in the self-test"),
    (no_memory(checkpoint, "state_dict_of", MemoryError()), 2,
     "out of memory in the best checkpoint, of step 0"),
    (no_memory(run_module, "next_state", MemoryError(), 2), 2,
     "out of memory after the updates of step 1"),
    (no_memory(checkpoint, "state_dict_of", MemoryError(), 5), 2,
     "out of memory in the checkpoint after 2 steps"),
    (no_memory(run_module, "sample_rollouts", MemoryError()), 2,
     "out of memory in the evaluation after the last step"),
]  # fmt: skip


def test_starts_that_end_in_every_phase_name_it_and_leave_a_run_that_goes_on_exactly(
    whole, tmp_path, capsys
):
    start = time.monotonic()
    for plant, code, said in STARTS:
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, tmp_path / "run")
            found = trained(tmp_path / "run", tmp_path / "warm")
        err = capsys.readouterr().err
        assert found == code, err[-3000:]
        check_one_line(err, said)
    assert trained(tmp_path / "run", tmp_path / "warm") == 0
    check_equal(tmp_path / "run", whole)
    assert time.monotonic() - start < 50  # no wait was waited for


OPENED = "/proc/self/fd"


def test_starts_that_fail_leave_no_file_open_and_no_folder_locked(
    pretrained, tmp_path, monkeypatch
):
    """In one process, where the end of the process does not close what was left."""
    left: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    place = ("--run.folder", str(tmp_path / "run"), "--pretrain.folder", str(pretrained))
    nowhere = ("--reward.function", f"{tmp_path}/nowhere.py:f")
    before = set(os.listdir(OPENED)) if os.path.isdir(OPENED) else set()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for more in (nowhere, ("--run.self_test_max", "1e-12"), ("--policy.path", str(tmp_path))):
            assert main(["train", *FLAGS, *place, *more]) == 2
        at_call(monkeypatch, actors, "open_actor", raising(MemoryError()))
        assert main(["train", *FLAGS, *place]) == 2
        gc.collect()
    assert left == [] and run_folder._locks == {}
    assert not before or set(os.listdir(OPENED)) <= before


# Signals in commands that save nothing

# what each does when the signal comes; its arguments; words of its end
COMMANDS: dict[str, tuple[tuple, Sequence[str], str]] = {
    "doctor": ((doctor_checks, "open_device"), FLAGS, "stopped by a signal;"),
    "plan": ((estimate, "open_shapes"), (*FLAGS, "--gpus", "1", "--gpu-memory", "80GB"),
             "stopped by a signal;"),
    "eval": ((evaluation, "sample_scores"), ("RUN", "--prompts", "2"),
             "in the evaluation of the policy"),
    "eval, second model": ((evaluation, "sample_scores", signal.SIGTERM, 2),
                           ("RUN", "--prompts", "2"), "in the evaluation of the actor"),
    "export": ((export, "_save_model"), ("RUN", "--to", "TO"), "a signal while the model was"),
    "report": ((report, "document"), ("RUN",), "stopped by a signal;"),
    "compare": ((compare, "read_run"), ("RUN", "RUN", "--out", "PAGE"), "stopped by a signal;"),
    "fetch": ((fetch, "_check_packages"), ("smollm2", "--out", "TO"), "stopped by a signal;"),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_ends_every_command_at_once_in_one_line(name, whole, tmp_path, capsys):
    place, words, said = COMMANDS[name]
    shutil.copytree(whole, tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    names = {"RUN": "run", "TO": "to", "PAGE": "to.html"}
    places = {word: str(tmp_path / name) for word, name in names.items()}
    with pytest.MonkeyPatch.context() as patch:
        at_once(*place)(patch, tmp_path)
        code = main([name.split(",")[0], *(places.get(word, word) for word in words)])
    out, err = capsys.readouterr()
    assert code == 128 + signal.SIGTERM
    check_one_line(err, said)
    assert sorted(tmp_path.rglob("*")) == before
    if "second" in name:  # what was computed is not lost
        assert "policy: 2 held-out prompts" in out and "pass@4" in out


# Output without a reader


def without_reader() -> Any:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", buffering=1)


def of_a_full_disk() -> Any:
    return open("/dev/full", "w", buffering=1)


STREAMS = {
    "stdout without a reader": ("stdout", without_reader, 0),
    "stderr without a reader": ("stderr", without_reader, 0),
    "stdout on a full disk": ("stdout", of_a_full_disk, 1),
    "stderr on a full disk": ("stderr", of_a_full_disk, 0),
}


@pytest.fixture
def own_signals():
    """The command leaves handlers that end its process; this one lives on."""
    former = {number: signal.getsignal(number) for number in signals.NUMBERS}
    yield
    for number, handler in former.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@pytest.mark.parametrize("name", STREAMS)
def test_output_that_nobody_reads_ends_no_run(
    name, whole, pretrained, tmp_path, monkeypatch, capsys, own_signals
):
    which, opened, code = STREAMS[name]
    place = ["--run.folder", str(tmp_path / "run"), "--pretrain.folder", str(pretrained)]
    monkeypatch.setattr(sys, "argv", ["llm", "train", *FLAGS, *place])
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    stream = opened()
    monkeypatch.setattr(sys, which, stream)
    with stream:
        assert __main__._run() == code
    run_folder.release(tmp_path / "run")
    check_equal(tmp_path / "run", whole)
    if code:
        check_one_line(capsys.readouterr().err, "cannot write to /dev/full: No space left")


# Processes that a run starts

ENGINES = {  # what a shell does in place of the process that samples; seconds of patience; words
    "an engine that dies at its start": ("exit 3", 30, "ended with exit code 3"),
    "an engine that is killed": ("kill -9 $$", 30, "killed by SIGKILL"),
    "an engine that is stopped": ("kill -STOP $$", 0.2, "gave no answer for 0.2 s"),
    "an engine that says nothing": ("exec sleep 60", 0.2, "gave no answer for 0.2 s"),
    "an engine that talks nonsense": ("echo '[1'; exec sleep 60", 30, "which is no answer"),
    "an engine that talks without end": ("yes | tr -d '\\n'", 30, "which is no answer"),
    "an engine that nests deeply": (
        "printf '[%.0s' $(seq 30000); echo; exec sleep 60", 30, "which is no answer"),
    "an engine that fills stderr": (
        "yes error | head -c 1800000 >&2; exit 1", 30, "It wrote: error"),
    "an engine that reports a failure": (
        "echo '{\"error\": \"no device\"}'; exec sleep 60", 30, "failed: no device"),
    "an engine that announces a lie": (
        "echo '{\"done\": 1}'; exec sleep 60", 30, "no readable answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_fails_four_times_ends_a_run_that_can_be_started_otherwise(
    name, whole, pretrained, tmp_path, monkeypatch, capsys
):
    """It is tried before the first step, so nothing is claimed and hf may take over."""
    script, seconds, said = ENGINES[name]
    with monkeypatch.context() as patch:
        patch.setattr(ProcessEngine, "_command", lambda self: ["sh", "-c", script])
        more = ("--rollout.engine.type", "process", "--rollout.engine.timeout", str(seconds))
        assert trained(tmp_path, pretrained, *more) == 2
    err = capsys.readouterr().err
    check_one_line(err, "failed 4 times in a row")
    assert said in err and err.count("started again") == 3
    assert not run_folder.holds_run(tmp_path)
    assert trained(tmp_path, pretrained) == 0
    check_equal(tmp_path, whole)


FUNCTION = """import os, time
FAULTS = {{
    "is killed": lambda: os.kill(os.getpid(), 9),
    "ends": lambda: os._exit(3),
    "hangs": lambda: time.sleep(60),
    "is stopped": lambda: os.kill(os.getpid(), 19),
    "needs all memory": lambda: bytearray(1 << 40),
    "raises": lambda: 1 / 0,
    "leaves": lambda: exit(0),
    "returns NaN": lambda: float("nan"),
}}
def f(completion, **_):
    if os.path.exists({order!r}):  # what to do from step 3 on, and where the run is
        fault, folder = open({order!r}).read().split(",")
        if open(folder + "/metrics.jsonl").read().count("step") >= 3:
            return FAULTS[fault]()
    return len(completion) / 5
"""
WORKERS = {  # what the worker of a reward function does, and in which words that ends the run
    "is killed": "signal 9",
    "ends": "exit code 3",
    "hangs": "no reply within 1 s",
    "is stopped": "no reply within 1 s",
    "needs all memory": "out of memory",
    "raises": "ZeroDivisionError",
    "leaves": "SystemExit",
    "returns NaN": "nan",
}


@pytest.fixture(scope="module")
def rewarded(pretrained, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """Of a run with a reward function: the folder of the uninterrupted one, beside which the
    function looks for its order; and the flags."""
    home = tmp_path_factory.mktemp("rewarded")
    (home / "own.py").write_text(FUNCTION.format(order=str(home / "order")))
    flags = "--reward.seconds 1 --reward.on_error stop --reward.workers 1 --reward.function".split()
    flags.append(f"{home}/own.py:f")
    assert trained(home / "run", pretrained, *flags) == 0
    return home / "run", tuple(flags)


@pytest.mark.parametrize("fault", WORKERS)
def test_a_reward_worker_that_fails_stops_the_run_if_asked_and_it_goes_on_exactly(
    fault, rewarded, pretrained, tmp_path, capsys
):
    whole, flags = rewarded
    order = whole.parent / "order"
    order.write_text(f"{fault},{tmp_path / 'run'}")
    try:
        assert trained(tmp_path / "run", pretrained, *flags) == 2
    finally:
        order.unlink()
    check_one_line(capsys.readouterr().err, WORKERS[fault])
    check_readable(tmp_path / "run")
    assert not_none(checkpoint.latest(tmp_path / "run/checkpoints")).name == "step_00000002"
    assert trained(tmp_path / "run", pretrained, *flags) == 0
    check_equal(tmp_path / "run", whole)


WORKER = """import json, os, sys
print('{"ready": true}', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["answer"] in ("9", "19"):
        os.kill(os.getpid(), int(job["answer"]))
    print(json.dumps({"ok": job["gold"] == job["answer"]}), flush=True)
"""


@pytest.mark.parametrize(("number", "count"), [("9", "score_crashes"), ("19", "score_timeouts")])
def test_a_math_verify_worker_that_is_killed_or_stopped_costs_one_answer(
    number, count, tmp_path, monkeypatch
):
    (tmp_path / "math_verifier_worker.py").write_text(WORKER)
    monkeypatch.setattr(math_verifier, "__file__", str(tmp_path / "math_verifier.py"))
    verifier = math_verifier.Verifier(1, 1.0)
    try:
        assert verifier.equal([("1", "1"), ("2", number), ("3", "3")]) == [True, False, True]
        assert verifier.counts()[count] == 1
    finally:
        verifier.close()


# Other processes


HOLD = "import fcntl,sys,time\nf=open(sys.argv[1],'a+')\nfcntl.lockf(f,2)\nprint(1,flush=True)\n"


def test_a_second_run_in_the_same_folder_is_refused_and_disturbs_nothing(
    whole, pretrained, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    words = [sys.executable, "-S", "-c", HOLD + "time.sleep(60)", str(folder / ".lock")]
    other = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline()
        assert trained(folder, pretrained, "--run.steps", "6") == 2
        check_one_line(capsys.readouterr().err, "in use by process")
    finally:
        other.kill()
        other.communicate()
    check_equal(folder, whole)


def _killed_in_a_rename(folder: Path, pretrained: Path) -> None:
    original = os.replace

    def replaced(a: Any, b: Any) -> None:
        if Path(b).name == "step_00000004":
            os.kill(os.getpid(), signal.SIGKILL)
        original(a, b)

    os.replace = replaced  # type: ignore[assignment]
    torch.set_num_threads(1)
    trained(folder, pretrained)


def test_a_real_kill_between_manifest_and_rename_loses_nothing(whole, pretrained, tmp_path, capsys):
    folder = tmp_path / "run"
    process = llm_process.called(functools.partial(_killed_in_a_rename, folder, pretrained))
    process.join(100)
    assert process.exitcode == -9
    assert [p.name[:6] for p in (folder / "checkpoints").glob(".*")] == [".draft"]
    check_readable(folder)
    assert trained(folder, pretrained) == 0
    check_equal(folder, whole)


def test_a_signal_is_answered_within_ten_seconds_by_default():
    """Above, what waits is left after 0.1 s instead."""
    assert settings.load([], []).run.stop_seconds + signals.UNWIND_SECONDS <= 10
    assert signals.AT_ONCE_SECONDS + signals.UNWIND_SECONDS <= 10


def test_there_are_at_least_thirty_cases():
    assert len(FAULTS) + len(STREAMS) + len(ENGINES) + len(WORKERS) >= 30
