"""What adapters share: options, the counter, refusals, and losses without NaN."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import math
import types

import pytest
import torch
from peer_batches import peer_batch, plain_losses, plain_weights, stub_modules

from jackpot.adapters import hook, nemo_rl, prime_rl, skyrl, slime
from jackpot.adapters.hook import Hook, PeerError, require_read, require_tested, token_losses
from jackpot.torch.corrector import Corrector, TopK


@pytest.mark.parametrize("fill", [math.nan, math.inf, 0.0])
@pytest.mark.parametrize("z", ["batch", "none"])
def test_weights_and_losses_are_those_of_plain_loops(fill, z):
    batch = peer_batch(fill)
    own = Hook("peer", {"lam": 0.8, "c1": 1.2, "z": z})
    weights = own.weights(batch.inf, batch.ref, batch.new, batch.mask)
    want = plain_weights(batch, 0.8, 1.2, z)
    assert torch.allclose(weights.weight, torch.tensor(want), rtol=1e-5)
    losses = token_losses(batch.new, batch.ref, batch.advantage, weights, 0.1, 0.2)
    assert torch.allclose(losses, torch.tensor(plain_losses(batch, want, (0.1, 0.2))), rtol=1e-5)
    losses.sum().backward()
    grad = batch.new.grad
    assert grad is not None and bool(torch.isfinite(grad).all()) and not grad[~batch.mask].any()
    assert grad.any()


def test_an_evaluation_changes_nothing_of_the_training():
    """Neither its coins nor the tail ratio."""
    batch = peer_batch()
    logp = torch.tensor([0.5, 0.2]).log().expand(*batch.mask.shape, 2)
    topk = TopK(logp, logp.flip(-1), torch.ones_like(batch.mask))
    options = {"mask": "bernoulli", "z": "state"}
    plain, evaluated = (Hook("peer", options, has_topk=True) for _ in range(2))

    def weights(own, **kind):
        given = batch.inf, batch.ref, batch.new, batch.mask
        return own.weights(*given, topk=topk, **kind).weight

    for _ in range(4):
        weights(evaluated, trains=False)
        assert torch.equal(weights(plain), weights(evaluated))
    assert evaluated.calls == 2 * plain.calls
    assert not torch.equal(weights(plain), weights(plain))  # the coins of another call are others


def test_the_target_may_be_the_policy_as_it_is_being_updated():
    """Eq. 5 with p = p_new: the weight has the factor min(p_ref / p_new, c2) too."""
    batch = peer_batch()
    own = Hook("peer", {"target": "new", "lam": 0.8, "c1": 1.2, "c2": 1.1})
    weights = own.weights(batch.inf, batch.ref, batch.new, batch.mask).weight
    want = plain_weights(batch, 0.8, 1.2, target="new")
    drifts = [
        math.exp(float(batch.ref[i, j]) - float(batch.new[i, j].detach()))
        for i, j in batch.mask.nonzero().tolist()
    ]
    for (i, j), drift in zip(batch.mask.nonzero().tolist(), drifts, strict=True):
        want[i][j] *= min(drift, 1.1)
    assert torch.allclose(weights, torch.tensor(want), rtol=1e-5)
    assert min(drifts) < 1.1 < max(drifts)  # so that c2 decides somewhere, and not everywhere


def test_each_call_is_a_step_of_its_own():
    """The tail ratio is learnt from call to call, and no call's tokens are kept."""
    own = Hook("peer", {"z": "state"}, has_topk=True)
    alone = Corrector(z="state", mask="expected")
    batch = peer_batch()
    log_q = torch.full((3, 4, 2), 0.25).log()
    topk = TopK(log_q, log_q, torch.zeros_like(batch.mask))  # all that was sampled is of the tail
    seen = []
    for _ in range(3):
        seen.append(own.weights(batch.inf, batch.ref, batch.new, batch.mask, topk=topk).weight)
        want = alone.weights(batch.inf, batch.ref, None, batch.mask, topk=topk).weight
        alone.end_step()
        assert torch.equal(seen[-1], want)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_losses_refuse_what_would_make_nan_and_shapes_that_do_not_fit():
    logp = torch.full((2, 3), -1.0)
    weights = Hook("peer", {}).weights(logp, logp, logp)
    nan, one = logp * math.nan, torch.ones(2)
    for given, said in [
        ((nan, logp, one), "logp_new: NaN"),
        ((logp, nan, one), "logp_ref: NaN"),
        ((logp, logp, one * math.nan), "advantage: NaN"),
        ((logp[:1], logp, one), "logp_new: wanted"),
        ((logp, logp, torch.ones(3)), "advantage: wanted"),
    ]:
        with pytest.raises(ValueError, match=said):
            token_losses(*given, weights, 0.2, 0.2)


def test_calls_are_counted_and_a_hook_that_never_ran_is_an_error():
    own = Hook("peer", {})
    with pytest.raises(PeerError, match="has not called"):
        own.require_called()
    batch = peer_batch()
    for n in (1, 2):
        weights = own.weights(batch.inf, batch.ref, batch.new, batch.mask)
        assert own.metrics(weights)["jackpot/hook_calls"] == n
    assert own.tokens == 16
    own.require_called()
    assert own.metrics(weights)["jackpot/accept_rate"] == weights.metrics["accept_rate"]


def test_each_call_throws_coins_of_its_own():
    own, batch = Hook("peer", {"mask": "bernoulli"}), peer_batch()
    many = torch.full((50, 4), -1.0)
    first, second = (own.weights(many, many - 0.7, many).weight for _ in range(2))
    assert not torch.equal(first, second)
    assert batch.mask.any()


def test_options_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(hook.OPTIONS_VARIABLE, json.dumps({"type": "tis", "cap": 1.5}))
    assert Hook("peer").options == {"type": "tis", "cap": 1.5}
    assert Hook("peer", {"lam": 2.0}).options == {"z": "batch", "mask": "expected", "lam": 2.0}
    for text, said in [
        ("{", "no JSON"),
        ("[1]", "JSON object"),
        ('{"lam": [1]}', "JSON object"),
        (" " * 9 + "[" * 9_999, "no JSON"),
        ("1" * 10_001, "characters"),
    ]:
        monkeypatch.setenv(hook.OPTIONS_VARIABLE, text)
        with pytest.raises(ValueError, match=said):
            Hook("peer")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"z": "state"}, "does not hand over"),
        ({"lam_from": "tracked"}, "does not hand over"),
        ({"lamb": 1.0}, "perhaps lam"),
        ({"type": "tis", "c1": 2.0}, "no effect"),
        ({"denominator": "accepted"}, "peer's own setting"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        Hook("peer", options)


def test_an_adapter_with_the_samplers_top_k_computes_z_of_each_state():
    own = Hook("peer", {"z": "state", "z_tail": "dropped", "c1": 9.0}, has_topk=True)
    batch = peer_batch()
    log_q = torch.full((3, 4, 2), 0.25).log()
    log_p = torch.tensor([0.5, 0.125]).log().expand(3, 4, 2)
    topk = TopK(log_q, log_p, torch.ones(3, 4, dtype=torch.bool))
    weights = own.weights(batch.inf, batch.ref, batch.new, batch.mask, topk=topk)
    z = 0.25 + 0.125  # sum over the two of min(q, p)
    r = (batch.ref - batch.inf).exp()
    want = r.clamp(max=1.0) * z * r.clamp(min=1.0)
    assert torch.allclose(weights.weight[batch.mask], want[batch.mask], rtol=1e-5)
    assert own.wants_topk and not Hook("peer", {}, has_topk=True).wants_topk
    assert Hook("peer", {"lam_from": "state", "budget": 0.9}, has_topk=True).wants_topk
    with pytest.raises(ValueError, match="does not hand over"):
        Hook("peer", {"lam_from": "tracked"}, has_topk=True)


def test_log_probabilities_of_the_sampler_are_needed():
    batch = peer_batch()
    with pytest.raises(PeerError, match="no log-probabilities of the sampler"):
        Hook("peer", {}).weights(None, batch.ref, batch.new, batch.mask)


def test_versions_that_were_not_tested_are_refused(monkeypatch):
    versions = {"peer": "1.16.2"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert require_tested("peer", ("1.15", "1.16")) == "1.16.2"
    for tested in (("1.1",), ("1.16.20",), ("1.17",)):
        with pytest.raises(PeerError, match=r"1\.16\.2 was not tested"):
            require_tested("peer", tested)
    for early in ("0.9.1.dev3", "0.9.1rc1", "0.9.1a0", "0.9.1.2.dev1", "0.9.1.dev3+cpu", "0.9.10"):
        versions["peer"] = early
        with pytest.raises(PeerError, match="was not tested"):
            require_tested("peer", ("0.9.1",))
        assert require_tested("peer", ("0.9.1", early)) == early  # where it is named itself
    for release in ("0.9.1", "0.9.1.2", "0.9.1.post1", "0.9.1+cu128"):
        versions["peer"] = release
        assert require_tested("peer", ("0.9.1",)) == release
    versions["peer"] = "1.16.2"
    monkeypatch.setenv(hook.UNTESTED_VARIABLE, "1")
    assert require_tested("peer", ("1.17",)) == "1.16.2"
    with pytest.raises(PeerError, match="not installed"):
        require_tested("nobody", ("1",))
    assert require_read("nobody", ("1",)) is None  # a checkout has no version


NUMBERS = itertools.count()  # each hook has options of its own


@pytest.mark.parametrize(
    ("package", "read", "start"),
    [
        ("skyrl", "0.4.0", skyrl.register),
        ("slime", "0.3.1", lambda: slime.hook_of(types.SimpleNamespace(jackpot={}))),
        ("nemo-rl", "0.6.0rc0", nemo_rl.JackpotLoss),
        ("prime-rl", "0.8.0", lambda: prime_rl.hook_of({"c1": 1.0 + next(NUMBERS)})),
    ],
)
def test_peers_of_other_versions_than_the_ones_read_are_refused(package, read, start, monkeypatch):
    names = {"PolicyLossRegistry": types.SimpleNamespace(register=lambda name, loss: None)}
    stub_modules(monkeypatch, skyrl__backends__skyrl_train__utils__ppo_utils=names)
    words = {
        "LossType": types.SimpleNamespace(TOKEN_LEVEL=0),
        "LossInputType": types.SimpleNamespace(LOGPROB=0),
    }
    stub_modules(monkeypatch, nemo_rl__algorithms__loss__interfaces=words)
    versions = {package: read}
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    start()
    versions[package] = "0.9.9"
    with pytest.raises(PeerError, match=rf"{package} 0\.9\.9 was not tested"):
        start()
