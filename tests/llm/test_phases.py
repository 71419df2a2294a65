"""An exception says in which phase it was raised; memory that ran out is known as such."""

from __future__ import annotations

import pytest
import torch

from llm.phases import during, is_out_of_memory, phase_of


def test_the_innermost_phase_counts_and_other_notes_do_not():
    @during("in the step")
    def failing() -> None:
        with during("in the update"):
            e = ValueError("no")
            e.add_note("another note")
            raise e

    with pytest.raises(ValueError, match="no") as caught:
        failing()
    assert phase_of(caught.value) == "in the update"
    assert phase_of(ValueError()) == ""


@pytest.mark.parametrize(
    ("e", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("on the device"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),  # a sentence of ours
    ],
)
def test_memory_that_ran_out_is_known(e, memory):
    assert is_out_of_memory(e) is memory
