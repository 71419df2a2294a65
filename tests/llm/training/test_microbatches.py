"""Microbatches change neither losses nor gradients."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tiny_context import world
from update_cases import SETTINGS, assert_same, config, scored_update

from llm.settings.schema import OptimConfig, SequenceMicrobatches


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("size", [1, 3, 7])
def test_splitting_into_microbatches_changes_neither_loss_nor_gradient(pair, scene, setting, size):
    """Batch statistics, kappa included, are of the whole update, whatever fits into memory."""
    cfg = config(**setting)
    optim = OptimConfig(microbatch=SequenceMicrobatches("sequences", size))
    split = scored_update(pair, dataclasses.replace(cfg, optim=optim), *scene)
    assert_same(scored_update(pair, cfg, *scene), split)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_kl_to_the_initial_policy_is_per_proposed_token_whatever_the_microbatches(
    pair, scene, size
):
    cfg = config(type="none")
    cfg = dataclasses.replace(cfg, loss=dataclasses.replace(cfg.loss, initial_kl_coef=0.7))
    moved = (copy.deepcopy(pair[0]), pair[1])
    with torch.no_grad():
        moved[0].lm_head.weight.mul_(0.8)  # away from the initial policy
    ctx = world(cfg, pair)
    whole = scored_update(moved, cfg, *scene, initial_policy=ctx.initial_policy)
    split = dataclasses.replace(
        cfg, optim=OptimConfig(microbatch=SequenceMicrobatches("sequences", size))
    )
    assert whole[0]["loss_initial_kl"] > 0.001
    parts = scored_update(moved, split, *scene, initial_policy=ctx.initial_policy)
    assert parts[0]["loss_initial_kl"] == pytest.approx(whole[0]["loss_initial_kl"], rel=1e-4)
    assert_same(whole, parts)
