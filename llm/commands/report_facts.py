"""What the first screen of a run's report says: what it was made of, and how it ended."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

from llm.errors import ConfigError
from llm.report.html import Html, badge, counted, text
from llm.report.panels import series, shown
from llm.report.run_files import RunData
from llm.settings.loading import Config, flatten, resolve
from llm.settings.sections import default_values, flat_table

NOT_RECORDED = "not recorded"
LENGTH = 400  # characters of a value from a file that are shown here
DIGITS = 16  # of a SHA-256, which the section on provenance has whole
SETS = 20  # evaluation sets
SETTINGS = 60  # that differ from the defaults


def identity(files: RunData) -> list[tuple[str, Any]]:
    """Names and values: state, pass rates, seed, data, models, commit, command, settings."""
    flat = flat_table(files.config)
    last = files.rows[-1]["step"] if files.rows else 0
    state = badge("good", "complete") if files.finished else badge("warn", "not complete")
    wanted = text(cell(flat.get("run.steps", "?")))
    start = files.provenance[-1] if files.provenance else {}
    return [
        ("state", Html(f"{state} step {last} of {wanted}")),
        *pass_rates(files.rows),
        *evaluation_sets(files.rows),
        ("seed", cell(flat.get("run.seed", NOT_RECORDED))),
        ("data", _data(files, flat)),
        ("models", _digests(files, ("policy: ", "actor: "), ".safetensors")),
        ("commit", _commit(files.provenance)),
        ("command", _command(start.get("command"))),
        ("settings that are not the defaults", _settings(files)),
    ]


def pass_rates(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """The last of each model, before the first and the best."""
    facts: list[tuple[str, Any]] = []
    for name, whose in (("pass_rate", "policy"), ("pass_rate_actor", "actor")):
        steps, values = series(rows, name)
        if not values:
            continue
        best = max(range(len(values)), key=values.__getitem__)
        words = f"{values[-1]:.3g} at step {steps[-1]}"
        if len(values) > 1:
            words += f" (at step {steps[0]}: {values[0]:.3g}"
            words += f"; best: {values[best]:.3g} at step {steps[best]})"
        facts.append((f"held-out pass rate, {whose}", words))
    return facts or [("held-out pass rate", "not measured yet")]


def evaluation_sets(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """mean@k and pass@k of each evaluation set, first and last."""
    first = rows[0] if rows else {}
    names = [n.removeprefix("mean_at_k_") for n in first if n.startswith("mean_at_k_")]
    pairs: list[tuple[str, Any]] = []
    for name in names[:SETS]:
        texts = []
        for metric in ("mean", "pass"):
            steps, values = series(rows, f"{metric}_at_k_{name}")
            if values:
                texts.append(f"{metric}@k {values[0]:.3f} → {values[-1]:.3f} (step {steps[-1]})")
        pairs.append((f"evaluation set {shown(name)}", "; ".join(texts)))
    return pairs


def cell(value: Any) -> str:
    """Any value of a file as text."""
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _short(value: Any) -> str:
    words = cell(value)
    return words if len(words) <= LENGTH else f"{words[:LENGTH]}…"


def _data(files: RunData, flat: dict[str, Any]) -> str:
    source = flat.get("task.source") or flat.get("task.type", "unknown task")
    mark = files.inputs.get("data")
    return f"{_short(source)}, SHA-256 {mark[:DIGITS] if mark else NOT_RECORDED}"


def _digests(files: RunData, starts: tuple[str, ...], end: str) -> str:
    wanted = {k: v for k, v in files.inputs.items() if k.startswith(starts) and k.endswith(end)}
    named = "; ".join(f"{k} SHA-256 {v[:DIGITS]}" for k, v in sorted(wanted.items()))
    return _short(named) if named else f"SHA-256 {NOT_RECORDED}"


def _commit(provenance: list[dict[str, Any]]) -> str:
    commits = [_short(e["commit"]) for e in provenance if e.get("commit")]
    if not commits:
        return NOT_RECORDED
    changed = ", with changes that are not committed" if provenance[-1].get("dirty") else ""
    several = len(set(commits))
    others = f"; {counted(len(provenance), 'start')}, {several} commits" if several > 1 else ""
    return f"{commits[-1]}{changed}{others}"


def _command(words: Any) -> Html | str:
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        return NOT_RECORDED
    program = ["python", "-m", "llm"] if words[0] == "__main__.py" else words[:1]
    return Html(f"<code>{text(_short(shlex.join([*program, *words[1:]])))}</code>")


def _settings(files: RunData) -> Html | str:
    if not files.config:
        return NOT_RECORDED
    try:
        changed = changed_settings(files.config)
    except (ConfigError, RecursionError):
        return "unknown: config.toml is not one that this version accepts (all of it is below)"
    named = [f"<code>{text(k)} = {text(_short(v))}</code>" for k, v in changed.items()]
    more = [f"{len(named) - SETTINGS} more"] if len(named) > SETTINGS else []
    return Html(", ".join([*named[:SETTINGS], *more])) if named else "none"


def changed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """{'section.name': value} that differs from its default, but for the folder and the seed.

    The settings of a chosen type are compared with the defaults of that type.

    Raises:
        ConfigError: settings that this version does not have, or that it refuses.
    """
    cfg = resolve(flat_table(config))
    default, first = default_values(cfg), flatten(Config())
    return {
        k: v
        for k, v in flatten(cfg).items()
        if k not in ("run.folder", "run.seed")
        and v != (first.get(k, v) if k.endswith(".type") else default[k])
    }
