"""What an exported folder takes over from the model that the run started from, and says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_runs import logits, opened, run_of, save_base, with_base
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from llm.__main__ import main
from llm.commands import export as exporting
from llm.commands import export_parts
from llm.models import roles
from llm.settings.loading import ConfigError

SHAPE: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def save_longrope(folder: Path) -> None:
    """A model over characters whose rotary table changes after 24 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 24}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    more: dict[str, Any] = {"original_max_position_embeddings": 24, "rope_parameters": rope}
    torch.manual_seed(0)
    Phi3ForCausalLM(Phi3Config(vocab_size=48, pad_token_id=0, **SHAPE, **more)).save_pretrained(
        folder
    )


@pytest.mark.parametrize(
    ("longest", "used", "effect"),
    [(20, "short", "nothing was trained: keep sequences to 24"), (40, "long", "otherwise than in")],
)
def test_both_rotary_tables_are_kept_and_what_was_used_is_said(
    tmp_path, capsys, monkeypatch, longest, used, effect
):
    """Of the two, a run uses one for all its sequences (llm/models/configs.py)."""
    for module in (roles, export_parts):
        monkeypatch.setattr(module, "longest_sequence", lambda cfg: longest)
    save_longrope(tmp_path / "base")
    flags = f"--policy.path {tmp_path / 'base'} --actor.type self --correction.type none"
    _, models = run_of(tmp_path / "run", flags)
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out")]) == 0
    said, card = capsys.readouterr().out, (tmp_path / "out/README.md").read_text()
    for text in (said, card):
        assert f"used the {used} one for all" in text and effect in text
    old, new = (json.loads((tmp_path / p / "config.json").read_text()) for p in ("base", "out"))
    assert old["rope_parameters"] == new["rope_parameters"]
    assert new["rope_parameters"]["short_factor"] == [1.0] * 8
    ids = torch.arange(2, 2 + longest)[None]
    with torch.no_grad():
        assert torch.equal(opened(tmp_path / "out")(ids).logits, models["policy"](ids).logits)


ROPES: dict[str, dict[str, float]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0, "original_max_position_embeddings": 24},
    "llama3": {
        **{"factor": 2.0, "original_max_position_embeddings": 24},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
}


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_config_of_the_file_is_kept_whole(tmp_path, kind, tied):
    """What a run switches off while it computes (outputs, no cache) is as before in the folder, and
    so is a value that no library knows."""
    rope = {"rope_type": kind, "rope_theta": 5e3, **ROPES[kind]}
    config = LlamaConfig(
        vocab_size=48, tie_word_embeddings=tied, rope_parameters=rope, use_cache=False, **SHAPE
    )
    config.of_our_own = {"a": [1]}
    config.output_hidden_states = True
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    flags = f"--policy.path {tmp_path / 'base'} --actor.type self --correction.type none"
    _, models = run_of(tmp_path / "run", flags)
    exporting.export(tmp_path / "run", tmp_path / "out")
    old, new = (json.loads((tmp_path / p / "config.json").read_text()) for p in ("base", "out"))
    assert new == old
    assert torch.equal(logits(opened(tmp_path / "out")), logits(models["policy"]))


def test_what_is_not_taken_over_is_said(tmp_path, base, capsys):
    """Sampling settings, padded rows, files, and what stands around prompts; terms go along."""
    start, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(base, start)
    (start / "LICENSE.txt").write_text("terms")
    (start / "additional_chat_templates").mkdir()
    (start / "additional_chat_templates/tools.jinja").write_text("{{ messages }}")
    (start / "merge_notes.txt").write_text("x")
    model = opened(start)
    model.resize_token_embeddings(272, mean_resizing=False)
    model.save_pretrained(start)
    sampling = json.loads((start / "generation_config.json").read_text())
    sampling |= {"repetition_penalty": 1.05, "top_k": 20, "eos_token_id": 2}
    sampling |= {"use_cache": True, "output_attentions": False}  # which sample nothing else
    (start / "generation_config.json").write_text(json.dumps(sampling))
    run_of(tmp_path / "run", with_base(start) + "--task.instruction Box.it")
    assert main(["export", str(tmp_path / "run"), "--to", str(out)]) == 0
    said = capsys.readouterr().out
    for part in (
        *("repetition_penalty 1.05", "top_k 20", "and 272 in", "task.instruction, which no file"),
        f"not copied from {start}: merge_notes.txt\n",
    ):
        assert part in said
    assert "use_cache" not in said and "output_attentions" not in said
    assert (out / "LICENSE.txt").read_text() == "terms"
    assert (out / "additional_chat_templates/tools.jinja").is_file()
    assert "repetition_penalty" not in (out / "generation_config.json").read_text()
    assert "## What differs from training" in (out / "README.md").read_text()


def test_a_file_that_is_a_link_out_of_the_model_is_not_copied(tmp_path, base):
    """A folder may be anybody's, and an exported one is published."""
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "secret").write_text("s")
    (tmp_path / "base/LICENSE").symlink_to(tmp_path / "secret")
    run_of(tmp_path / "run", with_base(tmp_path / "base"))
    with pytest.raises(ConfigError, match="LICENSE is a link out of its folder"):
        exporting.export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
