"""Tensors that are spread over ranks: whole, own part, and like another."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def full(x: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be spread over ranks; all ranks must ask."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local(x: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that is here."""
    return x.to_local() if isinstance(x, DTensor) else x


def like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """x, which every rank has, spread as `other` is."""
    if not isinstance(other, DTensor):
        return x
    x = x.to(other.device)
    return distribute_tensor(x, other.device_mesh, other.placements, src_data_rank=None)
