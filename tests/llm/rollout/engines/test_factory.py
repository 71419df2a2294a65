"""An engine whose package is missing is told with what to do."""

from __future__ import annotations

import importlib.util

import pytest
from engine_cases import cfg_of, opened
from tiny_context import random_pair

from llm.models import roles
from llm.settings.loading import ConfigError
from llm.training import context


def test_a_missing_vllm_is_named_with_what_to_do():
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is here")
    with pytest.raises(ConfigError, match="needs the package vllm"):
        opened("vllm", random_pair()[1])


def test_a_missing_vllm_is_told_before_any_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(roles, "open_policy", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(ConfigError, match=r"needs the package vllm .*Install it"):
        context.open_context(cfg_of("vllm"), tmp_path)
