"""Several processes under torchrun: who this one is, and what all of them must know together.

Each rank holds its own sequences. What is "of the batch" is gathered to every rank in the order
that one process would have, computed there, and cut to the own part again (global_tokens.py). So
no statistic depends on the number of ranks. One process without torchrun: everything here is the
identity. Every function but `rank`, `size`, `is_main` and `part` must be called by all ranks alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

_BUCKET = 1 << 25  # elements of gradients summed at once
T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this rank writes the run's files."""
    return rank() == 0


def rank_slice(n: int) -> range:
    """This rank's of n things: neighbours, in rank order."""
    return range(n * rank() // world_size(), n * (rank() + 1) // world_size())


def barrier() -> None:
    if world_size() > 1:
        all_reduce_max(0)


def main_first(call: Callable[[], T]) -> T:
    """Rank 0 calls, then the others: what writes files that the others find."""
    if is_main():
        result = call()
        barrier()
        return result
    barrier()
    return call()


def raise_on_all_ranks(call: Callable[[], T], *kinds: type[Exception]) -> T:
    """The call's result; an exception of one of these kinds on any rank is raised on all."""
    result, failure = None, None
    try:
        result = call()
    except kinds as e:
        kind = next(i for i, k in enumerate(kinds) if isinstance(e, k))
        failure = kind, str(e) or type(e).__name__
    failed = [f for f in all_gather_object(failure) if f]
    if failed:
        kind, message = failed[0]
        raise kinds[kind](message)
    return result  # type: ignore[return-value]


def all_gather(x: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order: (n of this rank, ...) -> (sum of n, ...)."""
    if world_size() == 1:
        return x
    if x.dtype == torch.bool:
        return all_gather(x.byte()).bool()
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.full_like(counts[0], len(x)))
    lengths = [int(n) for n in counts]
    wide = x.new_zeros((max(lengths), *x.shape[1:]))
    wide[: len(x)] = x
    parts = [torch.empty_like(wide) for _ in range(world_size())]
    dist.all_gather(parts, wide)
    return torch.cat([p[:n] for p, n in zip(parts, lengths, strict=True)])


def all_gather_object(value: Any) -> list[Any]:
    """A small JSON value of each rank, in rank order."""
    if world_size() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = all_gather(torch.tensor([len(text)])).tolist()
    return [json.loads(p.numpy().tobytes()) for p in all_gather(text).split(lengths)]


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    return all_gather_object(value if is_main() else None)[0]


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Sums over ranks, in rank order, so that every rank has them to the last bit."""
    if world_size() == 1:
        return values
    here = torch.tensor([values], dtype=torch.float64, device=device)
    return all_gather(here).sum(dim=0).tolist()


def all_reduce_max(n: int) -> int:
    """The largest of the ranks' numbers."""
    if world_size() == 1:
        return n
    largest = torch.tensor([int(n)])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


@torch.no_grad()
def all_reduce_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace gradients by their sums over ranks, in float32. The loss had global denominators.

    A parameter that no rank has a gradient of keeps none.
    """
    if world_size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    has = torch.tensor([p.grad is not None for p in trained], device=trained[0].device).int()
    dist.all_reduce(has, dist.ReduceOp.MAX)
    used = [p for p, h in zip(trained, has.tolist(), strict=True) if h]
    while used:
        bucket = [used.pop(0)]
        while used and sum(p.numel() for p in bucket) + used[0].numel() <= _BUCKET:
            bucket.append(used.pop(0))
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([g.float().reshape(-1) for g in grads])
        dist.all_reduce(flat)
        for p, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
            p.grad = total.reshape(p.shape).to(p.dtype)


def sum_counts(counts: dict[str, int]) -> dict[str, int]:
    """What was counted on all ranks together."""
    of_ranks = all_gather_object(counts)
    return {k: sum(each[k] for each in of_ranks) for k in counts}
