"""Batches of rows: no prompt twice in a step, and every row once in a pass over the data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from row_sources import numbered, source

from llm import settings
from llm.errors import ConfigError
from llm.tasks.factory import require_distinct_prompts
from llm.tasks.problem import Problem, RowTask, digest, with_instruction
from llm.tokenizers.conversation import Conversation


def rows(n: int) -> RowTask:
    return RowTask([Problem(str(i), "") for i in range(n)], {"held_out": [Problem("held", "")]}, 0)


@pytest.mark.parametrize(("size", "n"), [(5, 4), (7, 7), (16, 10), (33, 16), (100, 16)])
def test_no_step_holds_a_prompt_twice_and_passes_stay_whole(size, n):
    """Also where a pass over the data ends within a step."""
    task, seen = rows(size), []
    for step in range(60):
        batch = task.batch(0, step, n)
        assert len(set(batch)) == n
        seen += batch
    passes = len(seen) // size
    for i in range(passes):
        assert len(set(seen[i * size : (i + 1) * size])) == size
    assert set(Counter(seen[: passes * size]).values()) == {passes}


@pytest.mark.parametrize(("size", "n"), [(5, 4), (33, 16)])
def test_a_batch_depends_on_nothing_but_seed_step_and_size(size, n):
    """A resumed run asks for a late step first."""
    walked, fresh = rows(size), rows(size)
    in_order = [walked.batch(3, step, n) for step in range(40)]
    assert fresh.batch(3, 39, n) == in_order[39]
    assert fresh.batch(3, 2, n) == in_order[2]
    assert walked.batch(3, 17, n) == in_order[17] != walked.batch(4, 17, n)


def test_more_prompts_in_a_step_than_rows_are_refused(tmp_path):
    task = source(tmp_path / "a.jsonl", numbered(20))
    cfg = settings.resolve({"rollout.prompts_per_step": task.size})
    require_distinct_prompts(cfg, task)
    cfg = replace(cfg, rollout=replace(cfg.rollout, prompts_per_step=task.size + 1))
    with pytest.raises(ConfigError, match=rf"{task.size + 1} is more than the {task.size} diff"):
        require_distinct_prompts(cfg, task)


def test_an_instruction_goes_into_the_last_message_of_a_conversation():
    chat = Conversation([("user", "1"), ("assistant", "2"), ("user", "3")])
    told = with_instruction(chat, "be brief")
    assert isinstance(told, Conversation)
    assert told.messages == (*chat.messages[:2], ("user", "3\nbe brief"))
    assert with_instruction("3", "be brief") == "3\nbe brief"
    assert with_instruction(chat, "") is chat


def test_digests_name_each_source_and_change_with_what_is_read(tmp_path):
    held, train = tmp_path / "b.jsonl", tmp_path / "a.jsonl"

    def digests(rows):
        return source(train, rows, eval_source=str(held)).digests

    source(held, numbered(40))
    names = {f"data: {train}", f"evaluation set b: {held}"}
    there = digests(numbered(60))
    assert set(there) == names and len(set(there.values())) == 2
    assert digests([{**row, "other": 1} for row in numbered(60)]) == there
    now = digests([*numbered(59), {"prompt": "question 59", "answer": "58"}])
    assert {name for name in names if now[name] != there[name]} == {f"data: {train}"}


def test_the_digest_tells_messages_from_their_text():
    chat = Conversation([("user", "1"), ("assistant", "2"), ("user", "3")])
    assert digest([Problem(chat, "")]) != digest([Problem(str(chat), "")])
    assert digest([Problem("a", "bc")]) != digest([Problem("ab", "c")])
    assert len(digest([])) == 64
