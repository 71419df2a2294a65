"""`python -m llm export`: the folder says what the checkpointed model says, and is opened again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from exported_runs import logits, opened, run_of, save_base, with_base
from safetensors import safe_open
from transformers import AutoTokenizer

from llm import settings
from llm.__main__ import main
from llm.commands import export as exporting
from llm.models import loading, roles
from llm.settings.loading import ConfigError
from llm.tokenizers import pretrained

UNTRAINED = "--pretrain.policy_steps 0 --pretrain.actor_steps 0 "
SMALL = "--policy.layers 1 --policy.width 32 --actor.layers 1 --actor.width 16 "


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def test_a_built_model_is_exported_without_a_tokenizer_and_says_so(tmp_path, capsys):
    _, models = run_of(tmp_path / "run", UNTRAINED + SMALL)
    to = tmp_path / "out/model"
    assert main(["export", str(tmp_path / "run"), "--to", str(to)]) == 0
    said = capsys.readouterr().out
    assert "no tokenizer: the model reads the character alphabet" in said
    for text in (said, (to / "README.md").read_text()):
        assert "AutoTokenizer gives an empty tokenizer for this folder, without an error" in text
    assert AutoTokenizer.from_pretrained(to)("12+3=").input_ids == []  # as the note says
    assert torch.equal(logits(opened(to)), logits(models["policy"]))
    cfg = settings.load([], ["--policy.path", str(to), "--actor.path", str(to)])
    assert torch.equal(logits(roles.open_policy(cfg, tmp_path)), logits(models["policy"]))
    sampling = json.loads((to / "generation_config.json").read_text())
    assert (sampling["eos_token_id"], sampling["pad_token_id"]) == ([1], 0)
    assert sampling["temperature"] == 1.0 and sampling["do_sample"] is True


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tied_model_keeps_its_tie_its_tokenizer_and_its_logits(tmp_path, base, dtype):
    cfg, models = run_of(tmp_path / "run", with_base(base) + f"--policy.dtype {dtype}")
    done = exporting.export(tmp_path / "run", tmp_path / "out")
    assert (done.step, done.dtype, done.has_tokenizer) == (5, dtype, True)
    model = opened(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == getattr(torch, dtype)
    assert torch.equal(logits(model), logits(models["policy"]))
    one, other = (pretrained.tokenizer_for(str(p), cfg.task) for p in (base, tmp_path / "out"))
    assert pretrained.differences(one, other) == []
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("12 +").input_ids == (
        AutoTokenizer.from_pretrained(base)("12 +").input_ids
    )


def test_what_an_architecture_keeps_in_float32_stays_so(base):
    """A router's correction of 1e-4 would be rounded away."""
    model = opened(base)
    model._keep_in_fp32_modules_strict = {"norm"}
    model.model.norm.weight.data.fill_(1.0 + 1e-4)
    model = exporting.cast(model, torch.bfloat16)
    assert model.model.norm.weight.dtype == torch.float32
    assert float(model.model.norm.weight.data[0]) == pytest.approx(1.0001)
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_kept_adapters_hold_no_embedding_of_a_padded_vocabulary(tmp_path, base):
    """It is not trained, and has fewer rows in the run than in the base model's file."""
    model = opened(base)
    model.resize_token_embeddings(272, mean_resizing=False)
    model.save_pretrained(tmp_path / "base")
    for file in base.iterdir():
        if file.name.startswith("token"):
            shutil.copy(file, tmp_path / "base")
    run_of(tmp_path / "run", with_base(tmp_path / "base") + "--policy.lora.rank 4")
    merged = exporting.export(tmp_path / "run", tmp_path / "merged", dtype="bfloat16")
    assert merged.rounded is not None and merged.rounded > 0
    exporting.export(tmp_path / "run", tmp_path / "out", adapters="keep")
    with safe_open(tmp_path / "out/adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())
    assert logits(opened(tmp_path / "out", "float32")).shape[-1] == 272


def test_a_head_that_training_untied_stays_untied_whatever_the_config_says(tmp_path, base):
    """Aliasing follows the tensors."""
    model = opened(base)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1.0)
    cfg = settings.load([], with_base(base).split())
    exporting._save_model(model, tmp_path, cfg, cfg.policy, "float32")
    again = opened(tmp_path)
    assert not torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged_in_float32(tmp_path, base, dtype):
    flags = with_base(base) + f"--policy.dtype {dtype} --policy.lora.rank 4"
    _, models = run_of(tmp_path / "run", flags)
    done = exporting.export(tmp_path / "run", tmp_path / "out")
    assert (done.dtype, done.adapters, done.rounded) == ("float32", "merged", None)
    found = logits(opened(tmp_path / "out"))
    with_adapters = models["policy"].float()
    torch.testing.assert_close(found, logits(with_adapters), rtol=1e-5, atol=1e-5)
    assert torch.equal(found, logits(loading.merged(with_adapters)))


def test_rounding_of_merged_adapters_is_measured_and_said(tmp_path, base, capsys):
    """float32 keeps all; bfloat16, whose steps are as large as this change, a part."""
    run_of(tmp_path / "run", with_base(base) + "--policy.lora.rank 4")
    argv = ["export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--dtype", "bfloat16"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "rounding to bfloat16 takes away" in said and "--dtype float32 keeps all" in said
    assert "rounding took" in (tmp_path / "out/README.md").read_text()


def test_the_share_that_rounding_loses_is_that_of_the_norms():
    """1 + 2^-9 rounds to 1 in bfloat16: all of a change of 2^-9 is lost, none of one of 1."""
    one, small, large = (torch.nn.Linear(1, 1, bias=False) for _ in range(3))
    for layer, value in ((one, 1.0), (small, 1.0 + 2.0**-9), (large, 2.0)):
        torch.nn.init.constant_(layer.weight, value)
    assert loading.rounding_loss(small, one, "bfloat16") == 1.0
    assert (
        loading.rounding_loss(large, one, "bfloat16")
        == 0.0
        == loading.rounding_loss(one, one, "bfloat16")
    )


def test_adapters_can_be_kept(tmp_path, base):
    """Then transformers finds the base model by the path in adapter_config.json; we refuse."""
    cfg, models = run_of(tmp_path / "run", with_base(base) + "--policy.lora.rank 4")
    done = exporting.export(tmp_path / "run", tmp_path / "out", adapters="keep")
    assert done.adapters == "kept" and not (tmp_path / "out/model.safetensors").exists()
    assert torch.equal(logits(opened(tmp_path / "out", "float32")), logits(models["policy"]))
    with pytest.raises(ConfigError, match=r"holds adapters without their model: .*merge"):
        pretrained.tokenizer_for(str(tmp_path / "out"), cfg.task)
    with pytest.raises(ConfigError, match="--dtype needs --adapters merge"):
        exporting.export(tmp_path / "run", tmp_path / "b", adapters="keep", dtype="bfloat16")


def test_model_and_checkpoint_are_chosen(tmp_path):
    """The actor; the best, which is of step 3; a step by its number."""
    _, models = run_of(tmp_path / "run", UNTRAINED + SMALL)
    run = tmp_path / "run"
    assert exporting.export(run, tmp_path / "actor", role="actor").role == "actor"
    assert torch.equal(logits(opened(tmp_path / "actor")), logits(models["actor"]))
    best = exporting.export(run, tmp_path / "best", which="best")
    by_number = exporting.export(run, tmp_path / "three", which="3")
    assert (best.checkpoint, best.step, by_number.step) == ("best", 3, 3)
    assert torch.equal(logits(opened(tmp_path / "best")), logits(opened(tmp_path / "three")))
    for which, message in (
        ("4", "no checkpoint 4; there are: step_00000003, step_00000005, best"),
        ("newest", "must be last, best or the number of a step, got 'newest'"),
    ):
        with pytest.raises(ConfigError, match=message):
            exporting.export(run, tmp_path / "x", which=which)
    shutil.rmtree(run / "checkpoints/best")
    with pytest.raises(ConfigError, match="no checkpoint best; there are: step_00000003, step_0"):
        exporting.export(run, tmp_path / "x", which="best")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run <b>"
    policy = "--pretrain.policy_steps 0 --policy.layers 1 --policy.width 32"
    run_of(folder, f"{policy} --actor.type noisy --run.seed 7")
    return folder


def test_an_actor_that_is_not_trained_is_refused(tiny_run, tmp_path):
    with pytest.raises(ConfigError, match=r"is noisy and not trained.*Use --model policy"):
        exporting.export(tiny_run, tmp_path / "x", role="actor")


def test_what_is_in_the_target_stays(tiny_run, tmp_path):
    """A folder that is not empty, a file, a link; an empty folder is filled."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "full/notes", "link"):
        with pytest.raises(ConfigError, match="exists and is not an empty folder"):
            exporting.export(tiny_run, tmp_path / name)
    assert (tmp_path / "full/notes").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert exporting.export(tiny_run, tmp_path / "empty").step == 5
    assert (tmp_path / "empty/model.safetensors").is_file()


def test_an_export_that_fails_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    from llm.commands import model_card

    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_card, "model_card", broken)
    with pytest.raises(OSError, match="No space"):
        exporting.export(tiny_run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["checkpoints/best", "checkpoints/step_00000005", "."])
def test_what_a_run_made_is_no_model_folder(tiny_run, where):
    """Case 12: the data were blamed."""
    cfg = settings.load([], ["--policy.path", str(tiny_run), "--actor.type", "noisy"])
    what = "a run folder" if where == "." else "a checkpoint of a run"
    with pytest.raises(ConfigError, match=rf"is {what}, not a model folder: .*llm export RUN --to"):
        pretrained.tokenizer_for(str(tiny_run / where), cfg.task)
    with pytest.raises(ConfigError, match=rf"is {what}"):
        loading.load(tiny_run / where)


def test_a_model_folder_that_lost_its_tokenizer_is_said_to_have_none(tmp_path, base):
    shutil.copy(base / "config.json", tmp_path)
    cfg = settings.load([], with_base(base).split())
    with pytest.raises(ConfigError, match=r"holds no tokenizer .*261 token ids.* alphabet has 48"):
        pretrained.tokenizer_for(str(tmp_path), cfg.task)


def test_every_weight_is_in_the_file_once(tiny_run, tmp_path):
    """A tied one excepted, none is missing, and none is there that the model has not."""
    exporting.export(tiny_run, tmp_path / "out")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        names = set(file.keys())
    own = opened(tmp_path / "out")
    tied = own.lm_head.weight is own.model.embed_tokens.weight
    assert names == set(own.state_dict()) - ({"lm_head.weight"} if tied else set())
