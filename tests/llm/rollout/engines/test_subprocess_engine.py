"""Engines: the same batches whoever samples them; nothing lost with a process; staleness exact."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import forked_workers
import pytest
import torch
from engine_cases import SHORT, cfg_of, equal, moved, opened
from tiny_context import NOWHERE, PROBLEMS, random_pair, world
from training_runs import rows, start, weights

from llm.errors import NonFinite
from llm.rollout.engines import subprocess_engine
from llm.rollout.engines.base import generate
from llm.runs.metrics_files import MetricsFile
from llm.training import rollout_phase, self_test


@pytest.fixture(scope="module")
def line():
    with forked_workers.opened() as found:
        yield found


@pytest.fixture
def forked(line):
    """Workers that start from now on are forked."""
    with forked_workers.through(line):
        yield


@pytest.fixture(scope="module")
def child():
    """One engine process for the tests that leave it alive; and the model it follows."""
    model = random_pair()[1]
    found = opened("process", model, "--rollout.engine.timeout", "60")
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


def test_batches_ordered_ahead_keep_the_weights_of_their_order(both, forked):
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


def test_a_hung_process_is_replaced_and_gives_the_same_batch(both, forked, monkeypatch, capfd):
    engine, hf, _ = both
    expected = hf.generate(20, PROBLEMS)
    engine.generate(19, PROBLEMS)
    engine.counts()
    patient = engine.cfg
    engine_of = dataclasses.replace(patient.rollout.engine, timeout=0.3)
    short = dataclasses.replace(patient.rollout, engine=engine_of)
    monkeypatch.setattr(engine, "cfg", dataclasses.replace(patient, rollout=short))
    start = engine._start

    def starting():
        engine.cfg = patient
        return start()

    monkeypatch.setattr(engine, "_start", starting)
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
    request = engine._request("sampling", 0, PROBLEMS, 2, 5, 3, None)
    found = generate(model, request, 4)
    waiting = subprocess_engine._Pending(1, request, 4)
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


@pytest.mark.parametrize("d", [0, 1, 3])
def test_a_run_ahead_resumes_exactly_and_is_the_same_from_a_process_that_is_killed(
    tmp_path, pretrained, forked, monkeypatch, d
):
    """hf undisturbed; hf cut after four steps; process killed in one of them: rows and weights."""
    flags = (*SHORT, "--rollout.max-staleness", str(d))
    start(tmp_path / "whole", pretrained, *flags)
    write = MetricsFile.write
    for stop_at in (0, 2, 3, 4):

        def stopping(self, *found, stop_at=stop_at):
            write(self, *found)
            if self.path.name == "metrics.jsonl" and found[0]["step"] == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(MetricsFile, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", pretrained, *flags)
    monkeypatch.setattr(MetricsFile, "write", write)
    start(tmp_path / "cut", pretrained, *flags)
    if d == 1:  # a process for each run takes a second
        killing(monkeypatch)
        start(tmp_path / "child", pretrained, *flags, "--rollout.engine.type", "process")
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
