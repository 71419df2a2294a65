"""Data sets: nothing held out is trained on, and sources and presets are read as stated."""

from __future__ import annotations

import json
import sys
import types

import pytest
import sections
from row_sources import numbered, source
from toy_tokenizers import Words

from llm.errors import ConfigError
from llm.tasks import datasets
from llm.tasks import problem as data
from llm.tasks.factory import open_task
from llm.tasks.problem import Problem


def test_rows_walk_one_permutation_per_epoch(tmp_path):
    """Batches of any size, taken in any order, are slices of the same sequence."""
    task = source(tmp_path / "a.jsonl", numbered(50))
    size = len({p for step in range(60) for p, *_ in task.batch(0, step, 1)})
    walk = [task.batch(0, step, 1)[0] for step in range(2 * size)]
    assert len(set(walk[:size])) == size and set(walk[:size]) == set(walk[size:])
    assert walk[:size] != walk[size:]
    assert [p for step in (0, 1, 2) for p in task.batch(0, step, 7)] == walk[:21]
    assert task.batch(0, 0, 2 * size + 3)[: 2 * size] == walk
    assert task.batch(1, 0, 7) != task.batch(0, 0, 7)


def test_held_out_rows_are_seeded_and_all_of_them_if_fewer(tmp_path):
    task = source(tmp_path / "a.jsonl", numbered(200))
    everything = task.held_out(0, 10_000)
    trained = set(task.batch(0, 0, 200 - len(everything)))
    assert 10 < len(everything) < 50 and len(trained) == 200 - len(everything)
    assert not trained & set(everything)
    assert task.held_out(3, 5) == task.held_out(3, 5) != task.held_out(4, 5)


def test_a_prompt_that_occurs_twice_does_not_leak(tmp_path):
    """Same prompt, other outer whitespace: same side."""
    twice = numbered(60) + [{"prompt": f" question {i}\n", "answer": i} for i in range(60)]
    task = source(tmp_path / "a.jsonl", twice)
    held = {p.strip() for p, *_ in task.held_out(0, 1000)}
    assert held and not held & {p.strip() for p, *_ in task.batch(0, 0, 120)}


def test_what_eval_source_holds_is_not_trained_on(tmp_path):
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in numbered(5)))
    task = source(tmp_path / "a.jsonl", numbered(9), eval_source=str(tmp_path / "b.jsonl"))
    assert {p for p, *_ in task.batch(0, 0, 40)} == {f"question {i}" for i in range(5, 9)}
    assert len(task.held_out(0, 99)) == 5
    with pytest.raises(ConfigError, match=r"leaves no training problem: every prompt of it"):
        source(tmp_path / "a.jsonl", numbered(4), eval_source=str(tmp_path / "b.jsonl"))


class FakeRows(list):
    def __init__(self, found: list[dict], columns: list[str]) -> None:
        super().__init__(found)
        self.column_names = columns

    def select_columns(self, columns):
        return FakeRows([{c: row[c] for c in columns} for row in self], columns)


def fake_hub(monkeypatch, found: list[dict], version: str = "5.2.0") -> list:
    """A `datasets` that returns these rows, and notes what it was asked for."""
    asked = []

    def load_dataset(*args, **settings):
        asked.append((args, settings))
        if args[0] == "no/body":
            raise FileNotFoundError("Dataset 'no/body' doesn't exist on the Hub")
        return FakeRows(found, list(found[0]))

    module = types.SimpleNamespace(__version__=version, load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return asked


def test_presets_know_hub_id_columns_and_where_the_answer_is(monkeypatch):
    one = {"question": "q", "answer": "#### 2 * 3 = <<2*3=6>>6\n#### 1,236 ", "problem": "p"}
    wanted = {
        "gsm8k": (("openai/gsm8k", "main"), Problem("q 1", "1236")),
        "openai/gsm8k": (("openai/gsm8k", "main"), Problem("q 1", "1236")),
        "math": (("DigitalLearningGmbH/MATH-lighteval", "default"), Problem("p 1", r"\frac{1}{2}")),
        "deepscaler": (("agentica-org/DeepScaleR-Preview-Dataset", None), Problem("p 1", "-8")),
    }
    for name, (args, problem) in wanted.items():
        row = one if "gsm8k" in name else one | {"answer": "-8"}
        row["solution"] = r"First \boxed{3}. So it is $\boxed{\frac{1}{2}}$."
        asked = fake_hub(
            monkeypatch, [row | {"question": f"q {i}", "problem": f"p {i}"} for i in range(30)]
        )
        cfg = sections.task(type="problems", source=name, split="train")
        task = open_task(cfg, Words(), sections.EXACT)
        assert asked == [(args, {"split": "train"})]
        assert problem in [*task.batch(0, 0, 60), *task.held_out(0, 60)]


def test_a_preset_reads_a_local_copy_and_columns_may_be_named(tmp_path):
    table = [{"question": f"q {i}", "answer": f"so #### {i},000", "n": i} for i in range(40)]
    lines = "".join(json.dumps(r) + "\n" for r in table)
    (tmp_path / "a.jsonl").write_text(lines)
    cfg = sections.task(type="problems", source=f"gsm8k:{tmp_path}/a.jsonl")
    assert set(open_task(cfg, Words(), sections.EXACT).batch(0, 0, 99)) <= {
        Problem(f"q {i}", f"{i}000") for i in range(40)
    }
    task = source(tmp_path / "a.jsonl", [lines], prompt_column="question", answer_column="n")
    assert set(task.batch(0, 0, 99)) <= {Problem(f"q {i}", str(i)) for i in range(40)}
    (tmp_path / "a.jsonl").write_text(lines + '{"question": "q", "answer": "no mark"}\n')
    with pytest.raises(ConfigError, match=r"line 41: 'answer' ends in no answer \(wanted: ####"):
        open_task(cfg, Words(), sections.EXACT)


def for_function(path, rows, **settings):
    """The problems of rows that a reward function judges."""
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    cfg = sections.task(type="problems", source=str(path), **settings)
    task = open_task(cfg, Words(), sections.reward(function="a.py:f"))
    found = [*task.batch(0, 0, len(rows) - len(task.held_out(0, 99))), *task.held_out(0, 99)]
    return {p.prompt: p for p in found}


def test_a_reward_function_is_given_the_rows_other_columns(tmp_path):
    """They survive the instruction; without a function they are not kept."""
    table = [r | {"level": i, "tags": ["a"], "answer": "-"} for i, r in enumerate(numbered(30))]
    found = for_function(tmp_path / "a.jsonl", table, instruction="Go.")
    assert found["question 3\nGo."] == Problem(
        "question 3\nGo.", "-", '{"level": 3, "tags": ["a"]}'
    )
    plain = source(tmp_path / "a.jsonl", table)
    assert {p.extra for p in plain.batch(0, 0, 20)} == {""}


def test_a_reward_function_needs_no_answer(tmp_path):
    """None, no text, or one that a scorer could not read; a prompt must still be a text."""
    table: list[dict] = [{"prompt": f"question {i}"} for i in range(30)]
    nested = {"ground_truth": "7"}
    table[1] |= {"answer": nested}
    table[2] |= {"answer": "two words of prose"}
    found = for_function(tmp_path / "a.jsonl", table)
    assert found["question 0"] == Problem("question 0", "")
    assert json.loads(found["question 1"].extra) == {"answer": nested}
    assert found["question 2"].answer == "two words of prose"
    with pytest.raises(ConfigError, match=r"line 31: 'prompt' is a list, not a text"):
        for_function(tmp_path / "a.jsonl", [*table, {"prompt": ["x"]}])


def test_other_columns_are_bounded_and_what_json_cannot_hold_is_left_out(tmp_path):
    big = {"prompt": "q", "answer": "1", "text": "x" * data.EXTRA_CHARACTERS_MAX}
    with pytest.raises(ConfigError, match=r"line 31: its other columns take \d+ characters, more"):
        for_function(tmp_path / "a.jsonl", [*numbered(30), big])
    assert data.extra_of({"picture": b"\x89PNG", "n": 1}) == '{"n": 1}'
    assert data.extra_of({"picture": b"\x89PNG"}) == data.extra_of({}) == ""


def test_the_hub_split_of_eval_source_is_eval_split(monkeypatch):
    asked = fake_hub(monkeypatch, [{"question": "q", "answer": "#### 3"}])
    cfg = sections.task(type="problems", source="gsm8k", eval_source="gsm8k")
    with pytest.raises(ConfigError, match="leaves no training problem"):
        open_task(cfg, Words(), sections.EXACT)
    assert [settings["split"] for _, settings in asked] == ["train", "test"]


def test_hub_errors_say_what_to_do(monkeypatch):
    cfg = sections.task(type="problems", source="no/body")
    fake_hub(monkeypatch, [{"a": "b"}])
    with pytest.raises(ConfigError, match=r"cannot load split 'train' of .* no/body: Dataset"):
        open_task(cfg, Words(), sections.EXACT)
    with pytest.raises(ConfigError, match=r"some/body\[train\] has no column 'prompt', but 'a'"):
        open_task(sections.task(type="problems", source="some/body"), Words())
    fake_hub(monkeypatch, [{"a": "b"}], version="3.6.0")
    with pytest.raises(ConfigError, match=r"datasets is 3.6.0; before 4 it can run code"):
        open_task(cfg, Words(), sections.EXACT)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package datasets.*-e '.\[hub\]'"):
        open_task(cfg, Words(), sections.EXACT)


@pytest.mark.parametrize(
    "sets",
    [
        {"source": "owner/nme"},
        {"source": "gsm8k", "eval_source": "math500,own=owner/nme"},
        {"source": "rows.jsonl", "eval_source": "owner/nme"},
    ],
)
def test_the_names_of_all_data_sets_are_asked_for_before_any_is_read(monkeypatch, sets):
    asked = fake_hub(monkeypatch, [{"question": "q", "answer": "#### 3"}])

    def require_on_hub(name, kind):
        assert kind == "data set"
        if name == "owner/nme":
            raise ConfigError(f"no {name}")

    monkeypatch.setattr(datasets, "require_on_hub", require_on_hub)
    with pytest.raises(ConfigError, match="no owner/nme"):
        open_task(sections.task(type="problems", **sets), Words(), sections.EXACT)
    assert asked == []


@pytest.mark.parametrize("name", ["gsm8k", "aime24", "owner/name"])
def test_a_data_set_that_the_hub_does_not_have_is_refused_at_once(monkeypatch, name):
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def dataset_info(self, name, timeout):
        assert timeout <= 10.0
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    asked = fake_hub(monkeypatch, [{"a": "b"}])
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/none")
    monkeypatch.setattr("llm.hub._on_hub", set())
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(ConfigError, match="and no public data set of that name on the hub"):
        open_task(sections.task(type="problems", source=name), Words(), sections.EXACT)
    assert asked == []


def test_answers_the_scorer_cannot_compare_with_are_bad_rows(tmp_path):
    odd = [*numbered(20), {"prompt": "odd", "answer": "banana"}]
    with pytest.raises(ConfigError, match="line 21: the answer holds no number"):
        source(tmp_path / "a.jsonl", odd, reward="number")
    odd[-1]["answer"] = r"\frac{"
    with pytest.raises(ConfigError, match="line 21: math-verify cannot read the answer"):
        source(tmp_path / "a.jsonl", odd, reward="math_verify")
    odd[-1]["answer"] = r"$\frac{x+1}{2}$"
    assert source(tmp_path / "a.jsonl", odd, reward="math_verify").skipped == 0


def test_sources_and_generated_prompts_are_limited_in_tokens_with_the_instruction(tmp_path):
    with pytest.raises(ConfigError, match="line 1: the prompt has 5 tokens, more than 4"):
        source(tmp_path / "a.jsonl", numbered(9), prompt_tokens_max=4, instruction="and be brief")


@pytest.mark.parametrize("answer", ["1e-7", "2E+5", ".5e3", r"$1e-7$", "no idea at all"])
def test_answers_that_math_verify_would_take_for_something_else_are_bad_rows(tmp_path, answer):
    odd = [*numbered(20), {"prompt": "odd", "answer": answer}]
    with pytest.raises(ConfigError, match=r"line 21: the answer .*(power of ten|is prose)"):
        source(tmp_path / "a.jsonl", odd, reward="math_verify")


def test_formulas_of_letters_are_no_prose(tmp_path):
    formulas = ["2e", "2e^3", "x+y", "xy z", "sin x cos y", "Evelyn", "a, b"]
    rows_ = [*numbered(20), *({"prompt": f"odd {x}", "answer": x} for x in formulas)]
    assert source(tmp_path / "a.jsonl", rows_, reward="math_verify").skipped == 0


def test_hashing_decides_the_same_way_everywhere():
    """crc32 by its published polynomial, bit by bit: files and generators hold out the same."""

    def crc(text: str) -> int:
        value = 0xFFFFFFFF
        for byte in text.encode():
            value ^= byte
            for _ in range(8):
                value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        return value ^ 0xFFFFFFFF

    for text in [f"{i}=" for i in range(100)] + ["é", "What is 1 + 2?"]:
        assert data.is_held_out(text) == (crc(text) % 8 == 0)
    assert datasets.is_held_out is data.is_held_out
