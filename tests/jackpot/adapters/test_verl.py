"""Contract: verl's policy-loss signature with the ratio in the place of log q; agg_loss divides."""

from __future__ import annotations

import types

import pytest
import torch
from peer_batches import peer_batch, plain_losses, plain_weights, stub_modules, total

from jackpot.adapters import verl
from jackpot.adapters.hook import PeerError

CONFIG = types.SimpleNamespace(
    clip_ratio=0.3, clip_ratio_low=0.1, clip_ratio_high=None,
    global_batch_info={"dp_size": 2, "batch_num_tokens": 20},
)  # fmt: skip


def agg_loss(loss_mat, loss_mask, loss_agg_mode, dp_size=1, batch_num_tokens=None):
    assert loss_agg_mode == "token-mean"
    return (loss_mat * loss_mask).sum() / batch_num_tokens * dp_size


@pytest.fixture
def peer(monkeypatch):
    stub_modules(monkeypatch, verl__trainer__ppo__core_algos={"agg_loss": agg_loss})
    monkeypatch.setattr(verl, "_hook", None)


def keywords(batch, **change):
    """As verl's ppo_loss passes them; its ratios are 0 in the padding."""
    ratio = (batch.ref - batch.inf).exp().masked_fill(~batch.mask, 0.0)
    return {
        "old_log_prob": batch.ref,
        "log_prob": batch.new,
        "advantages": batch.advantage,
        "response_mask": batch.mask.long(),
        "loss_agg_mode": "token-mean",
        "config": CONFIG,
        "rollout_is_weights": ratio,
    } | change


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize("fill", [0.0, -1.0])
def test_the_loss_is_the_weighted_one_over_verls_denominator(fill):
    batch = peer_batch(fill)
    loss, metrics = verl.policy_loss(**keywords(batch))
    want = total(plain_losses(batch, plain_weights(batch), (0.1, 0.3))) / 20 * 2
    assert float(loss.detach()) == pytest.approx(want, rel=1e-4)
    loss.backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad).all())
    assert metrics["jackpot/hook_calls"] == 1 and metrics["jackpot/ratio_clamped_by_verl"] == 0


@pytest.mark.usefixtures("peer")
def test_ratios_that_verl_clamped_are_counted():
    batch = peer_batch(0.0)
    ratio = (batch.ref - batch.inf).exp().masked_fill(~batch.mask, 0.0)
    ratio[0, 0] = torch.tensor(-20.0).exp()  # the largest that verl passes the other way
    _, metrics = verl.policy_loss(**keywords(batch, rollout_is_weights=ratio))
    # log p_inf = log p_ref + 20 is no log-probability: it counts as 0, so the ratio is p_ref.
    assert metrics["jackpot/ratio_clamped_by_verl"] == 0
    assert metrics["jackpot/ratio_mean"] > 0


@pytest.mark.usefixtures("peer")
def test_ratios_that_say_nothing_of_the_sampler_are_refused():
    batch = peer_batch(0.0)
    with pytest.raises(PeerError, match="no rollout_is_weights"):
        verl.policy_loss(**keywords(batch, rollout_is_weights=None))
    for bad in (0.0, float("nan"), float("inf")):
        ratio = torch.ones(3, 4)
        ratio[0, 1] = bad
        with pytest.raises(PeerError, match="0 or not finite"):
            verl.policy_loss(**keywords(batch, rollout_is_weights=ratio))


def test_it_registers_itself_with_a_version_that_was_tested(monkeypatch):
    registered: dict[str, object] = {}

    def register_policy_loss(name):
        return lambda function: registered.setdefault(name, function)

    stub_modules(
        monkeypatch, verl__trainer__ppo__core_algos={"register_policy_loss": register_policy_loss}
    )
    with pytest.raises(PeerError, match="not installed"):
        verl.register()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.9.1")
    verl.register()
    assert registered == {"jackpot": verl.policy_loss}
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.10.0")
    with pytest.raises(PeerError, match="was not tested"):
        verl.register()
