"""Engines: the same batches whoever samples them; nothing lost with a process; staleness exact."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace as Of

import pytest
import torch
from engine_cases import CPU, cfg_of, moved, opened
from safetensors.torch import load_file
from tiny_context import NOWHERE, PROBLEMS, TOKENIZER, random_pair, world
from training_runs import COMMON, POLICY, rows, start, weights

from llm import randomness, train
from llm.errors import NonFinite
from llm.models import roles
from llm.rollout.engines import subprocess_engine
from llm.rollout.engines.base import FIELDS, EngineError, generate
from llm.rollout.engines.in_process import HfEngine
from llm.rollout.engines.vllm_engine import likeliest, limits_of, to_result
from llm.rollout.sampling import sample
from llm.runs.metrics_files import MetricsFile
from llm.settings.loading import ConfigError
from llm.training import context, rollout_phase, self_test


def equal(a, b) -> bool:
    same = all(torch.equal(getattr(a, f), getattr(b, f)) for f in FIELDS)
    return same and a.prompts == b.prompts and a.answers == b.answers


@pytest.fixture(scope="module")
def child():
    """One engine process for the tests that leave it alive; and the model it follows."""
    model = random_pair()[1]
    found = opened("process", model, "--rollout.engine-timeout", "60")
    yield found, model
    found.close()


@pytest.fixture
def both(child):
    """(process, hf) with the same weights and versions."""
    engine, model = child
    engine.update(model)
    engine.counts()
    hf = opened("hf", model)
    hf.update(model, engine.version)
    return engine, hf, model


def test_hf_gives_what_the_sampler_gives(child):
    """The engine adds nothing but the version: same stream, same settings."""
    _, model = child
    engine = opened("hf", model, "--rollout.temperature", "0.7")
    other = random_pair()[0].eval()
    for version, sampling in enumerate((model, other)):
        engine.update(sampling, version)
        rng, how = randomness.stream(0, "sampling", 2), {"temperature": 0.7, "top_k": 4, "group": 3}
        plain = sample(sampling, TOKENIZER, PROBLEMS, rng, max_new_tokens=9, version=version, **how)
        assert equal(engine.generate(2, PROBLEMS), plain)


def test_a_process_gives_bit_for_bit_what_hf_gives_before_and_after_an_update(both):
    engine, hf, model = both
    for step in (0, 1):
        a, b = engine.generate(step, PROBLEMS), hf.generate(step, PROBLEMS)
        assert equal(a, b) and bool((a.version == engine.version).all())
        moved(model, 1.1)
        engine.update(model)
        hf.update(model)
    assert engine.counts() == {"engine_restarts": 0}


@pytest.mark.parametrize("name", ["process", "hf"])
def test_a_part_of_a_step_is_sampled_at_its_place(both, name):
    engine = both[0] if name == "process" else both[1]
    whole = engine.generate(3, PROBLEMS)
    part = engine.generate(4, PROBLEMS[2:], place=(6, 15))
    again = both[1].generate(4, PROBLEMS)
    part_of, again_of, whole_of = (b.flat().completions() for b in (part, again, whole))
    assert part_of == again_of[6:] != whole_of[6:]
    assert part.index.tolist() == list(range(6, 15))


def test_batches_ordered_ahead_keep_the_weights_of_their_order(both):
    """Three orders from three versions, collected afterwards, the process killed in between."""
    engine, hf, model = both
    for step in (10, 11, 12):
        engine.submit(step, PROBLEMS)
        hf.submit(step, PROBLEMS)
        moved(model, 1.05)
        engine.update(model)
        hf.update(model)
    first = engine.version - 3
    for step in (10, 11, 12):
        if step == 11:
            os.kill(engine.pid, signal.SIGKILL)
        a, b = engine.collect(step, PROBLEMS), hf.collect(step, PROBLEMS)
        assert equal(a, b) and set(a.version.unique().tolist()) == {first + step - 10}
    # a fast process had given all three before it was killed: then it is missed at the next order
    assert engine.counts()["engine_restarts"] <= 1 and engine.counts() == {"engine_restarts": 0}


def test_a_hung_process_is_replaced_and_gives_the_same_batch(both, monkeypatch, capfd):
    engine, hf, _ = both
    expected = hf.generate(20, PROBLEMS)
    engine.generate(19, PROBLEMS)
    engine.counts()
    patient = engine.cfg
    short = dataclasses.replace(patient.rollout, engine_timeout=0.3)
    monkeypatch.setattr(engine, "cfg", dataclasses.replace(patient, rollout=short))
    start = engine._start
    monkeypatch.setattr(engine, "_start", lambda: (setattr(engine, "cfg", patient), start()))
    os.kill(engine.pid, signal.SIGSTOP)
    assert equal(engine.generate(20, PROBLEMS), expected)
    assert engine.counts() == {"engine_restarts": 1}
    assert "gave no answer for 0.3 s; started again (1 of 3)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("logp_inf", lambda x: x.fill_(0.1), "no log-probabilities"),
        ("topk_logp_inf", lambda x: x.fill_(float("nan")), "no log-probabilities"),
        ("topk_ids", lambda x: x.fill_(48), "outside the vocabulary"),
        ("is_completion", lambda x: x[:, 0].fill_(False), "has a gap"),
        ("ids", lambda x: x[:, 4].fill_(7), "its prompts are others"),
        ("version", lambda x: x[0].fill_(3), "from other weights than version 4"),
        ("index", lambda x: x.resize_(9), r"index has the shape (9,), not (10,)"),
    ],
)
def test_an_answer_that_cannot_be_one_is_nonsense(child, name, change, said):
    _, model = child
    engine = opened("hf", model)
    order = engine._order("sampling", 0, PROBLEMS, 2, 5, 3, None)
    found = generate(model, order, 4)
    waiting = subprocess_engine._Pending(1, order, 4)
    assert subprocess_engine._result_error(found, waiting, 48) == ""
    change(found[name])
    assert said in subprocess_engine._result_error(found, waiting, 48)


def test_log_probabilities_that_are_not_finite_are_the_guards_to_report(both):
    """The same error as in one process, with the values that were found."""
    engine, _, model = both
    kept = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    engine.update(model)
    with torch.no_grad():
        model.lm_head.weight.copy_(kept)
    with pytest.raises(NonFinite, match="step 7: seen holds 720 NaN or inf of 720 values"):
        engine.generate(0, PROBLEMS, check=lambda logq: NOWHERE.finite(7, seen=logq))


def test_a_signal_to_the_whole_group_is_the_trainers_to_handle(both):
    """torchrun and schedulers send SIGTERM to all: the trainer then saves, with what is ordered."""
    engine, hf, _ = both
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(engine.pid, number)
    assert equal(engine.generate(30, PROBLEMS), hf.generate(30, PROBLEMS))
    assert engine.counts() == {"engine_restarts": 0}


SHORT = ("--run.steps", "6", "--run.checkpoint-every", "2", "--run.eval-every", "3")


@pytest.mark.parametrize("d", [0, 1, 3])
def test_the_batch_of_step_t_is_of_the_weights_after_step_t_less_1_less_d(
    tmp_path, warm, monkeypatch, d
):
    """version = max(0, t - d) at every token; its log-probabilities are those of that version."""
    seen, models_then = [], {}
    sample_rollouts = train.sample_rollouts

    def noting(ctx, step, guard, **kw):
        state = ctx.actor.model.state_dict()
        models_then[step] = {k: v.clone() for k, v in state.items()}
        batch = sample_rollouts(ctx, step, guard, **kw)
        version = max(0, step - d)
        assert set(batch.version.unique().tolist()) == {version}
        fresh = copy_with(ctx.actor.model, models_then[version])
        wanted = HfEngine(ctx.cfg, ctx.tokenizer, CPU)
        wanted.update(fresh, version)
        problems = ctx.task.batch(ctx.cfg.run.seed, step, ctx.cfg.rollout.prompts_per_step)
        assert equal(batch, wanted.generate(step, problems).flat())
        seen.append(step)
        return batch

    monkeypatch.setattr(train, "sample_rollouts", noting)
    start(tmp_path, warm, *SHORT, "--rollout.max-staleness", str(d))
    assert seen == list(range(7))
    assert [r["staleness"] for r in rows(tmp_path)[:-1]] == [min(t, d) for t in range(6)]


def copy_with(model, state):
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("d", [0, 1, 3])
def test_a_run_ahead_resumes_exactly_and_is_the_same_from_a_process_that_is_killed(
    tmp_path, warm, monkeypatch, d
):
    """hf undisturbed; hf cut after four steps; process killed in one of them: rows and weights."""
    flags = (*SHORT, "--rollout.max-staleness", str(d))
    start(tmp_path / "whole", warm, *flags)
    write = MetricsFile.write
    for stop_at in (0, 2, 3, 4):

        def stopping(self, *found, stop_at=stop_at):
            write(self, *found)
            if self.path.name == "metrics.jsonl" and found[0]["step"] == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(MetricsFile, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", warm, *flags)
    monkeypatch.setattr(MetricsFile, "write", write)
    start(tmp_path / "cut", warm, *flags)
    if d == 1:  # a process for each run takes seconds to start
        killing(monkeypatch)
        start(tmp_path / "child", warm, *flags, "--rollout.engine", "process")
        found = rows(tmp_path / "child")
        restarts = [r.pop("engine_restarts") for r in found[:-1]]
        assert sum(restarts) == 1 and found == rows(tmp_path / "whole")
        assert same_weights(tmp_path / "child", tmp_path / "whole")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert same_weights(tmp_path / "cut", tmp_path / "whole")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def killing(patch: pytest.MonkeyPatch) -> None:
    """kill -9 of the engine's process in step 2."""
    request = rollout_phase.request_ahead

    def killed(engine, steps, *rest):
        request(engine, steps, *rest)
        if steps[0] == 2:
            os.kill(engine.pid, signal.SIGKILL)

    patch.setattr(rollout_phase, "request_ahead", killed)


def test_a_checkpoint_holds_the_batches_that_wait(tmp_path, warm):
    start(tmp_path, warm, *SHORT, "--run.steps", "4", "--rollout.max-staleness", "2")
    kept, last = sorted((tmp_path / "checkpoints").glob("step_*"))
    manifest = json.loads((kept / "manifest.json").read_text())
    assert "rollouts.safetensors" in manifest["files"]
    found = load_file(kept / "rollouts.safetensors")
    assert {k.split(".")[0] for k in found} == {"2", "3"}
    assert int(found["2.version"].max()) == 0 and int(found["3.version"].min()) == 1
    assert {k.split(".")[0] for k in load_file(last / "rollouts.safetensors")} == {"4"}


ON_POLICY = (*POLICY, *COMMON, "--actor.type", "self")


def test_staleness_gives_an_actor_that_is_the_policy_something_to_correct(tmp_path, warm):
    flags = (*SHORT, "--correction.type", "jackpot", "--rollout.max-staleness")
    with pytest.raises(ConfigError, match="there is no mismatch to correct"):
        start(tmp_path / "a", warm, *flags, "0", base=ON_POLICY)
    start(tmp_path / "b", warm, *flags, "2", base=ON_POLICY)
    first, last = rows(tmp_path / "b")[0], rows(tmp_path / "b")[-2]
    assert abs(first["log_ratio_max"]) < 1e-4 < abs(last["log_ratio_max"])


def test_the_self_test_samples_through_the_engine_and_finds_weights_that_differ(child):
    engine, model = child
    cfg = cfg_of("process")
    setup = world(cfg, (random_pair()[0].eval(), model))._replace(engine=engine)
    engine.update(model)
    assert self_test.self_test(setup)["engine"]["max"] < 2e-5
    moved(model, 1.02)
    with pytest.raises(self_test.SelfTestError, match=r"self-test \(engine process, the actor's"):
        self_test.self_test(setup)
    moved(model, 1 / 1.02)


def test_20_or_21_log_probabilities_of_a_token_give_the_20_likeliest():
    """The sampled token is an entry of its own where it is not among the likeliest; ties too."""
    entries = {i: -1.0 - 0.1 * i for i in range(20)}
    assert [n for n, _ in likeliest(entries, 7, 20)] == list(range(20))
    assert [n for n, _ in likeliest({99: -9.0} | entries, 99, 20)] == list(range(20))
    assert 99 not in dict(likeliest({99: -2.9} | entries, 99, 20))  # ties with the 20th
    with pytest.raises(EngineError, match="gave 19 log-probabilities of a token, not 20"):
        likeliest({k: v for k, v in entries.items() if k}, 3, 20)


def test_vllms_completions_become_a_batch():
    """Padding left and right, the sampled token's own log-probability, finish reasons."""

    def entry(**kw):
        return {int(k[1:]): Of(logprob=v) for k, v in kw.items()}

    order = opened("hf", random_pair()[1])._order("sampling", 0, PROBLEMS[:2], 1, 3, 2, None)
    answers = [
        Of(token_ids=[5, 1], finish_reason="stop", logprobs=[
            entry(t5=-3.0, t8=-0.2, t9=-1.0), entry(t1=-0.1, t4=-2.5)]),
        Of(token_ids=[6, 6, 7], finish_reason="length", logprobs=[
            entry(t6=-0.5, t2=-0.9), entry(t6=-0.9, t2=-0.5), entry(t7=-0.3, t1=-2.0)]),
    ]  # fmt: skip
    found = to_result(order, answers, 2, 0, 3)
    width = max(map(len, order.prompts))
    assert found["ids"][:, width:].tolist() == [[5, 1, TOKENIZER.pad], [6, 6, 7]]
    assert found["is_completion"].tolist() == [[True, True, False], [True] * 3]
    assert torch.allclose(found["logp_inf"], torch.tensor([[-3.0, -0.1, 0.0], [-0.5, -0.9, -0.3]]))
    assert found["topk_ids"][0, 0].tolist() == [8, 9] and found["topk_ids"][1, 1].tolist() == [2, 6]
    assert found["finished"].tolist() == [True, False]
    assert subprocess_engine._result_error(found, subprocess_engine._Pending(1, order, 3), 48) == ""


def test_a_missing_vllm_is_named_with_what_to_do():
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is here")
    with pytest.raises(ConfigError, match="needs the package vllm"):
        opened("vllm", random_pair()[1])


def test_a_missing_vllm_is_told_before_any_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(roles, "open_policy", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(ConfigError, match=r"needs the package vllm .*Install it"):
        context.open_context(cfg_of("vllm"), tmp_path)


@pytest.mark.parametrize(
    ("top_k", "width", "expected"), [(4, 1000, 20), (30, 1000, 30), (30, 25, 25), (30, 9, 20)]
)
def test_vllm_is_told_of_the_longest_sequence_and_of_all_log_probabilities(top_k, width, expected):
    flags = ["--rollout.top-k", str(top_k), "--rollout.max-new-tokens", "70"]
    flags += [
        "--task.type",
        "problems",
        "--task.source",
        "gsm8k",
        "--task.prompt-tokens-max",
        "300",
    ]
    cfg = cfg_of("vllm", *flags, "--policy.path", "p", "--actor.path", "a")
    for positions, longest in ((4096, 370), (256, 256)):
        found = limits_of(cfg, positions, width)
        assert found == {"max_model_len": longest, "max_logprobs": expected}
