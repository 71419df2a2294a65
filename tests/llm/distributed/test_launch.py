"""A launch that cannot work is refused before any work."""

from __future__ import annotations

import pytest

from llm import distributed, settings
from llm.settings.loading import ConfigError


@pytest.mark.parametrize("ranks", ["", "1", "2"])
def test_weights_are_spread_over_several_processes_or_the_start_is_refused(monkeypatch, ranks):
    """Without torchrun, and where it starts one process, there is no other rank."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, ranks) if ranks else monkeypatch.delenv(name, raising=False)
    cfg = settings.load([], ["--run.sharding", "fsdp"])
    if ranks == "2":
        distributed.check_settings(cfg)
        return
    said = r"sharding fsdp would have no effect: there is one process.*give --run\.sharding none"
    with pytest.raises(ConfigError, match=said):
        distributed.check_settings(cfg)


def test_prompts_that_cannot_be_dealt_evenly_are_refused_before_any_work(monkeypatch):
    for name, value in {"RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="prompts_per_step 16 must be a multiple of the 3 ranks"):
        distributed.check_settings(settings.Config())


def test_a_rank_that_pruned_prompts_could_leave_empty_is_refused(monkeypatch):
    for name, value in {"RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "4")
    flags = "--task.pool 40 --rollout.pruning.type horvitz_thompson --loss.denominator sequence"
    flags += " --rollout.pruning.prompt_rate 0.5 --rollout.rollouts_per_prompt"
    distributed.check_settings(settings.load([], [*flags.split(), "4"]))
    with pytest.raises(ConfigError, match=r"rollouts_per_prompt 3 .*fewer than the 4 ranks"):
        distributed.check_settings(settings.load([], [*flags.split(), "3"]))
    completions_alone = [*flags.split(), "3", "--rollout.pruning.prompt_rate", "0"]
    distributed.check_settings(settings.load([], completions_alone))
