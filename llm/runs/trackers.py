"""Metrics sent on to TensorBoard, Weights & Biases or trackio. metrics.jsonl stays the truth.

A tracker that cannot start is an error before training; one that fails later is reported once, and
the run goes on without it.
"""

from __future__ import annotations

import math
import os
import sys
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.errors import ConfigError
from llm.regular_files import open_here, read_text
from llm.settings.schema import RunConfig

Row = dict[str, Any]
PROJECT = "jackpot"


class Tracker:
    """Passes rows on until the run ends; `failures` counts the calls that raised."""

    def __init__(
        self,
        name: str,
        send: Callable[[int, dict[str, float]], None],
        end: Callable[[], None],
    ) -> None:
        self.name, self.failures = name, 0
        self._send, self._end = send, end

    def log(self, step: int, row: Row) -> None:
        """The finite numbers of a row; whatever the tracker raises does not reach the run."""
        numbers = {
            k: float(v)
            for k, v in row.items()
            if k != "step" and isinstance(v, int | float) and math.isfinite(v)
        }
        self._try(lambda: self._send(step, numbers))

    def close(self) -> None:
        self._try(self._end)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as e:
            self.failures += 1
            if self.failures == 1:
                sys.stderr.write(
                    f"\nwarning: tracker {self.name} failed ({type(e).__name__}: {e}); the run "
                    "goes on, metrics.jsonl has every row, further failures are only counted\n"
                )


def open_tracker(cfg: RunConfig, folder: Path, silent: bool = False) -> Tracker:
    """The tracker that `cfg.tracker` names, for the run in `folder`.

    silent: none, because another rank has it. A resumed run goes on in the same place: the id by
    which a tracker knows it is in tracker_id.txt. The project is called jackpot; WANDB_PROJECT and
    TRACKIO_PROJECT override that.

    Raises:
        ConfigError: its package is not installed, or it does not start.
    """
    if cfg.tracker == "none" or silent:
        return Tracker("none", lambda step, row: None, lambda: None)
    start = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}[cfg.tracker]
    try:
        return Tracker(cfg.tracker, *start(folder))
    except ImportError as e:
        raise ConfigError(
            f"--run.tracker {cfg.tracker} needs a package that is not installed ({e}): "
            f"pip install -e '.[{cfg.tracker}]' in the checkout, or set --run.tracker none"
        ) from e
    except Exception as e:
        raise ConfigError(
            f"--run.tracker {cfg.tracker} does not start ({type(e).__name__}: {e}): mend that, or "
            "set --run.tracker none"
        ) from e


Started = tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]


def _tensorboard(folder: Path) -> Started:
    from torch.utils.tensorboard import SummaryWriter

    writers: list[Any] = []

    def send(step: int, row: dict[str, float]) -> None:
        if not writers:  # events from this step on, of an interrupted start, are hidden
            writers.append(SummaryWriter(str(folder / "tensorboard"), purge_step=step))
        for name, value in row.items():
            writers[0].add_scalar(name, value, step)
        writers[0].flush()

    def end() -> None:
        for writer in writers:
            writer.close()

    return send, end


def _wandb(folder: Path) -> Started:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        dir=str(folder),
        id=_identity(folder),
        name=folder.name,
        config=_config(folder),
        resume="allow",
    )
    return lambda step, row: run.log(row, step=step), lambda: run.finish()


def _trackio(folder: Path) -> Started:
    import trackio

    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{folder.name}-{_identity(folder)}",  # a run is found again by its name
        config=_config(folder),
        resume="allow",
    )
    return lambda step, row: run.log(row, step=step), lambda: run.finish()


def _identity(folder: Path) -> str:
    path = folder / "tracker_id.txt"
    if not path.exists():
        with open_here(path, "x") as file:
            file.write(uuid.uuid4().hex[:8] + "\n")
    return read_text(path, 100, follow=False).strip()


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
