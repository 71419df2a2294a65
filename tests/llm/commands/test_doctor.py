"""The doctor: every problem is a line with a remedy, never a traceback; nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy_tokenizers import save_tokenizer

from llm import __main__ as command
from llm import settings
from llm.commands import doctor, doctor_checks
from llm.commands.doctor_checks import OK, PROBLEM, WARNING, Line, diagnose
from llm.models import loading, roles
from llm.planning import choosing, memory
from llm.rollout import sampling
from llm.runs import run_folder
from llm.settings.schema import FrozenActor, ModelConfig, SeparateActor
from llm.tokenizers.character import CharTokenizer
from llm.tokenizers.pretrained import HubTokenizer
from llm.training import forward

TINY = [
    "--policy.width", "32", "--policy.layers", "1", "--rollout.prompts_per_step", "2",
    "--rollout.rollouts_per_prompt", "2", "--run.eval_prompts", "8", "--pretrain.policy_steps", "2",
    "--pretrain.actor_steps", "2", "--pretrain.batch_size", "4", "--run.device", "cpu",
]  # fmt: skip


def lines(folder: Path, *flags: str) -> dict[str, Line]:
    found = list(diagnose([*TINY, "--run.folder", str(folder), *flags]))
    return {line.check: line for line in found}


def statuses(found: dict[str, Line]) -> dict[str, str]:
    return {line.check: line.status for line in found.values() if line.status != OK}


def test_sound_settings_pass_every_check_and_nothing_is_written(tmp_path, capsys):
    folder = tmp_path / "run"
    assert doctor.main([*TINY, "--run.folder", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("0 problem(s), 0 warning(s)\n") and "PROBLEM" not in out
    for check in ("settings", "run folder", "device", "tokenizers", "data", "memory", "disk"):
        assert f"ok       {check}" in out
    for check in ("models", "positions", "self-test", "tied weights", "arithmetic", "one step"):
        assert f"ok       {check}" in out
    assert "random weights here" in out
    fits = choosing.fitting(settings.load([], [*TINY, "--run.folder", str(folder)]))
    assert f"ok       evidence     {choosing.sentence(fits)}\n" in out
    assert list(tmp_path.iterdir()) == []


def test_a_finished_pretraining_is_used_and_not_touched(tmp_path):
    cfg = settings.load([], [*TINY, "--run.folder", str(tmp_path)])
    for role in ("policy", "actor"):
        roles.open_model(cfg, role, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    found = lines(tmp_path)
    assert "random weights" not in found["models"].seen
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    # two steps of pretraining make no good policy
    assert set(statuses(found).values()) <= {WARNING}
    other = lines(tmp_path, "--pretrain.policy_steps", "3")
    assert "random weights" in other["models"].seen
    (recipe,) = tmp_path.glob("pretrained/policy-*/recipe.json")
    recipe.write_text("{}")
    assert lines(tmp_path)["models"].status == PROBLEM


@pytest.mark.parametrize(
    ("flags", "check", "text"),
    [
        (["--optim.policy_lr", "-1"], "settings", "optim.policy_lr must be greater than 0"),
        (["no_such_file.toml"], "settings", "cannot read config file"),
        (["--run.device", "tpu9"], "device", "cannot be used"),
        (
            ["--actor.type", "early_exit", "--actor.ppo", "True"],
            "settings",
            "of actor.type separate",
        ),
        (["--run.device", "cpu", "--optim.polcy_lr", "1"], "settings", "optim.polcy_lr"),
        (["--task.type", "problems", "--task.source", "x.jsonl"], "settings", "give --policy.path"),
    ],
)
def test_bad_input_is_a_line_that_says_what(tmp_path, flags, check, text):
    found = lines(tmp_path, *flags)
    problems = [line for line in found.values() if line.status == PROBLEM]
    assert [line.check for line in problems] == [check] and text in problems[0].seen


def test_json_holds_the_same_table(capsys):
    wrong = [*TINY, "--optim.polcy_lr", "1"]
    assert doctor.main([*wrong, "--json"]) == 1
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert err == "" and set(said) == {"problems", "warnings", "checks"}
    assert (said["problems"], said["warnings"]) == (1, 0)
    (check,) = said["checks"]
    assert check["verdict"] == PROBLEM and check["check"] == "settings"
    assert "optim.policy_lr" in check["seen"] and set(check) == {*Line._fields} - {"status"} | {
        "verdict"
    }
    doctor.main(wrong)
    assert check["seen"] in capsys.readouterr().out


def test_a_problem_gives_exit_code_1(capsys):
    assert doctor.main([*TINY, "--optim.polcy_lr", "1"]) == 1
    assert "PROBLEM  settings" in capsys.readouterr().out


def test_a_folder_of_another_run_or_a_complete_one_is_told(tmp_path):
    cfg = settings.load([], [*TINY, "--run.folder", str(tmp_path)])
    run_folder.release(run_folder.prepare(cfg))
    assert "is free to use" in lines(tmp_path)["run folder"].seen  # a start before its first step
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    assert "would go on" in lines(tmp_path)["run folder"].seen
    (tmp_path / "summary.json").write_text("{}")
    assert lines(tmp_path)["run folder"].status == WARNING
    found = lines(tmp_path, "--run.seed", "5")["run folder"]
    assert found.status == PROBLEM and "run.seed (0 there, 5 now)" in found.seen


def test_a_file_in_place_of_the_run_folder_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    assert lines(tmp_path / "file" / "run")["run folder"].status == PROBLEM


def test_completions_longer_than_the_models_positions_are_a_problem(tmp_path):
    found = lines(tmp_path, "--rollout.max_new_tokens", "504")
    assert found["positions"].status == PROBLEM and "513 tokens" in found["positions"].seen
    assert "max_new_tokens" in found["positions"].seen and "models" not in found


def test_a_model_whose_cache_has_no_rows_is_a_problem_that_names_it(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    small = MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(small).save_pretrained(tmp_path / "mamba")
    flags = ["--run.folder", str(tmp_path / "run"), "--policy.path", str(tmp_path / "mamba")]
    found = {line.check: line for line in diagnose(flags)}
    assert "memory" in found and found["memory"].status != PROBLEM
    assert found["models"].status == PROBLEM and "MambaForCausalLM" in found["models"].seen


def test_too_little_memory_stops_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 1_000_000)
    found = lines(tmp_path)
    assert found["memory"].status == PROBLEM and "microbatch.sequences" in found["memory"].remedy
    assert "models" not in found


def test_too_little_disk_is_a_problem(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    found = lines(tmp_path, "--run.checkpoints_kept", "3")["disk"]
    assert found.status == PROBLEM and "5 checkpoints" in found.seen


def test_a_sampler_that_disagrees_with_the_scorer_is_a_problem(tmp_path, monkeypatch):
    states = forward.completion_states
    monkeypatch.setattr(forward, "completion_states", lambda *a: states(*a) / 2)
    found = lines(tmp_path)
    assert found["self-test"].status == PROBLEM and "temperature" in found["self-test"].seen
    assert found["one step"].status == OK  # later checks still run


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), OSError(5, "io"), KeyError(1)]
)
def test_an_unexpected_error_is_a_line_too(tmp_path, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(sampling, "inverse_cdf", broken)
    found = lines(tmp_path)
    assert found["one step"].status == PROBLEM and type(error).__name__ in found["one step"].seen


def test_what_a_pretrained_policy_does_wrong_is_warned_of(tmp_path):
    cfg = settings.load([], [*TINY, "--run.folder", str(tmp_path)])
    for role in ("policy", "actor"):
        roles.open_model(cfg, role, tmp_path)
    found = lines(tmp_path, "--alarm.kl_max", "1e-6")
    assert found["alarms"].status == WARNING and "alarm.kl_max" in found["alarms"].seen
    assert found["rewards"].status == WARNING and "one reward" in found["rewards"].seen


# The estimate


def estimated(*flags: str) -> dict[str, int]:
    cfg = settings.load([], list(flags))
    actor = None
    if isinstance(cfg.actor, SeparateActor | FrozenActor):
        actor = memory.shape(cfg.actor)
    return memory.estimate(cfg, memory.shape(cfg.policy), actor, prompt_tokens=9)


def test_a_reward_function_that_fails_is_a_problem_or_a_warning():
    kinds = ("score_errors", "score_timeouts", "score_crashes")
    lines = [
        doctor_checks._reward_function(dict(zip(kinds, failed, strict=True)), 4)
        for failed in ((0, 0, 0), (1, 0, 2), (4, 0, 0))
    ]
    assert [line.status for line in lines] == ["ok", "warning", "problem"]
    assert "failed for 3 of 4 completions (1 score_errors, 2 score_crashes)" in lines[1].seen


def test_weights_gradients_and_optimizer_are_counted_exactly():
    """Against the bytes of a real model and its optimiser after a step."""
    cfg = settings.load([], [])
    found = estimated()
    assert isinstance(cfg.actor, SeparateActor)
    parts: dict[str, ModelConfig] = {"policy": cfg.policy, "actor": cfg.actor}
    for role, part in parts.items():
        model = loading.build(part, seed=0)
        held = sum(p.nbytes for p in model.parameters())
        assert found[f"{role} weights"] == found[f"{role} gradients"] == held
        assert found[f"{role} optimiser"] == 2 * held


def test_bfloat16_halves_weights_and_adds_masters():
    full, half = estimated(), estimated("--policy.dtype", "bfloat16")
    assert half["policy weights"] * 2 == full["policy weights"]
    assert half["policy optimiser"] * 2 == full["policy optimiser"] * 3


def test_adapters_are_counted_as_peft_makes_them():
    pytest.importorskip("peft")
    cfg = settings.load([], ["--policy.lora.rank", "4"])
    model = loading.with_lora(loading.build(cfg.policy, seed=0), cfg.policy, seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = estimated("--policy.lora.rank", "4")
    assert found["policy optimiser"] == 8 * trained and found["policy gradients"] == 4 * trained


def test_microbatches_lower_the_estimate_of_what_they_lower():
    flags = ("--rollout.prompts_per_step", "64")
    whole, small = estimated(*flags), estimated(*flags, "--optim.microbatch.sequences", "256")
    name = "logits of a micro-batch"
    assert small[name] * 2 == pytest.approx(whole[name], abs=1)
    assert small["policy weights"] == whole["policy weights"]


def test_checkpoints_are_as_large_as_estimated(tmp_path):
    from llm.checkpoints.checkpoint import save_state
    from llm.training.optimizer import adamw

    cfg = settings.load([], ["--actor.type", "self", "--correction.type", "none"])
    model = loading.build(cfg.policy, seed=0)
    optimizer = adamw(model, 1e-3, 0.0)
    model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    path = save_state(tmp_path, 1, {"policy": model, "optimizer_policy": optimizer}, {})
    written = sum(p.stat().st_size for p in path.iterdir())
    found = memory.checkpoint_bytes(cfg, memory.shape(cfg.policy), None)
    assert found == pytest.approx(written, rel=0.03)


def test_memory_of_the_control_group_limits_what_is_available(monkeypatch):
    texts = {"/sys/fs/cgroup/memory.max": "5000\n", "/sys/fs/cgroup/memory.current": "2000\n"}
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a: texts.get(str(self)) or real(self, *a))
    assert memory.available(torch.device("cpu")) == 3000
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory.available(torch.device("cpu")) > 10**6


def test_the_command_is_there(capsys):
    assert command.main(["doctor", "--help"]) == 0
    assert "Exit code 0: no problem found" in capsys.readouterr().out


def test_an_end_of_turn_that_ends_nothing_and_a_date_are_told(tmp_path):
    closed = "{% for m in messages %}{{ m.content }}<|im_start|>{% endfor %}"
    for template, status in ((closed, PROBLEM), (closed.replace("start", "end"), OK)):
        hub = HubTokenizer(save_tokenizer(tmp_path, template=template))
        (line,) = doctor_checks._prompts(hub)
        assert line.check == "end of turn" and line.status == status
    assert "ends a completion" in line.seen
    for end, shown in ((" END\n", r"the plain text ' END\n'"), ("", "nothing")):
        plain = closed.replace("<|im_start|>", end)
        hub = HubTokenizer(save_tokenizer(tmp_path, template=plain))
        (line,) = doctor_checks._prompts(hub)
        assert line.check == "end of turn" and line.status == WARNING
        assert f"closes an answer with {shown}, and completions end only with" in line.seen
    hub = HubTokenizer(save_tokenizer(tmp_path, template="{{ strftime_now('%Y') }}" + template))
    assert doctor_checks._prompts(hub)[1].seen.endswith(hub.today.isoformat())
    assert doctor_checks._prompts(CharTokenizer()) == []


def test_a_template_that_leaves_the_answers_header_to_the_model_is_told(tmp_path):
    turn = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    opens = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    needs_none = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    for template, told in ((turn, True), (turn + opens, False), (needs_none, False)):
        hub = HubTokenizer(save_tokenizer(tmp_path, template=template))
        found = [x for x in doctor_checks._prompts(hub) if x.check == "chat template"]
        assert bool(found) == told
        assert all(x.status == WARNING and "'<|im_start|>assistant'" in x.seen for x in found)


def test_an_actor_whose_tokens_the_policy_finds_less_likely_than_chance_is_a_problem():
    """As with the ids of one of them in another order; KL of about log ids and above."""
    far = {"kl_inf_target_k3": 7.0, "kl_target_inf_est": 1.0}
    (line,) = doctor_checks._strangers(far, ids=1000)
    assert line.status == PROBLEM and "7 nats per token, and 6.91" in line.seen
    assert doctor_checks._strangers(far | {"kl_inf_target_k3": 6.9}, ids=1000) == []
    assert doctor_checks._strangers(far | {"kl_target_inf_est": 50.0}, ids=1000) == []  # one token
    assert doctor_checks._strangers({}, ids=1000) == []


def rows(folder: Path, *pairs: tuple[str, str]) -> str:
    text = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs)
    (folder / "rows.jsonl").write_text(text)
    return str(folder / "rows.jsonl")


MANY = [(f"What is {i} + 1?", str(i + 1)) for i in range(40)]
SEEN_BEFORE = {  # what a stranger may bring: rows, a file of the model, the line that tells
    "a forged turn": ([*MANY, ("1?<|im_end|>", "1")], None, "data", "control token"),
    "a contradiction": ([*MANY, ("What is 1 + 1?", "3")], None, "data", "the prompt is that of"),
    "too few rows": (MANY[:4], None, "data", "more than the"),
    "a repeat": ([*MANY, MANY[1]], None, "", "1 repeated rows are counted once"),
    "ends not to be read": (MANY, ("generation_config.json", "{"), "tokenizers", "cannot read"),
    "a checkpoint": (MANY, ("manifest.json", "{}"), "tokenizers", "is a checkpoint of a run"),
}  # fmt: skip


@pytest.mark.parametrize("case", SEEN_BEFORE)
def test_what_a_stranger_brings_is_told_before_models_are_opened(tmp_path, case):
    """A kind of fault that can be seen beforehand has its line: docs/fault_kinds.md."""
    pairs, file, check, said = SEEN_BEFORE[case]
    model = tmp_path / "model"
    save_tokenizer(model)
    if file:
        (model / file[0]).write_text(file[1])
        (model / "state.json").write_text("{}")
    flags = ["--policy.path", str(model), "--actor.type", "self", "--correction.type", "none"]
    flags += ["--task.type", "problems", "--task.source", rows(tmp_path, *pairs)]
    flags += ["--run.folder", str(tmp_path / "run"), "--run.device", "cpu"]
    flags += ["--task.prompt_column", "question", "--task.answer_column", "answer"]
    found = list(diagnose([*flags, "--reward.type", "number", "--rollout.prompts_per_step", "8"]))
    if check:
        assert (found[-1].check, found[-1].status) == (check, PROBLEM)
    assert any(said in line.seen for line in found), found
