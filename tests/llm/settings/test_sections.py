"""Sections of settings, on dataclasses that no run has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from llm.errors import ConfigError
from llm.settings import sections


@dataclass(frozen=True)
class Square:
    type: Literal["square"] = "square"
    side: float = 1.0


@dataclass(frozen=True)
class Disc:
    radius: float = 2.0
    type: Literal["disc"] = "disc"


@dataclass(frozen=True)
class Drawing:
    shape: Square | Disc = field(default_factory=Square)
    name: str = "x"


def test_a_section_is_flat_with_its_type_first():
    drawn = Drawing(Disc(radius=3.0))
    assert list(sections.flatten(drawn).items()) == [
        ("shape.type", "disc"),
        ("shape.radius", 3.0),
        ("name", "x"),
    ]
    assert sections.nested_table(sections.flatten(drawn)) == {
        "shape": {"type": "disc", "radius": 3.0},
        "name": "x",
    }
    assert sections.flat_table({"shape": {"type": "disc"}, "name": "y"}) == {
        "shape.type": "disc",
        "name": "y",
    }


def test_another_type_replaces_the_section_and_the_same_type_keeps_the_rest():
    drawn = sections.updated(Drawing(Square(side=5.0)), {"name": "z"})
    assert drawn == Drawing(Square(side=5.0), "z")
    assert sections.updated(drawn, {"shape": {"type": "disc"}}).shape == Disc()
    assert sections.updated(drawn, {"shape": {"type": "square"}}).shape == Square(side=5.0)


def test_a_setting_of_another_type_is_refused():
    with pytest.raises(ConfigError, match="radius"):
        sections.updated(Drawing(), {"shape": {"radius": 3.0}})
    with pytest.raises(ConfigError, match="circle"):
        sections.updated(Drawing(), {"shape": {"type": "circle"}})
