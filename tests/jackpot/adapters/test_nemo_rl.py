"""Contract: NeMo-RL's LossFunction protocol; the loss divides by the tokens of all processes."""

from __future__ import annotations

import enum
import math

import pytest
import torch
from peer_batches import peer_batch, plain_losses, plain_weights, stub_modules, total

from jackpot.adapters import nemo_rl
from jackpot.adapters.hook import PeerError


class LossType(enum.Enum):
    TOKEN_LEVEL = "token_level"


class LossInputType(enum.Enum):
    LOGPROB = "logprob"


@pytest.fixture
def peer(monkeypatch):
    words = {"LossType": LossType, "LossInputType": LossInputType}
    stub_modules(monkeypatch, nemo_rl__algorithms__loss__interfaces=words)


def shifted(x: torch.Tensor, first: float = math.nan) -> torch.Tensor:
    """(B, S - 1) -> (B, S): NeMo-RL's first column belongs to no token."""
    return torch.cat([torch.full((len(x), 1), first), x.float()], dim=1)


@pytest.mark.usefixtures("peer")
def test_the_loss_is_the_mean_over_the_tokens_of_all_processes():
    batch, loss_of = peer_batch(), nemo_rl.JackpotLoss({"lam": 1.1}, clip_low=0.1, clip_high=0.2)
    assert (loss_of.loss_type, loss_of.input_type) == (LossType.TOKEN_LEVEL, LossInputType.LOGPROB)
    data = {
        "token_mask": shifted(batch.mask, 0.0),
        "sample_mask": torch.ones(3),
        "advantages": shifted(batch.advantage),
        "prev_logprobs": shifted(batch.ref),
        "generation_logprobs": shifted(batch.inf),
    }
    loss, metrics = loss_of(batch.new, data, torch.tensor(5), torch.tensor(20))
    want = total(plain_losses(batch, plain_weights(batch, 1.1), (0.1, 0.2))) / 20
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    loss.backward()
    assert batch.new.grad is not None and bool(torch.isfinite(batch.new.grad).all())
    assert metrics["num_valid_samples"] == 3 and metrics["jackpot/hook_calls"] == 1
    # A sample that NeMo-RL leaves out has no weight.
    data["sample_mask"] = torch.tensor([1.0, 0.0, 1.0])
    loss_of(batch.new, data, torch.tensor(5), torch.tensor(20))
    assert loss_of.hook.tokens == 8 + 7


def test_bad_bounds_and_a_missing_peer_are_refused(monkeypatch):
    with pytest.raises(PeerError, match="could not be imported"):
        nemo_rl.JackpotLoss()
    words = {"LossType": LossType, "LossInputType": LossInputType}
    stub_modules(monkeypatch, nemo_rl__algorithms__loss__interfaces=words)
    with pytest.raises(ValueError, match="clip_low"):
        nemo_rl.JackpotLoss(clip_low=math.nan)
