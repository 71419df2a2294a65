"""Warm-ups: every character task has one, named by the hash of its recipe."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm import settings as config
from llm.models import pretraining, roles
from llm.settings.loading import ConfigError


def settings(*flags: str) -> config.Config:
    return config.load([], list(flags))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("task", ["chain", "sort", "reverse", "add"])
def test_every_character_task_is_pretrained_and_an_equal_pretraining_is_found_again(task, tmp_path):
    flags = [
        *("--task.type", task, "--task.digits-min", "2", "--task.digits-max", "3"),
        *("--policy.layers", "1", "--policy.width", "32", "--pretrain.folder", str(tmp_path)),
        *("--pretrain.policy-steps", "40", "--pretrain.batch-size", "16"),
        *("--policy.dtype", "bfloat16"),
    ]
    model = roles.open_policy(settings(*flags), tmp_path / "run")
    (file,) = tmp_path.glob("policy-*/model/model.safetensors")
    written = file.stat().st_mtime_ns
    again = roles.open_policy(settings(*flags, "--run.steps", "7"), tmp_path / "other")
    assert file.stat().st_mtime_ns == written
    assert same(model, again)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert load_file(file)["lm_head.weight"].dtype == torch.float32  # pretrained in full precision
    for other in (["--pretrain.policy_error", "0.3"], ["--run.seed", "1"]):
        assert not same(model, roles.open_policy(settings(*flags, *other), tmp_path / "other"))
    assert len(list(tmp_path.glob("policy-*"))) == 3 and file.stat().st_mtime_ns == written


def test_a_pretraining_is_named_by_the_hash_of_its_recipe(tmp_path):
    """By hand, from recipe.json: 10 hex digits of the SHA-256 of the JSON with sorted keys."""
    flags = (
        "--pretrain.folder",
        str(tmp_path),
        "--pretrain.actor-steps",
        "1",
        "--actor.width",
        "16",
    )
    roles.open_model(settings(*flags), "actor", tmp_path)
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    recipe = json.loads((folder / "recipe.json").read_text())
    text = (
        "{" + ", ".join(f"{json.dumps(k)}: {json.dumps(recipe[k])}" for k in sorted(recipe)) + "}"
    )
    assert folder.name == f"actor-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    assert recipe["pretrain.actor_steps"] == 1 and "run.steps" not in recipe


@pytest.mark.parametrize(
    ("edited", "match"),
    [
        (
            '"pretrain.policy_error": 0.3',
            r"edited.*pretrain\.policy_error \(0\.3 there, 0\.15 wanted\)",
        ),
        ('"pretrain.policy_error": 0.15, "x": 1', r"edited.*x \(1 there, None wanted\)"),
        ('"pretrain.policy_error": ', r"cannot read .*recipe\.json"),
    ],
)
def test_a_pretraining_whose_recipe_is_not_that_of_its_name_is_refused(tmp_path, edited, match):
    cfg = settings("--pretrain.folder", str(tmp_path), "--pretrain.policy-steps", "0")
    roles.open_policy(cfg, tmp_path)
    (file,) = tmp_path.glob("policy-*/recipe.json")
    whole = file.read_text()
    assert whole.count('"pretrain.policy_error": 0.15') == 1
    file.write_text(whole.replace('"pretrain.policy_error": 0.15', edited))
    with pytest.raises(ConfigError, match=match):
        roles.open_policy(cfg, tmp_path)


def test_a_run_that_waits_for_the_pretraining_of_another_says_so(tmp_path, monkeypatch, capsys):
    """POSIX locks are of processes, so this one cannot hold it against itself."""
    asked: list[int] = []

    def held(file: object, how: int) -> None:
        asked.append(how)
        if how & fcntl.LOCK_NB:
            raise BlockingIOError

    (tmp_path / ".lock").write_text("123\n")
    monkeypatch.setattr(fcntl, "lockf", held)
    with pretraining._alone_in(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert asked == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]
    assert "process 123 pretrains there, waiting for it" in capsys.readouterr().err


def test_a_complete_pretraining_is_read_from_a_folder_that_takes_no_files(tmp_path, monkeypatch):
    """As that of somebody else on a read-only disk."""
    cfg = settings("--pretrain.folder", str(tmp_path), "--pretrain.policy-steps", "0")
    model = roles.open_policy(cfg, tmp_path)

    def refused(path: Path, mode: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(pretraining, "open_here", refused)
    assert same(model, roles.open_policy(cfg, tmp_path))


def test_demonstrations_show_prompt_answer_and_end_and_mark_the_answer():
    import numpy as np

    cfg = settings("--task.digits-min", "1", "--task.digits-max", "4", "--pretrain.batch-size", "6")
    ids, is_answer = pretraining.demonstrations(cfg, np.random.default_rng(3), error=0.0)
    for row, marks in zip(ids.tolist(), is_answer.tolist(), strict=True):
        text = "".join("0123456789="[i - 2] if i >= 2 else "_E"[i] for i in row)
        prompt, answer = text.split("E")[0].split("=")
        assert answer == "".join(
            str(sum(map(int, prompt[: i + 1])) % 10) for i in range(len(prompt))
        )
        assert "".join(c for c, m in zip(text, marks, strict=True) if m) == answer + "E"
