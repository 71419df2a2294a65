"""Tasks are pure functions of seed and step, nothing held out is trained on, bad rows are named."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet
import pytest

from llm.errors import ConfigError
from llm.randomness import stream
from llm.settings.schema import TaskConfig
from llm.settings.validation import CHARACTER_TASKS
from llm.tasks import datasets, readers
from llm.tasks import digits as tasks
from llm.tasks import problem as data
from llm.tasks.factory import open_task
from llm.tasks.problem import Problem
from llm.tokenizers.character import CharTokenizer

CHARS = CharTokenizer()


class Words:
    """A tokenizer for tests: one id a word, 0 ends."""

    eos = frozenset({0})

    def prompt(self, text: str) -> list[int]:
        return [1] * len(text.split())


def digits(name: str, low: int = 2, high: int = 5) -> data.Task:
    cfg = TaskConfig(name=name, digits_min=low, digits_max=high)
    return open_task(cfg, Words() if name == "arithmetic" else CHARS)


def source(path, rows_, **settings) -> data.Task:
    """A task of rows written to a file; exact scoring, so that no worker starts."""
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows_))
    settings = {"scorer": "exact"} | settings
    return open_task(TaskConfig(name="problems", source=str(path), **settings), Words())


def numbered(n: int) -> list[dict]:
    return [{"prompt": f"question {i}", "answer": str(i)} for i in range(n)]


# Tasks made of digits


@pytest.mark.parametrize("name, answer", [("chain", "374"), ("sort", "347"), ("reverse", "743")])
def test_with_slots_a_short_prompt_is_filled_and_means_the_same(name, answer):
    """Digit i of the prompt is slots + 1 places before place i of the answer, whatever the length;
    prompts, answers and demonstrations are those without slots but for the filling."""
    plain = digits(name, 3, 6)
    cfg = TaskConfig(name=name, digits_min=3, digits_max=6, slots=8)
    task = open_task(cfg, CHARS)
    for held in (False, True):
        for problem in task.problems(stream(1, "x"), 40, held_out=held):
            assert len(problem.prompt) == 9 and problem.prompt.endswith("=")
            asked = problem.prompt.rstrip("=").rstrip(".")
            assert asked.isdigit() and len(asked) == len(problem.answer)
            rngs = [stream(2, "y"), stream(2, "y")]
            one, other = (
                t.demonstration(p, rng, 0.5)
                for t, p, rng in zip(
                    (plain, task), (f"{asked}=", problem.prompt), rngs, strict=True
                )
            )
            assert one == other and len(one) == len(asked)
    assert (task._prompt(("347",)), task._answer(("347",))) == ("347.....=", answer)
    assert task.demonstration("347.....=", stream(0, "z"), 0.0) == answer


def test_chain_draws_the_problems_it_always_drew():
    """Written down from the first version: old warm-ups and runs repeat."""
    task = digits("chain", 8, 8)
    assert task.batch(0, 3, 2) == [("59001891=", "54445323"), ("85207537=", "83552707")]
    assert task.held_out(0, 2) == [("55584544=", "50537260"), ("50930455=", "55477161")]
    rng = stream(0, "warm-up policy", 7)
    prompts = [p for p, _ in task.problems(rng, 2)]
    assert [task.demonstration(p, rng, 0.5) for p in prompts] == ["91891141", "05943373"]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("sort", lambda p: "".join(sorted(p[:-1]))),
        ("reverse", lambda p: "".join(reversed(p[:-1]))),
        ("add", lambda p: str(sum(int(x) for x in p[:-1].split("+")))),
        ("arithmetic", lambda p: str(sum(int(w) for w in p[:-1].split() if w.isdigit()))),
        (
            "chain",
            lambda p: "".join(str(sum(map(int, p[: i + 1])) % 10) for i in range(len(p) - 1)),
        ),
    ],
)
def test_answers_are_right_and_prompts_keep_the_digits_asked_for(name, right):
    for prompt, answer in digits(name).batch(1, 2, 200):
        assert right(prompt) == answer
        lengths = [len(x) for x in "".join(c if c.isdigit() else " " for c in prompt).split()]
        assert all(2 <= n <= 5 for n in lengths)
        assert "+" not in prompt or not {"0"} & {x[0] for x in prompt.split() if x[0].isdigit()}


@pytest.mark.parametrize("name", [*CHARACTER_TASKS, "arithmetic"])
def test_no_held_out_prompt_is_ever_trained_on(name):
    """Short prompts, so that both sets are nearly complete."""
    task = digits(name, 1, 2)
    trained = {p for step in range(40) for p, _ in task.batch(0, step, 50)}
    held = {p for p, _ in task.held_out(0, 500)}
    assert len(held) > 5 and len(trained) > 30 and not held & trained


@pytest.mark.parametrize("name", CHARACTER_TASKS)
def test_a_batch_depends_on_seed_and_step_only(name):
    a, b = digits(name), digits(name)
    b.batch(5, 1, 3), b.held_out(0, 4)
    assert a.batch(0, 7, 20) == b.batch(0, 7, 20)
    assert a.batch(0, 7, 20) != a.batch(0, 8, 20) != a.batch(1, 8, 20)


@pytest.mark.parametrize("name", CHARACTER_TASKS)
def test_demonstrations_are_right_without_error_and_wrong_as_often_as_asked(name):
    task, rng = digits(name, 4, 4), stream(0, "test")
    wrong = 0
    for prompt, answer in task.batch(0, 0, 300):
        assert task.demonstration(prompt, rng, 0.0) == answer
        shown = task.demonstration(prompt, rng, 0.2)
        assert len(shown) == len(answer)
        wrong += shown != answer
    assert wrong / 300 == pytest.approx(1 - (1 - 0.2 * 0.9) ** 4.5, abs=0.12)


@pytest.mark.parametrize("name", CHARACTER_TASKS)
def test_every_character_of_a_character_task_is_in_the_alphabet(name):
    for prompt, answer in digits(name, 1, 12).batch(0, 0, 300):
        assert CHARS.decode(CHARS.encode(prompt + answer)) == prompt + answer


def test_long_numbers_do_not_overflow():
    for prompt, answer in digits("add", 40, 60).batch(0, 0, 20):
        a, b = prompt[:-1].split("+")
        assert int(a) + int(b) == int(answer) and len(a) >= 40


@pytest.mark.parametrize("name", ["chain", "sort", "reverse"])
def test_a_task_without_held_out_prompts_is_refused_instead_of_searched_for_ever(monkeypatch, name):
    """With another hash than crc32 % 8 one-digit prompts may all fall on one side."""
    monkeypatch.setattr(tasks, "is_held_out", lambda prompt: len(prompt) > 2)
    with pytest.raises(ConfigError, match=r"digits_max 1 has 10 prompts, and none held out.*raise"):
        digits(name, 1, 1)


@pytest.mark.parametrize("name", [*CHARACTER_TASKS, "arithmetic"])
def test_one_digit_tasks_end_or_are_refused(name):
    try:
        task = digits(name, 1, 1)
    except ConfigError:
        assert len({data.is_held_out(f"{d}=") for d in range(10)}) == 1
    else:
        assert len(task.held_out(0, 50)) == len(task.batch(0, 0, 50)) == 50


def test_arithmetic_needs_a_model_that_reads():
    with pytest.raises(ConfigError, match=r"cannot read its prompts: character 'W' at 0"):
        open_task(TaskConfig(name="arithmetic"), CHARS)


def test_the_instruction_stands_on_its_own_line_and_moves_no_problem_between_the_sets():
    plain = digits("arithmetic").batch(0, 0, 50)
    cfg = TaskConfig(name="arithmetic", digits_min=2, digits_max=5, instruction="Number only.")
    told = open_task(cfg, Words()).batch(0, 0, 50)
    assert told == [(f"{p}\nNumber only.", a) for p, a in plain]


# Rows


def test_rows_walk_one_permutation_per_epoch(tmp_path):
    """Batches of any size, taken in any order, are slices of the same sequence."""
    task = source(tmp_path / "a.jsonl", numbered(50))
    size = len({p for step in range(60) for p, _ in task.batch(0, step, 1)})
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
    """Same prompt, other answer or outer whitespace: same side."""
    twice = numbered(60) + [{"prompt": f" question {i}\n", "answer": "x"} for i in range(60)]
    task = source(tmp_path / "a.jsonl", twice)
    held = {p.strip() for p, _ in task.held_out(0, 1000)}
    assert held and not held & {p.strip() for p, _ in task.batch(0, 0, 120)}


def test_what_eval_source_holds_is_not_trained_on(tmp_path):
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in numbered(5)))
    task = source(tmp_path / "a.jsonl", numbered(9), eval_source=str(tmp_path / "b.jsonl"))
    assert {p for p, _ in task.batch(0, 0, 40)} == {f"question {i}" for i in range(5, 9)}
    assert len(task.held_out(0, 99)) == 5
    with pytest.raises(ConfigError, match=r"leaves no training problem: every prompt of it"):
        source(tmp_path / "a.jsonl", numbered(4), eval_source=str(tmp_path / "b.jsonl"))


BAD = {
    "{oops\n": "not JSON",
    "[1, 2]\n": "not an object but a list",
    '"x"\n': "not an object but a str",
    "[" * 200_000 + "\n": "not JSON",
    '{"answer": ' + "9" * 5000 + "}\n": "not JSON",
    '{"question": "q", "answer": "1"}\n': "no column 'prompt', but 'question', 'answer'",
    '{"prompt": "q"}\n': "no column 'answer', but 'prompt'",
    '{"prompt": ["q"], "answer": "1"}\n': "'prompt' is a list, not a text",
    '{"prompt": 3, "answer": "1"}\n': "'prompt' is a int, not a text",
    '{"prompt": "q", "answer": null}\n': "'answer' is a NoneType, not a text",
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
        [(f"question {i}", str(i)) for i in range(30)] + [("last one", "7")]
    )


def test_bytes_that_are_not_text_are_a_bad_row_and_a_byte_order_mark_is_none(tmp_path):
    good = b"".join(json.dumps(r).encode() + b"\n" for r in numbered(30))
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\xff\xfe\n")
    cfg = TaskConfig(name="problems", source=str(tmp_path / "a.jsonl"), scorer="exact")
    with pytest.raises(ConfigError, match=r"1 bad rows of 31(.|\n)*line 31: not JSON \('utf-8'"):
        open_task(cfg, Words())


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
        open_task(TaskConfig(name="problems", scorer="exact", **settings), Words())


def test_parquet_reads_like_jsonl(tmp_path):
    table = numbered(40)
    pyarrow.parquet.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    cfg = TaskConfig(name="problems", scorer="exact", source=str(tmp_path / "a.parquet"))
    assert open_task(cfg, Words()).batch(0, 1, 9) == source(tmp_path / "a.jsonl", table).batch(
        0, 1, 9
    )
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ConfigError, match=r"cannot read .*b.parquet as parquet"):
        open_task(TaskConfig(name="problems", source=str(tmp_path / "b.parquet")), Words())
    cfg = TaskConfig(name="problems", source=str(tmp_path / "a.parquet"), prompt_column="text")
    with pytest.raises(
        ConfigError, match=r"no column 'text', but 'prompt', 'answer'.*--task.prompt"
    ):
        open_task(cfg, Words())


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow.*pip install 'jackpot-obrs\[data\]'"):
        list(readers.parquet_rows(tmp_path / "a.parquet", ["prompt"]))


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
        cfg = TaskConfig(name="problems", source=name, split="train", scorer="exact")
        task = open_task(cfg, Words())
        assert asked == [(args, {"split": "train"})]
        assert problem in [*task.batch(0, 0, 60), *task.held_out(0, 60)]


def test_a_preset_reads_a_local_copy_and_columns_may_be_named(tmp_path):
    table = [{"question": f"q {i}", "answer": f"so #### {i},000", "n": i} for i in range(40)]
    lines = "".join(json.dumps(r) + "\n" for r in table)
    (tmp_path / "a.jsonl").write_text(lines)
    cfg = TaskConfig(name="problems", scorer="exact", source=f"gsm8k:{tmp_path}/a.jsonl")
    assert set(open_task(cfg, Words()).batch(0, 0, 99)) <= {
        (f"q {i}", f"{i}000") for i in range(40)
    }
    task = source(tmp_path / "a.jsonl", [lines], prompt_column="question", answer_column="n")
    assert set(task.batch(0, 0, 99)) <= {(f"q {i}", str(i)) for i in range(40)}
    (tmp_path / "a.jsonl").write_text(lines + '{"question": "q", "answer": "no mark"}\n')
    with pytest.raises(ConfigError, match=r"line 41: 'answer' ends in no answer \(wanted: ####"):
        open_task(cfg, Words())


def test_the_hub_split_of_eval_source_is_eval_split(monkeypatch):
    asked = fake_hub(monkeypatch, [{"question": "q", "answer": "#### 3"}])
    cfg = TaskConfig(name="problems", source="gsm8k", eval_source="gsm8k", scorer="exact")
    with pytest.raises(ConfigError, match="leaves no training problem"):
        open_task(cfg, Words())
    assert [settings["split"] for _, settings in asked] == ["train", "test"]


def test_hub_errors_say_what_to_do(monkeypatch):
    cfg = TaskConfig(name="problems", source="no/body", scorer="exact")
    fake_hub(monkeypatch, [{"a": "b"}])
    with pytest.raises(ConfigError, match=r"cannot load split 'train' of .* no/body: Dataset"):
        open_task(cfg, Words())
    with pytest.raises(ConfigError, match=r"some/body\[train\] has no column 'prompt', but 'a'"):
        open_task(TaskConfig(name="problems", source="some/body"), Words())
    fake_hub(monkeypatch, [{"a": "b"}], version="3.6.0")
    with pytest.raises(ConfigError, match=r"datasets is 3.6.0; before 4 it can run code"):
        open_task(cfg, Words())
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package datasets.*jackpot-obrs\[hub\]"):
        open_task(cfg, Words())


def test_answers_the_scorer_cannot_compare_with_are_bad_rows(tmp_path):
    odd = [*numbered(20), {"prompt": "odd", "answer": "banana"}]
    with pytest.raises(ConfigError, match="line 21: the answer holds no number"):
        source(tmp_path / "a.jsonl", odd, scorer="number")
    odd[-1]["answer"] = r"\frac{"
    with pytest.raises(ConfigError, match="line 21: math-verify cannot read the answer"):
        source(tmp_path / "a.jsonl", odd, scorer="math_verify")
    odd[-1]["answer"] = r"$\frac{x+1}{2}$"
    assert source(tmp_path / "a.jsonl", odd, scorer="math_verify").skipped == 0


def test_sources_and_generated_prompts_are_limited_in_tokens_with_the_instruction(tmp_path):
    with pytest.raises(ConfigError, match="line 1: the prompt has 5 tokens, more than 4"):
        source(tmp_path / "a.jsonl", numbered(9), prompt_tokens_max=4, instruction="and be brief")


@pytest.mark.parametrize(
    ("written", "read"),
    [("1e-07", "0.0000001"), ("2.5e3", "2500.0"), ("1e22", "1" + "0" * 22), ("-0.5", "-0.5")],
)
def test_a_number_in_json_becomes_its_digits(tmp_path, written, read):
    lines = [f'{{"prompt": "question {i}", "answer": {written}}}\n' for i in range(30)]
    for scorer in ("exact", "number", "math_verify"):
        task = source(tmp_path / "a.jsonl", lines, scorer=scorer)
        assert {a for _, a in task.batch(0, 0, 20)} == {read}


@pytest.mark.parametrize("answer", ["1e-7", "2E+5", ".5e3", r"$1e-7$", "no idea at all"])
def test_answers_that_math_verify_would_take_for_something_else_are_bad_rows(tmp_path, answer):
    odd = [*numbered(20), {"prompt": "odd", "answer": answer}]
    with pytest.raises(ConfigError, match=r"line 21: the answer .*(power of ten|is prose)"):
        source(tmp_path / "a.jsonl", odd, scorer="math_verify")


def test_formulas_of_letters_are_no_prose(tmp_path):
    formulas = ["2e", "2e^3", "x+y", "xy z", "sin x cos y", "Evelyn", "a, b"]
    rows_ = [*numbered(20), *({"prompt": "odd", "answer": x} for x in formulas)]
    assert source(tmp_path / "a.jsonl", rows_, scorer="math_verify").skipped == 0


def test_whole_numbers_of_any_length_are_read_or_refused_by_name(tmp_path):
    long = '{"prompt": "long", "answer": ' + "1" * 400 + "}\n"
    task = source(tmp_path / "a.jsonl", [*numbered(20), long])
    assert ("long", "1" * 400) in [*task.batch(0, 0, 40), *task.held_out(0, 40)]
    longer = '{"prompt": "long", "answer": -' + "1" * 1001 + "}\n"
    with pytest.raises(ConfigError, match=r"line 21: 'answer' is a number of more than 1000"):
        source(tmp_path / "a.jsonl", [*numbered(20), longer])


# reasoning-gym


def fake_gym(monkeypatch, tmp_path, questions=None) -> list:
    """A reasoning_gym whose scorer leaves a trace; returns what it was asked for."""
    asked = []

    class Dataset(list):
        def score_answer(self, answer, entry):
            (tmp_path / "scored").touch()
            raise AssertionError("reasoning-gym's scorer was called")

    def create_dataset(name, **settings):
        asked.append((name, settings))
        n = settings["size"]
        found = questions or [f"Calculate {i} + 1." for i in range(n)]
        return Dataset({"question": q, "answer": str(i + 1)} for i, q in enumerate(found))

    monkeypatch.setitem(
        sys.modules, "reasoning_gym", types.SimpleNamespace(create_dataset=create_dataset)
    )
    return asked


def test_gym_takes_questions_and_answers_and_never_its_scorer(monkeypatch, tmp_path):
    from llm.rewards.scorers import open_scorer

    asked = fake_gym(monkeypatch, tmp_path)
    cfg = TaskConfig(name="gym", gym_task="lcm", gym_size=100)
    task = open_task(cfg, Words())
    assert asked == [("lcm", {"size": 100, "seed": 0})]
    assert all(p == f"Calculate {int(a) - 1} + 1." for p, a in task.batch(0, 0, 100))
    scorer = open_scorer(cfg, CHARS)
    hostile = [*CHARS.encode("("), 1]
    assert scorer.score([hostile, [*CHARS.encode("-4"), 1]], ["7", "-4"]) == [0.0, 1.0]
    assert not (tmp_path / "scored").exists()


def test_gym_refuses_generators_off_its_list(monkeypatch, tmp_path):
    """Countdown's scorer runs the answer."""
    asked = fake_gym(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="gym_task countdown is not one of chain_sum"):
        open_task(TaskConfig(name="gym", gym_task="countdown"), Words())
    assert asked == []


def test_gym_repeated_questions_do_not_leak_and_too_few_are_refused(monkeypatch, tmp_path):
    fake_gym(monkeypatch, tmp_path, [f"q {i % 40}" for i in range(100)])
    task = open_task(TaskConfig(name="gym", gym_size=100), Words())
    held = {p for p, _ in task.held_out(0, 100)}
    assert held and not held & {p for p, _ in task.batch(0, 0, 200)}
    fake_gym(monkeypatch, tmp_path, ["q 0"] * 5)
    with pytest.raises(ConfigError, match=r"gives \d different problems, too few"):
        open_task(TaskConfig(name="gym", gym_size=5), Words())


def test_without_reasoning_gym_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install 'jackpot-obrs\[gym\]'"):
        open_task(TaskConfig(name="gym"), Words())


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name",
    [
        *("chain_sum", "basic_arithmetic", "products", "gcd", "lcm", "count_bits"),
        *("spell_backward", "simple_equations"),
    ],
)
def test_the_real_generators_give_problems(name):
    """All on the list; the same in every process, so a resume sees the same rows."""
    cfg = TaskConfig(name="gym", gym_task=name, gym_size=300)
    task, again = open_task(cfg, Words()), open_task(cfg, Words())
    assert task.batch(0, 0, 50) == again.batch(0, 0, 50)
    held = {p for p, _ in task.held_out(0, 300)}
    assert held and not held & {p for p, _ in task.batch(0, 0, 300)}
    assert task.skipped == 0


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
