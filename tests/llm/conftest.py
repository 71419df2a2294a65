"""Warm-ups that whole runs share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("warm")
