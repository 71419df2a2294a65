"""The reasoning-gym task takes questions and answers and never its scorer."""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import sections
from toy_tokenizers import Words

from llm.errors import ConfigError
from llm.settings.schema import GymTask
from llm.tasks.factory import open_task
from llm.tokenizers.character import CharTokenizer

CHARS = CharTokenizer()


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
        return Dataset({"question": q, "answer": str(found.index(q) + 1)} for q in found)

    monkeypatch.setitem(
        sys.modules, "reasoning_gym", types.SimpleNamespace(create_dataset=create_dataset)
    )
    return asked


def test_gym_takes_questions_and_answers_and_never_its_scorer(monkeypatch, tmp_path):
    from llm.rewards.scorers import open_scorer

    asked = fake_gym(monkeypatch, tmp_path)
    cfg = sections.task(type="gym", generator="lcm", size=100)
    task = open_task(cfg, Words())
    assert asked == [("lcm", {"size": 100, "seed": 0})]
    assert all(p == f"Calculate {int(a) - 1} + 1." for p, a, _ in task.batch(0, 0, 100))
    scorer = open_scorer(cfg, CHARS)
    hostile = [*CHARS.encode("("), 1]
    assert scorer.score([hostile, [*CHARS.encode("-4"), 1]], ["7", "-4"]) == [0.0, 1.0]
    assert not (tmp_path / "scored").exists()


def test_gym_refuses_generators_off_its_list(monkeypatch, tmp_path):
    """Countdown's scorer runs the answer."""
    asked = fake_gym(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="generator countdown is not one of chain_sum"):
        open_task(GymTask(generator="countdown"), Words())  # type: ignore[arg-type]
    assert asked == []


def test_gym_repeated_questions_do_not_leak_and_too_few_are_refused(monkeypatch, tmp_path):
    fake_gym(monkeypatch, tmp_path, [f"q {i % 40}" for i in range(100)])
    task = open_task(sections.task(type="gym", size=100), Words())
    held = {p for p, *_ in task.held_out(0, 100)}
    assert held and not held & {p for p, *_ in task.batch(0, 0, 200)}
    fake_gym(monkeypatch, tmp_path, ["q 0"] * 5)
    with pytest.raises(ConfigError, match=r"gives \d different problems, too few"):
        open_task(sections.task(type="gym", size=5), Words())


def test_without_reasoning_gym_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[gym\]' in the checkout"):
        open_task(sections.task(type="gym"), Words())


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
    cfg = sections.task(type="gym", generator=name, size=300)
    task, again = open_task(cfg, Words()), open_task(cfg, Words())
    assert task.batch(0, 0, 50) == again.batch(0, 0, 50)
    held = {p for p, *_ in task.held_out(0, 300)}
    assert held and not held & {p for p, *_ in task.batch(0, 0, 300)}
    assert task.skipped == 0
