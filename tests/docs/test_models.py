"""docs/models.md: its file and flags are settings, and its commands run with two tiny models."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from toy_tokenizers import save_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm import settings
from llm.__main__ import main
from llm.settings.schema import SeparateActor

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/models.md").read_text(encoding="utf-8")
[FILE] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)
COMMANDS = [shlex.split(line)[3:] for line in re.findall(r"^python -m llm .*$", PAGE, re.M)]
FLAGS = [x for x in re.findall(r"`(--[a-z].*?)`", PAGE) if re.fullmatch(r"(--[\w.]+ \w+ ?)+", x)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a pair of models, rows like those of GSM8K, and the page's file that names them."""
    for name, width in (("POLICY", 32), ("ACTOR", 16)):
        config = Qwen3Config(
            vocab_size=261,
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
        torch.manual_seed(width)
        Qwen3ForCausalLM(config).save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)
    for name, first in (("train", 2), ("test", 40)):
        sums = [(a, b) for a in range(first, first + 5) for b in range(5)]
        rows = [{"question": f"{a} + {b}?", "answer": f"So.\n#### {a + b}"} for a, b in sums]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(ROOT / "llm/configs/controls", tmp_path / "llm/configs/controls")
    file = FILE.replace('"gsm8k"', '"gsm8k:train.jsonl"\neval_source = "gsm8k:test.jsonl"')
    assert "max_new_tokens = 512" in file
    (tmp_path / "own.toml").write_text(file.replace("= 512", "= 8"))
    monkeypatch.chdir(tmp_path)


def test_the_commands_run(folder, capfd):
    pytest.importorskip("math_verify")  # of the extra that the page names
    assert "pip install -e '.[hub,math]'" in PAGE
    assert [words[0] for words in COMMANDS] == ["doctor", "train", "plan"]
    few = ["--run.steps", "1", "--run.eval_prompts", "4", "--rollout.prompts_per_step", "2"]
    for words in COMMANDS:
        assert main([*words, *few]) == 0, capfd.readouterr()
        assert "PROBLEM" not in capfd.readouterr().out
    assert json.loads(Path("runs/own/summary.json").read_text())["steps"] == 1


@pytest.mark.parametrize("flags", FLAGS)
def test_the_flags_are_settings_that_have_an_effect(folder, flags):
    flags = flags.replace(" N", " 4096")
    assert settings.load([Path("own.toml")], flags.split()) != settings.load([Path("own.toml")], [])


def test_the_other_settings_of_the_tables_exist(folder):
    assert len(FLAGS) == 7
    on_policy = Path("llm/configs/controls/on_policy.toml")
    assert str(on_policy) in PAGE
    assert settings.load([Path("own.toml"), on_policy], []).actor.type == "self"
    assert settings.load([Path("own.toml")], ["--optim.microbatch.sequences", "1"])


def test_the_defaults_that_the_page_warns_of_are_the_defaults():
    cfg = settings.load([], [])
    assert isinstance(cfg.actor, SeparateActor)
    rates = cfg.optim.policy_lr, cfg.actor.lr
    assert (cfg.rollout.max_new_tokens, *rates) == (12, 2e-4, 6e-4)
    for number in ("12 new tokens", "2e-4", "6e-4"):
        assert number in PAGE
