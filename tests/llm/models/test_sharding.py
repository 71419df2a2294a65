"""Whole copies and what is trained, in one process. (Shards of two ranks are tested in
tests/llm/distributed/test_collectives.py.)"""

from __future__ import annotations

import copy

import torch
from tiny_context import random_pair

from llm.models.sharding import as_forward, collect, gathered, spread


def moved(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    return other


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_whole_copies_take_what_was_trained_and_nothing_else():
    policy = random_pair()[0]
    frozen = policy.lm_head.weight.requires_grad_(False)
    before = frozen.clone()
    trained = moved(policy)
    collect({"policy": trained}, {"policy": policy})
    assert torch.equal(policy.lm_head.weight, before)
    assert torch.equal(policy.model.embed_tokens.weight, trained.model.embed_tokens.weight)


def test_shards_take_all_of_a_whole_copy():
    policy = random_pair()[0]
    trained = moved(policy)
    spread({"policy": trained}, {"policy": policy})
    assert same(trained, policy)


def test_a_model_and_a_parameter_that_are_whole_are_used_as_they_are():
    policy = random_pair()[0]
    weight = policy.lm_head.weight
    assert gathered(weight) is weight
    assert as_forward(policy, lambda: "called") == "called"
