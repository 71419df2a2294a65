"""Tokens of all ranks in the order of one process."""

from __future__ import annotations

import pytest
import torch

from llm.distributed import global_tokens
from llm.distributed.global_tokens import GlobalTokens

# sequences 0 and 2 are of rank 0, 1 and 3 of rank 1; sequence 3 has no token
OWN = [
    {"sequence": [0, 0, 1], "position": [0, 1, 0], "global_row": [0, 2]},
    {"sequence": [0, 0], "position": [0, 1], "global_row": [1, 3]},
]
VALUES = [[0.0, 1.0, 20.0], [10.0, 11.0]]  # ten times the sequence and the position


def of(rank: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(x) for x in OWN[rank].values())


def test_in_one_process_nothing_is_moved():
    tokens, x = GlobalTokens(*of(0)), torch.tensor(VALUES[0])
    assert tokens.n_sequences == 2 and tokens.sequence.tolist() == [0, 0, 2]
    assert tokens.all_gather(x) is x and tokens.local(x) is x


@pytest.mark.parametrize("rank", [0, 1])
def test_on_two_ranks_tokens_stand_by_sequence_and_position_and_each_finds_its_own(
    monkeypatch, rank
):
    """The other rank's part is given by hand, as the collectives would give it."""
    keys = [torch.tensor([0, 1, 2 << 32]), torch.tensor([1 << 32, (1 << 32) + 1])]
    parts = {2: [2, 2], 3: [3, 2]}  # sequences, then tokens, of the two ranks
    gathered = iter([[2, 2], [3, 2]])
    monkeypatch.setattr(global_tokens, "world_size", lambda: 2)
    monkeypatch.setattr(global_tokens, "rank", lambda: rank)
    monkeypatch.setattr(global_tokens, "all_gather_object", lambda x: next(gathered))

    def all_gather(x: torch.Tensor) -> torch.Tensor:
        assert len(x) in parts
        both = keys if x.dtype == torch.int64 else [torch.tensor(v) for v in VALUES]
        assert torch.equal(x, both[rank])
        return torch.cat(both)

    monkeypatch.setattr(global_tokens, "all_gather", all_gather)
    tokens = GlobalTokens(*of(rank))
    assert tokens.n_sequences == 4 and tokens.sequence.tolist() == [0, 0, 1, 1, 2]
    whole = tokens.all_gather(torch.tensor(VALUES[rank]))
    assert whole.tolist() == [0.0, 1.0, 10.0, 11.0, 20.0]
    assert tokens.local(whole).tolist() == VALUES[rank]
