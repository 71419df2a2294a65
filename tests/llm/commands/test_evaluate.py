"""`llm eval`: what it writes and what it refuses."""

import hashlib
import json
import shutil

import pytest

from llm import errors, settings
from llm.checkpoints import checkpoint
from llm.commands import evaluate as evaluate_command
from llm.commands import report as report_command
from llm.models import roles
from llm.settings.loading import ConfigError


def test_only_settings_that_an_evaluation_reads_can_be_replaced():
    found = evaluate_command.split_overrides(
        ["RUN", "--task.digits-max", "10", "--samples", "3", "--rollout.max-new-tokens=20"]
    )
    assert found == (
        ["--task.digits-max", "10", "--rollout.max-new-tokens=20"],
        ["RUN", "--samples", "3"],
    )
    with pytest.raises(ConfigError, match=r"--optim\.policy_lr does nothing in an evaluation"):
        evaluate_command.split_overrides(["RUN", "--optim.policy_lr", "1"])


@pytest.mark.parametrize(
    ("flags", "allowed", "fine"),
    [
        ([], False, False),
        ([], True, True),
        (["--task.digits_max", "9"], False, False),
        (["--reward.function", "own.py:f"], False, True),
        (["--reward.function=own.py:f"], False, True),
        (["--reward.type", "number"], False, True),
    ],
)
def test_a_function_that_only_the_run_names_is_not_executed_without_being_allowed(
    tmp_path, flags, allowed, fine
):
    (tmp_path / "config.toml").write_text('[reward]\nfunction = "theirs.py:f"\n')
    file = str(tmp_path / "config.toml")
    cfg = settings.load([file], flags)
    if fine:
        evaluate_command.check_allowed(cfg, flags, allowed)
        return
    with pytest.raises(ConfigError, match=r"theirs.py:f, whose code .*--allow-reward-function"):
        evaluate_command.check_allowed(cfg, flags, allowed)


def test_eval_and_report_of_somebody_elses_folder_execute_nothing(run, tmp_path):
    """Its config.toml names a function that would leave a file behind."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\ndef f(**c): ...\n")
    config = tmp_path / "run" / "config.toml"
    other = f'[reward]\nfunction = "{tmp_path}/theirs.py:f"'
    named = config.read_text().replace('[reward]\ntype = "auto"', other)
    config.write_text(named)
    with pytest.raises(ConfigError, match="--allow-reward-function"):
        evaluate_command.main([str(tmp_path / "run"), "--prompts", "2"])
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0, "reward_mean": 0.5}\n')
    assert report_command.main([str(tmp_path / "run")]) == 0
    assert not (tmp_path / "mark").exists()
    assert evaluate_command.main([str(tmp_path / "run"), "--prompts", "2", "--samples", "1",
                                  "--allow-reward-function"]) == 0  # fmt: skip
    assert (tmp_path / "mark").exists(), "the test would not see an execution"


def test_eval_with_a_reward_function_reports_the_mean_reward(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text("def f(completion, **columns):\n    return 2.5\n")
    common = [str(run), "--prompts", "3", "--samples", "1"]
    assert evaluate_command.main([*common, "--reward.function", f"{tmp_path}/own.py:f"]) == 0
    last = json.loads((run / "eval.json").read_text())[-1]
    (run / "eval.json").unlink()
    assert last["models"]["policy"]["score_mean"] == 2.5 and last["score_errors"] == 0
    assert last["models"]["policy"]["mean_at_1"]["value"] == 1.0
    assert "reward   2.500 on average; below, right is 1 or more" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a checkpoint of two small models, never pretrained."""
    from llm.checkpoints.checkpoint import save_state

    folder = tmp_path_factory.mktemp("run")
    flags = "--pretrain.policy_steps 0 --pretrain.actor_steps 0 --policy.layers 1 --policy.width 32"
    cfg = settings.load([], flags.split())
    (folder / "config.toml").write_text(settings.dump(cfg))
    parts = {
        "policy": roles.open_policy(cfg, folder),
        "actor": roles.open_model(cfg, "actor", folder),
    }
    save_state(folder / "checkpoints", 5, parts, {"step": 5})
    return folder


def test_eval_prints_a_table_and_adds_to_eval_json(run, capsys):
    """On its own task, then on another one: two entries, each with policy and actor."""
    common = [str(run), "--prompts", "6", "--samples", "3"]
    assert evaluate_command.main(common) == 0
    other = ["--task.type", "sort", "--task.digits_min", "2", "--task.digits_max", "3"]
    assert evaluate_command.main([*common, *other]) == 0
    out = capsys.readouterr().out
    assert "pass@3" in out
    first, second = json.loads((run / "eval.json").read_text())
    assert (first["task"]["task.type"], second["task"]["task.type"]) == ("chain", "sort")
    assert first["step"] == 5
    assert set(first["models"]) == {"policy", "actor"}
    assert first["models"]["policy"]["samples"] == 3
    assert (run / "eval.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompts", "0"], "--prompts must be at least 1"),
        (["--checkpoint", "best"], "holds no complete best checkpoint"),
    ],
)
def test_eval_says_what_is_wrong(run, argv, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_command.main([str(run), *argv])


def test_eval_wants_a_run_folder(tmp_path):
    with pytest.raises(ConfigError, match="is not a run folder"):
        evaluate_command.main([str(tmp_path)])


def test_eval_adds_to_no_damaged_file(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "eval.json").write_text("{")
    with pytest.raises(ConfigError, match="move it away"):
        evaluate_command.main([str(copy)])
    assert (copy / "eval.json").read_text() == "{"


def run_in_progress(run, tmp_path, monkeypatch, replaced):
    """A copy of the run whose newest checkpoint gives way to the next one `replaced` times, each
    time just before its digest is taken; returns the folder and the digests' checkpoints."""
    copy, seen, real = tmp_path / "copy", [], checkpoint.digest
    shutil.copytree(run, copy)
    (copy / "eval.json").unlink(missing_ok=True)

    def digest(path):
        step = int(path.parent.name.removeprefix("step_"))
        if path.name == "state.json":
            seen.append(step)
            if step < 5 + replaced:
                moved = path.parent.rename(path.parent.with_name(f"step_{step + 1:08d}"))
                state = json.dumps({"step": step + 1}).encode()
                (moved / "state.json").write_bytes(state)
                manifest = json.loads((moved / "manifest.json").read_text())
                mark = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
                manifest["files"]["state.json"] = mark
                (moved / "manifest.json").write_text(json.dumps(manifest))
        return real(path)

    monkeypatch.setattr(checkpoint, "digest", digest)
    return copy, seen


def test_eval_takes_the_newer_checkpoint_where_a_run_drops_the_one_being_read(
    run, tmp_path, monkeypatch
):
    copy, seen = run_in_progress(run, tmp_path, monkeypatch, replaced=2)
    assert evaluate_command.main([str(copy), "--prompts", "2", "--samples", "1"]) == 0
    assert seen == [5, 6, 7]
    (entry,) = json.loads((copy / "eval.json").read_text())
    assert entry["checkpoint"] == "step_00000007"


def test_eval_gives_up_with_a_clear_error(run, tmp_path, monkeypatch):
    copy, seen = run_in_progress(run, tmp_path, monkeypatch, replaced=9)
    with pytest.raises(errors.CheckpointError, match="step_00000007 was removed meanwhile"):
        evaluate_command.main([str(copy), "--prompts", "2", "--samples", "1"])
    assert seen == [5, 6, 7]


def test_eval_does_not_read_a_damaged_checkpoint_again(run, tmp_path, monkeypatch):
    copy, seen = run_in_progress(run, tmp_path, monkeypatch, replaced=0)
    (copy / "checkpoints" / "step_00000005" / "state.json").write_text("x" * 20)
    real, calls = evaluate_command.open_evaluation, []

    def opened(*args):
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(evaluate_command, "open_evaluation", opened)
    with pytest.raises(errors.CheckpointError, match=r"state\.json"):
        evaluate_command.main([str(copy)])
    assert (calls, seen) == ([1], [])


def test_what_was_computed_is_printed_before_a_folder_refuses_it(
    run, tmp_path, monkeypatch, capsys
):
    from llm.checkpoints import atomic_files

    def refuse(path, value):
        raise OSError(30, "Read-only file system", str(path))

    common = [str(run), "--prompts", "2", "--samples", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "write_json", refuse)
        with pytest.raises(ConfigError, match=r"Read-only file system.*printed above; --out"):
            evaluate_command.main(common)
    assert "policy: 2 held-out prompts" in capsys.readouterr().out
    assert evaluate_command.main([*common, "--out", str(tmp_path / "new" / "folder")]) == 0
    (entry,) = json.loads((tmp_path / "new" / "folder" / "eval.json").read_text())
    assert entry["models"]["policy"]["prompts"] == 2


def test_eval_shows_every_evaluation_set():
    summary = {"prompts": 2, "samples": 1, "mean_at_1": {"value": 0.5, "low": 0.1, "high": 0.9}}
    entry = {"checkpoint": "step_5", "step": 5, "task": {"task.type": "problems"}}
    entry |= {"temperature": 1.0, "models": {"policy": summary}}
    shown = evaluate_command.table(entry | {"sets": {"aime24": {"policy": summary}}})
    assert "policy on aime24: 2 held-out prompts" in shown
    assert "aime24" not in evaluate_command.table(entry)
