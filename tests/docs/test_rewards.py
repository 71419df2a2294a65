"""docs/rewards.md: its function and its Python example run, with fewer steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llm.__main__ import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/rewards.md").read_text(encoding="utf-8")
FUNCTION, EXAMPLE = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
FEWER = {
    "run.steps": 2,
    "pretrain.policy_steps": 2,
    "pretrain.actor_steps": 2,
    "run.eval_prompts": 4,
    "rollout.prompts_per_step": 2,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "llm/configs").mkdir(parents=True)
    config = "llm/configs/tiny_cpu.toml"
    (tmp_path / config).write_text((ROOT / config).read_text())
    (tmp_path / "rewards.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)


def test_the_function_of_the_page_is_a_reward_for_its_command(folder, capfd):
    [line] = re.findall(r"^python -m llm train .*rewards\.py.*$", PAGE, re.M)
    fewer = [word for key, value in FEWER.items() for word in (f"--{key}", str(value))]
    assert main([*shlex.split(line)[3:], *fewer]) == 0
    # of a function that fails each reward is 0; here each character costs 0.01
    assert "runs/own_reward: pass rate -0." in capfd.readouterr().out


def test_the_python_example_trains_and_returns_its_summary(folder, capfd):
    """Its reward is minus the length, and an untrained model's completions have one."""
    steps = '"run.steps": 20'
    assert steps in EXAMPLE
    fewer = ", ".join(f'"{key}": {value}' for key, value in FEWER.items())
    exec(compile(EXAMPLE.replace(steps, fewer), "rewards.md", "exec"), {})
    first, last = capfd.readouterr().out.split(" -> ")
    assert float(first) < 0 and float(last) < 0
