"""What a run folder holds, read for a report or a comparison; results written."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from llm.errors import ConfigError
from llm.regular_files import JSON_BYTES_MAX, open_here

from . import row_checks

Row = dict[str, Any]
FAULTS_NAMED = 3  # of one file
SECTIONS_DEEP = 8  # of config.toml
_ROWS_BYTES_MAX = 1_000_000_000  # of a .jsonl: a million rows


class RunData(NamedTuple):
    """What a run folder holds; what is missing or damaged is empty, and said in `notes`."""

    folder: Path
    config_text: str
    config: dict[str, dict[str, Any]]
    rows: list[Row]
    decisions: list[Row]
    samples: list[Row]
    histograms: list[Row]
    provenance: list[Row]
    inputs: dict[str, str]  # SHA-256 by what the run was made of: "data", "policy: FILE", ...
    summary: Row
    notes: list[str]

    @property
    def finished(self) -> bool:
        return bool(self.summary)


def write(out: Path, content: str | bytes, *, follow: bool = True) -> None:
    """Write a result file, its folder made.

    follow: whether `out` may be a symbolic link, as a path that the user gave; a file in a run
    folder may not.

    Raises:
        ConfigError: that cannot be done.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        if follow:
            out.write_bytes(data)
        else:
            with open_here(out, "wb") as file:
                file.write(data)
    except OSError as e:
        raise ConfigError(f"cannot write {out}: {e.strerror}; give another file") from e


def read_run(folder: Path) -> RunData:
    """Everything in a run folder.

    Raises:
        ConfigError: it is no run folder.
    """
    if not (folder / "config.toml").is_file() and not (folder / "metrics.jsonl").is_file():
        raise ConfigError(
            f"{folder} is not a run folder: it holds neither config.toml nor metrics.jsonl"
        )
    notes: list[str] = []
    config_text = _text(folder / "config.toml", notes, JSON_BYTES_MAX)
    config: dict[str, Any] = {}
    try:
        config = tomllib.loads(config_text)
    except (ValueError, RecursionError) as e:
        notes.append(f"config.toml is not TOML: {e}")
    if not _depth_within(config, SECTIONS_DEEP):
        notes.append(f"config.toml has sections more than {SECTIONS_DEEP} deep, left out")
        config = {}
    lines = {
        name: _lines(folder / f"{name}.jsonl", notes)
        for name in ("metrics", "decisions", "samples", "histograms")
    }
    provenance = _json(folder / "provenance.json", notes)
    summary = _json(folder / "summary.json", [])
    return RunData(
        folder,
        config_text,
        config,
        _by_step(lines["metrics"]),
        lines["decisions"],
        lines["samples"],
        lines["histograms"],
        _entries(provenance, notes),
        _digests(folder / "inputs.json", notes),
        summary if isinstance(summary, dict) else {},
        notes,
    )


def _depth_within(table: dict[str, Any], most: int) -> bool:
    level = [table]
    for _ in range(most):
        level = [v for t in level for v in t.values() if isinstance(v, dict)]
    return not level


def _digests(path: Path, notes: list[str]) -> dict[str, str]:
    """What the run was made of, by name; runs of before there were digests have none."""
    content = _json(path, notes) if path.exists() else None
    given = content if isinstance(content, dict) else {}
    inputs = {k: v for k, v in given.items() if isinstance(v, str)}
    if len(inputs) < len(given) or not isinstance(content, dict | None):
        notes.append("inputs.json holds something else than digests, left out")
    return inputs


def _text(path: Path, notes: list[str], most: int) -> str:
    """Of a regular file of at most so many bytes; "" and a note otherwise."""
    try:
        with open_here(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = b"" if size > most else bytes(file.read(most))
    except OSError as e:
        notes.append(f"{path.name} cannot be read: {e.strerror}")
        return ""
    if size > most:
        notes.append(f"{path.name} cannot be read: it has more than {most:,} bytes")
        return ""
    return data.decode("utf-8", "replace")


def _json(path: Path, notes: list[str]) -> Any:
    content = _text(path, notes, JSON_BYTES_MAX)
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError) as e:
        notes.append(f"{path.name} is not JSON: {e}")
        return None


def _entries(provenance: Any, notes: list[str]) -> list[Row]:
    given = provenance if isinstance(provenance, list) else []
    entries = [e for e in given if isinstance(e, dict)]
    if len(entries) < len(given) or not isinstance(provenance, list | None):
        notes.append("provenance.json holds something else than a list of objects, left out")
    return entries


def _lines(path: Path, notes: list[str]) -> list[Row]:
    """Rows of a .jsonl; a line that cannot be drawn is left out and noted."""
    rows, faults = [], []
    for number, line in enumerate(_text(path, notes, _ROWS_BYTES_MAX).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fault = row_checks.fault(path.stem, row)
        except (ValueError, RecursionError):
            fault = "not JSON, or cut off"
        if fault:
            faults.append(f"line {number} ({fault})")
        else:
            rows.append(row)
    if faults:
        named = ", ".join(faults[:FAULTS_NAMED])
        more = f" and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
        notes.append(f"{path.name}: left out, since they are no complete rows: {named}{more}")
    return rows


def _by_step(rows: list[Row]) -> list[Row]:
    """One row a step, the last written, in order; with tokens per second."""
    by_step = sorted({r["step"]: r for r in rows}.values(), key=lambda r: r["step"])
    for r in by_step:
        parts = [r.get("seconds_rollout"), r.get("seconds_update"), r.get("tokens")]
        known = [x for x in parts if isinstance(x, int | float) and x > 0]
        if len(known) == 3:
            r["tokens_per_second"] = known[2] / (known[0] + known[1])
    return by_step
