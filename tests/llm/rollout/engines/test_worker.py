"""An engine's worker process: replaced when it fails, ended with its parent, no rank itself."""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from pathlib import Path

import llm_process
import pytest
import torch
from engine_cases import CPU, opened
from tiny_context import PROBLEMS, random_pair

from llm.rollout.engines import subprocess_engine
from llm.rollout.engines.base import EngineError

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("print('Segmentation fault?')", "said b'Segmentation fault.', which is no answer"),
        ("print('[]')", "which is no answer"),
        ("print('{\"done\": 7}')", "which is no answer"),
        ("print('{\"done\": 1}')", "left no readable answer"),
        ("print('x' * 70000)", "which is no answer"),
        ('print(\'{"error": "MemoryError: 8 GB"}\')', "failed: MemoryError: 8 GB"),
        ("sys.exit(3)", "ended with exit code 3. It wrote: first line"),
        ("time.sleep(9)", "gave no answer for 0.15 s"),
        (  # a byte now and then is no answer
            "[(print(end='{', flush=True), time.sleep(0.03)) for _ in range(60)]; sys.exit(4)",
            "gave no answer for 0.15 s",
        ),
    ],
)
def test_a_process_that_goes_on_failing_is_an_error_after_three_replacements(
    does, said, monkeypatch, capfd
):
    """Each way to fail, by a script in the worker's place."""
    script = f"import sys, time; sys.stderr.write('first line'); sys.stderr.flush(); {does}"
    command = [sys.executable, "-S", "-c", f"{script}; sys.stdout.flush(); time.sleep(9)"]
    monkeypatch.setattr(subprocess_engine.ProcessEngine, "_command", lambda self: command)
    seconds = "0.15" if "0.15 s" in said else "0.5"  # of patience; the first is waited for
    engine = opened("process", random_pair()[1], "--rollout.engine.timeout", seconds)
    with pytest.raises(EngineError, match=r"failed 4 times in a row; at last process \d+") as e:
        engine.generate(0, PROBLEMS)
    assert re.search(said, str(e.value))
    assert capfd.readouterr().err.count("started again") == 3
    engine.close()
    assert not engine._folder.exists()


def sampling(said: Path) -> None:
    """An engine with a long batch under way, whose process and folder are said in a file."""
    flags = ("--rollout.max-new-tokens", "400", "--rollout.rollouts-per-prompt", "400")
    engine = opened("process", random_pair()[1], *flags)
    engine.probe(PROBLEMS[:1], 1, 2, 1)
    engine.submit(1, PROBLEMS * 4)
    draft = said.with_suffix(".draft")
    draft.write_text(f"{engine.pid} {engine._folder}")
    draft.replace(said)
    time.sleep(60)


def test_the_process_ends_with_its_parent_even_while_it_samples(tmp_path):
    """SIGKILL of the parent with a long batch under way: no orphan, no folder left."""
    said = tmp_path / "said"
    parent = llm_process.called(functools.partial(sampling, said), tmp_path / "stderr")
    try:
        deadline = time.monotonic() + 120
        while not said.exists() and parent.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        parent.kill()
        parent.join()
    pid, folder = said.read_text().split()
    deadline = time.monotonic() + 10
    while running(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(int(pid)) and not Path(folder).exists()


def test_the_process_is_no_rank_and_sees_the_ranks_gpu_alone(monkeypatch):
    """What torchrun 2.13 sets; numbers and names of GPUs."""
    of_rank = (
        "GROUP_RANK GROUP_WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT RANK "
        "ROLE_NAME ROLE_RANK ROLE_WORLD_SIZE TORCHELASTIC_RUN_ID TORCHELASTIC_USE_AGENT_STORE "
        "WORLD_SIZE"
    ).split()
    for name in (*of_rank, "NCCL_DEBUG"):
        monkeypatch.setenv(name, "1")
    found = subprocess_engine.environment(CPU)
    assert not found.keys() & set(of_rank) and found["NCCL_DEBUG"] == "1"
    seen = []
    for visible in ("", "4,6", "GPU-a, GPU-b"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        found = subprocess_engine.environment(torch.device("cuda", 1))
        seen.append(found["CUDA_VISIBLE_DEVICES"])
    assert seen == ["1", "6", "GPU-b"]
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
