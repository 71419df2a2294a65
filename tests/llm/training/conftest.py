"""A random policy and actor, and a batch of the actor."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_context import PROBLEMS, random_pair, rollout


@pytest.fixture(scope="module")
def pair():
    return random_pair()


@pytest.fixture(scope="module")
def scene(pair):
    """A batch with advantages of both signs, and its coins."""
    batch = rollout(pair[1], problems=PROBLEMS * 4, seed=3)
    advantage = torch.linspace(-1.5, 2.0, 20)
    batch = dataclasses.replace(batch, advantage=advantage)
    coin = torch.rand((20, 7), generator=torch.Generator().manual_seed(4))
    return batch, coin
