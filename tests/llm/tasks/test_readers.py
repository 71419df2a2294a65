"""Rows of files: bad ones are refused or counted with file, line and reason."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import sections
from row_sources import numbered, source
from toy_tokenizers import Words

from llm.errors import ConfigError
from llm.tasks import readers, unpacking
from llm.tasks.factory import open_task
from llm.tasks.problem import Problem

BAD = {
    "{oops\n": "not JSON",
    "[1, 2]\n": "not an object but a list",
    '"x"\n': "not an object but a str",
    "[" * 200_000 + "\n": "not JSON",
    '{"answer": ' + "9" * 5000 + "}\n": "not JSON",
    '{"question": "q", "answer": "1"}\n': "no column 'prompt', but 'question', 'answer'",
    '{"prompt": "q"}\n': "no column 'answer', but 'prompt'",
    '{"prompt": ["q"], "answer": "1"}\n': "'prompt' is a list, not a text",
    '{"prompt": 3, "answer": "1"}\n': "'prompt' is an int, not a text",
    '{"prompt": "q", "answer": null}\n': "'answer' is null, not a text",
    '{"prompt": "q", "answer": true}\n': "'answer' is a bool, not a text",
    '{"prompt": "q", "answer": NaN}\n': "'answer' is a float, not a text",
    '{"prompt": " ", "answer": "1"}\n': "'prompt' is empty",
    '{"prompt": "q", "answer": ""}\n': "'answer' is empty",
    '{"prompt": "\\ud800", "answer": "1"}\n': "the prompt cannot be read",
    '{"prompt": "a b c d e f g h i j k", "answer": "1"}\n': "has 11 tokens, more than 10",
    '{"prompt": "' + "x" * (1 << 20) + '", "answer": "1"}\n': "longer than 1048576 bytes",
}


@pytest.mark.parametrize("line", BAD, ids=list(BAD.values()))
def test_a_bad_row_is_refused_with_file_line_and_reason_or_skipped_and_counted(tmp_path, line):
    lines = [*numbered(30), "\n", line, {"prompt": "last one", "answer": 7}]
    with pytest.raises(ConfigError) as refused:
        source(tmp_path / "a.jsonl", lines, prompt_tokens_max=10)
    assert f"1 bad rows of 32 in {tmp_path}/a.jsonl:\n" in str(refused.value)
    assert f"a.jsonl, line 32: {BAD[line]}" in str(refused.value).replace("the prompt has", "has")
    assert len(str(refused.value)) < 600
    task = source(tmp_path / "a.jsonl", lines, prompt_tokens_max=10, bad_rows="skip")
    assert task.skipped == 1
    found = [*task.held_out(0, 99), *task.batch(0, 0, 31 - len(task.held_out(0, 99)))]
    assert sorted(found) == sorted(
        [Problem(f"question {i}", str(i)) for i in range(30)] + [Problem("last one", "7")]
    )


def test_bytes_that_are_not_text_are_a_bad_row_and_a_byte_order_mark_is_none(tmp_path):
    good = b"".join(json.dumps(r).encode() + b"\n" for r in numbered(30))
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\xff\xfe\n")
    cfg = sections.task(type="problems", source=str(tmp_path / "a.jsonl"))
    with pytest.raises(ConfigError, match=r"1 bad rows of 31(.|\n)*line 31: not JSON \('utf-8'"):
        open_task(cfg, Words(), sections.EXACT)


def test_the_first_five_bad_rows_are_shown_and_all_are_counted(tmp_path):
    with pytest.raises(ConfigError) as refused:
        source(tmp_path / "a.jsonl", [*numbered(10), *["x\n"] * 12])
    assert str(refused.value).count("a.jsonl, line") == 5
    assert "12 bad rows of 22" in str(refused.value) and "and 7 more" in str(refused.value)


def test_nothing_but_bad_rows_is_an_error_even_when_they_are_skipped(tmp_path):
    with pytest.raises(ConfigError, match="no good row is left"):
        source(tmp_path / "a.jsonl", ["x\n"], bad_rows="skip")
    with pytest.raises(ConfigError, match="holds no rows"):
        source(tmp_path / "a.jsonl", [], bad_rows="skip")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "no/such/file.jsonl"}, "cannot read no/such/file.jsonl: No such file"),
        ({"source": "train.csv"}, "is no file and no hub id"),
        ({"source": "tests"}, "exists, but is neither"),
        ({"source": "gsm8k:nope.jsonl"}, "cannot read nope.jsonl: No such file"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_would(settings, message):
    with pytest.raises(ConfigError, match=message):
        open_task(sections.task(type="problems", **settings), Words(), sections.EXACT)


def test_parquet_gives_a_reward_function_all_columns_that_json_can_hold(tmp_path):
    table = [r | {"level": 3, "picture": b"x"} for r in numbered(40)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    cfg = sections.task(type="problems", source=str(tmp_path / "a.parquet"))
    task = open_task(cfg, Words(), sections.reward(function="a.py:f"))
    assert {p.extra for p in task.batch(0, 0, 9)} == {'{"level": 3}'}


def test_parquet_reads_like_jsonl(tmp_path):
    table = numbered(40)
    pyarrow.parquet.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    cfg = sections.task(type="problems", source=str(tmp_path / "a.parquet"))
    assert open_task(cfg, Words(), sections.EXACT).batch(0, 1, 9) == source(
        tmp_path / "a.jsonl", table
    ).batch(0, 1, 9)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match=r"cannot read .*b.parquet as parquet"):
        open_task(sections.task(type="problems", source=str(tmp_path / "b.parquet")), Words())
    cfg = sections.task(type="problems", source=str(tmp_path / "a.parquet"), prompt_column="text")
    with pytest.raises(
        ConfigError, match=r"no column 'text', but 'prompt', 'answer'.*--task.prompt"
    ):
        open_task(cfg, Words())


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow.*-e '.\[data\]' in the checkout"):
        list(readers.parquet_rows(tmp_path / "a.parquet", ["prompt"]))


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-07", "0.0000001"), ("2.5e3", "2500.0"), ("1e22", "1" + "0" * 22), ("-0.5", "-0.5")],
)
def test_a_number_in_json_becomes_its_digits(tmp_path, written, read):
    lines = [f'{{"prompt": "question {i}", "answer": {written}}}\n' for i in range(30)]
    for scorer in ("exact", "number", "math_verify"):
        task = source(tmp_path / "a.jsonl", lines, reward=scorer)
        assert {a for _, a, _ in task.batch(0, 0, 20)} == {read}


def test_whole_numbers_of_any_length_are_read_or_refused_by_name(tmp_path):
    long = '{"prompt": "long", "answer": ' + "1" * 400 + "}\n"
    task = source(tmp_path / "a.jsonl", [*numbered(20), long])
    assert Problem("long", "1" * 400) in [*task.batch(0, 0, 40), *task.held_out(0, 40)]
    longer = '{"prompt": "long", "answer": -' + "1" * 1001 + "}\n"
    with pytest.raises(ConfigError, match=r"line 21: 'answer' is a number of more than 1000"):
        source(tmp_path / "a.jsonl", [*numbered(20), longer])


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": " 1 + 1 "},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "3 + 4"},
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_prompts_may_be_messages_and_answers_lie_inside_other_columns(tmp_path, ending):
    rows = [
        {"prompt": [*CHAT[:3], {"role": "user", "content": f"question {i}"}]}
        | {"reward_model": {"ground_truth": str(i), "style": "rule"}, "x.y": i}
        for i in range(30)
    ]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": str(path), "answer_column": "reward_model.ground_truth"}
    cfg = sections.task(type="problems", instruction="now", **settings)
    task: Any = open_task(cfg, Words(), sections.EXACT)
    found = {p.messages: a for p, a, *_ in [*task.batch(0, 0, task.size), *task.held_out(0, 99)]}
    earlier = (("system", "be brief"), ("user", "1 + 1"), ("assistant", "2"))
    assert found == {(*earlier, ("user", f"question {i}\nnow")): str(i) for i in range(30)}
    cfg = sections.task(type="problems", source=str(path), answer_column="x.y")
    same: Any = open_task(cfg, Words(), sections.EXACT)
    assert same.size == task.size  # a column of that very name comes first
    cfg = sections.task(type="problems", source=str(path), answer_column="reward_model.gold")
    with pytest.raises(ConfigError, match=r"in 'reward_model' 'ground_truth', 'style'"):
        open_task(cfg, Words(), sections.EXACT)


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        (CHAT[:3], "'prompt' does not end in a message of the user"),
        ([], "'prompt' does not end in a message of the user"),
        ([{"role": "tool", "content": "x"}], "'prompt' has the role 'tool' in message 1"),
        ([*CHAT[1:], "x"], "'prompt' is a list, not a text and no list of messages"),
    ],
)
def test_a_list_that_is_no_conversation_is_a_bad_row(tmp_path, prompt, why):
    with pytest.raises(ConfigError, match=f"line 31: {why}"):
        source(tmp_path / "a.jsonl", [*numbered(30), {"prompt": prompt, "answer": "1"}])


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_only_regular_files_are_read(tmp_path, ending):
    """A FIFO would keep its reader waiting, and /dev/zero has no end."""
    fifo = tmp_path / f"fifo.{ending}"
    os.mkfifo(fifo)
    (tmp_path / f"folder.{ending}").mkdir()
    (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    for name in ("fifo", "folder", "zero"):
        cfg = sections.task(type="problems", source=str(tmp_path / f"{name}.{ending}"))
        with pytest.raises(
            ConfigError, match=rf"cannot read .*{name}.{ending}.*not a regular file"
        ):
            open_task(cfg, Words())


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(numbered(40)), path)
    monkeypatch.setattr(unpacking, "ROW_GROUP_BYTES_MAX", 99)
    with pytest.raises(ConfigError, match=r"a.parquet as parquet: row group 0 has \d+ bytes"):
        open_task(sections.task(type="problems", source=str(path)), Words())


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    with path.open("wb") as file:
        file.truncate(readers.FILE_BYTES_MAX + 1)  # a hole, which takes no room on the disk
    with pytest.raises(ConfigError, match=rf"a.{ending} has 68719476737 bytes, and at most"):
        open_task(sections.task(type="problems", source=str(path)), Words())


@pytest.mark.parametrize("name", ["x" * 5000 + ".jsonl", "x" * 5000, "a\0b.jsonl", "a\0b.parquet"])
def test_paths_that_no_file_has_are_refused(name):
    with pytest.raises(ConfigError):
        open_task(sections.task(type="problems", source=name), Words())
