"""Contract: SkyRL's registry and policy-loss signature; it sums, advantages are divided before."""

from __future__ import annotations

import types

import pytest
import torch
from peer_batches import peer_batch, plain_losses, plain_weights, stub_modules, total

from jackpot.adapters import skyrl
from jackpot.adapters.hook import PeerError

CONFIG = types.SimpleNamespace(
    policy_loss_type="jackpot",
    eps_clip_low=0.1,
    eps_clip_high=0.3,
    off_policy_correction=types.SimpleNamespace(tis_ratio_type=None, sequence_mask_metric=None),
)


def test_the_loss_is_the_sum_over_tokens():
    batch, loss_of = peer_batch(), skyrl.policy_loss({"c1": 1.1})
    loss, metrics = loss_of(
        batch.new, batch.ref, batch.advantage, config=CONFIG, loss_mask=batch.mask.float(),
        rollout_logprobs=batch.inf,
    )  # fmt: skip
    want = total(plain_losses(batch, plain_weights(batch, c1=1.1), (0.1, 0.3)))
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    loss.backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad).all())
    assert metrics["jackpot/hook_calls"] == 1 and all(
        isinstance(x, float) for x in metrics.values()
    )


def test_a_mask_that_is_a_weight_is_refused():
    """SkyRL's own losses would multiply by it; this one would count such a token whole."""
    batch, loss_of = peer_batch(), skyrl.policy_loss({})
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        loss_of(batch.new, batch.ref, batch.advantage, CONFIG, 0.5 * batch.mask, batch.inf)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "SkyRL gave no log-probabilities of the policy .log p_new"),
        (1, "SkyRL gave no log-probabilities of the policy .log p_ref"),
        (2, "advantage: wanted a torch tensor"),
        (3, "SkyRL gave no config.eps_clip_low"),
        (5, "SkyRL gave no log-probabilities of the sampler"),
    ],
)
def test_what_skyrl_does_not_hand_over_is_named(at, said):
    batch, loss_of = peer_batch(), skyrl.policy_loss({})
    given = [batch.new, batch.ref, batch.advantage, CONFIG, batch.mask, batch.inf]
    given[at] = None
    with pytest.raises((PeerError, TypeError), match=said):
        loss_of(*given)


def test_it_is_registered_by_name(monkeypatch):
    registered: dict[str, object] = {}

    class PolicyLossRegistry:
        @classmethod
        def register(cls, name, function):
            registered[name] = function

    with pytest.raises(PeerError, match="could not be imported"):
        skyrl.register()
    stub_modules(
        monkeypatch,
        skyrl__backends__skyrl_train__utils__ppo_utils={"PolicyLossRegistry": PolicyLossRegistry},
    )
    assert registered == {} and skyrl.register({"lam": 2.0}) is registered["jackpot"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tis_ratio_type", "token"),
        ("sequence_mask_metric", "geometric"),
        ("outlier_token_is_threshold_low", 1e-4),
        ("outlier_token_is_threshold_high", 100.0),
        ("token_mask_is_threshold_low", 0.0),
        ("token_mask_is_threshold_high", 2.0),
    ],
)
def test_every_setting_that_weights_or_masks_by_the_ratio_is_refused(name, value):
    """The fields of SkyRL's OffPolicyCorrectionConfig that are null where they are off."""
    batch, loss_of = peer_batch(), skyrl.policy_loss({})
    own = types.SimpleNamespace(**{name: value})
    twice = types.SimpleNamespace(**{**vars(CONFIG), "off_policy_correction": own})
    with pytest.raises(PeerError, match=name):
        loss_of(batch.new, batch.ref, batch.advantage, twice, batch.mask, batch.inf)


def test_a_second_correction_and_missing_log_probabilities_are_refused():
    batch, loss_of = peer_batch(), skyrl.policy_loss({})
    own = types.SimpleNamespace(tis_ratio_type="token")
    twice = types.SimpleNamespace(**{**vars(CONFIG), "off_policy_correction": own})
    with pytest.raises(PeerError, match="tis_ratio_type"):
        loss_of(batch.new, batch.ref, batch.advantage, twice, batch.mask, batch.inf)
    with pytest.raises(PeerError, match="no log-probabilities"):
        loss_of(batch.new, batch.ref, batch.advantage, CONFIG, batch.mask, None)
