"""Files are old or new and complete, whatever is killed or full."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
from checkpoint_cases import linear, save, save_as_best, value_in

from llm.checkpoints import atomic_files, checkpoint
from llm.checkpoints.checkpoint import best, latest, save_state
from llm.checkpoints.state_tensors import StatefulPart
from llm.training.optimizer import adamw


class KilledWhileWriting(BaseException):
    """Stands for SIGKILL: no handler of OSError or Exception sees it."""


def die_at(monkeypatch, n: int, error: BaseException) -> list[str]:
    """Raise at the n-th call that changes the disk; returns the calls seen."""
    seen: list[str] = []

    def counted(module, name):
        real = getattr(module, name)

        def call(*args, **kwargs):
            seen.append(name)
            if len(seen) == n:
                raise error
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    for name in ("replace", "fsync", "unlink", "rmdir"):
        counted(os, name)
    counted(shutil, "rmtree")
    counted(Path, "mkdir")
    counted(checkpoint, "save_file")
    return seen


def die_in_the_middle(monkeypatch) -> None:
    def call(*args, **kwargs):
        raise KilledWhileWriting

    monkeypatch.setattr(checkpoint, "save_file", call)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("what", ["next step", "same step", "best"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_complete(tmp_path, what, keep):
    """Each call that touches the disk is made to be the last one; then the work is done again."""
    n, outcomes = 0, set()
    while True:
        n += 1
        folder = tmp_path / str(n)
        save(folder, 1, 1.0, keep)
        save_as_best(folder, 1, 1.0)
        act = {
            "next step": lambda f=folder: save(f, 2, 2.0, keep),
            "same step": lambda f=folder: save(f, 1, 2.0, keep),
            "best": lambda f=folder: save_as_best(f, 2, 2.0),
        }[what]
        with pytest.MonkeyPatch.context() as patch:
            seen = die_at(patch, n, KilledWhileWriting())
            try:
                act()
                done = True
            except KilledWhileWriting:
                done = False
        found = value_in(best(folder) if what == "best" else latest(folder))
        assert found in (1.0, 2.0)
        assert value_in(latest(folder) if what == "best" else best(folder)) == 1.0
        outcomes.add(found)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledWhileWriting):
            die_in_the_middle(patch)  # a second time, after the leftovers of the first were tidied
            (save_as_best if what == "best" else save)(folder, 3, 3.0)
        assert value_in(best(folder) if what == "best" else latest(folder)) == found
        save(folder, 3, 3.0, keep)  # the run goes on, and cleans up
        save_as_best(folder, 3, 3.0)
        assert value_in(latest(folder)) == value_in(best(folder)) == 3.0
        assert {p.name[:4] for p in folder.iterdir()} == {"best", "step"}
        if done:
            break
    assert len(seen) >= 8 and outcomes == {1.0, 2.0}


def test_a_full_disk_is_seen_before_anything_old_is_deleted(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step, float(step))
    few = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
    with pytest.raises(OSError, match=r"step_00000003 takes 1.0 MB, 0.0 are free") as found:
        save(tmp_path, 3, 3.0, keep=1)
    assert found.value.errno == errno.ENOSPC
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002"]


def test_room_for_the_first_checkpoint_is_asked_for_before_an_optimizer_has_state(
    tmp_path, monkeypatch
):
    model = linear(n=10**6)  # 8 MB, and Adam's 16
    parts: dict[str, StatefulPart] = {"policy": model, "optimizer": adamw(model, 0.1, 0.0)}
    usage = shutil.disk_usage(tmp_path)
    for free, enough in ((24e6, False), (26e6, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage._replace(free=int(f)))
        if enough:
            checkpoint.require_space(tmp_path / "not yet" / "there", parts)
        else:
            with pytest.raises(OSError, match=r"takes 25.0 MB, 24.0 are free"):
                checkpoint.require_space(tmp_path / "not yet" / "there", parts)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_write_keeps_all_older_checkpoints(tmp_path, number):
    n = 0
    while True:
        n += 1
        folder = tmp_path / str(n)
        save(folder, 1, 1.0)
        save_as_best(folder, 1, 1.0)
        real = os.fsync
        calls: list[int] = []

        def fsync(descriptor, n=n, real=real, calls=calls):
            calls.append(1)
            if len(calls) == n:
                raise OSError(number, os.strerror(number))
            real(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            try:
                save_as_best(folder, 2, 2.0)
                break
            except OSError as e:
                assert e.errno == number
        assert value_in(latest(folder)) == 1.0
        assert value_in(best(folder)) in (1.0, 2.0)
    assert n >= 6


def test_a_real_write_error_of_the_tensor_library_names_the_file(tmp_path):
    """A limit on file size makes the kernel refuse: safetensors' own error becomes an OSError."""
    save(tmp_path, 1, 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            save_state(tmp_path, 2, {"policy": linear(n=5000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(found.value.filename).endswith("policy.safetensors")
    assert found.value.errno == errno.EFBIG
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_what_stands_beside_a_folder_of_the_users_own_is_left_alone(tmp_path):
    """Names that look like leftovers may be the user's, or another program's draft of this time."""
    (tmp_path / ".draft.notes").mkdir()
    (tmp_path / ".dropped.x").mkdir()
    (tmp_path / ".draft.file").write_text("kept")
    atomic_files.write_folder(tmp_path / "out", lambda draft: None, 0, alone=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".draft.file", ".draft.notes", ".dropped.x", "out"]
