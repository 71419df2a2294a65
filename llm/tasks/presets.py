"""Published data sets by name: hub id, columns, splits, and where in a row the answer is.

docs/data.md says what each was compared with, and which of them hold bad rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from llm.errors import ConfigError
from llm.rewards.answers import last_boxed


@dataclass(frozen=True)
class Preset:
    hub_id: str
    config: str | None
    prompt: str
    answer: str
    gold: Callable[[str], str | None]
    """The answer in the answer column; None where there is none."""
    split: str = ""
    """The only split on the hub; empty: it has train and test."""


def after_hashes(text: str) -> str | None:
    """GSM8K's answer: what follows the last ####, without thousands commas."""
    _, separator, answer = text.rpartition("####")
    return answer.replace(",", "").strip() if separator else None


def entire_text(text: str) -> str | None:
    return text


def _answered(hub_id: str, split: str) -> Preset:
    """A set with the columns problem and answer."""
    return Preset(hub_id, None, "problem", "answer", entire_text, split)


PRESETS = {
    "gsm8k": Preset("openai/gsm8k", "main", "question", "answer", after_hashes),
    "math": Preset(
        "DigitalLearningGmbH/MATH-lighteval", "default", "problem", "solution", last_boxed
    ),
    "deepscaler": _answered("agentica-org/DeepScaleR-Preview-Dataset", "train"),
    "dapo": Preset(
        "BytedTsinghua-SIA/DAPO-Math-17k",
        None,
        "prompt",
        "reward_model.ground_truth",
        entire_text,
        "train",
    ),
    "math500": _answered("HuggingFaceH4/MATH-500", "test"),
    "amc": _answered("AI-MO/aimo-validation-amc", "train"),
    "aime24": _answered("HuggingFaceH4/aime_2024", "train"),
    "aime25": _answered("math-ai/aime25", "test"),
}
PLAIN = Preset("", None, "prompt", "answer", entire_text)


def resolve(source: str) -> tuple[Preset, str]:
    """What is known of a source, and the file or hub id it names."""
    name, _, place = source.partition(":")
    if name in PRESETS:
        return PRESETS[name], place or PRESETS[name].hub_id
    known = {p.hub_id: p for p in PRESETS.values()}
    return known.get(source, PLAIN), source


def evaluation_sources(text: str) -> dict[str, str]:
    """The sources in a comma-separated list, by the names that their metrics have.

    A name is that of the preset, else that of the file or hub data set: lower case, with _ for all
    that is no letter or digit. `name=source` gives another.

    Raises:
        ConfigError: an empty source in the list, or a name that two sources have.
    """
    sources: dict[str, str] = {}
    for part in text.split(","):
        given = re.fullmatch(r"\s*([a-z0-9_]{1,40})=(.*)", part, flags=re.DOTALL)
        source = (given[2] if given else part).strip()
        name = given[1] if given else _name(source)
        if not source or not name or name in sources:
            wrong = f"two sources are called {name}" if name in sources else "a source is empty"
            raise ConfigError(
                f"--task.eval_source {text}: {wrong}. Give SOURCE,SOURCE,... or "
                "NAME=SOURCE,NAME=SOURCE,... with names of a to z, 0 to 9 and _"
            )
        sources[name] = source
    return sources


def _name(source: str) -> str:
    preset, place = resolve(source)
    named = [name for name, known in PRESETS.items() if known is preset]
    stem = PurePath(place).stem if place.endswith((".jsonl", ".parquet")) else PurePath(place).name
    return named[0] if named else re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40]
