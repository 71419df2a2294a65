"""Several processes under torchrun: who this one is, and what all of them must know together.

Each rank holds its own sequences. What is "of the batch" is gathered to every rank in the order
that one process would have, computed there, and cut to the own part again (`AllTokens`). So no
statistic depends on the number of ranks. One process without torchrun: everything here is the
identity. Every function but `rank`, `size`, `is_main` and `part` must be called by all ranks alike.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from llm.settings.loading import Config, ConfigError

from .heartbeat import Watch

TIMEOUT = datetime.timedelta(hours=2)  # of one collective: a warm-up on rank 0 may take long
_BUCKET = 1 << 25  # elements of gradients summed at once
_ENV = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PLACE = 1 << 32  # more than the tokens of any sequence
_watch: list[Watch] = []  # of this process, while joined
T = TypeVar("T")


def check(cfg: Config) -> None:
    """Raises ConfigError for settings that do not go with the ranks of this start."""
    ranks = int(os.environ["WORLD_SIZE"]) if _launched() else 1
    if ranks > 1 and ":" in cfg.run.device:
        raise ConfigError(
            f"--run.device {cfg.run.device} is one device for {ranks} ranks: give cuda, and every "
            "rank takes the GPU of its LOCAL_RANK"
        )
    check_groups(cfg, ranks, "--nproc_per_node")


def check_groups(cfg: Config, ranks: int, flag: str) -> None:
    """Raises ConfigError unless each rank has as many prompts. flag: what else can be changed."""
    if cfg.rollout.prompts_per_step % ranks:
        raise ConfigError(
            f"--rollout.prompts_per_step {cfg.rollout.prompts_per_step} must be a multiple of the "
            f"{ranks} ranks, each of which samples whole groups: change it, or {flag}"
        )


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """One of torchrun's processes while entered: gloo on the CPU, nccl between GPUs.

    Ends with a barrier, unless by an exception, which the other ranks then know of.
    """
    if not _launched():
        yield
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, number, ranks = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    watch = Watch(store.clone(), number, ranks)  # beats: every rank is there after the barrier
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=TIMEOUT)
    _watch.append(watch)
    former = signal.signal(signal.SIGTERM, _tell)
    barrier()
    watch.start()
    try:
        yield
        barrier()
        watch.stop()
        dist.destroy_process_group()
        signal.signal(signal.SIGTERM, former)
    except BaseException as e:
        watch.report(f"{type(e).__name__}: {e}")
        raise
    finally:
        watch.stop()
        _watch.clear()


def _launched() -> bool:
    return all(name in os.environ for name in _ENV)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this rank writes the run's files."""
    return rank() == 0


def part(n: int) -> range:
    """This rank's of n things: neighbours, in rank order."""
    return range(n * rank() // size(), n * (rank() + 1) // size())


def barrier() -> None:
    if size() > 1:
        largest(0)


def main_first(call: Callable[[], T]) -> T:
    """Rank 0 calls, then the others: what writes files that the others find."""
    if is_main():
        found = call()
        barrier()
        return found
    barrier()
    return call()


def together(call: Callable[[], T], *kinds: type[Exception]) -> T:
    """The call's result; an exception of one of these kinds on any rank is raised on all."""
    found, failure = None, None
    try:
        found = call()
    except kinds as e:
        kind = next(i for i, k in enumerate(kinds) if isinstance(e, k))
        failure = kind, str(e) or type(e).__name__
    failed = [f for f in gather_json(failure) if f]
    if failed:
        kind, message = failed[0]
        raise kinds[kind](message)
    return found  # type: ignore[return-value]


def reports(message: str) -> bool:
    """Whether this rank is the one that says why the run ended: the first to know."""
    return not _watch or _watch[0].report(message)


def tell(told: Callable[[], bool]) -> None:
    """How the watch finds out that a signal asked for the end."""
    for watch in _watch:
        watch.told = told


def lost(error: BaseException) -> str:
    """If an error came from the end of another rank: what is known of that. Else ""."""
    if _watch:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is something to say first
    if isinstance(error, Told):
        return (_watch and _watch[0].who_ended()) or "ended by a signal"
    known = isinstance(error, dist.DistError)
    words = ("gloo", "Connection", "NCCL", "TCPStore", "Broken pipe", "Timed out")
    known = known or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))
    if not known or not _watch:
        return ""
    return _watch[0].who_ended() or f"another rank cannot be reached ({str(error).splitlines()[0]})"


def gather(x: torch.Tensor) -> torch.Tensor:
    """Rows of all ranks in rank order: (n of this rank, ...) -> (sum of n, ...)."""
    if size() == 1:
        return x
    if x.dtype == torch.bool:
        return gather(x.byte()).bool()
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(size())]
    dist.all_gather(counts, torch.full_like(counts[0], len(x)))
    lengths = [int(n) for n in counts]
    wide = x.new_zeros((max(lengths), *x.shape[1:]))
    wide[: len(x)] = x
    parts = [torch.empty_like(wide) for _ in range(size())]
    dist.all_gather(parts, wide)
    return torch.cat([p[:n] for p, n in zip(parts, lengths, strict=True)])


def gather_json(value: Any) -> list[Any]:
    """A small JSON value of each rank, in rank order."""
    if size() == 1:
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = gather(torch.tensor([len(text)])).tolist()
    return [json.loads(p.numpy().tobytes()) for p in gather(text).split(lengths)]


def share_json(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    return gather_json(value if is_main() else None)[0]


def add_up(values: list[float], device: torch.device) -> list[float]:
    """Sums over ranks, in rank order, so that every rank has them to the last bit."""
    if size() == 1:
        return values
    here = torch.tensor([values], dtype=torch.float64, device=device)
    return gather(here).sum(dim=0).tolist()


def largest(n: int) -> int:
    """The largest of the ranks' numbers."""
    if size() == 1:
        return n
    found = torch.tensor([int(n)])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


@torch.no_grad()
def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace gradients by their sums over ranks, in float32. The loss had global denominators.

    A parameter that no rank has a gradient of keeps none.
    """
    if size() == 1:
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


class Told(BaseException):
    """SIGTERM where nothing can be saved; torchrun sends it to all when one rank has ended."""


def _tell(number: int, frame: FrameType | None) -> None:
    raise Told


class AllTokens:
    """The real tokens of an update on all ranks, in the order that a single process has them in.

    sequence: the sequence of each, its place in the update, (n of all ranks,). sequences: how many.
    """

    def __init__(self, is_completion: torch.Tensor, place: torch.Tensor) -> None:
        """is_completion: of this rank's sequences, (b, t). place: where each stands among those of
        all ranks, (b,); (0,) if this rank has none, and `is_completion` then holds no token."""
        b, t = is_completion.shape
        self.sequences = sum(gather_json(len(place)))
        if not len(place):
            place = torch.zeros(b, dtype=torch.long, device=is_completion.device)
        column = torch.arange(t, device=place.device)
        keys = (place[:, None] * _PLACE + column)[is_completion]
        counts = gather_json(len(keys))
        self._order = gather(keys)
        self.sequence = self._order // _PLACE
        if size() > 1:
            self._order = self._order.argsort()
            self.sequence = self.sequence[self._order]
            start = sum(counts[: rank()])
            self._own = self._order.argsort()[start : start + len(keys)]

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """Values of this rank's tokens -> of all: (n, ...) -> (n of all ranks, ...)."""
        return x if size() == 1 else gather(x)[self._order]

    def mine(self, x: torch.Tensor) -> torch.Tensor:
        """Values of all tokens -> of this rank's."""
        return x if size() == 1 else x[self._own]
