"""Memory at its peak, shares of a step's time, and a choice of flags over settings."""

from __future__ import annotations

import argparse

import pytest
from tiny_context import random_pair

from llm import settings
from llm.planning.estimate import Memory, ModelPair, Times, choice_of


def test_the_peak_is_what_is_held_and_the_largest_phase():
    held, phases = (
        {"weights": 5, "optimiser": 7},
        {"rollout": {"cache": 9}, "update": {"a": 4, "b": 4}},
    )
    assert Memory(held, phases, at_once=1).peak == 5 + 7 + 9


def test_rollouts_have_their_share_of_a_step():
    times = Times(
        {"rollouts, decoding": 3.0, "rollouts, prompts": 1.0, "update": 4.0}, 0.5, 0.4, 1.0
    )
    assert times.rollout_share == pytest.approx(0.5)


def test_a_flag_wins_over_the_setting_and_several_gpus_shard():
    flags = "--run.activation-checkpointing True --run.sharding fsdp"
    cfg = settings.load([], flags.split())
    policy, actor = random_pair()
    pair = ModelPair(policy, actor, {})
    unset = {"sharding": None, "checkpointing": None, "head": None, "engine": None}
    unset |= {"tokens_per_microbatch": None}
    one = choice_of(cfg, pair, argparse.Namespace(gpus=1, **unset))
    assert (one.sharding, one.checkpointing, one.engine) == ("none", True, "hf")
    two_gpus = argparse.Namespace(gpus=2, **(unset | {"checkpointing": "off", "head": "chunked"}))
    two = choice_of(cfg, pair, two_gpus)
    assert (two.sharding, two.checkpointing, two.head) == ("fsdp", False, "chunked")
