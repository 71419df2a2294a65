"""One verifier process, since math-verify takes seconds to load."""

from __future__ import annotations

import pytest

from llm.rewards.math_verifier import Verifier


@pytest.fixture(scope="session")
def verifier():
    v = Verifier(1, 5.0)
    yield v
    v.close()
