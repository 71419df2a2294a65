"""Kept completions and histograms: every number belongs to its token, and JSON can hold it."""

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jackpot.torch import correction
from llm import settings
from llm.models import loading
from llm.rollout.sampling import sample
from llm.tasks.problem import Problem
from llm.tokenizers import character
from llm.training import sample_records

TOKENIZER = character.CharTokenizer()


@pytest.fixture(scope="module")
def padded():
    """6 prompts, 4 completions each, of different lengths."""
    model = loading.build(settings.ModelConfig(layers=1, width=32), seed=0)
    found = sample(
        model,
        TOKENIZER,
        [Problem(f"{i}{i}=", str(i)) for i in range(6)],
        np.random.default_rng(1),
        max_new_tokens=40,
        temperature=1.0,
        top_k=5,
        group=4,
    )
    assert len(set(found.is_completion.sum(dim=1).tolist())) > 3
    return found


@pytest.fixture(scope="module")
def batch(padded):
    return padded.flat()


def numbered(batch):
    """Weights whose every entry says which token of the flat list it is."""
    n = torch.arange(int(batch.is_completion.sum()), dtype=torch.float32)
    return SimpleNamespace(
        weight=n, log_ratio=-n, accept_prob=n / 10_000, accepted=n % 2, z=n, capped=n, kappa=1.0
    )


def test_each_number_stands_at_its_own_token(padded, batch):
    """Against a plain walk over the mask."""
    rows = sample_records.token_rows(3, batch, TOKENIZER, numbered(batch), kept=24)
    flat = 0
    for b, row in enumerate(rows):
        ids: list[int] = []
        for t in range(padded.is_completion.shape[1]):
            if padded.is_completion[b, t]:
                i = len(ids)
                assert row["weight"][i] == pytest.approx(flat, rel=1e-4)
                assert row["log_ratio"][i] == pytest.approx(-flat, rel=1e-4)
                assert row["accepted"][i] == flat % 2
                assert row["logp_inf"][i] == pytest.approx(float(padded.logp_inf[b, t]), rel=1e-4)
                ids.append(int(padded.ids[b, t - padded.is_completion.shape[1]]))
                flat += 1
        assert row["tokens"] == TOKENIZER.pieces(ids)
        assert row["text"] == TOKENIZER.decode(ids)
        assert (row["prompt"], row["answer"]) == (f"{b // 4}{b // 4}=", str(b // 4))
        assert row["step"] == 3


def test_kept_completions_are_spread_over_the_prompts(batch):
    rows = sample_records.token_rows(0, batch, TOKENIZER, numbered(batch), kept=6)
    assert [r["prompt"] for r in rows] == [f"{i}{i}=" for i in range(6)]
    assert len(sample_records.token_rows(0, batch, TOKENIZER, numbered(batch), kept=99)) == 24
    assert sample_records.token_rows(0, batch, TOKENIZER, numbered(batch), kept=0) == []


def test_a_part_of_a_batch_keeps_the_numbers_of_its_sequences(batch):
    part = batch.rows(torch.tensor([20, 3]))
    rows = sample_records.token_rows(0, part, TOKENIZER, numbered(part), kept=2)
    assert [r["sequence"] for r in rows] == [20, 3]


def test_weights_of_another_batch_are_refused(batch):
    part = batch.rows(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="do not belong to a batch"):
        sample_records.token_rows(0, part, TOKENIZER, numbered(batch), kept=2)


def test_nan_and_inf_never_reach_the_json(batch):
    weights = numbered(batch)
    for bad in (math.nan, math.inf, -math.inf):
        weights.log_ratio = torch.full_like(weights.log_ratio, bad)
        weights.weight = torch.full_like(weights.weight, bad)
        row = sample_records.token_rows(0, batch, TOKENIZER, weights, kept=1)[0]
        assert json.loads(json.dumps(row, allow_nan=False))["log_ratio"][0] is None
        json.dumps(sample_records.histogram_row(0, [weights]), allow_nan=False)


def test_histograms_count_every_token_once_in_its_bin():
    """Against one comparison per token and bin; two updates of a step are pooled."""
    rng = np.random.default_rng(0)
    parts = [
        SimpleNamespace(
            log_ratio=torch.tensor(rng.normal(0, 3, n) * rng.random(n) ** 4),
            weight=torch.tensor(np.exp(rng.normal(0, 2, n)) * (rng.random(n) < 0.7)),
            accept_prob=torch.tensor(rng.random(n)),
        )
        for n in (300, 200)
    ]
    row = sample_records.histogram_row(9, parts)
    assert (row["step"], row["tokens"]) == (9, 500)
    for name in ("log_ratio", "weight", "accept_prob"):
        values = torch.cat([getattr(p, name) for p in parts]).tolist()
        edges = [-math.inf, *row[name]["edges"], math.inf]
        if name == "weight":
            assert row[name]["zeros"] == sum(v == 0 for v in values)
            values = [v for v in values if v != 0]
        counts = [sum(low <= v < high for v in values) for low, high in pairwise(edges)]
        assert row[name]["counts"] == counts
        assert sum(counts) == len(values)


def test_equal_models_fall_into_the_middle_bin():
    """p = q up to rounding: log ratios around 0, weights around 1, neither split over two bins."""
    noise = torch.tensor([-1e-6, 0.0, 1e-6])
    part = SimpleNamespace(log_ratio=noise, weight=noise.exp(), accept_prob=torch.ones(3))
    row = sample_records.histogram_row(0, [part])
    for name in ("log_ratio", "weight", "accept_prob"):
        assert sorted(row[name]["counts"])[-1] == 3


def test_real_weights_are_taken_as_they_are(batch):
    """The trainer's own TokenWeights: rejected tokens have weight 0 and are counted as such."""
    n = int(batch.is_completion.sum())
    logp = batch.logp_inf
    target = logp + torch.tensor(np.random.default_rng(1).normal(0, 1, n), dtype=torch.float32)
    target = target.clamp(max=0)
    topk = batch.topk_logp_inf
    found = correction.token_weights(
        correction.CorrectionInputs(
            logp_inf=logp,
            logp_ref=target,
            logp_new=target,
            topk_logp_inf=topk,
            topk_logp_target=topk,
            in_topk=torch.zeros(n, dtype=torch.bool),
            uniform=torch.tensor(np.random.default_rng(0).random(n)),
            sequence=batch.sequence,
        ),
        correction.CorrectionState(),
        z="batch",
    )
    row = sample_records.histogram_row(0, [found])
    assert row["weight"]["zeros"] == int((found.accepted == 0).sum()) > 0
    for kept in sample_records.token_rows(0, batch, TOKENIZER, found, kept=24):
        assert [w == 0 for w in kept["weight"]] == [a == 0 for a in kept["accepted"]]
