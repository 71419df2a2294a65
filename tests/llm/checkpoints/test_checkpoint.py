"""Checkpoints: complete or absent at every moment, refused by name if damaged or another run's."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm import settings as config
from llm.checkpoints import checkpoint
from llm.checkpoints.checkpoint import best, latest, load_state, save_best, save_state
from llm.errors import CheckpointError
from llm.runs import run_folder
from llm.runs.signals import Signals
from llm.settings.loading import ConfigError
from llm.training.optimizer import adamw

ROOT = Path(__file__).resolve().parents[3]
MINE = {"run.seed": "0", "correction.lam": "1.0"}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of OSError or Exception sees it."""


def linear(value: float = 0.0, n: int = 3) -> torch.nn.Linear:
    model = torch.nn.Linear(n, 2)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.constant_(model.bias, value)
    return model


def value_in(path: Path | None) -> float:
    """The constant that a complete checkpoint holds, every check passed."""
    assert path is not None
    model = linear(-1.0)
    state = load_state(path, {"policy": model}, MINE)
    assert {*model.bias.tolist(), *model.weight.flatten().tolist()} == {state["value"]}
    return state["value"]


def save(folder: Path, step: int, value: float, keep: int = 2) -> Path:
    return save_state(folder, step, {"policy": linear(value)}, {"value": value}, keep, MINE)


def save_as_best(folder: Path, step: int, value: float) -> Path:
    return save_best(folder, step, {"policy": linear(value)}, {"value": value}, MINE)


def trained(dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, dtype=dtype)
    optimizer = adamw(model, 0.1, 0.0)
    for _ in range(3):
        model(torch.randn(4, 3, dtype=dtype)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


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
        raise Killed

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
            seen = die_at(patch, n, Killed())
            try:
                act()
                done = True
            except Killed:
                done = False
        found = value_in(best(folder) if what == "best" else latest(folder))
        assert found in (1.0, 2.0)
        assert value_in(latest(folder) if what == "best" else best(folder)) == 1.0
        outcomes.add(found)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
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


def test_newest_n_are_kept_and_best_is_not_counted(tmp_path):
    save_as_best(tmp_path, 1, 1.0)
    for step in range(1, 6):
        save(tmp_path, step, float(step), keep=3)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["best", "step_00000003", "step_00000004", "step_00000005"]
    assert value_in(best(tmp_path)) == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_saved_comes_back_bit_for_bit(tmp_path, dtype):
    """Of a bfloat16 model the float32 master weights too."""
    model, optimizer = trained(dtype)
    save_state(tmp_path, 3, {"policy": model, "optimizer": optimizer}, {"control": {"lam": 1.25}})
    other = linear().to(dtype)
    fresh = adamw(other, 0.1, 0.0)
    state = load_state(latest(tmp_path), {"policy": other, "optimizer": fresh})
    assert state == {"step": 3, "control": {"lam": 1.25}}
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)
    assert ("master" in optimizer.state_dict()["state"][0]) == (dtype == torch.bfloat16)
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(fresh.state_dict()["state"][i][name], value)


class Tied(torch.nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(4, 3)
        self.head = torch.nn.Linear(3, 4, bias=False)
        if tie:
            self.head.weight = self.embed.weight


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    model, other = Tied(), Tied()
    path = save_state(tmp_path, 1, {"policy": model}, {})
    assert list(load_file(path / "policy.safetensors")) == ["embed.weight"]
    load_state(path, {"policy": other})
    assert torch.equal(other.head.weight, model.embed.weight)
    assert other.head.weight.data_ptr() == other.embed.weight.data_ptr()
    with pytest.raises(CheckpointError, match=r"it lacks head.weight"):
        load_state(path, {"policy": Tied(tie=False)})


class Adapted(torch.nn.Module):
    """A frozen base with a trained adapter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = torch.nn.Linear(3, 3).requires_grad_(False)
        self.adapter = torch.nn.Linear(3, 3)


def test_of_adapters_only_what_is_trained_is_stored_and_the_base_is_recognised(tmp_path):
    model = Adapted(seed=0)
    with torch.no_grad():
        model.adapter.weight.fill_(7.0)
    path = save_state(tmp_path, 1, {"policy": model}, {})
    assert sorted(load_file(path / "policy.safetensors")) == ["adapter.bias", "adapter.weight"]
    same_base = Adapted(seed=0)
    load_state(path, {"policy": same_base})
    assert torch.equal(same_base.adapter.weight, model.adapter.weight)
    with pytest.raises(CheckpointError, match=r"policy.safetensors was trained on top of other"):
        load_state(path, {"policy": Adapted(seed=1)})


def test_a_frozen_model_is_stored_whole(tmp_path):
    path = save_state(tmp_path, 1, {"actor": linear(2.0).requires_grad_(False)}, {})
    assert sorted(load_file(path / "actor.safetensors")) == ["bias", "weight"]


FILES = ("policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_file_truncated_anywhere_is_refused_by_name(tmp_path, file, cut):
    model, optimizer = trained()
    parts = {"policy": model, "optimizer": optimizer}
    save_state(tmp_path, 1, parts, {})
    path = save_state(tmp_path, 2, parts, {}) / file
    content = path.read_bytes()
    path.write_bytes(content[: cut if cut >= 0 else len(content) - 3])
    with pytest.raises(CheckpointError, match=rf"{file}.*remove .*step_00000002 to use an older"):
        load_state(latest(tmp_path), parts)
    shutil.rmtree(path.parent)
    assert load_state(latest(tmp_path), parts)["step"] == 1


def test_a_truncated_file_is_refused_even_by_who_does_not_want_it(tmp_path):
    model, optimizer = trained()
    path = save_state(tmp_path, 1, {"policy": model, "optimizer": optimizer}, {})
    (path / "optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors holds 5 bytes, \d+ were"):
        load_state(path, {"policy": model})


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_by_name(tmp_path, file):
    model, optimizer = trained()
    parts = {"policy": model, "optimizer": optimizer}
    path = save_state(tmp_path, 2, parts, {}) / file
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"cannot read .*{file}"):
        load_state(latest(tmp_path), parts)


@pytest.mark.parametrize("moment", ["digest", "load_file", "load_state_dict"])
@pytest.mark.parametrize("gone", [True, False], ids=["folder", "file"])
def test_what_is_removed_while_it_is_read_is_refused_by_name(tmp_path, monkeypatch, moment, gone):
    """As a run in progress does with its oldest checkpoint, at each moment of the reading."""
    path = save(tmp_path, 1, 1.0)
    real = getattr(checkpoint, moment)

    def remove_first(*args):
        if gone:
            shutil.rmtree(path, ignore_errors=True)
        else:
            for file in path.iterdir():
                if file.name != "manifest.json":
                    file.unlink()
        return real(*args)

    monkeypatch.setattr(checkpoint, moment, remove_first)
    message = "was removed meanwhile" if gone else "No such file .*remove .*step_00000001"
    with pytest.raises(CheckpointError, match=rf"cannot read .*(policy|state)\..*{message}"):
        load_state(path, {"policy": linear()}, MINE)


def test_parts_of_two_checkpoints_are_refused(tmp_path, monkeypatch):
    """`best` is replaced under its own name, here after its digests were checked."""
    path, real = save_as_best(tmp_path, 1, 1.0), checkpoint.load_file

    def replace_first(file):
        save_as_best(tmp_path, 2, 2.0)
        return real(file)

    monkeypatch.setattr(checkpoint, "load_file", replace_first)
    with pytest.raises(CheckpointError, match="best was replaced while it was read"):
        load_state(path, {"policy": linear()}, MINE)


@pytest.mark.parametrize("file", FILES[:3])
def test_one_flipped_bit_is_refused_by_name(tmp_path, file):
    model, optimizer = trained()
    parts = {"policy": model, "optimizer": optimizer}
    path = save_state(tmp_path, 2, parts, {}) / file
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=rf"{file} was altered"):
        load_state(latest(tmp_path), parts)
    assert torch.equal(model.weight, before)


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path):
    save(tmp_path, 1, 1.0)
    other = {**MINE, "correction.lam": "1.2"}
    with pytest.raises(CheckpointError, match=r"other settings: correction.lam \(1.0 there, 1.2 n"):
        load_state(latest(tmp_path), {"policy": linear()}, other)
    save_state(tmp_path, 2, {"policy": linear()}, {})
    with pytest.raises(CheckpointError, match="does not say which run"):
        load_state(latest(tmp_path), {"policy": linear()}, MINE)


def test_a_runs_identity_is_every_setting_but_its_folder():
    base = config.load([], [])
    moved = config.load([], ["--run.folder", "elsewhere"])
    other = config.load([], ["--optim.policy-lr", "1e-3"])
    assert checkpoint.identity(moved) == checkpoint.identity(base)
    differs = {
        k for k, v in checkpoint.identity(other).items() if checkpoint.identity(base)[k] != v
    }
    assert differs == {"optim.policy_lr"}
    json.dumps(checkpoint.identity(base), allow_nan=False)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (linear(n=4), r"policy.safetensors does not fit this run: weight is \(2, 3\)"),
        (linear().to(torch.bfloat16), r"torch.float32 there, .*torch.bfloat16 in the model"),
        (torch.nn.Linear(3, 2, bias=False), r"it holds bias, which the model lacks"),
        (Tied(), r"it lacks embed.weight, head.weight and it holds"),
    ],
    ids=["shape", "dtype", "more", "names"],
)
def test_a_model_that_does_not_fit_is_refused_by_name(tmp_path, other, message):
    save(tmp_path, 1, 1.0)
    with pytest.raises(CheckpointError, match=message):
        load_state(latest(tmp_path), {"policy": other}, MINE)


def test_an_optimizer_that_does_not_fit_and_a_part_that_is_absent_are_refused(tmp_path):
    model, optimizer = trained()
    save_state(tmp_path, 1, {"optimizer": optimizer}, {})
    other = torch.optim.AdamW(linear(n=5).parameters())
    with pytest.raises(CheckpointError, match="optimiser state 0 has another shape"):
        load_state(latest(tmp_path), {"optimizer": other})
    with pytest.raises(CheckpointError, match="holds no part 'policy'"):
        load_state(latest(tmp_path), {"policy": model})


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
    parts = {"policy": model, "optimizer": adamw(model, 0.1, 0.0)}
    usage = shutil.disk_usage(tmp_path)
    for free, enough in ((24e6, False), (26e6, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage._replace(free=int(f)))
        if enough:
            checkpoint.require_room(tmp_path / "not yet" / "there", parts)
        else:
            with pytest.raises(OSError, match=r"takes 25.0 MB, 24.0 are free"):
                checkpoint.require_room(tmp_path / "not yet" / "there", parts)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_write_keeps_all_older_checkpoints(tmp_path, number):
    n = 0
    while True:
        n += 1
        folder = tmp_path / str(n)
        save(folder, 1, 1.0)
        save_as_best(folder, 1, 1.0)
        real, calls = os.fsync, []

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


# The run folder and signals


def settings(folder: Path, *flags: str) -> config.Config:
    return config.load([], ["--run.folder", str(folder), *flags])


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    """The kernel frees the lock when its holder dies, however it dies."""
    script = (
        "import sys, time; from llm import config, run\n"
        f"run.prepare(config.load([], ['--run.folder', {str(tmp_path)!r}]))\n"
        "print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"in use by process {other.pid}"):
            run_folder.prepare(settings(tmp_path))
    finally:
        other.kill()
        other.communicate()
    run_folder.release(run_folder.prepare(settings(tmp_path)))


def test_a_folder_with_other_settings_is_refused_and_nothing_in_it_changes(tmp_path):
    run_folder.release(run_folder.prepare(settings(tmp_path)))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"other settings: run.seed \(0 there, 3 now\)"):
        run_folder.prepare(settings(tmp_path, "--run.seed", "3"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    run_folder.release(run_folder.prepare(settings(tmp_path)))  # and the refusal holds no lock
    assert len(json.loads((tmp_path / "provenance.json").read_text())) == 2


def test_a_file_where_the_folder_should_be_and_a_full_disk_are_clear_errors(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to run folder .*file.*exists"):
        run_folder.prepare(settings(tmp_path / "file"))

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        run_folder.prepare(settings(tmp_path / "new"))


def test_an_unwritable_folder_is_a_clear_error(tmp_path, monkeypatch):
    def denied(self, *args, **kwargs):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ConfigError, match=r"cannot write to run folder .* Permission denied"):
        run_folder.prepare(settings(tmp_path / "new"))


def test_damaged_provenance_and_a_lost_configuration_are_refused(tmp_path):
    run_folder.release(run_folder.prepare(settings(tmp_path)))
    (tmp_path / "provenance.json").write_text("[{")
    with pytest.raises(ConfigError, match=r"provenance.json is damaged .*move it away"):
        run_folder.prepare(settings(tmp_path))
    (tmp_path / "provenance.json").unlink()
    (tmp_path / "config.toml").unlink()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=r"holds a run without config.toml"):
        run_folder.prepare(settings(tmp_path))


def test_provenance_names_the_optional_packages_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_OPTIONAL", ("pytest", "no-such-package"))
    run_folder.release(run_folder.prepare(settings(tmp_path)))
    entry = json.loads((tmp_path / "provenance.json").read_text())[0]
    assert entry["pytest"] == pytest.__version__ and "no-such-package" not in entry
    assert {"torch", "transformers", "numpy", "safetensors"} <= set(entry)


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
