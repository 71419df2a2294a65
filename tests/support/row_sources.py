"""Tasks of rows in a file."""

from __future__ import annotations

import json
from typing import Any

import sections
from toy_tokenizers import Words

from llm.tasks.factory import open_task


def source(path, rows_, reward="exact", **settings) -> Any:
    """A task of rows written to a file; exact scoring, so that no worker starts, else one."""
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows_))
    cfg = sections.task(type="problems", source=str(path), **settings)
    workers = {"workers": 1} if reward == "math_verify" else {}
    return open_task(cfg, Words(), sections.reward(type=reward, **workers))


def numbered(n: int) -> list[dict]:
    return [{"prompt": f"question {i}", "answer": str(i)} for i in range(n)]
