"""Several ranks as threads of this process, for what takes milliseconds.

The collectives of llm.distributed go through these in the place of torch.distributed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist

from llm.distributed import collectives

T = TypeVar("T")
TIMEOUT = 10  # seconds: a rank that leaves a collective out fails the test


class ThreadedRanks:
    """What `collectives` takes of torch.distributed."""

    ReduceOp = dist.ReduceOp

    def __init__(self, n: int) -> None:
        self._n, self._own = n, threading.local()
        self._barrier, self._values = threading.Barrier(n, timeout=TIMEOUT), [torch.zeros(0)] * n

    def is_initialized(self) -> bool:
        return hasattr(self._own, "rank")

    def get_rank(self) -> int:
        return int(self._own.rank)

    def get_world_size(self) -> int:
        return self._n

    def all_gather(self, parts: list[torch.Tensor], x: torch.Tensor) -> None:
        for part, value in zip(parts, self._exchanged(x), strict=True):
            part.copy_(value)

    def all_reduce(self, x: torch.Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        values = torch.stack(self._exchanged(x))
        x.copy_(values.amax(dim=0) if op == dist.ReduceOp.MAX else values.sum(dim=0))

    def _exchanged(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._values[self.get_rank()] = x.clone()
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()  # nobody writes before all have read
        return values

    def call(self, rank: int, function: Callable[[int], T]) -> T:
        self._own.rank = rank
        try:
            return function(rank)
        except BaseException:
            self._barrier.abort()
            raise


def on_ranks(n: int, function: Callable[[int], T]) -> list[T]:
    """function(rank) on n ranks at once; what each returned."""
    ranks = ThreadedRanks(n)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(n) as pool:
        patch.setattr(collectives, "dist", ranks)
        return list(pool.map(lambda rank: ranks.call(rank, function), range(n)))
