"""A microbatch as peers hand it over, and the weights and losses of it in plain loops."""

from __future__ import annotations

import math
import sys
import types
from typing import Any, NamedTuple

import torch


class PeerBatch(NamedTuple):
    """(B, T) each: log p_new (with gradient), log p_ref, log q, advantages, mask."""

    new: torch.Tensor
    ref: torch.Tensor
    inf: torch.Tensor
    advantage: torch.Tensor
    mask: torch.Tensor


def peer_batch(fill: float = math.nan) -> PeerBatch:
    """Three completions of 4, 1 and 3 tokens; `fill` stands in the padding of log-probabilities."""
    g = torch.Generator().manual_seed(7)
    mask = torch.arange(4) < torch.tensor([4, 1, 3])[:, None]
    inf = -torch.rand(3, 4, generator=g) * 2 - 0.2
    ref, new = (
        torch.minimum(inf + torch.randn(3, 4, generator=g) * s, torch.tensor(-0.01))
        for s in (0.5, 0.6)
    )
    inf, ref, new = (x.masked_fill(~mask, fill) for x in (inf, ref, new))
    advantage = torch.tensor([1.0, -0.5, 0.75])[:, None].expand(3, 4).contiguous()
    return PeerBatch(new.requires_grad_(), ref, inf, advantage, mask)


def plain_weights(
    batch: PeerBatch, lam: float = 1.0, c1: float = 3.0, z: str = "batch", target: str = "ref"
) -> list[list[float]]:
    """Expected mask: a min(Z max(lam, r), c1), where a = min(1, r / lam) and Z is the mean of a."""
    p = batch.ref if target == "ref" else batch.new.detach()
    accept, ratio = [], []
    for i, j in batch.mask.nonzero().tolist():
        r = math.exp(float(p[i, j]) - float(batch.inf[i, j]))
        ratio.append((i, j, r))
        accept.append(min(1.0, r / lam))
    rate = sum(accept) / len(accept) if z == "batch" else 1.0
    weights = [[0.0] * 4 for _ in range(3)]
    for a, (i, j, r) in zip(accept, ratio, strict=True):
        weights[i][j] = a * min(rate * max(lam, r), c1)
    return weights


def plain_losses(
    batch: PeerBatch, weights: list[list[float]], clip: tuple[float, float] | None
) -> list[list[float]]:
    """-w min(r A, clip(r) A) with r = p_new / p_ref; without clip r = 1."""
    losses = [[0.0] * 4 for _ in range(3)]
    for i, j in batch.mask.nonzero().tolist():
        a, r = float(batch.advantage[i, j]), 1.0
        if clip is not None:
            r = math.exp(float(batch.new[i, j].detach()) - float(batch.ref[i, j]))
            low, high = clip
            r = min(r * a, min(max(r, 1 - low), 1 + high) * a) / a
        losses[i][j] = -weights[i][j] * r * a
    return losses


def total(values: list[list[float]]) -> float:
    return sum(sum(row) for row in values)


def stub_modules(monkeypatch: Any, **modules: dict[str, Any]) -> None:
    """Modules by dotted name (dots written as __), with these attributes, for one test."""
    for written, attributes in modules.items():
        name = written.replace("__", ".")
        parts = name.split(".")
        for n in range(1, len(parts)):
            above = ".".join(parts[:n])
            if above not in sys.modules:
                package = types.ModuleType(above)
                package.__path__ = []
                monkeypatch.setitem(sys.modules, above, package)
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
