"""`~` in paths: one rule for every path among settings and flags.

A shell expands `~` only where it starts a word, so neither in a file nor behind "=".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATHS = "run.folder pretrain.folder policy.path actor.path reward.function".split()
SOURCES = "task.source task.eval_source".split()
"""Lists of paths, each with a name (own=) or a preset (gsm8k:) before it."""
_IN_SOURCES = re.compile(
    r"(?P<before>(?:^|,)\s*(?:\w+=)?\s*(?:\w+:)?\s*)(?P<home>~[^/,]*)", re.ASCII
)


def expanded(text: str) -> str:
    """A path with the home folder in place of a `~` or `~name` that starts it."""
    return os.path.expanduser(text)


def path_of(text: str) -> Path:
    """The path that a flag gives; a `type` of argparse."""
    return Path(expanded(text))


def expanded_settings(flat: Mapping[str, Any]) -> dict[str, str]:
    """Those of {'section.name': value} in which a path starts with `~`, with it in full."""
    new = {key: expanded(flat[key]) for key in PATHS if key in flat}
    for key in SOURCES:
        if key in flat:
            new[key] = _IN_SOURCES.sub(lambda m: m["before"] + expanded(m["home"]), flat[key])
    return {key: value for key, value in new.items() if value != flat[key]}
