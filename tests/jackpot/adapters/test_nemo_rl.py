"""Contract: NeMo-RL's LossFunction protocol; the loss divides by the tokens of all processes."""

from __future__ import annotations

import enum
import math
import pickle

import pytest
import torch
from peer_batches import (
    PeerBatch,
    peer_batch,
    plain_losses,
    plain_weights,
    stub_modules,
    total,
)

from jackpot.adapters import nemo_rl
from jackpot.adapters.hook import PeerError


class LossType(enum.Enum):
    TOKEN_LEVEL = "token_level"


class LossInputType(enum.Enum):
    LOGIT = "logit"
    LOGPROB = "logprob"


class MetricNormalizer(enum.Enum):
    TOKENS = "tokens"
    NONE = "none"


WORDS = {
    "LossType": LossType,
    "LossInputType": LossInputType,
    "MetricNormalizer": MetricNormalizer,
}


@pytest.fixture
def peer(monkeypatch):
    stub_modules(monkeypatch, nemo_rl__algorithms__loss__interfaces=WORDS)


def shifted(x: torch.Tensor, first: float = math.nan) -> torch.Tensor:
    """(B, S - 1) -> (B, S): NeMo-RL's first column belongs to no token."""
    return torch.cat([torch.full((len(x), 1), first), x.float()], dim=1)


def data_of(batch: PeerBatch) -> dict[str, torch.Tensor]:
    """The columns of NeMo-RL's BatchedDataDict that a loss reads."""
    return {
        "token_mask": shifted(batch.mask, 0.0),
        "sample_mask": torch.ones(3),
        "advantages": shifted(batch.advantage),
        "prev_logprobs": shifted(batch.ref),
        "generation_logprobs": shifted(batch.inf),
    }


@pytest.mark.usefixtures("peer")
def test_the_loss_is_the_mean_over_the_tokens_of_all_processes():
    batch, loss_of = peer_batch(), nemo_rl.JackpotLoss({"lam": 1.1}, clip_low=0.1, clip_high=0.2)
    assert (loss_of.loss_type, loss_of.input_type) == (LossType.TOKEN_LEVEL, LossInputType.LOGPROB)
    data = data_of(batch)
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
    data["sample_mask"] = torch.tensor([1.0, 0.5, 1.0])
    with pytest.raises(PeerError, match="neither 0 nor 1"):
        loss_of(batch.new, data, torch.tensor(5), torch.tensor(20))


def drawn_logits(batch: PeerBatch, v: int = 7) -> tuple[torch.Tensor, torch.Tensor, PeerBatch]:
    """(B, S, v) logits with gradient, NaN where no token was sampled; ids; p_new of the batch."""
    g = torch.Generator().manual_seed(3)
    logits, ids = torch.randn(3, 5, v, generator=g), torch.randint(0, v, (3, 5), generator=g)
    new = logits.double().softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].log()
    logits[:, :-1][~batch.mask] = math.nan
    logits[:, -1] = math.nan  # of the token after the last
    return logits.requires_grad_(), ids, batch._replace(new=new)


@pytest.mark.usefixtures("peer")
def test_the_loss_from_full_logits_is_that_from_log_probabilities():
    plain = peer_batch()
    logits, ids, batch = drawn_logits(plain)
    loss_of = nemo_rl.JackpotLogitLoss(7, options={"lam": 1.1}, clip_low=0.1, clip_high=0.2)
    assert loss_of.input_type == LossInputType.LOGIT
    # NeMo-RL passes everything by name.
    loss, metrics = loss_of(
        logits=logits,
        data=data_of(batch) | {"input_ids": ids},
        global_valid_seqs=torch.tensor(5),
        global_valid_toks=torch.tensor(20),
    )
    want = total(plain_losses(batch, plain_weights(batch, 1.1), (0.1, 0.2))) / 20
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    loss.backward()
    grad = logits.grad
    assert grad is not None and bool(torch.isfinite(grad).all()) and grad[:, :-1][batch.mask].any()
    assert not grad[:, :-1][~batch.mask].any() and not grad[:, -1].any()
    assert metrics["jackpot/hook_calls"] == 1


@pytest.mark.usefixtures("peer")
def test_logits_that_are_split_over_processes_are_refused():
    batch = peer_batch()
    logits, ids, _ = drawn_logits(batch)
    data = data_of(batch) | {"input_ids": ids}
    sizes = (torch.tensor(5), torch.tensor(20))
    with pytest.raises(PeerError, match="split over processes"):
        nemo_rl.JackpotLogitLoss(8)(logits, data, *sizes)
    with pytest.raises(PeerError, match="context parallelism"):
        nemo_rl.JackpotLogitLoss(7)(logits, data | {"seq_index": ids}, *sizes)


@pytest.mark.usefixtures("peer")
def test_metrics_are_declared_to_be_divided_already():
    """NeMo-RL's split trainer divides by the tokens every metric that is not declared."""
    batch, loss_of = peer_batch(), nemo_rl.JackpotLoss()
    declared = loss_of.metric_normalizations  # read before the first microbatch
    _, metrics = loss_of(batch.new, data_of(batch), torch.tensor(5), torch.tensor(20))
    assert set(declared) == set(metrics) - {"loss"}
    assert set(declared.values()) == {MetricNormalizer.NONE}


@pytest.mark.usefixtures("peer")
def test_copies_of_a_loss_share_a_hook():
    """NeMo-RL sends the loss to each worker for each step."""
    batch, loss_of = peer_batch(), nemo_rl.JackpotLoss({"mask": "bernoulli"})
    sizes = (torch.tensor(5), torch.tensor(20))
    for step in (1, 2):
        copy = pickle.loads(pickle.dumps(loss_of))
        _, metrics = copy(batch.new, data_of(batch), *sizes)
        assert metrics["jackpot/hook_calls"] == step
    loss_of.hook.require_called()
    assert nemo_rl.JackpotLoss({"mask": "bernoulli"}).hook.calls == 0


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize("name", ["prev_logprobs", "generation_logprobs"])
def test_zeros_in_the_place_of_log_probabilities_are_refused(name):
    """force_on_policy_ratio fills prev_logprobs with zeros, which say p_ref = 1."""
    batch = peer_batch()
    data = data_of(batch) | {name: torch.zeros(3, 5)}
    with pytest.raises(PeerError, match=f"{name} is 0 at every token"):
        nemo_rl.JackpotLoss()(batch.new, data, torch.tensor(5), torch.tensor(20))


def test_bad_bounds_and_a_missing_peer_are_refused(monkeypatch):
    with pytest.raises(PeerError, match="could not be imported"):
        nemo_rl.JackpotLoss()
    stub_modules(monkeypatch, nemo_rl__algorithms__loss__interfaces=WORDS)
    with pytest.raises(ValueError, match="clip_low"):
        nemo_rl.JackpotLoss(clip_low=math.nan)


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize("name", list(data_of(peer_batch())))
def test_what_nemo_rl_does_not_hand_over_is_named(name):
    batch, loss_of = peer_batch(), nemo_rl.JackpotLoss({})
    data = data_of(batch)
    del data[name]
    with pytest.raises(PeerError, match=f"NeMo-RL gave no {name} in its data"):
        loss_of(batch.new, data, torch.tensor(3), torch.tensor(8))
