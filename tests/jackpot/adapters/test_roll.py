"""Contract: ROLL's ActorWorker.loss_func(data, output_tensor); its agg_loss divides."""

from __future__ import annotations

import importlib.metadata
import types
from typing import Any

import pytest
import torch
from peer_batches import peer_batch, plain_losses, plain_weights, stub_modules, total

from jackpot.adapters import roll
from jackpot.adapters.hook import PeerError


def agg_loss(loss_mat, loss_mask, loss_agg_mode, batch_num_tokens, global_valid_samples):
    """The denominators of ROLL's two usual modes, literally."""
    if loss_agg_mode == "token-mean":
        return loss_mat.sum() / batch_num_tokens
    rows = (loss_mat * loss_mask).sum(-1) / loss_mask.sum(-1)
    return rows.sum() / global_valid_samples


def compute_approx_kl(log_probs, log_probs_base, action_mask, kl_penalty):
    assert kl_penalty == "k3"
    return torch.where(action_mask.bool(), torch.ones_like(log_probs_base), 0.0)


@pytest.fixture
def peer(monkeypatch):
    class ActorWorker:
        """A base that is never asked for its own loss."""

    stub_modules(
        monkeypatch,
        roll__utils__functionals={"agg_loss": agg_loss, "compute_approx_kl": compute_approx_kl},
        roll__pipeline__rlvr__actor_worker={"ActorWorker": ActorWorker},
    )
    monkeypatch.delitem(vars(roll), "JackpotActorWorker", raising=False)


def worker_and_data(batch, mode="token-mean", **config: Any):
    own = types.SimpleNamespace(is_weight=types.SimpleNamespace(enabled=False))
    settings = {
        "use_pg_clip_range": True, "pg_clip_low": 0.1, "pg_clip_high": 0.2, "pg_clip": 9.0,
        "loss_agg_mode": mode, "use_kl_loss": False, "kl_loss_coef": 0.5,
        "dual_clip_loss": False, "entropy_loss_coef": 0, "train_infer_correction": own,
    }  # fmt: skip
    worker = roll.JackpotActorWorker()
    worker.pipeline_config = types.SimpleNamespace(**(settings | config))
    compute = types.SimpleNamespace(op_compute_log_probs=lambda **_: batch.new)
    worker.strategy = compute
    worker.get_old_log_probs_with_cache = lambda data, logp: batch.ref
    tensors = {
        "response_mask": torch.cat([torch.zeros(3, 1), batch.mask.float()], dim=1),
        "advantages": batch.advantage,
        "infer_logprobs": batch.inf,
        "ref_log_probs": batch.ref,
        "input_ids": torch.zeros(3, 5),
    }
    counts = {
        "batch_num_tokens": {"response_mask": 20},
        "global_valid_samples": {"response_mask": 6},
    }
    return worker, types.SimpleNamespace(batch=tensors, meta_info=counts)


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_rolls_own_denominators_divide_the_weighted_losses(mode):
    batch = peer_batch()
    worker, data = worker_and_data(batch, mode)
    loss, metrics = worker.loss_func(data, torch.zeros(1))
    losses = plain_losses(batch, plain_weights(batch), (0.1, 0.2))
    rows = [sum(row) / n for row, n in zip(losses, (4, 1, 3), strict=True)]
    want = total(losses) / 20 if mode == "token-mean" else sum(rows) / 6
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    loss.backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad).all())
    assert metrics["jackpot/hook_calls"] == 1
    # ROLL adds up over microbatches and processes what ends so, and averages other names.
    assert metrics["actor/pg_loss@sum"] == pytest.approx(want, rel=1e-5)


@pytest.mark.usefixtures("peer")
def test_without_a_range_pg_clip_is_the_bound_on_both_sides():
    batch = peer_batch()
    worker, data = worker_and_data(batch, use_pg_clip_range=False, pg_clip=0.05)
    loss, _ = worker.loss_func(data, torch.zeros(1))
    want = total(plain_losses(batch, plain_weights(batch), (0.05, 0.05))) / 20
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)


@pytest.mark.usefixtures("peer")
def test_completions_that_roll_leaves_out_are_left_out():
    """max_len_mask and difficulty_mask give final_response_mask and denominators of its own."""
    batch = peer_batch()
    worker, data = worker_and_data(batch)
    final = batch.mask.clone()
    final[2] = False
    data.batch["final_response_mask"] = final.float()
    data.meta_info["batch_num_tokens"]["final_response_mask"] = 13
    data.meta_info["global_valid_samples"]["final_response_mask"] = 5
    loss, _ = worker.loss_func(data, torch.zeros(1))
    kept = batch._replace(mask=final)
    want = total(plain_losses(kept, plain_weights(kept), (0.1, 0.2))) / 13
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    loss.backward()
    assert batch.new.grad is not None and not batch.new.grad[2].any()


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize("name", ["batch_num_tokens", "global_valid_samples"])
def test_completions_left_out_that_roll_did_not_count_are_refused(name):
    """The denominator of the whole response_mask would be another one."""
    batch = peer_batch()
    worker, data = worker_and_data(batch)
    data.batch["final_response_mask"] = batch.mask.float()
    for counts in data.meta_info.values():
        counts["final_response_mask"] = 5
    del data.meta_info[name]["final_response_mask"]
    with pytest.raises(PeerError, match=f"{name} of response_mask, and not of final_response_mask"):
        worker.loss_func(data, torch.zeros(1))
    del data.meta_info[name]
    with pytest.raises(PeerError, match=f"ROLL gave no {name} in meta_info"):
        worker.loss_func(data, torch.zeros(1))


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("input_ids", "ROLL gave no input_ids in its batch"),
        ("response_mask", "ROLL gave no response_mask in its batch"),
        ("advantages", "ROLL gave no advantages in its batch"),
        ("infer_logprobs", "ROLL gave no log-probabilities of the sampler"),
        ("ref_log_probs", "ROLL gave no ref_log_probs in its batch. use_kl_loss needs"),
    ],
)
def test_what_roll_does_not_hand_over_is_named(name, said):
    worker, data = worker_and_data(peer_batch(), use_kl_loss=True)
    del data.batch[name]
    with pytest.raises(PeerError, match=said):
        worker.loss_func(data, torch.zeros(1))


@pytest.mark.usefixtures("peer")
def test_other_versions_than_the_one_read_are_refused(monkeypatch):
    versions = {"roll": "0.3.0"}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    worker, data = worker_and_data(peer_batch())
    worker.loss_func(data, torch.zeros(1))
    versions["roll"] = "0.2.9"
    worker, data = worker_and_data(peer_batch())
    with pytest.raises(PeerError, match=r"roll 0\.2\.9 was not tested"):
        worker.loss_func(data, torch.zeros(1))


@pytest.mark.usefixtures("peer")
def test_rolls_kl_is_added():
    worker, data = worker_and_data(peer_batch())
    plain, _ = worker.loss_func(data, torch.zeros(1))
    worker, data = worker_and_data(peer_batch(), use_kl_loss=True)
    with_kl, _ = worker.loss_func(data, torch.zeros(1))
    assert float((with_kl - plain).detach()) == pytest.approx(0.5 * 8 / 20, rel=1e-4)


@pytest.mark.usefixtures("peer")
def test_settings_that_would_count_twice_or_not_at_all_are_refused():
    own = types.SimpleNamespace(is_weight=types.SimpleNamespace(enabled=True))
    off, on = types.SimpleNamespace(enabled=False), types.SimpleNamespace(enabled=True)
    masks = types.SimpleNamespace(is_weight=off, filters=[off, on])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"train_infer_correction": masks}, "filters"),
        ({"train_infer_correction": own}, "is_weight"),
        ({"dual_clip_loss": True}, "dual_clip_loss"),
        ({"entropy_loss_coef": 0.1}, "entropy_loss_coef"),
        ({"importance_sampling": "seq"}, "importance_sampling"),
        ({"difficulty_loss_weight": True}, "difficulty_loss_weight"),
        ({"length_loss_weight": True}, "length_loss_weight"),
        ({"rl_loss_coef": 0.5}, "rl_loss_coef"),
    ]
    for config, said in cases:
        worker, data = worker_and_data(peer_batch(), **config)
        with pytest.raises(PeerError, match=said):
            worker.loss_func(data, torch.zeros(1))


def test_without_roll_its_worker_cannot_be_made(monkeypatch):
    monkeypatch.delitem(vars(roll), "JackpotActorWorker", raising=False)
    with pytest.raises(PeerError, match="ActorWorker could not be imported"):
        _ = roll.JackpotActorWorker
