"""Rows with the same prompt: repeats are counted once, contradictions are bad rows."""

from __future__ import annotations

import json

import pytest
from row_sources import numbered, source

from llm.errors import ConfigError
from llm.tasks import datasets, repeats
from llm.tasks.problem import Problem, is_held_out


def test_repeats_are_counted_once(tmp_path):
    task = source(tmp_path / "a.jsonl", numbered(40) * 25, reward="number")
    once = source(tmp_path / "b.jsonl", numbered(40), reward="number")
    assert (task.repeats, task.skipped, once.repeats) == (40 * 24, 0, 0)
    assert task.held_out(0, 99) == once.held_out(0, 99)
    assert task.batch(0, 0, task.size) == once.batch(0, 0, once.size)


@pytest.mark.parametrize("kind", ["good", "bad", "of two sources"])
def test_rows_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch, kind):
    """All sources count together; what repeats an earlier row takes no room."""
    monkeypatch.setattr(repeats, "TEXT_BYTES_MAX", 100 * 800)
    source(tmp_path / "a.jsonl", numbered(100) * 3)
    rows, more = (numbered(300) if kind == "good" else ["no JSON\n"] * 300), {"bad_rows": "skip"}
    if kind == "of two sources":
        rows, more = numbered(100), {"eval_source": str(tmp_path / "a.jsonl")}
    with pytest.raises(ConfigError, match=r"take more than 80000 bytes of memory, at line \d+ of"):
        source(tmp_path / "b.jsonl", rows, **more)


def test_a_prompt_with_two_answers_is_a_bad_row_wherever_it_stands(tmp_path):
    twice = [*numbered(20), {"prompt": "question 3", "answer": "4"}]
    with pytest.raises(ConfigError) as refused:
        source(tmp_path / "a.jsonl", twice)
    assert "2 bad rows of 21" in str(refused.value)
    assert "line 4: the prompt is that of line 21, and the answer there is '4'" in str(
        refused.value
    )
    assert "line 21: the prompt is that of line 4, and the answer there is '3'" in str(
        refused.value
    )
    task = source(tmp_path / "a.jsonl", twice, bad_rows="skip")
    assert task.skipped == 2
    prompts = {p for p, *_ in [*task.batch(0, 0, task.size), *task.held_out(0, 99)]}
    assert prompts == {f"question {i}" for i in range(20) if i != 3}


@pytest.mark.parametrize(("scorer", "repeats"), [("number", 1), ("exact", None)])
def test_numbers_written_differently_contradict_only_where_texts_are_compared(
    tmp_path, scorer, repeats
):
    twice = [*numbered(20), {"prompt": "question 3", "answer": "3.0"}]
    if repeats:
        assert source(tmp_path / "a.jsonl", twice, reward=scorer).repeats == repeats
    else:
        with pytest.raises(ConfigError, match="2 bad rows"):
            source(tmp_path / "a.jsonl", twice, reward=scorer)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,000", "1000", True), (r"\frac{1}{2}", "1/2", True), (r"\dfrac{1}{2}", r"\frac12", True),
        ("+5", "5", True), ("$5$", "5", True), (".5", "0.5", True), ("$x^2$", "x ^ 2", True),
        (r"\left( x \right)", "(x)", True), (r"\dfraction", r"\fraction", False),
        ("5", "-5", False), ("x", "y", False), (r"\frac{1}{2}", "2", False),
    ],
)  # fmt: skip
def test_answers_that_are_written_differently_are_no_contradiction(one, other, same):
    assert datasets._same_answer(Problem("", one), Problem("", other)) == same


def test_copies_of_held_out_problems_are_not_trained_on_whatever_their_white_space(tmp_path):
    held = [{"prompt": f"question  {i}\n ?", "answer": i} for i in range(5)]
    train = [{"prompt": f"question {i}  ?", "answer": i} for i in range(9)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    task = source(tmp_path / "a.jsonl", train, eval_source=str(tmp_path / "b.jsonl"))
    assert {p for p, *_ in task.batch(0, 0, task.size)} == {f"question {i}  ?" for i in range(5, 9)}


def test_copies_in_other_white_space_are_on_the_same_side_of_the_split():
    prompts = [f"question {i}  and\n{i}" for i in range(200)]
    assert [is_held_out(p) for p in prompts] == [is_held_out(" ".join(p.split())) for p in prompts]
    assert 10 < sum(map(is_held_out, prompts)) < 40
