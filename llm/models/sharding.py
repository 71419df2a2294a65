"""Weights spread over ranks (FSDP2), and the whole copy that samples, is evaluated and is saved.

A trained model then exists twice: `TrainContext.full_models` are whole on every rank, without
gradients or optimiser; what is trained are shards (`TrainContext.shards`), gathered layer by layer
where they are used. `collect` brings the copies up to date after a step, `spread` the shards after
a resume.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial

from llm import distributed
from llm.distributed.dtensors import full, like

from .loading import Model, plain

T = TypeVar("T")


def shard(model: Model) -> Model:
    """A copy whose every decoder layer, an untied head, and the rest together, are spread over the
    ranks.

    Gradients are summed in float32, not averaged: losses have global denominators. The last group
    too is freed after a forward pass, so that no pass ever sees weights of before a step.
    """
    sharded = copy.deepcopy(model)
    inner = plain(sharded)
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),
        "reshard_after_forward": True,
    }
    names = set(inner._no_split_modules or ())
    for module in [m for m in sharded.modules() if type(m).__name__ in names]:
        fully_shard(module, **options)
    head = inner.get_output_embeddings()
    if head is not None and head.weight is not inner.get_input_embeddings().weight:
        fully_shard(head, **options)  # apart: where it is used in blocks, its layer never runs
    fully_shard(sharded, **options)
    for module in sharded.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    return sharded


def as_forward(model: Model, call: Callable[[], T]) -> T:
    """The call's result; of a sharded model, made as its forward pass, whose hooks gather the
    weights that the call uses, free them, and do the same again in the backward pass."""
    if not isinstance(model, FSDPModule):
        return call()
    root: Any = model
    root.forward = call
    try:
        return root()
    finally:
        del root.forward


def gathered(x: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded parameter, used outside of its model's forward pass; its gradient is
    summed over the ranks in float32. Another tensor as it is. All ranks must call, and later go
    back through it, in one order."""
    return _Gathered.apply(x) if isinstance(x, DTensor) else x


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shards: DTensor) -> torch.Tensor:
        ctx.mesh, ctx.placements = shards.device_mesh, shards.placements
        return full(shards)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        parts = DTensor.from_local(grad.float(), ctx.mesh, [Partial()], run_check=False)
        return parts.redistribute(placements=ctx.placements).to(grad.dtype)


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
