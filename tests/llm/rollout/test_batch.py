"""Samples become flat without their padding; parts of a batch are parts of all its fields."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from llm.rollout.batch import Batch, Samples, Verification, in_order, positions

LENGTHS = (3, 1, 0, 4)
PROMPTS = (2, 4, 1, 3)  # real tokens of each prompt, of 4
COMPLETIONS = [[101, 102, 103], [201], [], [401, 402, 403, 404]]
POISON = -7  # at every padded position, whatever the field
OF_TOKENS = (
    *("sequence", "position", "token_ids"),
    *("logp_inf", "topk_ids", "topk_logp_inf", "version"),
)


def samples() -> Samples:
    """Four sequences of 3, 1, 0 and 4 tokens, in which each value tells its sequence and place."""
    b, prompt, t = len(LENGTHS), 4, 5
    place = torch.arange(t)[None] + 1
    number = 100 * (torch.arange(b)[:, None] + 1) + place  # (b, t) 101, 102, ...
    real = place <= torch.tensor(LENGTHS)[:, None]
    prompt_real = torch.arange(prompt)[None] >= prompt - torch.tensor(PROMPTS)[:, None]
    prompt_ids = torch.where(prompt_real, 10 * torch.arange(1, b + 1)[:, None], POISON)
    topk_ids = number[..., None] + torch.tensor([0, 50])
    topk_ids[3, 1] += 1  # of this token alone the sampled id is not listed
    return Samples(
        ids=torch.cat([prompt_ids, number.where(real, POISON)], dim=1),
        is_real=torch.cat([prompt_real, real], dim=1),
        is_completion=real,
        logp_inf=(-number / 100).where(real, float("nan")),
        topk_ids=topk_ids.where(real[..., None], POISON),
        topk_logp_inf=(-number[..., None] / torch.tensor([100, 50])).where(
            real[..., None], float("nan")
        ),
        index=torch.tensor([8, 9, 10, 11]),
        finished=torch.tensor([True, False, True, False]),
        version=(10 * number).where(real, POISON),
        prompts=["p0", "p1", "p2", "p3"],
        answers=["a0", "a1", "a2", "a3"],
        extras=["", '{"level": 1}', "", '{"level": 3}'],
        verification=Verification(
            *(number, topk_ids, number + 1, number + 2, number + 3, number + 4, number + 5),
            *(real, real),
        ),
    )


@pytest.fixture
def batch() -> Batch:
    flat = samples().flat()
    reward, advantage = torch.tensor([1.0, 0.0, 0.5, 0.25]), torch.tensor([0.1, -0.2, 0.3, -0.4])
    return dataclasses.replace(flat, reward=reward, advantage=advantage)


def same(a: Batch, b: Batch) -> bool:
    """Every field, bit for bit and of the same type."""

    def equal(x, y) -> bool:
        if isinstance(x, torch.Tensor):
            return x.dtype == y.dtype and torch.equal(x, y)
        if isinstance(x, Verification):
            return all(map(equal, x, y))
        return x == y

    return all(equal(x, vars(b)[name]) for name, x in vars(a).items())


def test_flat_holds_the_sampled_tokens_by_sequence_then_position_and_no_padding():
    padded = samples()
    flat = padded.flat()
    tokens = [(row, place) for row, n in enumerate(LENGTHS) for place in range(n)]
    ids = [token for completion in COMPLETIONS for token in completion]
    assert list(zip(flat.sequence.tolist(), flat.position.tolist(), strict=True)) == tokens
    assert flat.token_ids.tolist() == ids
    assert flat.logp_inf.tolist() == pytest.approx([-x / 100 for x in ids])
    assert flat.topk_ids.tolist() == [[x + (x == 402), x + 50 + (x == 402)] for x in ids]
    wanted = torch.tensor(ids)[:, None] / torch.tensor([-100, -50])
    assert torch.allclose(flat.topk_logp_inf, wanted)
    assert flat.version.tolist() == [10 * x for x in ids]
    for name in OF_TOKENS:
        values = getattr(flat, name)
        assert len(values) == 8 and bool(torch.isfinite(values).all())
        assert not bool((values == POISON).any()), name
    for name in ("ids", "is_real", "is_completion", "index", "finished", "prompts", "answers"):
        assert getattr(flat, name) is getattr(padded, name)
    assert flat.reward.tolist() == flat.advantage.tolist() == [0.0] * 4
    assert flat.reward is not flat.advantage


def test_what_stands_at_padding_changes_nothing():
    padded = samples()
    real = padded.is_completion
    other = dataclasses.replace(
        padded,
        logp_inf=padded.logp_inf.where(real, 3.0),
        topk_ids=padded.topk_ids.where(real[..., None], 99),
        topk_logp_inf=padded.topk_logp_inf.where(real[..., None], 3.0),
        version=padded.version.where(real, 99),
    )
    assert same(padded.flat(), other.flat())


def test_lengths_completions_membership_and_advantage_of_each_token(batch):
    assert batch.lengths.tolist() == list(LENGTHS)
    assert batch.completions() == COMPLETIONS
    assert batch.in_topk.tolist() == [True] * 5 + [False] + [True] * 2
    by_hand = [0.1] * 3 + [-0.2] + [-0.4] * 4
    assert batch.token_advantage.tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("rows", [[3, 0], [1], [2], [0, 1, 2, 3], [2, 3, 2, 0], []])
def test_token_index_gives_the_places_sequence_by_sequence(batch, rows):
    """Sequences may stand in any order, and more than once."""
    start = [0, 3, 4, 4]
    wanted = [start[row] + i for row in rows for i in range(LENGTHS[row])]
    found = batch.token_index(torch.tensor(rows, dtype=torch.int64))
    assert found.tolist() == wanted and found.dtype == torch.int64


def _chosen(x: Any, rows: torch.Tensor) -> Any:
    return x.at(rows) if isinstance(x, Verification) else x[rows]


@pytest.mark.parametrize("rows", [[3, 0], [1], [2, 1], [0, 1, 2, 3], [3, 2, 1, 0]])
def test_rows_are_those_of_the_samples_in_that_order(batch, rows):
    """As if these sequences alone had been sampled: all fields, renumbered from 0."""
    chosen, padded = torch.tensor(rows), samples()
    alone: dict[str, Any] = {
        name: [x[i] for i in rows] if isinstance(x, list) else _chosen(x, chosen)
        for name, x in vars(padded).items()
    }
    wanted = dataclasses.replace(
        Samples(**alone).flat(), reward=batch.reward[chosen], advantage=batch.advantage[chosen]
    )
    found = batch.rows(chosen)
    assert same(found, wanted)
    assert found.completions() == [COMPLETIONS[i] for i in rows]


def test_columns_drop_padding_on_both_sides_and_no_token(batch):
    part = batch.rows(torch.tensor([0, 2]))  # prompts of 2 and 1 tokens, completions of 3 and 0
    found = part.columns(left=2, width=3)
    assert found.ids.tolist() == [[10, 10, 101, 102, 103], [POISON, 30, *[POISON] * 3]]
    assert found.is_real.tolist() == [[True] * 5, [False, True, False, False, False]]
    assert found.is_completion.tolist() == [[True] * 3, [False] * 3]
    kept = {name: getattr(part, name) for name in ("ids", "is_real", "is_completion")}
    assert same(dataclasses.replace(found, **kept), part)
    assert found.completions() == part.completions()


def test_without_tokens_is_one_sequence_of_two_columns_of_which_nothing_counts(batch):
    """A rank that has no sequence of a minibatch takes part in the forward pass with it."""
    found = batch.without_tokens()
    assert found.ids.tolist() == [[10, 101]] and found.is_real.tolist() == [[True, True]]
    assert found.is_completion.tolist() == [[False]] and found.completions() == [[]]
    assert found.prompts == ["p0"] and found.answers == ["a0"] and found.index.tolist() == [8]
    assert found.reward.tolist() == [1.0] and found.advantage.tolist() == [pytest.approx(0.1)]
    for name in OF_TOKENS:
        values, before = getattr(found, name), getattr(batch, name)
        assert values.shape == (0, *before.shape[1:]) and values.dtype == before.dtype
    assert found.in_topk.shape == found.token_advantage.shape == (0,)


def test_positions_count_from_the_first_real_token():
    real = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert positions(real)[0, 2:5].tolist() == [0, 1, 2]
    assert positions(real)[1, :4].tolist() == [0, 1, 2, 3]
    assert bool((positions(real) >= 0).all())


def test_values_of_parts_are_put_in_order():
    parts = [torch.tensor([[3, 30], [1, 10]]), torch.tensor([[0, 0], [2, 20]])]
    places = [torch.tensor([3, 1]), torch.tensor([0, 2])]
    assert in_order(parts, places).tolist() == [[0, 0], [1, 10], [2, 20], [3, 30]]
