"""Tasks made of digits are pure functions of seed and step, and their answers are right."""

from __future__ import annotations

from typing import Any

import pytest
import sections
from toy_tokenizers import Words

from llm.errors import ConfigError
from llm.randomness import stream
from llm.settings.validation import CHARACTER_TASKS
from llm.tasks import digits as tasks
from llm.tasks import problem as data
from llm.tasks.factory import open_task
from llm.tasks.problem import Problem
from llm.tokenizers.character import CharTokenizer

CHARS = CharTokenizer()


def digits(name: str, low: int = 2, high: int = 5) -> Any:
    cfg = sections.task(type=name, digits_min=low, digits_max=high)
    return open_task(cfg, Words() if name == "arithmetic" else CHARS)


@pytest.mark.parametrize("name, answer", [("chain", "374"), ("sort", "347"), ("reverse", "743")])
def test_with_slots_a_short_prompt_is_filled_and_means_the_same(name, answer):
    """Digit i of the prompt is slots + 1 places before place i of the answer, whatever the length;
    prompts, answers and demonstrations are those without slots but for the filling."""
    plain = digits(name, 3, 6)
    cfg = sections.task(type=name, digits_min=3, digits_max=6, pad_prompt_to=8)
    task: Any = open_task(cfg, CHARS)
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
    """Written down from the first version: old pretraining and runs repeat."""
    task = digits("chain", 8, 8)
    assert task.batch(0, 3, 2) == [
        Problem("59001891=", "54445323"),
        Problem("85207537=", "83552707"),
    ]
    assert task.held_out(0, 2) == [
        Problem("55584544=", "50537260"),
        Problem("50930455=", "55477161"),
    ]
    rng = stream(0, "warm-up policy", 7)
    prompts = [p for p, *_ in task.problems(rng, 2)]
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
    for prompt, answer, _ in digits(name).batch(1, 2, 200):
        assert right(prompt) == answer
        lengths = [len(x) for x in "".join(c if c.isdigit() else " " for c in prompt).split()]
        assert all(2 <= n <= 5 for n in lengths)
        assert "+" not in prompt or not {"0"} & {x[0] for x in prompt.split() if x[0].isdigit()}


@pytest.mark.parametrize("name", [*CHARACTER_TASKS, "arithmetic"])
def test_no_held_out_prompt_is_ever_trained_on(name):
    """Short prompts, so that both sets are nearly complete."""
    task = digits(name, 1, 2)
    trained = {p for step in range(40) for p, *_ in task.batch(0, step, 50)}
    held = {p for p, *_ in task.held_out(0, 500)}
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
    for prompt, answer, _ in task.batch(0, 0, 300):
        assert task.demonstration(prompt, rng, 0.0) == answer
        shown = task.demonstration(prompt, rng, 0.2)
        assert len(shown) == len(answer)
        wrong += shown != answer
    assert wrong / 300 == pytest.approx(1 - (1 - 0.2 * 0.9) ** 4.5, abs=0.12)


@pytest.mark.parametrize("name", CHARACTER_TASKS)
def test_every_character_of_a_character_task_is_in_the_alphabet(name):
    for prompt, answer, _ in digits(name, 1, 12).batch(0, 0, 300):
        assert CHARS.decode(CHARS.encode(prompt + answer)) == prompt + answer


def test_long_numbers_do_not_overflow():
    for prompt, answer, _ in digits("add", 40, 60).batch(0, 0, 20):
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
        open_task(sections.task(type="arithmetic"), CHARS)


def test_the_instruction_stands_on_its_own_line_and_moves_no_problem_between_the_sets():
    plain = digits("arithmetic").batch(0, 0, 50)
    cfg = sections.task(type="arithmetic", digits_min=2, digits_max=5, instruction="Number only.")
    told = open_task(cfg, Words()).batch(0, 0, 50)
    assert told == [Problem(f"{p}\nNumber only.", a) for p, a, _ in plain]
