"""Memory that ran out is a sentence with the phase, the estimate and settings, and no traceback."""

from __future__ import annotations

import pytest
import torch

from llm import settings
from llm import train as training
from llm.commands import train
from llm.commands.out_of_memory import out_of_memory_text
from llm.phases import is_out_of_memory
from llm.training.record import Record

CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
FLAGS = ["--run.device", "cpu"]


@pytest.mark.parametrize("e", [CPU, torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
@pytest.mark.parametrize(
    ("phase", "setting"),
    [("rollout", "--rollout.prompts_per_step"), ("update", "--optim.microbatch.sequences")],
)
def test_phase_estimate_and_settings_are_said(e, phase, setting):
    e = type(e)(*e.args)
    with pytest.raises(type(e)), Record(3, evaluated=False).timed(phase):
        raise e
    assert is_out_of_memory(e)
    said = out_of_memory_text(settings.load([], FLAGS), e)
    assert f"out of memory in the {phase} of step 3" in said and setting in said
    assert "GB (" in said and "are free now" in said


def test_memory_that_runs_out_before_the_first_step_is_said_too(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError(*CPU.args)

    monkeypatch.setattr(training, "train", fail)
    cfg = settings.load([], [*FLAGS, "--run.folder", str(tmp_path)])
    assert train.run_config(cfg) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory while models were opened")
    assert "--policy.dtype" in said


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    assert not is_out_of_memory(RuntimeError("shapes differ"))

    def fail(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(training, "train", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train.run_config(settings.load([], [*FLAGS, "--run.folder", str(tmp_path)]))
