"""Configurations that cannot work: each is refused by one line, and nothing is written or lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.runs import run_folder

DEEP = "[" * 4000 + "]" * 4000
FILES = {  # name -> bytes of a configuration file, and a word of the refusal
    "empty value": (b"[run]\nsteps =\n", "is not TOML"),
    "not UTF-8": (b'[task]\ntype = "\xff\xfe"\n', "is not TOML"),
    "UTF-16": ("[run]\nsteps = 3\n".encode("utf-16"), "is not TOML"),
    "NUL": (b"[run]\nsteps = 3\x00\n", "is not TOML"),
    "nested arrays": (f"[run]\nsteps = {DEEP}\n".encode(), ""),
    "nested tables": (("[" + ".".join("a" * 3000) + "]\nb = 1\n").encode(), ""),
    "twice the same key": (b"[run]\nsteps = 3\nsteps = 4\n", "is not TOML"),
    "twice the same section": (b"[run]\nsteps = 3\n[run]\nseed = 4\n", "is not TOML"),
    "a section as a value": (b"run = 3\n", "run is a section"),
    "a value as a section": (b"[run.steps]\nn = 3\n", "steps"),
    "an array": (b"[run]\nsteps = [3]\n", "steps must be an int"),
    "a date": (b"[run]\nseed = 1979-05-27\n", "seed must be an int"),
    "text for a number": (b'[run]\nsteps = "3"\n', "steps must be an int"),
    "a number for text": (b"[run]\nfolder = 3\n", "folder must be a str"),
    "a number for a switch": (b"[run]\nkeep_best = 1\n", "keep_best must be a bool"),
    "a switch for a number": (b"[run]\nsteps = true\n", "steps must be an int"),
    "a fraction for a count": (b"[run]\nsteps = 2.5\n", "steps must be an int"),
    "an integer of 5,000 digits": (b"[run]\nsteps = " + b"9" * 5000 + b"\n", ""),
    "an array of sections": (b"[[run]]\nsteps = 3\n", "run is a section"),
    "an unknown section": (b"[runs]\nsteps = 3\n", "unknown key runs.steps"),
    "JSON": (b'{"run": {"steps": 3}}', "is not TOML"),
    "6,000 hexadecimal digits": (b"[run]\nsteps = 0x" + b"f" * 6000, "steps must be below 2^63"),
    "6,000 digits as a type": (b"[actor]\ntype = 0x" + b"f" * 6000, "got a number of thousands of"),
    "minus infinity": (b"[optim]\npolicy_lr = -inf\n", "finite"),
    "NaN for a limit": (b"[alarm]\nkl_max = nan\n", "finite"),
    "a list as a type": (b"[actor]\ntype = ['self']\n", "actor.type must be a str, got ['self']"),
    "a table as a type": (b"[actor]\ntype = {a = 1}\n", "actor.type must be a str, got {'a': 1}"),
    "a list of inner sections": (b"[[actor.distill]]\ncoef = 1\n", "actor.distill is a section"),
    "an empty list as a section": (b"actor = []\n", "actor is a section"),
    "an empty table as a value": (b"[run]\nfolder = {}\n", "folder must be a str, got {}"),
    "an empty unknown section": (b"[runs]\n", "unknown key runs"),
    "an empty key": (b"[run]\n'' = 3\n", "unknown key run.;"),
    "a quoted name with a dot": (b"'run.steps' = 3\n", "one name in quotes: leave the quotes out"),
    "a quoted part with a dot": (b"[actor]\n'distill.coef' = 3\n", "leave the quotes out"),
    "a look-alike": ('[run]\n"st\u0435ps" = 3\n'.encode(), "perhaps you meant run.steps"),
    "control in a key": (b'[run]\n"a\\u001b[31m" = 3\n', r"unknown key 'run.a\x1b[31m'"),
    "a key of 900,000 letters": (b"[run]\n" + b"a" * 900_000 + b" = 1\n", "(900006 characters)"),
    "a value of 900,000 letters": (b"[run]\nfolder = '" + b"a" * 900_000 + b"'", "than 255 bytes"),
    "a line break in a type": (b'[actor]\ntype = "a\\nerror: b"\n', r"got 'a\nerror: b'"),
    "a fraction that is whole": (b"[actor]\ntype='quantized'\nbits = 4.0\n", "bits must be an int"),
    "white space as a path": (b"[policy]\npath = ' '\n", "policy.path must be empty, or more"),
    "white space as a folder": (b'[pretrain]\nfolder = "\\t"\n', "pretrain.folder must be empty"),
    "white space as a device": (b"[run]\ndevice = ' '\n", "run.device must be empty, or more"),
    "a field of another type": (
        b"[actor]\ntype='noisy'\nlr=1e-3\n",
        "a setting of actor.type separ",
    ),
    "a class variable": (b"[reward]\nCHOSEN_BY = 'x'\n", "unknown key reward.CHOSEN_BY"),
    "a special attribute": (b"[run]\n__class__ = 3\n", "unknown key run.__class__"),
    "a pickle": (b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.", "is not TOML"),
    "Python": (b"import os\nos.system('touch executed')\n", "is not TOML"),
}
FLAGS = {  # flags -> a word of the refusal
    "--run.steps": "needs a value",
    "--run.steps=": "must be an int",
    "--run.steps three": "must be an int",
    "--run.steps 1e3": "must be an int",
    "--run.steps 0": "greater than 0",
    "--run.steps -5": "greater than 0",
    f"--run.steps {'9' * 5000}": "steps",
    "--run.seed 18446744073709551616": "seed",
    "--run.seed -1": "at least 0",
    "--run.stepz 3": "did you mean|perhaps you meant --run.steps",
    "--steps 3": "perhaps you meant --run.steps",
    "--run 3": "run is a section",
    "run.steps 3": "neither a configuration file",
    "-x": "neither a configuration file",
    "nowhere.toml": "cannot read config file",
    "--run.eval_every 0": "greater than 0",
    "--run.device tpu": "cannot be used",
    "--run.device cuda:99": "cuda",
    "--run.device meta": "holds shapes and no numbers",
    f"--run.folder {'a/' * 2000}": "it has 2000 parts, more than 200",
    "--correction.c1 1e308": "at most 3e+38 (it is used in float32)",
    "--correction.lam.value 1e300": "at most 3e+38",
    "--run.threads 0": "greater than 0",
    "--run.threads 1000000000": "at most 4096",
    "--policy.layers 1000000": "at most 1000",
    "--policy.width 16000000": "at most 65536",
    "--rollout.max_new_tokens 1000000000000": "at most 10000000",
    "--rollout.prompts_per_step 100000000000": "at most 1000000",
    "--run.eval_prompts 99999999999999": "at most 10000000",
    "--run.tracker mlflow": "must be one of",
    "--run.keep_best maybe": "must be a bool",
    "--optim.policy_lr nan": "finite",
    "--optim.policy_lr inf": "finite",
    "--optim.policy_lr -1e-3": "greater than 0",
    "--optim.policy_lr 1e9": "at most 10",
    "--optim.weight_decay 2": "at most 1",
    "--optim.eps 0": "greater than 0",
    "--optim.eps 2": "at most 1",
    "--optim.grad_clip 0": "greater than 0",
    "--optim.lr_warmup_steps 100000000": "below run.steps",
    "--rollout.temperature 0": "greater than 0",
    "--rollout.temperature nan": "finite",
    "--rollout.temperature 1e-45": "rollout.temperature must be at least 1e-06",
    "--rollout.temperature 1e300": "rollout.temperature must be at most 1000000",
    "--actor.distill.temperature 1e-45": "actor.distill.temperature must be at least 1e-06",
    "--rollout.allocation.type vip --rollout.allocation.prompt_weight both": "of equal, rollouts, ",
    "--reward.function nowhere.py:f": "nowhere.py does not exist",
    "--run.tracker trackio --run.folder /dev/null": "/dev/null is no folder",
    "--policy.path ~nobody-here/m": "names no home folder",
    "--rollout.rollouts_per_prompt 1": "at least 2",
    "--rollout.max_new_tokens 2": "at least",
    "--rollout.prompts_per_step 0": "greater than 0",
    "--loss.updates_per_rollout 7": "a divisor of",
    "--loss.updates_per_rollout 2 --objective.clip_low -1": "greater than 0",
    "--rollout.max_staleness 1 --actor.clip_high nan": "finite",
    "--policy.width 17": "multiple of 16",
    "--policy.layers 0": "greater than 0",
    "--policy.path nowhere": "give both paths",
    "--policy.path nowhere --actor.path nowhere": "cannot load a model from nowhere",
    "--policy.path /etc/passwd --actor.path /etc/passwd": "cannot load a model from /etc/passwd",
    "--policy.dtype float16": "must be one of",
    "--actor.type cheaper": "must be one of",
    "--actor.lr nan": "finite",
    "--actor.lag 3": "actor.type stale",
    "--actor.type self": "no mismatch",
    "--correction.type obrs": "must be one of",
    "--correction.cap 2": "correction.type tis",
    "--correction.c1 0": "greater than 0",
    "--correction.type tis --correction.cap -1": "greater than 0",
    "--correction.type icepop --correction.low 3": ">= correction.low",
    "--control.type kl --control.factor_max 1": "above 1",
    "--task.type chess": "must be one of",
    "--task.type problems": "needs a model that reads text",
    "--task.digits_min 9 --task.digits_max 8": "task.digits_max",
    "--task.digit_synonyms 3000": "at most 2000",
    "--task.pad_prompt_to 1": "at least task.digits_max",
    "--pretrain.policy_error 1.5": "between 0 and 1",
    "--pretrain.lr 100": "at most 10",
    "--alarm.accept_min 2": "at most 1",
    "--run.folder=": "run.folder",
    "--": "needs a value",
    "--=3": "unknown flag --;",
    "--run..steps 3": "perhaps you meant --run.steps",
    "--run.steps.x 3": "steps must be an int",
    "--run.steps==3": "steps must be an int",
    "--run.steps= 3": "neither a configuration file",
    "--run.steps \u0663": "steps must be an int",
    "--optim.policy_lr \uff11": "policy_lr must be a float",
    "--optim.policy_lr=-0.0": "greater than 0",
    "--optim.policy_lr 1e-320": "policy_lr must be at least 1e-12",
    "--optim.grad_clip 1e-50": "at least 1.2e-38 in size",
    "--alarm.kl_max 1e-300": "at least 1.2e-38 in size",
    "--pretrain.lr 1e-13": "pretrain.lr must be at least 1e-12",
    f"--run.folder {'a' * 300}": "more than 255 bytes",
    "--reward.type math_verify --reward.seconds 1e-9": "must be at least 0.001",
    "--reward.function a.py:f --reward.memory 99999999999999": "must be at most 1000000000",
    "--rollout.engine.type process --rollout.engine.timeout 1e-9": "must be at least 0.1",
    "--rollout.prompts_per_step 1000000 --rollout.rollouts_per_prompt 1000": "more than 10000000",
    "--task.type gym --policy.path x --actor.path x --task.size 10000000": "at most 1000000,",
    "--task.pool 9999999": "needs about 10,",
    "--run.threads 4096": "more than the cores that this process may use",
    "--correction.type icepop --correction.low 1 --correction.high 1": "or nothing is kept",
    "--objective.type dppo --correction.type none --objective.divergence.delta 1": "is at most 1.",
}


def refused(words: list[str], folder: Path, capsys, said: str) -> None:
    """One line on stderr, exit code 2, nothing on stdout; nothing executed, and no folder that
    holds a run then."""
    before = sorted(folder.iterdir())
    assert main(["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and "Traceback" not in err
    assert len(err) < 2000 and any(word in err for word in said.split("|")), err
    assert [path for path in sorted(folder.iterdir()) if path.name != "run"] == before
    assert not run_folder.holds_run(folder / "run")


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """The working directory, so that nothing is written into another."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_meant_is_refused(name, empty, capsys):
    content, said = FILES[name]
    (empty / "bad.toml").write_bytes(content)
    refused(["bad.toml"], empty, capsys, said)


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_that_cannot_be_meant_are_refused(flags, empty, capsys):
    refused(["--run.folder", "run", *flags.split()], empty, capsys, FLAGS[flags])


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "missing link", "too large"])
def test_only_a_regular_file_of_bounded_size_is_read(kind, empty, capsys):
    path = empty / "bad.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "missing link":
        path.symlink_to("nowhere")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 33)
    refused(["bad.toml"], empty, capsys, "bad.toml")
