"""Answers found in a completion: last number, last box, final and gold expression."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from llm.rewards.answers import final_expression, gold_expression, last_boxed, last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("17 + 25 = 42", "42"),
        ("The answer is 42.", "42"),
        ("42 apples, I think", "42"),
        ("1,234", "1234"),
        ("$1,234,567.50.", "1234567.5"),
        ("3,4", "4"),
        ("12,34", "34"),
        ("-30", "-30"),
        ("x = -30", "-30"),
        ("\u221230", "-30"),
        ("17-25", "25"),
        ("(2)-3", "3"),
        (".5", "0.5"),
        ("42.0", "42"),
        ("007", "7"),
        ("1.2.3", None),
        ("9" * 101, None),
        ("forty-two", None),
        ("", None),
        ("\u0664\u0662", None),
        ("...,,,--", None),
        ("1e-7", "0.0000001"),
        ("about -2.5E+3.", "-2500"),
        ("1,234e2", "123400"),
        ("3 eggs", "3"),
        ("1e99999", None),
        ("1e" + "9" * 40_000, None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


HOSTILE_TEXT = {
    "digits": "9" * 40_000,
    "commas": "1," * 20_000,
    "thousands": "1" + ",111" * 10_000 + ",1",
    "points": "." * 40_000,
    "minus": "-" * 40_000,
    "mixed": "-1,." * 10_000,
    "dollars": "$" * 40_000,
    "open formulas": r"\(" * 20_000,
    "open displays": r"\[" * 20_000,
    "boxes": r"\boxed{" * 6_000,
    "braces": r"\boxed" + "{" * 40_000,
    "slashes": "1/" * 20_000,
    "exponents": "1e" * 20_000,
    "long exponent": "1e" + "9" * 40_000,
}


@pytest.mark.parametrize("text", HOSTILE_TEXT.values(), ids=HOSTILE_TEXT)
def test_reading_a_hostile_text_takes_time_in_proportion_to_its_length(text):
    """Four times the text must not take sixteen times as long; small times are noise."""

    def cost(found: str) -> float:
        clock = time.process_time()
        for read in (last_number, last_boxed, final_expression):
            read(found)
        return time.process_time() - clock

    whole, quarter = (min(cost(part) for _ in range(2)) for part in (text, text[: len(text) // 4]))
    assert whole < 9 * quarter + 0.1


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{42}", "42"),
        (r"\boxed{41} and then \boxed{42}", "42"),
        (r"\boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{\left\{ x }", r"\left\{ x"),
        (r"\boxed {7}", "7"),
        (r"$\boxed 5$ units", "5"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{42", None),
        (r"\boxed{", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        ("42", None),
    ],
)
def test_last_boxed_matches_braces(text, inside):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        (r"First \boxed{41}, no: \boxed{42}. Check: 43", "42"),
        (r"It is \boxed{42", ""),
        ("It is $x^2$ for 3 reasons", "3"),
        ("It has 3 reasons to be $x^2$.", "x^2"),
        (r"3, so \(x^2\).", "x^2"),
        ("3, so\n\\[\nx^2\n\\]", "x^2"),
        ("$$x^2$$", "x^2"),
        ("The answer is 1/2.", "1/2"),
        ("It costs $5 and $6, so 1,100 in all.", "1,100"),
        ("nothing", ""),
    ],
)
def test_final_expression(text, expression):
    assert final_expression(text) == expression


def test_a_power_of_ten_in_words_is_written_out():
    """LaTeX reads 1e-7 as e - 7; in a box it is left as it is."""
    assert final_expression("it is 1e-7.") == "0.0000001"
    assert final_expression("it is 1,200E3") == "1200000"
    assert final_expression("it is 1e99999") == ""


def test_gold_expression_drops_box_and_dollars():
    found = [gold_expression(x) for x in ("$x$", r"\boxed{x}", " x ", r"\$5", "$$x$$", r"5\$")]
    assert found == ["x", "x", "x", r"\$5", "x", r"5\$"]
