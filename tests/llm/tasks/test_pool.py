"""A pool: fixed, of different prompts, and held-out problems are the task's own."""

from __future__ import annotations

import pytest

from llm.errors import ConfigError
from llm.settings import schema
from llm.tasks.digits import DigitProblems
from llm.tasks.pool import _expected_draws, pool_of
from llm.tasks.problem import Problem, RowTask


def digits(most: int = 4) -> DigitProblems:
    return DigitProblems(schema.DigitTask(digits_min=1, digits_max=most))


def test_a_pool_is_so_many_different_prompts_of_the_seed_each_once_a_pass():
    pool = pool_of(digits(), 3, 40)
    seen = [p for step in range(5) for p in pool.batch(3, step, 8)]
    assert len(set(seen)) == 40 and {p.prompt for p in seen} == pool.rows.keys()
    assert sorted(pool.rows.values()) == list(range(40))
    assert set(pool.batch(3, 5, 40)) == set(seen)  # the next pass
    assert pool_of(digits(), 3, 40).rows == pool.rows != pool_of(digits(), 4, 40).rows
    drawn = digits().batch(3, 0, 40)
    assert {p.prompt for p in drawn} <= pool.rows.keys()


def test_held_out_problems_are_the_tasks_own():
    pool, task = pool_of(digits(), 0, 12), digits()
    assert pool.held_out(1, 9) == task.held_out(1, 9)
    assert pool.held_out_sets(1, 9) == task.held_out_sets(1, 9)
    assert not {p.prompt for p in pool.held_out(1, 9)} & pool.rows.keys()


def test_a_pool_of_rows_is_some_of_them_and_what_was_left_out_stays_counted():
    rows = [Problem(str(i), "") for i in range(9)]
    task = RowTask(rows, {}, skipped=2, repeats=3, digests={"a": "b"})
    pool = pool_of(task, 0, 5)
    assert set(pool.batch(0, 0, 5)) < set(rows)
    assert (pool.size, pool.skipped, pool.repeats, pool.digests) == (5, 2, 3, {"a": "b"})
    with pytest.raises(ConfigError, match=r"--task\.pool 10 is more than the 9 different prompts"):
        pool_of(task, 0, 10)


def test_a_task_with_too_few_prompts_ends():
    with pytest.raises(ConfigError, match=r"--task\.pool 11: 704 problems drawn had 9 different"):
        pool_of(digits(1), 0, 11)


def test_a_large_pool_of_few_prompts_is_refused_without_drawing(monkeypatch):
    """Drawing 320,000 problems to see it would take a minute."""
    task = digits(2)
    there = {p.prompt for p in task.batch(0, 0, 5000)}
    assert len(there) == task.training_prompts() < 110
    assert len(pool_of(digits(3), 0, 500).rows) == 500
    monkeypatch.setattr(DigitProblems, "batch", None)
    with pytest.raises(ConfigError, match=rf"pool 5000 is more than the {len(there)} different"):
        pool_of(task, 0, 5000)
    assert digits(40).training_prompts() > 10**40  # and is not counted one by one


def test_the_draws_that_a_pool_needs_are_those_of_the_coupon_collector():
    for there, size in ((5, 5), (87, 40), (900, 899), (2001, 2)):
        exact = sum(there / (there - i) for i in range(size))
        assert abs(_expected_draws(there, size) - exact) < 0.01 * exact + 1
    assert _expected_draws(10**5000, 7) == 7


@pytest.mark.parametrize(("digits_max", "size"), [(8, 9_999_999), (5, 96_500), (400, 300_001)])
def test_a_pool_that_takes_minutes_to_draw_is_refused_without_drawing(
    monkeypatch, digits_max, size
):
    monkeypatch.setattr(DigitProblems, "batch", None)
    with pytest.raises(ConfigError, match=rf"pool {size} needs about [0-9,]* draws of a prompt"):
        pool_of(digits(digits_max), 0, size)
