"""Random streams: one for each purpose and step, so that nothing depends on a resume."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """A random stream of its own for each purpose and step: nothing to save, nothing shared.

    Whatever the batch layout or the moment of a resume, the same (seed, purpose, index) gives the
    same numbers.
    """
    return np.random.default_rng((seed, zlib.crc32(purpose.encode()), index))
