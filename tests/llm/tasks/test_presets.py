"""Presets read small files of the shape of the published ones; lists of evaluation sets."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
import sections
from row_sources import numbered, source
from toy_tokenizers import Words

from llm import settings
from llm.errors import ConfigError
from llm.rewards.scorers import same_number
from llm.settings.schema import NumberReward
from llm.tasks.factory import open_task
from llm.tasks.presets import evaluation_sources
from llm.tasks.problem import Problem

OTHERS = {"solution": "It is $7$.", "level": 3, "unique_id": "test/1.json", "url": None}
SHAPES = {  # preset: a row of the published file, and its problem
    "gsm8k": (
        {"question": "How many eggs?", "answer": "2 * 3 = <<2*3=6>>6\n#### 1,236"},
        Problem("How many eggs?", "1236"),
    ),
    "math": (
        {"problem": "Find $x$.", "level": "Level 5", "type": "Algebra"}
        | {"solution": r"First \boxed{3}, so $\boxed{\frac{1}{2}}$."},
        Problem("Find $x$.", r"\frac{1}{2}"),
    ),
    "deepscaler": (
        {"problem": "Find $x$.", "answer": "-8", "solution": r"\boxed{A}", "difficulty": 1.4375},
        Problem("Find $x$.", "-8"),
    ),
    "dapo": (
        {
            "data_source": "math_dapo",
            "prompt": [{"content": "Solve it step by step.\n\nFind x.", "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079", "split": None},
        },
        Problem("Solve it step by step.\n\nFind x.", "34"),
    ),
    "math500": (
        {"problem": "Convert.", "answer": r"\left( 3, \frac{\pi}{2} \right)"} | OTHERS,
        Problem("Convert.", r"\left( 3, \frac{\pi}{2} \right)"),
    ),
    "amc": (
        {"id": 0, "problem": "What is it?", "answer": 142.0, "url": "https://example.org"},
        Problem("What is it?", "142.0"),
    ),
    "aime24": (
        {"id": 60, "problem": "Every morning?", "answer": "204", "year": "2024"} | OTHERS,
        Problem("Every morning?", "204"),
    ),
    "aime25": (
        {"problem": "Find the sum.", "answer": "70", "id": "0"},
        Problem("Find the sum.", "70"),
    ),
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_preset_reads_a_local_copy_of_the_published_file(tmp_path, name, ending):
    row, problem = SHAPES[name]
    path = tmp_path / f"copy.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row) + "\n")
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in numbered(3)))
    train, held = f"{tmp_path}/own.jsonl", f"{name}:{path}"
    columns = {"prompt_column": "prompt", "answer_column": "answer"}  # of the source alone
    cfg = sections.task(type="problems", source=train, eval_source=held, **columns)
    assert open_task(cfg, Words(), sections.EXACT).held_out_sets(0, 9) == {name: [problem]}


ANSWERS: dict[str, list[tuple[int | float | str, str]]] = {  # as a column has them: their values
    "integers": [(34, "34"), (0, "0"), (-3, "-3")],
    "floats": [(34.0, "34"), (0.5, "1/2"), (1e-07, "1/10000000")],
    "texts": [
        ("34", "34"), ("033", "33"), (" -3\n", "-3"), ("$35$", "35"), (r"\boxed{36}", "36"),
        (r"-\frac{2}{3}", "-2/3"), (r"80\%", "80"), ("1,234", "1234"), ("x = 37", "37"),
        (r"38^\circ", "38"), (r"39\text{ cm}", "39"), ("\u22125", "-5"), ("n-7=4", "4"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["deepscaler", "dapo", "aime25"])
def test_answers_of_every_type_are_read_with_all_repeats_counted_once(tmp_path, name, ending, kind):
    """DAPO-Math-17k holds each row 100 times; copies hold answers as numbers or inside a text."""
    rows = []
    for i, (answer, _) in enumerate(ANSWERS[kind]):
        text = json.dumps(SHAPES[name][0]).replace("Find", f"{i}: Find")
        row = json.loads(text)
        if name == "dapo":
            row["reward_model"]["ground_truth"] = answer
        else:
            row["answer"] = answer
        rows.append(row)
    path = tmp_path / f"copy.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows * 100), path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows * 100))
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(r) + "\n" for r in numbered(3)))
    cfg = sections.task(type="problems", source=str(own), eval_source=f"{name}:{path}")
    task = open_task(cfg, Words(), NumberReward())
    problems = task.held_out_sets(0, 99)[name]
    assert (len(problems), task.repeats, task.skipped) == (len(rows), 99 * len(rows), 0)
    assert len({p.prompt for p in problems}) == len(rows)
    for problem in problems:
        number = int(problem.prompt.partition(": Find")[0].split()[-1])
        value = ANSWERS[kind][number][1]
        assert same_number(rf"so \boxed{{{value}}}", problem.answer)
        assert not same_number(f"{value}1", problem.answer)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_published_rows_without_an_answer_or_with_two_are_bad_rows(tmp_path, ending):
    """DeepScaleR has some of the first kind, DAPO-Math-17k of the second."""
    good = {"problem": "Find $x$.", "answer": "1", "solution": ""}
    again = {"problem": "Find $y$."}
    rows = [good, good | {"problem": "a", "answer": ""}, good | {"problem": "b", "answer": None}]
    rows += [good | again, good | again | {"answer": "2"}, good | again, good]
    path = tmp_path / f"copy.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(r) + "\n" for r in numbered(3)))
    given = {"source": str(own), "eval_source": f"deepscaler:{path}"}
    with pytest.raises(ConfigError, match="bad rows of"):
        open_task(sections.task(type="problems", **given), Words(), NumberReward())
    task = open_task(
        sections.task(type="problems", **given, bad_rows="skip"), Words(), NumberReward()
    )
    assert task.held_out_sets(0, 9) == {"deepscaler": [Problem("Find $x$.", "1")]}
    assert (task.skipped, task.repeats) == (4, 2)  # a repeat of a bad row counts once


def test_several_evaluation_sets_have_names_and_are_kept_apart(tmp_path):
    for name in ("a", "b"):
        rows = numbered(4 if name == "a" else 6)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    listed = f"{tmp_path}/a.jsonl, second={tmp_path}/b.jsonl"
    task = source(tmp_path / "train.jsonl", numbered(9), eval_source=listed)
    sets = task.held_out_sets(0, 5)
    assert {name: len(set(problems)) for name, problems in sets.items()} == {"a": 4, "second": 5}
    assert task.held_out(0, 5) == [*sets["a"], *sets["second"]]
    assert {p for p, *_ in task.batch(0, 0, task.size)} == {f"question {i}" for i in (6, 7, 8)}


def test_names_of_evaluation_sets():
    text = "math500, openai/gsm8k ,aime24:/x/A.jsonl, /data/My set-2.jsonl,own=b/C-d"
    assert list(evaluation_sources(text)) == ["math500", "gsm8k", "aime24", "my_set_2", "own"]
    for wrong, why in (("a.jsonl,x/a.jsonl", "two sources are called a"), ("a.jsonl,", "is empty")):
        with pytest.raises(ConfigError, match=why):
            evaluation_sources(wrong)


@pytest.mark.parametrize(
    ("name", "splits"), [("aime24", ["train", "train"]), ("math500", ["train", "test"])]
)
def test_a_preset_with_one_split_is_read_from_it(monkeypatch, name, splits):
    asked = []

    def hub_rows(place, config, split, columns, all_columns):
        asked.append(split)
        yield "row 1", {"problem": place, "prompt": "q", "answer": "1"}

    monkeypatch.setattr("llm.tasks.datasets.hub_rows", hub_rows)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cfg = sections.task(type="problems", source="some/body", eval_source=name)
    open_task(cfg, Words(), sections.EXACT)
    assert asked == splits


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"source": "math500", "split": "train"},
            "split train was asked for, and math500 has only the split test: leave --task",
        ),
        (
            {"source": "a/b", "eval_source": "gsm8k,own=math-ai/aime25", "eval_split": "train"},
            "eval_split train was asked for, and math-ai/aime25 has only the split test: leave",
        ),
    ],
)
def test_another_split_than_a_presets_only_one_is_refused_before_anything_is_read(
    monkeypatch, task, message
):
    monkeypatch.setattr("llm.tasks.datasets.hub_rows", lambda *args: pytest.fail("it was read"))
    monkeypatch.setattr("llm.tasks.datasets.require_on_hub", lambda *args: pytest.fail("asked"))
    with pytest.raises(ConfigError, match=message):
        open_task(sections.task(type="problems", **task), Words(), sections.EXACT)


def test_a_local_copy_of_a_preset_has_no_splits(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"problem": "p", "answer": "1"}\n')
    cfg = sections.task(type="problems", source=f"math500:{tmp_path}/a.jsonl", split="x")
    with pytest.raises(ConfigError, match="leaves no"):
        open_task(cfg, Words(), sections.EXACT)


def test_a_split_without_effect_is_refused_for_each_of_several_sets():
    task = {"task.type": "problems", "task.source": "a/b", "policy.path": "x", "actor.path": "x"}
    sets = {"task.eval_source": "a.jsonl,b.jsonl", "task.eval_split": "dev"}
    with pytest.raises(ConfigError, match=r"--task\.eval_split"):
        settings.resolve(task | sets)
