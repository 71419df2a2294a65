"""The .jsonl files of a run, read and written, and its summary; metrics.py defines the names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llm.checkpoints.checkpoint import write_json
from llm.settings.loading import Config

from .metrics import check_names


class MetricsFile:
    """metrics.jsonl: one JSON object a row, on disk at once; `cut` to the checkpoint on resume."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self.path, self.keep_bytes = path, keep_bytes
        with path.open("ab") as file:
            there = file.tell()
        if there < keep_bytes:
            raise ValueError(
                f"{path} holds {there} bytes, fewer than the {keep_bytes} that the checkpoint "
                "counts: rows were lost. Put it back, or remove the checkpoints"
            )

    def cut(self) -> None:
        """Drop what an interrupted start wrote after the checkpoint."""
        with self.path.open("ab") as file:
            file.truncate(self.keep_bytes)

    def write(self, *rows: dict[str, Any]) -> None:
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(lines)

    def size(self) -> int:
        """Bytes, after a flush to disk: the checkpoint that notes them must not outlive them."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return self.path.stat().st_size


class RunFiles:
    """The four *.jsonl files of a run, each cut on resume to what the checkpoint counts."""

    NAMES = ("metrics", "decisions", "samples", "histograms")

    def __init__(self, folder: Path, kept: dict[str, int]) -> None:
        self.files = {n: MetricsFile(folder / f"{n}.jsonl", kept.get(n, 0)) for n in self.NAMES}

    def cut(self) -> None:
        for file in self.files.values():
            file.cut()

    def write(self, name: str, *rows: dict[str, Any]) -> None:
        """Append rows to `name`.jsonl.

        Raises:
            ValueError: a metric that METRICS does not define.
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
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
    write_json(folder / "summary.json", summary)
    return summary
