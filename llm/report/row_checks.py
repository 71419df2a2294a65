"""What a row of a run's .jsonl files must look like before a report draws it."""

from __future__ import annotations

import itertools
import math
from typing import Any

from .panels import PANELS

_LARGEST_INT = 2**53  # beyond, an integer is not exact as a float, or none at all
_DRAWN = {name for panel in PANELS for name in panel.series} | {"tokens"}
_TOKEN_COLUMNS = ("logp_inf", "log_ratio", "accept_prob", "accepted", "weight")
_HISTOGRAMS = ("log_ratio", "weight", "accept_prob")


def fault(kind: str, row: Any) -> str:
    """What is wrong with a row of `kind`.jsonl, in words; empty if nothing is."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if type(row.get("step")) is not int or not 0 <= row["step"] < _LARGEST_INT:
        return f"step is {_shown(row.get('step'))}, not a step number"
    check = {"metrics": _metrics, "samples": _sample, "histograms": _histograms}.get(kind)
    return check(row) if check else ""


def _metrics(row: dict[str, Any]) -> str:
    """Other names than the trainer's may hold anything: they are drawn where they are numbers."""
    for name, value in row.items():
        checked = name in _DRAWN or name.startswith("seconds_") or isinstance(value, int)
        if checked and not (value is None or _is_number(value)):
            return f"{name} is {_shown(value)}, not a number"
    return ""


def _sample(row: dict[str, Any]) -> str:
    tokens = row.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        return f"tokens is {_shown(tokens)}, not a list of texts"
    for name in ("reward", "advantage"):
        if not (row.get(name) is None or _is_number(row[name])):
            return f"{name} is {_shown(row[name])}, not a number"
    for name in _TOKEN_COLUMNS:
        values = row.get(name, [None] * len(tokens))
        if not isinstance(values, list) or not all(v is None or _is_number(v) for v in values):
            return f"{name} is {_shown(values)}, not a list of numbers"
        if len(values) != len(tokens):
            return f"{name} holds {len(values)} values for {len(tokens)} tokens"
    return ""


def _histograms(row: dict[str, Any]) -> str:
    if not _is_count(row.get("tokens")):
        return f"tokens is {_shown(row.get('tokens'))}, not a count"
    for name in _HISTOGRAMS:
        value = row.get(name)
        if not isinstance(value, dict):
            return f"{name} is {_shown(value)}, not a histogram"
        edges, counts = value.get("edges"), value.get("counts")
        if not isinstance(edges, list) or not edges or not all(map(_is_finite, edges)):
            return f"{name}.edges is {_shown(edges)}, not a list of numbers"
        if any(a >= b for a, b in itertools.pairwise(edges)):
            return f"{name}.edges do not ascend"
        if not isinstance(counts, list) or not all(map(_is_count, counts)):
            return f"{name}.counts is {_shown(counts)}, not a list of counts"
        if len(counts) != len(edges) + 1:
            return f"{name} holds {len(counts)} counts for {len(edges)} edges"
        if not _is_count(value.get("zeros", 0)):
            return f"{name}.zeros is {_shown(value['zeros'])}, not a count"
    return ""


def _is_number(value: Any) -> bool:
    """NaN and inf are numbers here: a diverging run writes them."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST_INT)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_finite(value) and 0 <= value < _LARGEST_INT


def _shown(value: Any) -> str:
    """A value by its kind; small ones as they are."""
    if value is None:
        return "missing or null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) >= _LARGEST_INT:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 30 else text[:30] + "..."
