"""Run folders and model folders of somebody else, damaged by hand or by malice.

Each case damages a copy of one finished run and says what every command that reads it answers: a
word of its one line of refusal, or FINE where the damage is harmless to it. Nothing is executed,
nothing outside is read or changed, and what a refusal leaves is what was there.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_tokenizers import save_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from llm.__main__ import main
from llm.report import plots
from llm.runs import run_folder

FINE = ""
FLAGS = (
    "--policy.layers 1 --policy.width 32 --actor.layers 1 --actor.width 16 "
    "--pretrain.policy_steps 0 --pretrain.actor_steps 0 --task.digits_min 1 --task.digits_max 2 "
    "--rollout.max_new_tokens 5 --rollout.prompts_per_step 2 --rollout.rollouts_per_prompt 2 "
    "--run.steps 2 --run.eval_every 2 --run.eval_prompts 2 --run.checkpoint_every 1 "
    "--run.self_test_max 0.1"
).split()
SECRET = "the contents of a victim"
DEEP = "[" * 100_000 + "]" * 100_000
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"
LAST, BEST = "checkpoints/step_00000002", "checkpoints/best"
Damage = Callable[[Path], None]


class Executed:
    """As a pickle: leaves a file behind when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def put(name: str, content: str | bytes) -> Damage:
    def damage(run: Path) -> None:
        (run / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


EVIL = ('[reward]\ntype = "auto"', '[reward]\nfunction = "evil.py:f"')


def edited(name: str, old: str, new: str) -> Damage:
    def damage(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return damage


def added(name: str, text: str) -> Damage:
    return lambda run: put(name, (run / name).read_text() + text)(run)


def row(name: str, number: int, **changes: Any) -> Damage:
    """One row of a .jsonl with other values; what Python alone calls JSON included."""

    def damage(run: Path) -> None:
        lines = (run / name).read_text().splitlines()
        lines[number] = json.dumps({**json.loads(lines[number]), **changes})
        (run / name).write_text("\n".join(lines) + "\n")

    return damage


def gone(name: str) -> Damage:
    return lambda run: (run / name).unlink()


def reordered(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(reversed(lines)) + "\n")


def huge(name: str) -> Damage:
    """8 GiB that take no room on the disk."""
    return lambda run: os.truncate(run / name, 1 << 33)


def pipe(name: str) -> Damage:
    def damage(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return damage


def link(name: str, target: str) -> Damage:
    """target: absolute, or of a file beside the run."""

    def damage(run: Path) -> None:
        path = run / name
        if path.is_dir():
            path.rename(run.parent / "moved")
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target if target.startswith("/") else run.parent / target)

    return damage


def forged(file: str, change: Callable[[bytes], bytes], checkpoint: str = LAST) -> Damage:
    """A file of a checkpoint with other contents, and a manifest that agrees with them."""

    def damage(run: Path) -> None:
        path, manifest = run / checkpoint / file, run / checkpoint / "manifest.json"
        content = change(path.read_bytes())
        path.write_bytes(content)
        said = json.loads(manifest.read_text())
        digest = hashlib.sha256(content).hexdigest()
        said["files"][file] = {"bytes": len(content), "sha256": digest}
        manifest.write_text(json.dumps(said))

    return damage


def tensors(part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """A part whose tensors `change` alters in place, with a manifest that agrees."""

    def damage(run: Path) -> None:
        file = run / LAST / f"{part}.safetensors"
        found = load_file(file)
        change(found)
        save_file(found, file)
        forged(file.name, lambda content: content)(run)

    return damage


def first_matching(word: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(found: dict[str, torch.Tensor]) -> None:
        found[next(k for k in sorted(found) if word in k)].view(-1)[0] = value

    return change


def without(word: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda found: found.pop(next(k for k in sorted(found) if word in k))


def swapped(found: dict[str, torch.Tensor]) -> None:
    """Two tensors of the same shape under each other's names: finite, and of the right shapes."""
    up, gate = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("up", "gate"))
    found[up], found[gate] = found[gate].clone(), found[up].clone()


def transposed(found: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    found[name] = found[name].T.contiguous()


def state(**changes: Any) -> Damage:
    """state.json with other values, and a manifest that agrees."""
    return forged(
        "state.json", lambda content: json.dumps({**json.loads(content), **changes}).encode()
    )


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(run: Path) -> None:
        path = run / LAST / "manifest.json"
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))

    return damage


def names_file(name: str) -> Damage:
    """The manifest counts a file of this name, with the right size and digest of the victim."""
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    entry = {"bytes": len(SECRET), "sha256": digest}
    return manifest(lambda said: said["files"].update({name: entry}))


def in_turn(*damages: Damage) -> Damage:
    def damage(run: Path) -> None:
        for one in damages:
            one(run)

    return damage


def of_other_run(run: Path) -> None:
    manifest(lambda said: said["identity"].update({"correction.lam": "3.0"}))(run)


def extra_files(run: Path) -> None:
    (run / LAST / "policy.py").write_text("import os\nos.mkdir('executed')\n")
    (run / LAST / "policy.bin").write_bytes(pickle.dumps(Executed()))
    (run / "sitecustomize.py").write_text("import os\nos.mkdir('executed')\n")


def all_of(said: str, *commands: str) -> dict[str, str]:
    return dict.fromkeys(commands or ("train", "report", "compare", "eval", "export"), said)


SETTINGS = ("train", "eval", "export")
PAGES = ("report", "compare")
ROWS = ("report", "compare", "train")
CHECKPOINT = ("train", "eval", "export")
NO_CONFIG = {**all_of("config.toml"), "report": FINE}  # which then shows the rest, and says so
CASES: dict[str, tuple[Damage, dict[str, str]]] = {
    "config of 8 GiB": (huge("config.toml"), NO_CONFIG),
    "config of bytes": (put("config.toml", bytes(range(256))), NO_CONFIG),
    "config nested deeply": (put("config.toml", f"a = {DEEP}"), NO_CONFIG),
    "config a pipe": (pipe("config.toml"), NO_CONFIG),
    "config a device": (link("config.toml", "/dev/zero"), NO_CONFIG),
    "config a link outside": (link("config.toml", "victim"), NO_CONFIG),
    "config missing": (gone("config.toml"), NO_CONFIG),
    "config of other types": (put("config.toml", "run = 3\n[task]\ntype = [1]\n"),
                              {**all_of("config.toml", "eval", "export"), "train": "other settings",
                               "report": FINE}),
    "config with an unknown key": (added("config.toml", "\n[runs]\nsteps = 3\n"),
                                   all_of("unknown key runs.steps", "eval", "export")),
    "config of older code": (put("config.toml", "[warmup]\nsteps = 3\n"),
                             all_of("from before 0.1.0", *SETTINGS, "report")),
    "config names a function": (edited("config.toml", *EVIL),
                                {"eval": "--allow-reward-function", "train": "reward.function"}),
    "metrics with NaN": (row("metrics.jsonl", 0, reward_mean=float("nan")),
                         all_of(FINE, *PAGES)),
    "metrics with inf": (row("metrics.jsonl", 0, pass_rate=float("inf")), all_of(FINE, *PAGES)),
    "metrics nested deeply": (added("metrics.jsonl", DEEP + "\n"), all_of(FINE, *PAGES)),
    "metrics with a line of 10^6": (added("metrics.jsonl", "x" * 10**6 + "\n"),
                                    all_of(FINE, *PAGES)),
    "metrics with NUL": (added("metrics.jsonl", "\0\0\0\n"), all_of(FINE, *PAGES)),
    "metrics of wrong types": (row("metrics.jsonl", 1, pass_rate="high", tokens=[1]),
                               all_of(FINE, *PAGES)),
    "metrics with huge numbers": (row("metrics.jsonl", 1, tokens=10**400, step=10**30),
                                  all_of(FINE, "report")),
    "metrics with a new name": (row("metrics.jsonl", 1, **{SCRIPT: SCRIPT}),
                                all_of(FINE, *PAGES)),
    "metrics missing": (gone("metrics.jsonl"),
                        {"train": "metrics.jsonl", "report": FINE, "compare": "metrics.jsonl"}),
    "metrics empty": (put("metrics.jsonl", ""),
                      {"train": "metrics.jsonl", "report": FINE, "compare": "metrics.jsonl"}),
    "metrics of 8 GiB": (huge("metrics.jsonl"),
                         {"report": FINE, "compare": "metrics.jsonl", "train": FINE}),
    "metrics a pipe": (pipe("metrics.jsonl"),
                       {"train": "metrics.jsonl", "report": FINE, "compare": "metrics.jsonl"}),
    "metrics a link outside": (link("metrics.jsonl", "victim"),
                               {"train": "metrics.jsonl", "report": FINE,
                                "compare": "metrics.jsonl"}),
    "metrics in another order": (reordered, {"train": "metrics.jsonl", "report": FINE}),
    "samples with scripts": (row("samples.jsonl", 0, prompt=SCRIPT, answer=SCRIPT, tokens=[SCRIPT],
                                 reward=1.0), all_of(FINE, "report")),
    "samples nested deeply": (put("samples.jsonl", DEEP), {"report": FINE, "train": "samples"}),
    "histograms of wrong types": (put("histograms.jsonl", '{"step": 0, "tokens": "x"}\n'),
                                  all_of(FINE, "report")),
    "summary nested deeply": (put("summary.json", DEEP), all_of(FINE, *PAGES)),
    "summary a list": (put("summary.json", "[1, 2]"), all_of(FINE, *PAGES)),
    "provenance nested deeply": (put("provenance.json", DEEP),
                                 {"train": "provenance.json", "report": FINE}),
    "provenance of other types": (put("provenance.json", f'{{"time": "{SCRIPT}"}}'),
                                  {"train": "provenance.json", "report": FINE}),
    "provenance with scripts": (put("provenance.json", json.dumps([{"commit": SCRIPT, SCRIPT: 1}])),
                                all_of(FINE, "report")),
    "inputs of other types": (put("inputs.json", "[1]"), {"train": "inputs.json", "report": FINE}),
    "eval.json nested deeply": (put("eval.json", DEEP), all_of("eval.json", "eval")),
    "eval.json a link outside": (link("eval.json", "victim"), all_of("eval.json", "eval")),
    "report a link outside": (link("report.html", "victim"), all_of("report.html", "report")),
    "the picture a link outside": (link("eval.png", "victim"), all_of("eval.png", "eval")),
    "lock a link outside": (link(".lock", "victim"), all_of(".lock", "train")),
    "probe a link outside": (link(".writable", "victim"), all_of(".writable", "train")),
    "lock a pipe": (pipe(".lock"), all_of(".lock", "train")),
    "manifest names ../": (names_file("../../../victim"), all_of("no file of a checkpoint",
                                                                 *CHECKPOINT)),
    "manifest names an absolute path": (names_file("/etc/passwd"),
                                        all_of("no file of a checkpoint", *CHECKPOINT)),
    "manifest nested deeply": (put(f"{LAST}/manifest.json", DEEP), all_of("manifest", *CHECKPOINT)),
    "manifest of other types": (manifest(lambda said: said.update(files=[1])),
                                all_of("manifest", *CHECKPOINT)),
    "manifest of 8 GiB": (huge(f"{LAST}/manifest.json"), all_of("manifest", *CHECKPOINT)),
    "weights a link outside": (link(f"{LAST}/policy.safetensors", "victim"),
                               all_of("policy.safetensors", *CHECKPOINT)),
    "weights a pickle": (put(f"{LAST}/policy.safetensors", pickle.dumps(Executed())),
                         all_of("policy.safetensors", *CHECKPOINT)),
    "weights a forged pickle": (forged("policy.safetensors", lambda _: pickle.dumps(Executed())),
                                all_of("policy.safetensors does not fit", *CHECKPOINT)),
    "weights with a forged header": (forged("policy.safetensors",
                                            lambda _: (1 << 62).to_bytes(8, "little") + b"{}"),
                                     all_of("policy.safetensors does not fit", *CHECKPOINT)),
    "weights cut off": (lambda run: os.truncate(run / LAST / "policy.safetensors", 5000),
                        all_of("policy.safetensors holds 5000 bytes", *CHECKPOINT)),
    "weights with NaN": (tensors("policy", first_matching("up_proj", float("nan"))),
                         all_of("NaN or inf", *CHECKPOINT)),
    "weights of another shape": (tensors("policy", transposed),
                                 all_of("up_proj", *CHECKPOINT)),
    "weights under each other's names": (
        lambda run: swap_file(run, "policy.safetensors", "actor.safetensors"),
        all_of("policy.safetensors", *CHECKPOINT)),
    "weights swapped in the file": (
        lambda run: swap_in_place(run), all_of("was altered", *CHECKPOINT)),
    "a weight too many": (tensors("policy", lambda t: t.update(extra=torch.zeros(3))),
                          all_of("extra", *CHECKPOINT)),
    "moments with NaN": (tensors("optimizer_policy", first_matching("exp_avg", float("nan"))),
                         all_of("optimizer_policy", "train")),
    "moments that are negative": (tensors("optimizer_policy", first_matching("exp_avg_sq", -1.0)),
                                  all_of("optimizer_policy", "train")),
    "moments missing": (tensors("optimizer_policy", without("3.")),
                        all_of("optimizer_policy", "train")),
    "moments with odd names": (tensors("optimizer_policy", lambda t: t.update(a=torch.zeros(1))),
                               all_of("optimizer_policy", "train")),
    "step is text": (state(step="2"), all_of("state.json", *CHECKPOINT)),
    "step is negative": (state(step=-2), all_of("state.json", *CHECKPOINT)),
    "step is huge": (state(step=10**400), all_of("state.json", *CHECKPOINT)),
    "step is another": (state(step=7), all_of("state.json", *CHECKPOINT)),
    "sizes are negative": (state(bytes={"metrics": -1}), all_of("state.json", "train")),
    "state has NaN": (state(best=float("nan")), all_of("state.json", "train")),
    "state nested deeply": (forged("state.json", lambda _: DEEP.encode()),
                            all_of("state.json", *CHECKPOINT)),
    "state is a list": (forged("state.json", lambda _: b"[]"),
                        all_of("state.json", *CHECKPOINT)),
    "step beyond run.steps": (
        lambda run: os.replace(run / LAST, run / "checkpoints/step_00000009"),
        {"train": "holds 9 steps", "eval": "state.json", "export": "state.json"}),
    "a checkpoint of another run": (of_other_run, {"train": "other settings", "eval": FINE}),
    "a checkpoint that is a link": (link(LAST, "moved"), all_of("symbolic link", *CHECKPOINT)),
    "checkpoints behind a link": (link("checkpoints", "moved"),
                                  all_of("symbolic link", "train")),
    "the best checkpoint a pickle": (forged("state.json", lambda _: pickle.dumps(Executed()), BEST),
                                     all_of("state.json", "train")),
    "files that nobody asked for": (extra_files, all_of(FINE, "report", "eval", "export")),
}  # fmt: skip


def swap_file(run: Path, one: str, other: str) -> None:
    a, b = ((run / LAST / name).read_bytes() for name in (one, other))
    forged(one, lambda _: b)(run)
    forged(other, lambda _: a)(run)


def swap_in_place(run: Path) -> None:
    """Without a manifest that agrees, which nothing could tell from a checkpoint."""
    file = run / LAST / "policy.safetensors"
    found = load_file(file)
    swapped(found)
    save_file(found, file, metadata={"format": "pt"})
    original = len(file.read_bytes())
    said = json.loads((run / LAST / "manifest.json").read_text())
    said["files"][file.name]["bytes"] = original
    (run / LAST / "manifest.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run whose last evaluation is still to be made, so that its folder is read when it goes
    on."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *FLAGS, "--run.folder", str(folder)]) == 0
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture
def outside(finished, tmp_path, monkeypatch) -> Path:
    """The working directory: a copy of the run, and a victim beside it."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    (tmp_path / "victim").write_text(SECRET)
    (tmp_path / "evil.py").write_text("import os\nos.mkdir('executed')\ndef f(**_): return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "curve", lambda rows, panel: b"picture")
    monkeypatch.setattr(plots, "histograms", lambda *_: b"picture")
    monkeypatch.setattr(plots, "pass_at_k", lambda curves: b"picture")
    monkeypatch.setattr("llm.commands.compare.draw", lambda groups, panels: b"picture")
    return tmp_path


WORDS = {
    "train": ["train", *FLAGS, "--run.folder", "run"],
    "report": ["report", "run"],
    "compare": ["compare", "run", "--out", "compare.html"],
    "eval": ["eval", "run", "--prompts", "1", "--samples", "1"],
    "export": ["export", "run", "--to", "exported"],
}


def contents(folder: Path) -> dict[str, Any]:
    """What every path below is: a file with this digest, a link to this target, or a kind. Without
    what each start notes of itself."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        mode, name = path.lstat().st_mode, str(path.relative_to(folder))
        if name in ("provenance.json", ".lock", "report.html", "eval.json", "eval.png"):
            continue
        if stat.S_ISLNK(mode):
            found[name] = os.readlink(path)
        elif stat.S_ISREG(mode) and path.stat().st_size < 1 << 30:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = stat.S_IFMT(mode), path.lstat().st_size * stat.S_ISREG(mode)
    return found


def check_answer(words: list[str], said: str, capsys) -> None:
    """Exit code and output of a command, in time."""
    start = time.monotonic()
    code = main(words)
    run_folder.release(Path("run"))
    out, err = capsys.readouterr()
    assert time.monotonic() - start < 60, "it read what has no end"
    assert "Traceback" not in err and SECRET not in out + err
    if said == FINE:
        assert code == 0, err
        return
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and len(err) < 4000, (code, err[:4000])
    assert any(word in errors[0] for word in said.split("|")), errors[0][:2000]


@pytest.mark.parametrize("name", CASES)
def test_a_run_folder_is_refused_in_one_line_or_read_and_nothing_else_happens(
    name, outside, capsys
):
    damage, answers = CASES[name]
    run = outside / "run"
    damage(run)
    before = contents(run)
    for command, said in answers.items():
        check_answer(WORDS[command], said, capsys)
        if (command, said) != ("train", FINE):  # which goes on
            assert contents(run) == before, command
        assert not (outside / "executed").exists()
        assert (outside / "victim").read_text() == SECRET
    for page in (run / "report.html", outside / "compare.html"):
        if page.is_file() and not page.is_symlink():
            assert SECRET not in page.read_text() and SCRIPT not in page.read_text()


def test_the_run_that_is_copied_is_sound(outside, capsys):
    """Every command accepts it: the refusals above are of the damage alone."""
    for words in WORDS.values():
        check_answer(words, FINE, capsys)
    assert (outside / "run/summary.json").exists()


def test_there_are_at_least_thirty_cases():
    assert len(CASES) + len(MODELS) >= 30


# Model folders, as policy.path


def code_of_its_own(folder: Path) -> None:
    (folder / "evil.py").write_text("import os\nos.mkdir('executed')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))


def index_of(target: str) -> Damage:
    """The weights are where an index says: the pickle outside of the folder."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        names = load_file(folder.parent / "outside.safetensors")
        said = target.format(parent=folder.parent)
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, said)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


TEMPLATE = "{{ ''.__class__.__mro__[1].__subclasses__()[0].__init__.__globals__ }}"
MODELS: dict[str, tuple[Damage, str]] = {
    "weights are a pickle": (
        in_turn(
            gone("model.safetensors"), put("pytorch_model.bin", pickle.dumps(Executed()))
        ), "safetensors"),
    "a pickle is called safetensors": (put("model.safetensors", pickle.dumps(Executed())),
                                       "cannot load"),
    "an index names ../": (index_of("../outside.safetensors"), "outside|cannot load"),
    "an index names an absolute path": (index_of("{parent}/outside.safetensors"),
                                        "outside|cannot load"),
    "an index names a pickle": (
        in_turn(index_of("../outside.bin"), put("../outside.bin", pickle.dumps(Executed()))),
        "cannot load|outside"),
    "an index of other types": (
        in_turn(gone("model.safetensors"), put("model.safetensors.index.json", "[1]")),
        "cannot load|index"),
    "code of its own": (code_of_its_own, "cannot load|evil"),
    "config nested deeply": (put("config.json", DEEP), "config.json|cannot load"),
    "config a pipe": (pipe("config.json"), "config.json|cannot load"),
    "config of 10^6 layers": (edited("config.json", '"num_hidden_layers": 1',
                                     '"num_hidden_layers": 1000000'), "layers|cannot load"),
    "config of other types": (edited("config.json", '"hidden_size": 16', '"hidden_size": "x"'),
                              "hidden_size|cannot load"),
    "weights with NaN": (
        lambda folder: nan_in(folder / "model.safetensors"), "NaN or inf"),
    "a template that reaches for modules": (put("chat_template.jinja", TEMPLATE), "template"),
    "a template without end": (put("chat_template.jinja", "{% for i in range(10**9) %}a{% endfor %}"
                                   ), "template"),
    "a tokenizer nested deeply": (put("tokenizer.json", DEEP), "tokenizer"),
    "a tokenizer of bytes": (put("tokenizer.json", bytes(range(256))), "tokenizer"),
}  # fmt: skip


def nan_in(file: Path) -> None:
    found = load_file(file)
    found["model.embed_tokens.weight"][3, 2] = float("nan")
    save_file(found, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A model folder with a tokenizer and a chat template."""
    path = tmp_path_factory.mktemp("base")
    config = LlamaConfig(
        vocab_size=261,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_is_refused_in_one_line_and_nothing_in_it_is_executed(
    name, base, tmp_path, monkeypatch, capsys
):
    damage, said = MODELS[name]
    shutil.copytree(base, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    damage(tmp_path / "model")
    before = contents(tmp_path / "model")
    words = "train --task.type arithmetic --policy.path model --actor.type self --run.folder run "
    words += "--correction.type none --run.steps 1 --rollout.max_new_tokens 4"
    check_answer(words.split(), said, capsys)
    assert contents(tmp_path / "model") == before
    assert not (tmp_path / "executed").exists()
