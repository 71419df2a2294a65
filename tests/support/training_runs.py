"""Tiny whole runs, for tests: seconds each."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from llm import settings as config
from llm import train
from llm.checkpoints.checkpoint import latest
from llm.runs import run_folder
from llm.runs.metrics_files import read

POLICY = ("--policy.layers", "1", "--policy.width", "32")
ACTOR = ("--actor.layers", "1", "--actor.width", "16", "--pretrain.actor-steps", "80")
COMMON = (
    *("--task.digits-min", "1", "--task.digits-max", "2", "--rollout.max-new-tokens", "5"),
    *("--pretrain.policy-steps", "120", "--pretrain.batch-size", "32"),
    *("--rollout.prompts-per-step", "4", "--rollout.rollouts-per-prompt", "4"),
    *("--run.steps", "12", "--run.eval-every", "4", "--run.eval-prompts", "16"),
    *("--run.checkpoint-every", "3"),
)
TINY = (*POLICY, *ACTOR, *COMMON)


def derived(kind: str, *flags: str) -> tuple[str, ...]:
    """Settings of an actor that is made from the policy."""
    return (*COMMON, "--actor.type", kind, *flags)


def settings(
    folder: Path, pretrained: Path, *extra: str, base: tuple[str, ...] = TINY
) -> config.Config:
    return config.load(
        [], [*base, "--run.folder", str(folder), "--pretrain.folder", str(pretrained), *extra]
    )


def start(folder: Path, pretrained: Path, *extra: str, base: tuple[str, ...] = TINY) -> dict:
    cfg = settings(folder, pretrained, *extra, base=base)
    ready = run_folder.prepare(cfg)
    try:
        return train.train(cfg, ready)
    finally:
        run_folder.release(ready)


def rows(folder: Path, name: str = "metrics") -> list[dict]:
    """A *.jsonl without the wall-clock columns, which no resume can repeat."""
    found = read(folder / f"{name}.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("seconds_")} for r in found]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    kept = latest(folder / "checkpoints")
    assert kept is not None
    return {
        f"{p.name}:{k}": v
        for p in sorted(kept.glob("*.safetensors"))
        for k, v in load_file(p).items()
    }
