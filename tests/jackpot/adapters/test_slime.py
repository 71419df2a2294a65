"""Contract: slime's `tis_func(**tis_kwargs)` and the reduction that follows it."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from peer_batches import peer_batch, plain_losses, plain_weights, total

from jackpot.adapters.hook import PeerError
from jackpot.adapters.slime import hook_of, tis_function


def rows(x, mask):
    return [row[m] for row, m in zip(x, mask, strict=True)]


def call(args, **change):
    """As slime calls it: keywords, lists of (length,) tensors, a flat loss with gradient."""
    batch = peer_batch()
    r = (batch.new - batch.ref).exp()
    loss = -torch.minimum(r * batch.advantage, r.clamp(0.8, 1.2) * batch.advantage)
    keywords = {
        "pg_loss": torch.cat(rows(loss, batch.mask)),
        "train_log_probs": rows(batch.ref, batch.mask),
        "rollout_log_probs": rows(batch.inf, batch.mask),
        "loss_masks": [torch.ones(int(m.sum()), dtype=torch.int) for m in batch.mask],
        "total_lengths": [9, 6, 8],
        "response_lengths": [4, 1, 3],
    }
    return batch, tis_function(args, **(keywords | change))


def test_the_loss_of_each_token_is_weighted_and_slime_divides():
    args = types.SimpleNamespace(jackpot={"lam": 0.9})
    batch, (loss, masks, metrics) = call(args)
    want = plain_losses(batch, plain_weights(batch, 0.9), (0.2, 0.2))
    # slime sums over the masks and divides by the proposed tokens of the rollout
    total_of_masks = sum(int(m.sum()) for m in masks)
    assert total_of_masks == 8
    assert float(loss.detach().sum() / 8) == pytest.approx(total(want) / 8, rel=1e-5)
    loss.sum().backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad[batch.mask]).all())
    assert all(x.shape == loss.shape for x in metrics.values())
    assert float(metrics["jackpot_hook_calls"].mean()) == hook_of(args).calls == 1


def test_a_rejected_token_rejects_what_follows_it_in_its_own_completion_alone():
    """scope = prefix: the first token of each completion has nothing before it."""
    batch, (loss, _, _) = call(types.SimpleNamespace(jackpot={"scope": "prefix", "z": "none"}))
    _, (alone, _, _) = call(types.SimpleNamespace(jackpot={"scope": "token", "z": "none"}))
    first = torch.tensor([0, 4, 5])
    assert torch.allclose(loss[first], alone[first])
    assert not torch.allclose(loss, alone)
    assert bool((batch.ref < batch.inf)[0, :3].any())  # so that something is rejected before


def test_masked_tokens_have_no_weight_whatever_their_loss():
    args = types.SimpleNamespace(jackpot={})
    masks = [torch.tensor([1, 1, 0, 1]), torch.ones(1), torch.zeros(3)]
    flat = torch.tensor([1.0, 1, torch.nan, 1, 1, torch.inf, 1, 1])
    _, (loss, out, _) = call(args, loss_masks=masks, pg_loss=flat)
    assert bool(torch.isfinite(loss).all()) and not loss[[2, 5, 6, 7]].any() and loss[0] > 0
    assert out is masks


def test_a_target_that_slime_does_not_hand_over_is_refused():
    with pytest.raises(ValueError, match="slime hands over one log-probability of the policy"):
        call(types.SimpleNamespace(jackpot={"target": "new"}))


def test_lengths_that_context_parallelism_splits_are_refused():
    with pytest.raises(PeerError, match="context-parallel-size 1"):
        call(types.SimpleNamespace(jackpot={}), loss_masks=[torch.ones(9)] * 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rollout_log_probs": None}, "slime gave no rollout_log_probs. Run it with --use-tis"),
        ({"train_log_probs": None}, "slime gave no train_log_probs"),
        ({"loss_masks": None}, "slime gave no loss_masks"),
        ({"pg_loss": None}, "slime gave no pg_loss"),
        ({"rollout_log_probs": [None] * 3}, r"slime gave no rollout_log_probs\[0\]"),
        ({"rollout_log_probs": [[-1.0] * 4] * 3}, r"rollout_log_probs\[0\]: wanted a tensor"),
        ({"train_log_probs": [torch.zeros(())] * 3}, r"train_log_probs\[0\]: wanted \(length,\)"),
        ({"rollout_log_probs": []}, "lengths of log-probabilities"),
        ({"pg_loss": torch.zeros(2, 4)}, r"of the loss \(2, 4\) differ"),
    ],
)
def test_what_slime_does_not_hand_over_is_named(change, said):
    with pytest.raises(PeerError, match=said):
        call(types.SimpleNamespace(jackpot={}), **change)


def test_values_that_would_train_nan_or_count_a_token_in_part_are_refused():
    flat = torch.ones(8)
    flat[1] = torch.inf
    with pytest.raises(ValueError, match="slime: pg_loss: NaN or inf at 1 of 8"):
        call(types.SimpleNamespace(jackpot={}), pg_loss=flat)
    masks = [torch.full((n,), 0.5) for n in (4, 1, 3)]
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        call(types.SimpleNamespace(jackpot={}), loss_masks=masks)


def test_options_that_are_no_table_are_refused():
    with pytest.raises(TypeError, match="slime: jackpot's options are a table"):
        call(types.SimpleNamespace(jackpot="lam"))


def test_centered_scores_are_refused():
    """slime would add its term after the weights, with a correction of its own."""
    with pytest.raises(PeerError, match="use_score_centering"):
        call(types.SimpleNamespace(jackpot={}, use_score_centering=True))
    call(types.SimpleNamespace(jackpot={}, use_score_centering=False))


def test_a_microbatch_without_completions_has_no_loss():
    empty: dict[str, Any] = {
        name: [] for name in ("train_log_probs", "rollout_log_probs", "loss_masks")
    }
    _, (loss, _, _) = call(types.SimpleNamespace(jackpot={}), pg_loss=torch.zeros(0), **empty)
    assert loss.shape == (0,)
