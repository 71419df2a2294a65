"""A run folder: one process, one configuration, and clear errors."""

from __future__ import annotations

import errno
import functools
import json
import os
import time
from pathlib import Path

import llm_process
import pytest

from llm import settings
from llm.runs import run_folder
from llm.settings.loading import ConfigError


def with_a_row(folder: Path) -> None:
    """A folder holds a run from its first row on."""
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')


def configured(folder: Path, *flags: str) -> settings.Config:
    return settings.load([], ["--run.folder", str(folder), *flags])


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    """The kernel frees the lock when its holder dies, however it dies."""
    other = llm_process.called(functools.partial(holding, tmp_path / "run", tmp_path / "held"))
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "held").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(ConfigError, match=rf"in use by process {other.pid}"):
            run_folder.prepare(configured(tmp_path / "run"))
    finally:
        other.kill()
        other.join()
    run_folder.release(run_folder.prepare(configured(tmp_path / "run")))


def holding(folder: Path, said: Path) -> None:
    """A process that has prepared a folder, says so with a file, and waits."""
    run_folder.prepare(configured(folder))
    said.touch()
    time.sleep(60)


def test_a_folder_with_other_settings_is_refused_and_nothing_in_it_changes(tmp_path):
    run_folder.release(run_folder.prepare(configured(tmp_path)))
    with_a_row(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"other settings: run.seed \(0 there, 3 now\)"):
        run_folder.prepare(configured(tmp_path, "--run.seed", "3"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    run_folder.release(run_folder.prepare(configured(tmp_path)))  # and the refusal holds no lock
    assert len(json.loads((tmp_path / "provenance.json").read_text())) == 2


@pytest.mark.parametrize("device, there, gpu", [
    ("auto", True, True), ("cuda:1", True, True), ("cpu", True, False), ("auto", False, False),
    ("cuda", False, False),
])  # fmt: skip
def test_provenance_names_the_gpu_of_a_run_that_uses_one(device, there, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Fast 1")
    run_folder.release(run_folder.prepare(configured(tmp_path, "--run.device", device)))
    (start,) = json.loads((tmp_path / "provenance.json").read_text())
    assert start["device"].startswith("Fast 1, cpu (" if gpu else "cpu (")


def test_a_file_where_the_folder_should_be_and_a_full_disk_are_clear_errors(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to run folder .*file.*exists"):
        run_folder.prepare(configured(tmp_path / "file"))

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        run_folder.prepare(configured(tmp_path / "new"))


def test_an_unwritable_folder_is_a_clear_error(tmp_path, monkeypatch):
    def denied(self, *args, **kwargs):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ConfigError, match=r"cannot write to run folder .* Permission denied"):
        run_folder.prepare(configured(tmp_path / "new"))


def test_damaged_provenance_and_a_lost_configuration_are_refused(tmp_path):
    run_folder.release(run_folder.prepare(configured(tmp_path)))
    (tmp_path / "provenance.json").write_text("[{")
    with pytest.raises(ConfigError, match=r"provenance.json is damaged .*move it away"):
        run_folder.prepare(configured(tmp_path))
    (tmp_path / "provenance.json").unlink()
    (tmp_path / "config.toml").unlink()
    with_a_row(tmp_path)
    with pytest.raises(ConfigError, match=r"holds a run without config.toml"):
        run_folder.prepare(configured(tmp_path))


def test_provenance_names_the_optional_packages_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "_OPTIONAL", ("pytest", "no-such-package"))
    run_folder.release(run_folder.prepare(configured(tmp_path)))
    entry = json.loads((tmp_path / "provenance.json").read_text())[0]
    assert entry["pytest"] == pytest.__version__ and "no-such-package" not in entry
    assert {"torch", "transformers", "numpy", "safetensors"} <= set(entry)


def test_a_folder_with_another_configuration_is_refused_and_left_as_it_was(tmp_path):
    folder = tmp_path / "r"
    run_folder.prepare(settings.load([], ["--run.folder", str(folder)]))
    with_a_row(folder)
    before = (folder / "config.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"correction\.lam\.value \(1\.0 there, 2\.0 now\)"):
        run_folder.prepare(
            settings.load([], ["--run.folder", str(folder), "--correction.lam.value", "2"])
        )
    assert (folder / "config.toml").read_bytes() == before


def test_an_unwritable_folder_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to run folder"):
        run_folder.prepare(settings.load([], ["--run.folder", str(tmp_path / "file" / "r")]))


def test_a_start_that_failed_before_its_first_step_binds_nobody(tmp_path):
    """Other settings are then allowed: the remedy that its error names, say."""
    run_folder.release(run_folder.prepare(configured(tmp_path)))
    best = tmp_path / "checkpoints/best"
    best.mkdir(parents=True)
    (best / "state.json").write_text('{"step": 0}')  # of the evaluation before the first update
    (tmp_path / "metrics.jsonl").touch()
    again = configured(tmp_path, "--run.seed", "3")
    run_folder.release(run_folder.prepare(again))
    assert settings.load([str(tmp_path / "config.toml")], []) == again
    run_folder.claim(tmp_path, again)
    assert not best.exists()  # it is of the other settings
    best.mkdir()
    for state in ('{"step": 1}', "damaged"):
        (best / "state.json").write_text(state)
        assert run_folder.holds_run(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("failed_start", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[correction]\nname = "tis"\n', "is of a run from before 0.1.0"),
        ("[run\n", "is not TOML"),
    ],
)
def test_a_configuration_of_older_code_is_not_taken_over(tmp_path, text, message, failed_start):
    """Also where the run has made no step yet, and whether or not a start is noted beside it."""
    (tmp_path / "config.toml").write_text(text)
    if failed_start:
        (tmp_path / "provenance.json").write_text("[]")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run_folder.prepare(configured(tmp_path))
    assert contents(tmp_path) == before


def test_a_configuration_that_no_start_wrote_is_taken_over_only_if_it_says_the_same(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(settings.dump(configured(tmp_path, "--run.seed", "3")))
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"it says run.seed \(3 there, 0 now\). Move it"):
        run_folder.prepare(configured(tmp_path))
    assert contents(tmp_path) == before
    run_folder.release(run_folder.prepare(configured(tmp_path, "--run.seed", "3")))
    assert config.read_bytes() == before["config.toml"]
    (tmp_path / "provenance.json").unlink()
    config.write_text("# mine\n[run]\nseed = 3\n")
    with pytest.raises(ConfigError, match="does not hold every setting"):
        run_folder.prepare(configured(tmp_path, "--run.seed", "3"))
    assert config.read_text() == "# mine\n[run]\nseed = 3\n"


def test_settings_that_may_change_are_taken_over_by_the_claim_and_not_before(tmp_path):
    """Until then the folder is what it was: a start may still fail."""
    run_folder.release(run_folder.prepare(configured(tmp_path, "--run.steps", "9")))
    with_a_row(tmp_path)
    (tmp_path / "summary.json").write_text("{}")
    more = configured(tmp_path, "--run.steps", "12", "--run.eval-every", "2")
    before = (tmp_path / "config.toml").read_bytes()
    assert run_folder.is_complete(tmp_path, configured(tmp_path, "--run.steps", "9"))
    run_folder.release(run_folder.prepare(more))
    assert not run_folder.is_complete(tmp_path, more)
    assert (tmp_path / "config.toml").read_bytes() == before
    assert run_folder.claim(tmp_path, more) == {"run.steps": (9, 12), "run.eval_every": (10, 2)}
    assert settings.load([str(tmp_path / "config.toml")], []) == more
    assert not (tmp_path / "summary.json").exists()


def test_a_run_is_not_shortened(tmp_path):
    run_folder.release(run_folder.prepare(configured(tmp_path)))
    (tmp_path / "checkpoints/step_00000010").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds 10 steps, and --run.steps is 9.*at least 10"):
        run_folder.prepare(configured(tmp_path, "--run.steps", "9"))
    run_folder.release(run_folder.prepare(configured(tmp_path, "--run.steps", "10")))


@pytest.mark.parametrize(
    "name",
    [
        *(".writable", ".lock", "config.toml", "provenance.json", "metrics.jsonl", "report.html"),
        *("checkpoints", "checkpoints/step_00000001", "checkpoints/best/state.json"),
    ],
)
def test_a_link_in_a_run_folder_is_refused_and_its_target_stays(tmp_path, name):
    """Whoever made the folder chose where it leads."""
    folder, target = tmp_path / "run", tmp_path / "target"
    run_folder.release(run_folder.prepare(configured(folder)))
    target.mkdir() if "." not in name else target.write_text("mine")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{name} is a symbolic link, .*Remove it"):
        run_folder.prepare(configured(folder))
    assert (folder / name).is_symlink()
    assert target.read_text() == "mine" if target.is_file() else not any(target.iterdir())


def test_a_fifo_in_a_run_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ConfigError, match=r"metrics.jsonl is neither a file nor a folder"):
        run_folder.prepare(configured(tmp_path))


def test_a_run_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run_folder.release(run_folder.prepare(configured(tmp_path / "run")))
    assert (tmp_path / "disk/config.toml").exists()


def test_a_change_of_the_evaluation_is_kept_over_starts_and_other_changes_are_not(tmp_path):
    """At first and now: a start between the two may have changed it too, or changed it back."""
    assert run_folder.evaluation_changes(tmp_path) == {}
    prompts, copies = "run.eval_prompts", "run.eval_completions"
    (tmp_path / "provenance.json").write_text('[{"time": "x"}]')
    run_folder.note_evaluation_change(tmp_path, {"run.steps": (3, 5)})
    assert run_folder.evaluation_changes(tmp_path) == {}
    run_folder.note_evaluation_change(tmp_path, {prompts: (128, 64), "run.steps": (3, 5)})
    entries = json.loads((tmp_path / "provenance.json").read_text())
    (tmp_path / "provenance.json").write_text(json.dumps([*entries, {}]))
    run_folder.note_evaluation_change(tmp_path, {prompts: (64, 32), copies: (1, 4)})
    assert run_folder.evaluation_changes(tmp_path) == {prompts: (128, 32), copies: (1, 4)}
    entries = json.loads((tmp_path / "provenance.json").read_text())
    (tmp_path / "provenance.json").write_text(json.dumps([*entries, {}]))
    run_folder.note_evaluation_change(tmp_path, {prompts: (32, 128)})
    assert run_folder.evaluation_changes(tmp_path) == {copies: (1, 4)}
    for damaged in ("[", "3", '[{"evaluation_changed": 3}]'):
        (tmp_path / "provenance.json").write_text(damaged)
        assert run_folder.evaluation_changes(tmp_path) == {}


def test_a_start_whose_probe_another_start_removed_goes_on(tmp_path, monkeypatch):
    """Two at the same time: the lock decides, not the probe."""
    original = Path.write_bytes

    def removed(path: Path, data: bytes) -> int:
        written = original(path, data)
        if path.name == ".writable":
            path.unlink()
        return written

    monkeypatch.setattr(Path, "write_bytes", removed)
    with run_folder.prepared(settings.load([], ["--run.folder", str(tmp_path)])) as folder:
        assert (folder / "provenance.json").exists()
