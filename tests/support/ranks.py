"""Runs on several ranks, for tests.

A scene is a run: its folder, its flags, and what is done to it.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

import forked_workers
import llm_process
import pytest
import torch
from training_runs import rows, weights

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds: a hang fails
FEW_STEPS = 5e-3  # how far Adam moves a weight in five steps at the rate of these runs
ROUNDING = 1e-4  # of a tensor's largest gradient: below this a gradient may be 0 but for rounding


@dataclass
class RankScenario:
    """stop_at: the run is interrupted after this step. reject: all tokens of the last half of the
    sequences are rejected, one by one. poison: in step 1 their advantages are NaN. kill: the last
    rank's engine is killed in this step. fails: and cannot be started again: what each rank says of
    that is in the files failed_0, failed_1."""

    folder: str
    flags: list[str] = field(default_factory=list)
    stop_at: int = -1
    reject: bool = False
    poison: bool = False
    kill: int = -1
    fails: bool = False


def play(scene: RankScenario) -> None:
    """The run of a scene, on this rank."""
    from llm import distributed, settings, train
    from llm.rollout.engines.base import EngineError
    from llm.runs import run_folder
    from llm.training import rollout_phase, run

    cfg = settings.load([], [*scene.flags, "--run.folder", scene.folder])
    text, split, request = run.progress_text, train.split_minibatches, rollout_phase.request_ahead

    def stopping(row):
        if row["step"] == scene.stop_at:
            raise KeyboardInterrupt
        return text(row)

    def spoilt(ctx, batch, learner, step):
        found = []
        n = ctx.cfg.rollout.prompts_per_step * ctx.cfg.rollout.rollouts_per_prompt
        for minibatch in split(ctx, batch, learner, step):
            part = minibatch.batch
            if scene.poison and step == 1:
                bad = part.advantage.masked_fill(part.index >= n // 2, torch.nan)
                minibatch = replace(minibatch, batch=replace(part, advantage=bad))
            last = scene.reject & (part.index >= n // 2)[part.sequence]
            coin = torch.where(last, 1.0 - 2.0**-53, minibatch.uniform)
            found.append(replace(minibatch, uniform=coin))
        return found

    def killing(engine, steps, *rest):
        request(engine, steps, *rest)
        if steps[0] == scene.kill and distributed.rank() == distributed.world_size() - 1:
            if scene.fails:
                engine._command = lambda: [sys.executable, "-S", "-c", "raise SystemExit(3)"]
            os.kill(engine.pid, signal.SIGKILL)

    run.progress_text, train.split_minibatches = stopping, spoilt
    rollout_phase.request_ahead = killing
    folder = Path(scene.folder)
    try:
        if distributed.is_main():
            run_folder.prepare(cfg)
        distributed.barrier()
        train.train(cfg, folder)
    except KeyboardInterrupt:
        assert scene.stop_at >= 0
    except EngineError as e:
        assert scene.fails
        (folder / f"failed_{distributed.rank()}").write_text(str(e))
    finally:
        run.progress_text, train.split_minibatches = text, split
        rollout_phase.request_ahead = request
        run_folder.release(folder)


def ranks(n: int, scenes: list[RankScenario]) -> None:
    """The scenes one after the other on n ranks; raises if that fails or takes too long.

    Each rank is a process with the environment that torchrun gives it, but need not load torch.
    """
    port, home = free_port(), Path(scenes[0].folder).parent
    said = [home / f"rank_{rank}_of_{n}" for rank in range(n)]
    lines = [forked_workers.opened() for _ in range(n)]
    plays = [functools.partial(_play_all, i, n, port, scenes, lines[i]) for i in range(n)]
    started = [llm_process.called(play, file) for play, file in zip(plays, said, strict=True)]
    for line in lines:
        line.close()  # each rank has its own
    end = time.monotonic() + TIMEOUT
    for process in started:
        process.join(max(0.0, end - time.monotonic()))
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert codes == [0] * n, (codes, [file.read_text()[-3000:] for file in said])


def _play_all(rank: int, n: int, port: str, scenes: list[RankScenario], line: Connection) -> None:
    from llm import distributed

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    with forked_workers.through(line), distributed.process_group("cpu"):
        for scene in scenes:
            play(scene)


def torchrun(n: int, command: list[str]) -> subprocess.Popen:
    flags = ["--nproc_per_node", str(n), "--master_addr", "127.0.0.1", "--master_port", free_port()]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *flags, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, timeout: float = TIMEOUT) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; after the timeout everything that was started is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for pid in [process.pid, *pids(process).values()]:
            os.kill(pid, signal.SIGKILL)
        _, err = process.communicate()
        raise AssertionError(f"nothing ended within {timeout} s: {err[-6000:]}") from None
    return process.returncode, out, err


def pids(process: subprocess.Popen) -> dict[int, int]:
    """Process id of each rank."""
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == process.pid:
            found |= {int(w[5:]): int(folder.name) for w in words if w.startswith(b"RANK=")}
    return found


def assert_same(one: Path, other: Path) -> None:
    """Rows of every file, and weights, moments of gradients among them, but for rounding."""
    for name in ("metrics", "decisions", "samples", "histograms"):
        a, b = rows(one, name), rows(other, name)
        assert len(a) == len(b) and (a or name == "decisions")
        for x, y in zip(a, b, strict=True):
            x.pop("engine_restarts", 0), y.pop("engine_restarts", 0)
            assert_near(x, y, f"{name} {x.get('step')}")
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for key in ours:
        own, others = ours[key].float(), theirs[key].float()
        near = torch.isclose(own, others, rtol=1e-3, atol=1e-3 * float(own.abs().max()))
        still = _without_gradient(ours, key) & _without_gradient(theirs, key)
        assert (near | (still & ((own - others).abs() < FEW_STEPS))).all(), key


def _without_gradient(kept: dict[str, torch.Tensor], key: str) -> torch.Tensor:
    """Where a weight's gradients were 0 but for rounding, by whose sign Adam steps all the same.

    The optimiser numbers its weights, so any of the same model with this shape may be this one.
    """
    found = torch.zeros_like(kept[key], dtype=torch.bool)
    for name, square in kept.items():
        if name.startswith(f"optimizer_{key.partition(':')[0]}:") and name.endswith(".exp_avg_sq"):
            if square.shape == found.shape:
                found |= square < ROUNDING**2 * square.max()
    return found


def assert_near(x, y, where: str) -> None:
    assert type(x) is type(y), where
    if isinstance(x, dict):
        assert x.keys() == y.keys(), where
        for k in x:
            assert_near(x[k], y[k], f"{where} {k}")
    elif isinstance(x, list):
        assert len(x) == len(y), where
        for i, (u, v) in enumerate(zip(x, y, strict=True)):
            assert_near(u, v, f"{where} {i}")
    elif isinstance(x, float):
        assert x == pytest.approx(y, rel=1e-3, abs=1e-5), where
    elif "reason" not in where:  # a sentence with numbers in it
        assert x == y, where


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])
