"""The .jsonl files of a run, read and written, and its summary; metrics.py defines the names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from llm.checkpoints.checkpoint import write_json
from llm.errors import RunFilesError
from llm.regular_files import open_here, read_text
from llm.settings.loading import Config

from .metrics import check_names
from .run_folder import evaluation_changes

_LINE_BYTES_MAX = 100_000_000  # of one row


class MetricsFile:
    """metrics.jsonl: one JSON object a row, on disk at once; `cut` to the checkpoint on resume."""

    def __init__(self, path: Path, keep_bytes: int = 0, step: int = 0) -> None:
        """keep_bytes: what the checkpoint after `step` steps counts. The file is not changed.

        Raises:
            ValueError: it has fewer bytes, or rows of before the checkpoint lie behind them, or
                others within them.
        """
        self.path, self.keep_bytes, self.bytes = path, keep_bytes, keep_bytes
        self._last = ""  # words about the last row
        if keep_bytes and not path.exists():  # opening would make it
            raise ValueError(_lost(path, 0, keep_bytes))
        with open_here(path, "a+b") as file:
            there = file.seek(0, os.SEEK_END)
            if there < keep_bytes:
                raise ValueError(_lost(path, there, keep_bytes))
            _check_rows(path, file, keep_bytes, step)

    def cut(self) -> None:
        """Drop what an interrupted start wrote after the checkpoint."""
        with open_here(self.path, "ab") as file:
            file.truncate(self.keep_bytes)

    def write(self, *rows: dict[str, Any]) -> None:
        """Append rows.

        Raises:
            RunFilesError: the file is not as it was left: removed, or changed by something else.
        """
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        if not lines:
            return
        with self._opened("ab", lines) as file:
            file.write(lines.encode())
            self._last = f". Its last row: {lines.splitlines()[-1][:4000]}"
            self.bytes += len(lines.encode())

    def size(self) -> int:
        """Bytes, after a flush to disk: the checkpoint that notes them must not outlive them."""
        with self._opened("ab", "") as file:
            os.fsync(file.fileno())
        return self.bytes

    def _opened(self, mode: str, lines: str) -> IO[Any]:
        """The file, if it is as it was left; `lines` are told where they cannot be written."""
        context = f". What was to be added to it: {lines[:4000].rstrip()}" if lines else self._last
        try:
            if self.path.stat().st_size == self.bytes:
                return open_here(self.path, mode)
            fault = f"it holds {self.path.stat().st_size} bytes, {self.bytes} were written"
        except FileNotFoundError:
            fault = "it is gone"
        raise RunFilesError(
            f"{self.path} was removed or changed by something else while the run went on: {fault}. "
            f"Put it back, or remove the checkpoints and start anew{context}"
        )


def _lost(path: Path, there: int, keep_bytes: int) -> str:
    return (
        f"{path} holds {there} bytes, fewer than the {keep_bytes} that the checkpoint counts: rows "
        "were lost. Put it back, or remove the checkpoints"
    )


def _check_rows(path: Path, file: IO[Any], keep_bytes: int, step: int) -> None:
    """The kept bytes are whole rows of the first `step` steps, and all of them; of metrics.jsonl
    one a step. What lies behind is of later steps."""
    file.seek(0)
    kept: bytes = file.read(keep_bytes)
    rows = kept.splitlines()
    first = _step_of(file.readline(_LINE_BYTES_MAX))  # that is dropped
    last = _step_of(rows[-1]) if rows else -1
    fault = ""
    if kept and not kept.endswith(b"\n"):
        fault = "end within a row"
    elif last is None or last >= max(step, 1):
        fault = f"end in a row of step {last}"
    elif path.name == f"{RunFiles.NAMES[0]}.jsonl" and len(rows) != step:
        fault = f"are {len(rows)} rows"
    elif first is not None and first < step:
        fault = f"are followed by a row of step {first}, which would be lost"
    if fault:
        raise ValueError(
            f"{path} does not fit its checkpoint, which counts {keep_bytes} bytes for {step} "
            f"steps: they {fault}. Put back the file, or remove this checkpoint to use an older one"
        )


def _step_of(line: bytes) -> int | None:
    """The step of a row; None of what is no row, such as half of one."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if type(step) is int else None


class RunFiles:
    """The four *.jsonl files of a run, each cut on resume to what the checkpoint counts."""

    NAMES = ("metrics", "decisions", "samples", "histograms")

    def __init__(self, folder: Path, kept: dict[str, int], step: int = 0) -> None:
        """step: of the checkpoint that counts the `kept` bytes of each file."""
        self.files = {
            n: MetricsFile(folder / f"{n}.jsonl", kept.get(n, 0), step) for n in self.NAMES
        }

    def cut(self) -> None:
        for file in self.files.values():
            file.cut()

    def write(self, name: str, *rows: dict[str, Any]) -> None:
        """Append rows to `name`.jsonl.

        Raises:
            ValueError: a metric that METRICS does not define.
            RunFilesError: the file was removed or changed by something else.
        """
        _check(name, rows)
        self.files[name].write(*rows)

    def sizes(self) -> dict[str, int]:
        return {name: file.size() for name, file in self.files.items()}


class NoFiles:
    """In place of `RunFiles` where another rank writes them."""

    def cut(self) -> None:
        pass

    def write(self, name: str, *rows: dict[str, Any]) -> None:
        _check(name, rows)  # all ranks refuse a row together

    def sizes(self) -> dict[str, int]:
        return {}


def _check(name: str, rows: tuple[dict[str, Any], ...]) -> None:
    if name == "metrics":
        check_names(metric for row in rows for metric in row)


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl."""
    return [json.loads(line) for line in read_text(path, follow=False).splitlines()]


def summarise(folder: Path, cfg: Config) -> dict[str, Any]:
    """Write summary.json, whose presence says that the run is complete."""
    rows = read(folder / "metrics.jsonl")
    evals = [r for r in rows if "pass_rate" in r]
    best = max(evals, key=lambda r: r["pass_rate"])
    summary = {
        "steps": cfg.run.steps,
        "actor": cfg.actor.type,
        "pass_rate_first": evals[0]["pass_rate"],
        "pass_rate_last": evals[-1]["pass_rate"],
        "pass_rate_lowest": min(r["pass_rate"] for r in evals),
        "pass_rate_best": best["pass_rate"],
        "step_best": best["step"],
        "kl_policy_actor_first": evals[0]["kl_policy_actor"],
        "kl_policy_actor_last": evals[-1]["kl_policy_actor"],
        "alarms": sum(bool(r.get("alarms")) for r in rows),
        "rows": len(rows),
    }
    if changes := evaluation_changes(folder):
        summary["evaluation_changed"] = changes
    write_json(folder / "summary.json", summary)
    return summary
