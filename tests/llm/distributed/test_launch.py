"""A launch that cannot work is refused before any work."""

from __future__ import annotations

import pytest

from llm import distributed, settings
from llm.settings.loading import ConfigError


def test_prompts_that_cannot_be_dealt_evenly_are_refused_before_any_work(monkeypatch):
    for name, value in {"RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="prompts_per_step 16 must be a multiple of the 3 ranks"):
        distributed.check_settings(settings.Config())
