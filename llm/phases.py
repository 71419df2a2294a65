"""Where an exception came from, in words for a person; and whether memory ran out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_NOTE = "phase: "
_SAID = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


@contextlib.contextmanager
def during(phase: str) -> Iterator[None]:
    """What is raised in it says where that was ("in the update of step 3"); also a decorator."""
    try:
        yield
    except BaseException as e:
        e.add_note(_NOTE + phase)
        raise


def phase_of(e: BaseException) -> str:
    """The innermost phase that an exception was raised in; "" where none was named."""
    notes = (note for note in getattr(e, "__notes__", []) if note.startswith(_NOTE))
    return next(notes, "").removeprefix(_NOTE)


def is_out_of_memory(e: BaseException) -> bool:
    """Of the CPU or a GPU. torch raises its own exception for GPUs and a RuntimeError for CPUs."""
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError":
        return True
    return isinstance(e, RuntimeError) and any(text in str(e).lower() for text in _SAID)
