"""docs/data.md: its program makes files with which its commands work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm.settings import load
from llm.tasks.problem import is_held_out

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_the_files_of_the_page_have_prompts_to_train_on_and_held_out_ones(tmp_path):
    """A page whose rows were all trained on ended in a PROBLEM of doctor."""
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    prompts = {
        name: [json.loads(line)["prompt"] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("rows.jsonl", "messages.jsonl", "held_out.jsonl")
    }
    rows = parquet.read_table(tmp_path / "train.parquet").to_pylist()
    prompts["train.parquet"] = [row["prompt"][0]["content"] for row in rows]
    assert all(row["reward_model"]["ground_truth"] for row in rows)
    for name in ("rows.jsonl", "train.parquet"):
        held = sum(is_held_out(prompt) for prompt in prompts[name])
        assert held == 8
        assert len(set(prompts[name])) - held >= load([], []).rollout.prompts_per_step
    assert not set(prompts["rows.jsonl"]) & set(prompts["held_out.jsonl"])
    sources = set(re.findall(r"[\w]+\.(?:jsonl|parquet)", " ".join(commands())))
    assert sources == {"rows.jsonl", "messages.jsonl", "held_out.jsonl", "train.parquet"}


def commands() -> list[str]:
    return re.findall(r"^python -m llm doctor(?:.*\\\n)*.*$", PAGE, re.M)
