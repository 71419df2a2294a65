"""Start and end of the processes that torchrun starts, and what they tell each other then."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from llm.settings.loading import Config, ConfigError
from llm.settings.schema import HorvitzThompsonPruning

from .collectives import barrier
from .heartbeat import Heartbeat

TIMEOUT = datetime.timedelta(hours=2)  # of one collective: pretraining on rank 0 may take long
_ENV = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_watch: list[Heartbeat] = []  # of this process, while joined


def check_settings(cfg: Config) -> None:
    """Raises ConfigError for settings that do not go with the ranks of this start."""
    ranks = int(os.environ["WORLD_SIZE"]) if _launched() else 1
    if ranks > 1 and ":" in cfg.run.device:
        raise ConfigError(
            f"--run.device {cfg.run.device} is one device for {ranks} ranks: give cuda, and every "
            "rank takes the GPU of its LOCAL_RANK"
        )
    if ranks == 1 and cfg.run.sharding == "fsdp":
        raise ConfigError(
            "--run.sharding fsdp would have no effect: there is one process, and no other rank to "
            "spread weights over. Start several (torchrun --nproc_per_node N -m llm train ...), or "
            "give --run.sharding none"
        )
    check_groups(cfg, ranks, "--nproc_per_node")


def check_groups(cfg: Config, ranks: int, flag: str) -> None:
    """Raises ConfigError unless each rank has as many prompts, and something where prompts are
    pruned. flag: what else can be changed."""
    if cfg.rollout.prompts_per_step % ranks:
        raise ConfigError(
            f"--rollout.prompts_per_step {cfg.rollout.prompts_per_step} must be a multiple of the "
            f"{ranks} ranks, each of which samples whole groups: change it, or {flag}"
        )
    pruning, group = cfg.rollout.pruning, cfg.rollout.rollouts_per_prompt
    if isinstance(pruning, HorvitzThompsonPruning) and pruning.prompt_rate > 0 and group < ranks:
        raise ConfigError(
            f"--rollout.pruning.prompt_rate {pruning.prompt_rate} may leave one prompt, whose "
            f"--rollout.rollouts_per_prompt {group} completions are fewer than the {ranks} ranks: "
            f"give at least {ranks}, or change {flag}"
        )


def takes_cuda(device: str) -> bool:
    """Whether a run with that run.device computes on a GPU."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """One of torchrun's processes while entered: gloo on the CPU, nccl between GPUs.

    Ends with a barrier, unless by an exception, which the other ranks then know of.
    """
    if not _launched():
        yield
        return
    cuda = takes_cuda(device)
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, number, ranks = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    watch = Heartbeat(store.clone(), number, ranks)  # beats: every rank is there after the barrier
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=TIMEOUT)
    _watch.append(watch)
    former = signal.signal(signal.SIGTERM, _tell)
    watch.listen()
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


def is_first_to_report(message: str) -> bool:
    """Whether this rank is the one that says why the run ended: the first to know."""
    return not _watch or _watch[0].report(message)


def why_lost(error: BaseException) -> str:
    """If an error came from the end of another rank: what is known of that. Else ""."""
    if _watch:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there is something to say first
    if isinstance(error, Terminated):
        return (_watch and _watch[0].who_ended()) or "ended by a signal"
    known = isinstance(error, dist.DistError)
    words = ("gloo", "Connection", "NCCL", "TCPStore", "Broken pipe", "Timed out")
    known = known or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))
    if not known or not _watch:
        return ""
    return _watch[0].who_ended() or f"another rank cannot be reached ({str(error).splitlines()[0]})"


class Terminated(BaseException):
    """SIGTERM where nothing can be saved; torchrun sends it to all when one rank has ended."""


def _tell(number: int, frame: FrameType | None) -> None:
    raise Terminated
