"""The README.md of an exported model: what it is, where it comes from, how it was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llm import settings
from llm.hub import is_local
from llm.regular_files import read_json
from llm.report.run_files import read_run
from llm.settings.loading import Config
from llm.settings.resuming import PLACE

NO_TOKENIZER = (
    "AutoTokenizer gives an empty tokenizer for this folder, without an error; read and write text "
    "with llm.tokenizers.character.CharTokenizer (docs/export.md)"
)
_USE = """```python
from transformers import AutoModelForCausalLM{and_tokenizer}

model = AutoModelForCausalLM.from_pretrained("FOLDER"){tokenizer}
```

FOLDER is this folder. `vllm serve FOLDER` opens it too, and `python -m llm train CONFIG.toml
--policy.path FOLDER` trains it further. `generation_config.json` samples from the distribution that
was trained and evaluated: temperature {temperature:g}, the whole vocabulary.
"""


class Exported(NamedTuple):
    """What was written.

    rounded: the share of the adapters' change, by its norm, that rounding to dtype took from merged
    weights; None where nothing was merged and rounded. notes: sentences on what the folder does not
    take over, or computes otherwise than the run did."""

    run: Path
    role: str
    checkpoint: str
    step: int
    dtype: str
    adapters: str
    has_tokenizer: bool
    rounded: float | None
    notes: tuple[str, ...] = ()


def model_card(cfg: Config, done: Exported) -> str:
    """Markdown. What comes from files of the run is shown as text of one line or in a fence."""
    run = read_run(done.run)
    start = run.provenance[-1] if run.provenance else {}
    part = getattr(cfg, done.role)
    facts = {
        "run": done.run.resolve().name,
        "model": f"{done.role}, after {done.step} of {cfg.run.steps} steps ({done.checkpoint})",
        "started from": part.path or "a model built and pretrained for the run",
        "seed": cfg.run.seed,
        "commit": f"{start.get('commit') or 'unknown'}{', changed' if start.get('dirty') else ''}",
        "weights": done.dtype + _adapters(done),
        "libraries": ", ".join(
            f"{k} {start[k]}" for k in ("torch", "transformers", "peft") if k in start
        ),
        "tokenizer": "in this folder"
        if done.has_tokenizer
        else "none: the model reads the character alphabet of `llm/tokenizers/character.py`. "
        + NO_TOKENIZER,
    }
    rows = "\n".join(f"| {name} | {_line(value)} |" for name, value in facts.items())
    evaluations = "\n".join(_evaluations(done, run.rows)) or "None of this checkpoint.\n"
    text = "\n".join(
        line
        for line in settings.dump(cfg).splitlines()
        if not any(line.startswith(f"{key.split('.')[1]} = ") for key in PLACE)
    )
    fence = "`" * max(3, 1 + max((len(m) for m in re.findall(r"`+", text)), default=0))
    has = done.has_tokenizer
    use = _USE.format(
        and_tokenizer=", AutoTokenizer" if has else "",
        tokenizer='\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")' if has else "",
        temperature=cfg.rollout.temperature,
    )
    return (
        f"{_header(part.path)}# {_line(done.run.resolve().name)}: {done.role}\n\n"
        "Trained from the rollouts of another model by Algorithm 1 of Jackpot (arXiv 2602.06107).\n"
        f"\n| | |\n| --- | --- |\n{rows}\n\n{_notes(done)}## Evaluation\n\n{evaluations}\n"
        f"## Use\n\n{use}\n## Settings\n\n{fence}toml\n{text}\n{fence}\n"
    )


def _header(path: str) -> str:
    base = f"base_model: {path}\n" if path and not is_local(path) else ""
    return f"---\nlibrary_name: transformers\n{base}---\n\n"


def _notes(done: Exported) -> str:
    lines = [f"- {_line(note)}\n" for note in done.notes]
    return f"## What differs from training\n\n{''.join(lines)}\n" if lines else ""


def _adapters(done: Exported) -> str:
    lost = f"; rounding took {done.rounded:.1%} of their change" if done.rounded else ""
    return {"merged": f", adapters merged in float32{lost}", "kept": ", adapters alone"}.get(
        done.adapters, ""
    )


def _evaluations(done: Exported, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Held-out pass rates of these very weights: while training, and by `python -m llm eval`."""
    name = "pass_rate" if done.role == "policy" else "pass_rate_actor"
    yield from (
        f"- pass rate on held-out prompts while training: {row[name]:.4f} (step {row['step']})\n"
        for row in rows
        if row["step"] == done.step and isinstance(row.get(name), int | float)
    )
    for entry in _entries(done.run / "eval.json"):
        of_step = entry.get("step") == done.step
        means = entry.get("models", {}).get(done.role, {}) if of_step else {}
        for key in ("mean_at_1", "mean_at_k"):
            mean = means.get(key)
            if isinstance(mean, dict) and all(
                isinstance(mean.get(k), int | float) for k in ("value", "low", "high")
            ):
                k = "1" if key.endswith("1") else str(means.get("samples"))
                yield (
                    f"- mean@{k} {mean['value']:.4f} (95 % interval {mean['low']:.4f} to "
                    f"{mean['high']:.4f}) on {_line(means.get('prompts'))} held-out prompts, "
                    f"temperature {_line(entry.get('temperature'))}\n"
                )


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return []
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _line(value: Any) -> str:
    """One line that ends no cell and opens no tag."""
    text = " ".join(str(value).split())[:500]
    return text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
