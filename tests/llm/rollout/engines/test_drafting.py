"""Engines draft and verify: the same in a process' copy, and after a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import CPU, cfg_of, equal
from safetensors.torch import save_file
from tiny_context import PROBLEMS, TOKENIZER, random_pair

from llm.models.actors import open_actor
from llm.rollout.engines.base import GenerationRequest, Result, drafting_of
from llm.rollout.engines.in_process import HfEngine
from llm.rollout.engines.subprocess_engine import _Pending, _result_error
from llm.rollout.engines.weights import Shell, drafting_weights, shape_of

DRAFTED = ("--rollout.mode.type", "drafted", "--rollout.mode.lam.value", "0.5")


def opened(actor: Any, policy: Any, *flags: str) -> HfEngine:
    engine = HfEngine(cfg_of("hf", *DRAFTED, *flags), TOKENIZER, CPU, policy)
    engine.update(actor, 0)
    return engine


@pytest.mark.parametrize("kind", ["separate", "quantized", "early_exit", "stale"])
def test_a_copy_in_another_process_gives_bit_for_bit_the_same(tmp_path: Path, kind: str) -> None:
    """`Shell` is what the process of the engine `process` serves; weights through a file."""
    policy, separate = random_pair()
    flags = [] if kind == "separate" else ["--actor.type", kind]
    flags += ["--actor.exit_layers", "1"] if kind == "early_exit" else []
    engine = opened(None, policy, *flags)
    actor = separate
    if kind != "separate":
        actor = open_actor(engine.cfg, policy, tmp_path).model
    engine.update(actor, 3)
    whole = engine.generate(5, PROBLEMS)
    start = {"shape": shape_of(actor, engine.cfg), "device": "cpu"}
    start["policy_shape"] = shape_of(policy, engine.cfg, of_policy=True)
    copy = Shell(start)
    save_file(drafting_weights(actor, policy), tmp_path / "weights")
    copy.load_weights(tmp_path / "weights")
    request = engine._request("sampling", 5, PROBLEMS, 3, 9, 4, None)
    assert request.drafting == drafting_of(engine.cfg)
    found = engine._batch(copy.generate(request, 3), PROBLEMS, lambda logq: None)
    assert equal(whole, found)
    assert whole.verification is not None and found.verification is not None
    assert all(map(torch.equal, whole.verification, found.verification))


def test_the_probe_of_the_sampling_model_alone_is_not_drafted() -> None:
    """The self-test compares both: the actor by itself, and the distribution s."""
    policy, actor = random_pair()
    engine = opened(actor, policy)
    assert engine.probe(PROBLEMS, 2, 9, 4).verification is None
    assert engine.probe(PROBLEMS, 2, 9, 4, drafted=True).verification is not None


@pytest.mark.parametrize("kind", ["tracked", "tracked_price"])
def test_a_request_has_the_dial_of_when_it_was_made(kind: str) -> None:
    """Later moves are for later requests: what is sampled ahead follows the noted distribution."""
    policy, actor = random_pair()
    flags = ("--rollout.mode.type", "drafted", "--rollout.mode.lam.type", kind)
    engine = HfEngine(cfg_of("hf", *flags), TOKENIZER, CPU, policy)
    engine.update(actor, 0)
    assert engine.dial is not None
    field = "lam" if kind == "tracked" else "price"
    first = engine._request("sampling", 5, PROBLEMS, 3, 9, 4, None)
    engine.dial.move(0.3)
    second = engine._request("sampling", 5, PROBLEMS, 3, 9, 4, None)
    for request, others in ((first, drafting_of(engine.cfg)), (second, None)):
        assert request.drafting is not None
        set_ = [n for n in ("lam", "budget", "price") if getattr(request.drafting, n) is not None]
        assert set_ == [field] and (others is None or request.drafting == others)
    assert getattr(second.drafting, field) == engine.dial.value != getattr(first.drafting, field)
    engine.submit(2, PROBLEMS)
    engine.dial.move(0.3)
    verified = engine.collect(2, PROBLEMS).verification
    assert verified is not None
    own = ~verified.is_bonus & verified.logp.ne(0)
    low = verified.lam[own] if kind == "tracked" else (verified.mu - verified.lam)[own]
    used = getattr(second.drafting, field)
    if kind == "tracked":
        assert torch.allclose(low, torch.full_like(low, used))
    else:  # a state whose first rejection is worth less rejects nothing
        assert float(low.max()) == pytest.approx(used, rel=1e-4)


def test_batches_that_wait_keep_their_verification_in_a_checkpoint() -> None:
    """A run resumes with p, Z and the bounds of tokens that were sampled ahead."""
    policy, actor = random_pair()
    engine = opened(actor, policy, "--rollout.max_staleness", "1")
    engine.submit(2, PROBLEMS)
    engine.gather()
    other = opened(actor, policy, "--rollout.max_staleness", "1")
    other.load_state_dict(engine.state_dict())
    mine, theirs = engine.collect(2, PROBLEMS), other.collect(2, PROBLEMS)
    assert equal(mine, theirs)
    assert mine.verification is not None and theirs.verification is not None
    assert all(map(torch.equal, mine.verification, theirs.verification))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("verified_logp", torch.zeros(1), "verified_logp has the shape"),
        ("verified_topk_logp", 1.0, "verified_topk_logp holds what are no log-probabilities"),
        ("verified_logp", -torch.inf, "verified_logp holds what are no log-probabilities"),
        ("verified_mu", None, "it holds"),
    ],
)
def test_an_answer_without_a_sound_verification_is_refused(name, value, said) -> None:
    policy, actor = random_pair()
    engine = opened(actor, policy)
    request: GenerationRequest = engine._request("sampling", 5, PROBLEMS, 3, 9, 4, None)
    engine.submit(5, PROBLEMS)
    result: Result = dict(engine._finish(5))
    waiting = _Pending(1, request, 0)
    assert _result_error(result, waiting, 48) == ""
    if value is None:
        del result[name]
    elif isinstance(value, float):
        result[name] = torch.full_like(result[name], value)
    else:
        result[name] = value
    assert said in _result_error(result, waiting, 48)
