"""Values of type `X | None` in a test that needs the X."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def not_none(value: T | None) -> T:
    """`value`; None fails the test."""
    assert value is not None
    return value
