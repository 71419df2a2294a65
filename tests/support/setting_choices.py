"""Every type of every section that has types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm.settings.sections import classes_of, settings_of, types_of


def choices(
    hint: Any, place: str = "", types: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str, type, dict[str, str]]]:
    """(section, type, its dataclass, the types to choose for it, its own and those around it)."""
    names = types_of(hint) or dict.fromkeys([""], classes_of(hint)[0])
    for name, cls in names.items():
        chosen = dict(types or {}) | ({f"{place}.type": name} if name else {})
        if name:
            yield place, name, cls, chosen
        for key, inside in settings_of(cls).items():
            if classes_of(inside):
                yield from choices(inside, f"{place}.{key}".lstrip("."), chosen)
