"""The model of a role: what is refused, and what is built without pretraining."""

from __future__ import annotations

import pytest
import torch
from tiny_context import random_pair

from llm import settings
from llm.models import pretraining, roles
from llm.settings.loading import ConfigError

BUILT = ["--policy.layers", "1", "--policy.width", "16", "--policy.dtype", "bfloat16"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model of as many ids as characters; what is loaded from there is not pretrained."""
    random_pair()[1].save_pretrained(tmp_path / "m")
    monkeypatch.setattr(pretraining, "pretrained", lambda *_: tmp_path / "m")
    return tmp_path


def test_a_vocabulary_for_other_digits_is_refused_with_the_setting(folder):
    cfg = settings.load([], ["--task.digit-synonyms", "3"])
    with pytest.raises(ConfigError, match=r"has a vocabulary of 48 ids, its tokenizer one of "):
        roles.open_policy(cfg, folder)


def test_adapters_are_added_where_a_role_has_a_lora_rank(folder):
    cfg = settings.load([], ["--policy.lora-rank", "2"])
    names = [n for n, p in roles.open_policy(cfg, folder).named_parameters() if p.requires_grad]
    assert names and all("lora" in n for n in names)
    assert not any(
        "lora" in n for n, _ in roles.open_base(cfg, "policy", folder).named_parameters()
    )


def test_a_shell_for_a_checkpoint_is_built_and_never_pretrained(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "pretrained", lambda *_: pytest.fail("pretrained"))
    shell = roles.open_shell(settings.load([], BUILT), "policy", tmp_path)
    assert {p.dtype for p in shell.parameters()} == {torch.bfloat16} and not shell.training
