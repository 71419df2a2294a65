"""Every section is frozen, has a default for each setting, and starts sound."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

from llm.settings import sections
from llm.settings.schema import Settings


def members(cls: type) -> Iterator[type]:
    yield cls
    for hint in sections.settings_of(cls).values():
        for member in sections.classes_of(hint):
            yield from members(member)


CLASSES = set(members(Settings))


def test_no_section_can_be_changed_in_place():
    assert len(CLASSES) > 25
    parameters: dict[type, Any] = {cls: vars(cls)["__dataclass_params__"] for cls in CLASSES}
    assert {cls for cls, made in parameters.items() if not made.frozen} == set()


def test_every_setting_has_a_default_and_every_type_is_its_own():
    for cls in CLASSES:
        cls()
        names = get_args(sections.settings_of(cls).get("type"))
        assert not names or {f.name: f.default for f in dataclasses.fields(cls)}["type"] in names
