"""Warm-ups that whole runs share; a random policy and actor, and a batch of the actor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_context import PROBLEMS, random_pair, samples


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="module")
def pair():
    return random_pair()


ADVANTAGE = torch.linspace(-1.5, 2.0, 20)


@pytest.fixture(scope="module")
def padded(pair):
    """The samples of `scene`."""
    return samples(pair[1], problems=PROBLEMS * 4, seed=3)


@pytest.fixture(scope="module")
def scene(padded):
    """A batch with advantages of both signs, and its coins (b, t)."""
    batch = dataclasses.replace(padded.flat(), advantage=ADVANTAGE)
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return batch, coin
