"""Weights spread over ranks (FSDP2), and the whole copy that samples, is evaluated and is saved.

A trained model then exists twice: `Setup.policy` and `Setup.actor.model` are whole on every rank,
without gradients or optimiser; what is trained are shards (`Setup.shards`), gathered layer by layer
where they are used. `collect` brings the copies up to date after a step, `spread` the shards after
a resume.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from . import distributed
from .models import Model, plain
from .parts import full, like


def shard(model: Model) -> Model:
    """A copy whose every decoder layer, and the rest together, is spread over the ranks.

    Gradients are summed in float32, not averaged: losses have global denominators. The last group
    too is freed after a forward pass, so that no pass ever sees weights of before a step.
    """
    sharded = copy.deepcopy(model)
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.size(),))
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
        "reshard_after_forward": True,
    }
    names = set(plain(sharded)._no_split_modules or ())
    for module in [m for m in sharded.modules() if type(m).__name__ in names]:
        fully_shard(module, **options)
    fully_shard(sharded, **options)
    for module in sharded.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return sharded


@torch.no_grad()
def collect(shards: Mapping[str, Model], whole: Mapping[str, Model]) -> None:
    """Bring each whole copy, by role, to the values of its shards."""
    for role, sharded in shards.items():
        for own, spread_out in zip(whole[role].parameters(), sharded.parameters(), strict=True):
            if own.requires_grad:
                own.copy_(full(spread_out))


@torch.no_grad()
def spread(shards: Mapping[str, Model], whole: Mapping[str, Model]) -> None:
    """Bring all shards, by role, to the values of the whole copies."""
    for role, sharded in shards.items():
        for own, spread_out in zip(whole[role].parameters(), sharded.parameters(), strict=True):
            spread_out.copy_(like(own, spread_out))
