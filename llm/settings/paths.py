"""`~` in paths: one rule for every path among settings and flags.

A shell expands `~` only where it starts a word, so neither in a file nor behind "=".
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.errors import ConfigError

PATHS = "run.folder pretrain.folder policy.path actor.path reward.function".split()
SOURCES = "task.source task.eval_source".split()
"""Lists of paths, each with a name (own=) or a preset (gsm8k:) before it."""
_IN_SOURCES = re.compile(
    r"(?P<before>(?:^|,)\s*(?:\w+=)?\s*(?:\w+:)?\s*)(?P<home>~[^/,]*)", re.ASCII
)


def expanded(text: str) -> str:
    """A path with the home folder in place of a `~` or `~name` that starts it.

    Raises:
        ConfigError: there is no such user, or no home folder.
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        user = path.partition("/")[0]
        raise ConfigError(
            f"{text}: {user} names no home folder here. Give the whole path (or ./{text} for a "
            "folder whose name starts so)"
        )
    return path


def path_of(text: str) -> Path:
    """The path that a flag gives; a `type` of argparse."""
    try:
        return Path(expanded(text))
    except ConfigError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def expanded_settings(flat: Mapping[str, Any]) -> dict[str, str]:
    """Those of {'section.name': value} in which a path starts with `~`, with it in full.

    Raises:
        ConfigError: as `expanded`, naming the setting.
    """
    new = {}
    for key in flat.keys() & {*PATHS, *SOURCES}:
        try:
            if key in PATHS:
                new[key] = expanded(flat[key])
            else:
                new[key] = _IN_SOURCES.sub(lambda m: m["before"] + expanded(m["home"]), flat[key])
        except ConfigError as e:
            raise ConfigError(f"--{key} {e}") from e
    return {key: value for key, value in new.items() if value != flat[key]}
