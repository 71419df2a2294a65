"""Contract: verl's policy-loss signature with the ratio in the place of log q; agg_loss divides."""

from __future__ import annotations

import json
import sys
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


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"old_log_prob": None}, "verl gave no old_log_prob"),
        ({"log_prob": None}, "verl gave no log_prob"),
        ({"response_mask": None}, "verl gave no response_mask"),
        ({"config": None}, "verl gave no config of the actor"),
        ({"config": types.SimpleNamespace()}, "no config.clip_ratio_low and no clip_ratio"),
        (
            {"config": types.SimpleNamespace(clip_ratio=0.2)},
            "verl gave no config.global_batch_info",
        ),
        ({"rollout_is_weights": torch.ones(3, 1)}, "Set rollout_is=token"),
        ({"advantages": None}, "advantage: wanted a torch tensor"),
        ({"advantages": torch.full((3, 4), torch.inf)}, "advantage: NaN or inf"),
        ({"advantages": torch.ones(2, 4)}, "advantage: wanted"),
        ({"response_mask": torch.full((3, 4), 0.5)}, "neither 0 nor 1"),
        ({"response_mask": torch.ones(3, 5)}, "mask: wanted"),
    ],
)
def test_what_verl_does_not_hand_over_is_named(change, said):
    with pytest.raises((PeerError, TypeError, ValueError), match=said):
        verl.policy_loss(**keywords(peer_batch(0.0), **change))


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


@pytest.mark.verl
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("target", ["ref", "new"])
def test_the_real_verl_computes_the_weighted_loss_on_its_own_batch(mode, target, monkeypatch):
    """verl 0.9.1: its correction makes the ratios, its ppo_loss takes unpadded model outputs, pads,
    looks the loss up by its name, and its agg_loss divides."""
    from tensordict import TensorDict
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
    from verl.workers.config import ActorConfig, PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss

    # The module was imported, and registered, by verl itself.
    verl_jackpot = sys.modules["jackpot.adapters.verl"]
    assert get_policy_loss_fn("jackpot") is verl_jackpot.policy_loss
    monkeypatch.setenv("JACKPOT_OPTIONS", json.dumps({"lam": 0.9, "c1": 1.3, "target": target}))
    monkeypatch.setattr(verl_jackpot, "_hook", None)

    batch = peer_batch(0.0)
    ratio, _ = compute_rollout_correction_weights(
        batch.ref - batch.inf, batch.mask.long(), rollout_is="token", rollout_is_threshold=1e9
    )
    lengths = batch.mask.sum(-1).tolist()
    # Unpadded, two prompt tokens each: a token's log-probability stands one place before it.
    rows = [
        torch.cat([torch.full((1,), -9.0), batch.new[i, :n], torch.full((1,), -9.0)])
        for i, n in enumerate(lengths)
    ]
    data = TensorDict(
        {
            "prompts": torch.zeros(3, 2, dtype=torch.long),
            "responses": torch.zeros(3, 4, dtype=torch.long),
            "attention_mask": torch.cat([torch.ones(3, 2), batch.mask.float()], 1).long(),
            "response_mask": batch.mask.long(),
            "old_log_probs": batch.ref,
            "advantages": batch.advantage,
            "rollout_is_weights": ratio,
        },
        batch_size=3,
    )
    for name, value in {"dp_size": 1, "batch_num_tokens": 20, "global_batch_size": 6}.items():
        data.set_non_tensor(name, value)
    config = ActorConfig(
        strategy="fsdp", rollout_n=4, ppo_micro_batch_size_per_gpu=4, loss_agg_mode=mode,
        clip_ratio=0.3, clip_ratio_low=0.1, clip_ratio_high=0.2,
        policy_loss=PolicyLossConfig(loss_mode="jackpot"),
    )  # fmt: skip
    loss, metrics = ppo_loss(config, {"log_probs": torch.cat(rows)}, data)

    weights = plain_weights(batch, 0.9, 1.3, target=target)
    if target == "new":
        for i, j in batch.mask.nonzero().tolist():
            weights[i][j] *= min(float((batch.ref - batch.new)[i, j].exp().detach()), 3.0)
    losses = plain_losses(batch, weights, (0.1, 0.2))
    each = [sum(row) / n for row, n in zip(losses, lengths, strict=True)]
    want = total(losses) / 20 if mode == "token-mean" else sum(each) / 6
    assert float(loss.detach()) == pytest.approx(want, rel=1e-4)
    loss.backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad).all())
    assert batch.new.grad.any()
    assert "jackpot/hook_calls" in metrics
