"""Hypothesis profiles (HYPOTHESIS_PROFILE = dev, ci or nightly), one torch thread, file order.

All tests run on the CPU, where results can be compared to the last bit and processes can be forked.
A GPU is checked by benchmarks/gpu_check.py.
"""

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import unflushed  # noqa: F401  no test waits for the disk
from hypothesis import HealthCheck, settings

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first looks for a GPU

_register = partial(
    settings.register_profile,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is not a failure
)
_register("dev", max_examples=25, derandomize=True)
_register("ci", max_examples=300, derandomize=True)
_register("nightly", max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

LONGEST = (  # files that start first: no worker begins one of them when the others are done
    "llm/distributed/test_collectives.py",
    "llm/test_process_faults.py",
    "paper_figures/report/test_everything.py",
    "llm/training/test_run.py",
    "llm/test_train.py",
    "paper_figures/experiments/test_runner.py",
    "llm/rollout/engines/test_worker.py",
    "llm/rewards/test_math_verifier.py",
    "llm/rollout/engines/test_subprocess_engine.py",
    "sim/claims/test_check.py",
    "llm/runs/test_signals.py",
    "paper_figures/figures/test_fig2.py",
    "jackpot/test_divergence.py",
    "llm/test_hostile_folders.py",
    "llm/models/test_actors.py",
    "paper_figures/claims/test_kept_study.py",
    "jackpot/test_obrs.py",
    "llm/rewards/test_number_context.py",
    "sim/studies/test_estimator_studies.py",
    "llm/training/test_forward.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays to the end: no garbage is looked for in it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch  # here: the process that hands the tests out collects none and needs no torch

    torch.set_num_threads(1)
    root = Path(__file__).parent
    rank = {root / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))  # stable
