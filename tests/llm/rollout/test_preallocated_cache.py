"""A cache with room holds what one without holds, and writes new tokens where it stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from llm.rollout.preallocated_cache import Move, PreallocatedLayer


def states(rows: int, f: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of width 3 and values of width 2."""
    return tuple(torch.randn(rows, 2, f, d, generator=rng) for d in (3, 2))  # type: ignore[return-value]


@pytest.mark.parametrize("columns", [1, 9, 40])
def test_it_holds_what_a_layer_without_room_holds(columns):
    """Too little room, then enough; rows that are repeated, chosen or cropped in between."""
    rng, steps = torch.Generator().manual_seed(0), (4, 1, 3, 1, 2)
    layers: tuple[Any, ...] = (DynamicLayer(), PreallocatedLayer(columns))
    between: list[Any] = [
        lambda layer: layer.batch_repeat_interleave(3),
        lambda layer: layer.batch_select_indices(torch.tensor([0, 2, 5])),
        lambda layer: layer.crop(-2),
        lambda layer: None,
        lambda layer: None,
    ]
    rows = 2
    for f, change in zip(steps, between, strict=True):
        new = states(rows, f, rng)
        for wanted, found in zip(*(layer.update(*new) for layer in layers), strict=True):
            assert torch.equal(wanted, found)
        for layer in layers:
            change(layer)
        rows = len(layers[0].keys)
        assert torch.equal(layers[0].values, layers[1].values)


def test_new_tokens_copy_nothing_that_is_held():
    rng, layer = torch.Generator().manual_seed(0), PreallocatedLayer(6)
    places = []
    for _ in range(6):
        keys, _ = layer.update(*states(2, 1, rng))
        places.append(keys.data_ptr())
    assert len(set(places)) == 1


def test_cuts_are_those_of_a_list_of_tokens_for_each_row():
    """A hundred rounds of reads and ragged cuts, in which rows leave and the room is used up."""
    layer: Any = PreallocatedLayer(12)
    rng, rows = torch.Generator().manual_seed(0), 9
    kept: list[list[torch.Tensor]] = [[] for _ in range(rows)]
    for _ in range(100):
        new = states(rows, 4, rng)
        layer.update(*new)
        for i in range(rows):
            kept[i] += list(new[0][i].unbind(dim=1))
        stay = torch.arange(rows)
        if rows > 3 and torch.rand(1, generator=rng) < 0.05:
            stay = stay[torch.arange(rows) != torch.randint(rows, (1,), generator=rng)]
        dropped = torch.randint(1, 5, (len(stay),), generator=rng)
        back, *more = dropped.unique().tolist()
        moves = [Move((dropped == n).nonzero()[:, 0], n - back) for n in more]
        kept = [kept[i][: len(kept[i]) - n] for i, n in zip(stay.tolist(), dropped, strict=True)]
        rows, width = len(stay), max(map(len, kept))
        layer.cut(stay, back, moves, width)
        assert layer.keys.shape[:3] == layer.values.shape[:3] == (rows, 2, width)
        for own, tokens in zip(layer.keys, kept, strict=True):
            for c, token in enumerate(reversed(tokens), start=1):
                assert torch.equal(own[:, -c], token)
    assert rows < 9 and width > 12


def test_a_layer_that_holds_nothing_is_not_cut():
    """It shares the keys of another, and never gets any."""
    layer = PreallocatedLayer(4)
    layer.cut(torch.arange(2), 1, [], 0)
    assert not layer.is_initialized
