"""Checkpoints: complete or absent at every moment, refused by name if damaged or another run's."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from checkpoint_cases import MINE, linear, save, save_as_best, trained, value_in
from optional import not_none

from llm import settings
from llm.checkpoints import checkpoint
from llm.checkpoints.checkpoint import best, latest, load_state, save_state
from llm.checkpoints.state_tensors import StatefulPart
from llm.errors import CheckpointError
from llm.training.optimizer import adamw


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
    state = load_state(not_none(latest(tmp_path)), {"policy": other, "optimizer": fresh})
    assert state == {"step": 3, "control": {"lam": 1.25}}
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)
    assert ("master" in optimizer.state_dict()["state"][0]) == (dtype == torch.bfloat16)
    for i, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(fresh.state_dict()["state"][i][name], value)


FILES = ("policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_file_truncated_anywhere_is_refused_by_name(tmp_path, file, cut):
    model, optimizer = trained()
    parts: dict[str, StatefulPart] = {"policy": model, "optimizer": optimizer}
    save_state(tmp_path, 1, parts, {})
    path = save_state(tmp_path, 2, parts, {}) / file
    content = path.read_bytes()
    path.write_bytes(content[: cut if cut >= 0 else len(content) - 3])
    with pytest.raises(CheckpointError, match=rf"{file}.*remove .*step_00000002 to use an older"):
        load_state(not_none(latest(tmp_path)), parts)
    shutil.rmtree(path.parent)
    assert load_state(not_none(latest(tmp_path)), parts)["step"] == 1


def test_a_truncated_file_is_refused_even_by_who_does_not_want_it(tmp_path):
    model, optimizer = trained()
    path = save_state(tmp_path, 1, {"policy": model, "optimizer": optimizer}, {})
    (path / "optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors holds 5 bytes, \d+ were"):
        load_state(path, {"policy": model})


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_by_name(tmp_path, file):
    model, optimizer = trained()
    parts: dict[str, StatefulPart] = {"policy": model, "optimizer": optimizer}
    path = save_state(tmp_path, 2, parts, {}) / file
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"cannot read .*{file}"):
        load_state(not_none(latest(tmp_path)), parts)


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
    parts: dict[str, StatefulPart] = {"policy": model, "optimizer": optimizer}
    path = save_state(tmp_path, 2, parts, {}) / file
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=rf"{file} was altered"):
        load_state(not_none(latest(tmp_path)), parts)
    assert torch.equal(model.weight, before)


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path):
    save(tmp_path, 1, 1.0)
    other = {**MINE, "correction.lam.value": "1.2"}
    with pytest.raises(
        CheckpointError, match=r"other settings: correction.lam.value \(1.0 there, 1.2 n"
    ):
        load_state(not_none(latest(tmp_path)), {"policy": linear()}, other)
    save_state(tmp_path, 2, {"policy": linear()}, {})
    with pytest.raises(CheckpointError, match="does not say which run"):
        load_state(not_none(latest(tmp_path)), {"policy": linear()}, MINE)


def test_a_runs_identity_is_every_setting_but_its_folder():
    base = settings.load([], [])
    moved = settings.load([], ["--run.folder", "elsewhere"])
    other = settings.load([], ["--optim.policy-lr", "1e-3"])
    assert checkpoint.identity(moved) == checkpoint.identity(base)
    differs = {
        k for k, v in checkpoint.identity(other).items() if checkpoint.identity(base)[k] != v
    }
    assert differs == {"optim.policy_lr"}
    json.dumps(checkpoint.identity(base), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["files"].update({"../x.json": m["files"]["state.json"]}), "is no file of a"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["state.json"]}), "is no file of a"),
        (lambda m: m["files"].update({"a\0.json": m["files"]["state.json"]}), "is no file of a"),
        (lambda m: m["files"].update({"state.json": 3}), "state.json has no size and digest"),
        (lambda m: m["files"]["state.json"].update(bytes="1"), "has no size and digest"),
        (lambda m: m["files"].pop("state.json"), "names no state.json"),
        (lambda m: m.update(files=[]), "must be objects"),
        (lambda m: m.update(identity=3), "must be objects"),
        (lambda m: m.update(frozen={"policy": 1}), "must hold texts"),
        (lambda m: m.update(format="2"), "not a manifest of format"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(tmp_path, change, message):
    """Its names lead nowhere else, and everything has its type."""
    path = save(tmp_path, 1, 1.0) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=rf"cannot read .*manifest.json: .*{message}.*remove"):
        load_state(path.parent, {"policy": linear()}, MINE)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"format": 1' + "0" * 5000 + "}", "\ufeff"])
def test_a_manifest_of_great_depth_or_size_is_refused(tmp_path, text):
    path = save(tmp_path, 1, 1.0) / "manifest.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"cannot read .*manifest.json"):
        load_state(path.parent, {"policy": linear()}, MINE)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{"])
def test_a_state_that_is_no_object_is_refused(tmp_path, text):
    path = save(tmp_path, 1, 1.0)
    (path / "state.json").write_text(text)
    manifest = json.loads((path / "manifest.json").read_text())
    mark = {"bytes": len(text), "sha256": checkpoint.digest(path / "state.json")}
    manifest["files"]["state.json"] = mark
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"state.json.*remove .*step_00000001"):
        load_state(path, {"policy": linear()}, MINE)


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "manifest.json", ""])
def test_a_checkpoint_that_leads_elsewhere_by_a_link_is_refused(tmp_path, name):
    path, elsewhere = save(tmp_path / "kept", 1, 1.0), tmp_path / "elsewhere"
    (path / name).rename(elsewhere)
    (path / name).symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=r"symbolic link|not a regular file"):
        load_state(path, {"policy": linear()}, MINE)


def test_nan_in_a_checkpoint_is_refused_by_tensor(tmp_path):
    path = save(tmp_path, 1, float("nan"))
    with pytest.raises(CheckpointError, match=r"policy.safetensors .*holds NaN or inf"):
        load_state(path, {"policy": linear()}, MINE)
