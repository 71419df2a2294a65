"""Numbers in a text: every style of writing one is read as its value, and nothing else is one."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optional import not_none

from llm.rewards.number_grammar import find_last_number, latex, same, whole_number

READ = {  # a text: the value of the number that stands last in it, None for no number
    # signs
    "The answer is \u22127.": "-7",
    "is \u20137": "-7",
    "is -7": "-7",
    "\uff0d\uff17": "-7",
    "+7": "7",
    "x=-7": "-7",
    "x = - 7": "-7",
    "(-7)": "-7",
    "( - 7)": "-7",
    r"\( - 7 \)": "-7",
    r"so $-\,7$": "-7",
    "$x$ - 7": "7",
    "f(x) - 7": "7",
    "<answer>\u22127</answer>": "-7",
    "**-7**": "-7",
    "-$7": "-7",
    "$-7": "-7",
    "so \u2212$7$": "-7",
    "\u7b54\u6848\u662f\u22127": "-7",
    "is \u20147": "7",
    "5-7": "7",
    "5\u20137": "7",
    "5 - 7": "7",
    "5--7": "7",
    "x-7": "7",
    "(2)-7": "7",
    "50%-7": "7",
    "\u00b17": None,
    # decimals
    ".5": "1/2",
    "-.5": "-1/2",
    "\u2212.5 m": "-1/2",
    "is 7.": "7",
    "7.0": "7",
    "...5": "5",
    "Rs.5": "5",
    "\uff13\uff0e\uff15": "7/2",
    "1.2.3": None,
    "\u0667": None,
    "\U0001d7d5": "7",
    # fractions and mixed numbers
    "3/4": "3/4",
    "3 / 4": "3/4",
    "3\u20444": "3/4",
    "-5/3": "-5/3",
    "3/0": None,
    "1/2/2024": None,
    "3 1/2": "7/2",
    "-3 1/2": "-7/2",
    "1\u00a01/2": "3/2",
    "1 1/2/3": None,
    "5 100/3": "100/3",
    "1 100/200": "3/2",
    "1 and 1/2": "1/2",
    "1\u00bd": "3/2",
    "1 \u00bd": "3/2",
    "-\u00be": "-3/4",
    r"\frac{1}{2}": "1/2",
    r"-\dfrac12": "-1/2",
    r"\frac{-3}{4}": "-3/4",
    r"1\frac{1}{2}": "3/2",
    # groups of digits
    "1,234": "1234",
    "1 234": "1234",
    "1\u202f234\u202f567": "1234567",
    "1_234": "1234",
    "1'234": "1234",
    r"1{,}234": "1234",
    r"1\,234": "1234",
    "3,4": "4",
    "3, 4": "4",
    "12,34": "34",
    "1,23,456": "456",
    "1\n234": "234",
    "1234 567": "567",
    # percent and currency
    "50%": "50",
    r"50\%": "50",
    "5 percent": "5",
    "$1,234.50": "2469/2",
    "\u20ac5": "5",
    "It costs $5 and -$.50": "-1/2",
    # powers of ten
    "1e3": "1000",
    "1.5E-3": "3/2000",
    "-2.5e+3.": "-2500",
    "1.5 \u00d7 10^3": "1500",
    r"1.5\times 10^{-3}": "3/2000",
    "1.5\u00b710\u00b3": "1500",
    "10**3": "1000",
    "10\u207b\u00b2": "1/100",
    "10^10^9": None,
    "10^1000000000": None,
    "1e1000000000": None,
    "10^3/2": None,
    # what is no number
    "2^10": None,
    "3^x": None,
    "101_2": None,
    "\u221a2": None,
    r"\sqrt{2}": None,
    r"\sqrt[3]{8}": None,
    "2\u221a3": None,
    r"5\pi": None,
    "(x+1)^2": None,
    "9" * 101: None,
    # digits that belong to a name or a unit
    "5 of H2O": "5",
    "12 cm^2": "12",
    "12 cm\u00b2": "12",
    r"12\text{ cm}^2": "12",
    "3 = x_1": "3",
    r"45^\circ": "45",
    r"x \approx5": "5",
}


@pytest.mark.parametrize(("text", "value"), READ.items(), ids=map(ascii, READ))
def test_the_last_number_of_a_text(text, value):
    number = find_last_number(text)
    assert (None if number is None else number.value) == (
        None if value is None else Fraction(value)
    )


@pytest.mark.parametrize("filler", [" ", "x", " H2O"])
def test_a_number_far_from_the_end_is_read_as_one_near_it(filler):
    """Windows from the end: wherever the first one is cut, the number is the same."""
    for text in ("is -1,234 1/2 cups", "is 1/2/2024 !", "=-" + "9" * 90 + "/7 m"):
        near = find_last_number(text)
        for length in [*range(1400, 2100, 23), 9000]:
            far = find_last_number(text + filler * (length // len(filler)))
            assert far == near, length


WHOLE = [
    "-7",
    "- 7",
    "$7$",
    "$-7$",
    r"\(7\)",
    r"\text{7}",
    "$5",
    "5\u20ac",
    "50%",
    "1 234",
    "3 1/2",
    " 7. ",
]
NOT_WHOLE = ["7 apples", "x=7", "3, 4", "(7)", "7 8", "", "7" * 2000, "5-7"]


def test_a_text_is_a_number_where_nothing_else_stands_in_it():
    assert [whole_number(t) is not None for t in WHOLE] == [True] * len(WHOLE)
    assert [whole_number(t) for t in NOT_WHOLE] == [None] * len(NOT_WHOLE)
    assert not_none(whole_number("- 7")).value == -7


def test_a_percentage_equals_itself_its_figure_and_its_share():
    half, fifty, share = (not_none(whole_number(t)) for t in ("0.5", "50", "50%"))
    assert same(share, fifty) and same(share, half) and same(half, share) and same(share, share)
    assert not same(half, fifty) and not same(share, not_none(whole_number("5000")))
    assert not same(share, not_none(whole_number("0.5%")))


@st.composite
def written_numbers(draw) -> tuple[str, Fraction]:
    """A number in one of the styles of the grammar, and its value by arithmetic of its own."""
    whole, part = draw(st.integers(0, 10**9)), draw(st.text("0123456789", min_size=1, max_size=9))
    below = draw(st.integers(2, 999))
    above, exponent = draw(st.integers(1, below - 1)), draw(st.integers(-40, 40))
    grouped = f"{whole:,}"
    decimal = whole + Fraction(int(part), 10 ** len(part))
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    scaled = decimal * (10**exponent if exponent >= 0 else Fraction(1, 10**-exponent))
    styles = [
        (str(whole), whole),
        (f"{whole}.{part}", decimal),
        (f".{part}", Fraction(int(part), 10 ** len(part))),
        *((grouped.replace(",", mark), whole) for mark in (",", "_", "'", "\u202f", " ", "{,}")),
        (f"{grouped}.{part}", decimal),
        (f"{above}/{below}", Fraction(above, below)),
        (f"{whole} / {below}", Fraction(whole, below)),
        (f"{whole} {above}/{below}", whole + Fraction(above, below)),
        (rf"\frac{{{above}}}{{{below}}}", Fraction(above, below)),
        (rf"{whole}\tfrac{{{above}}}{{{below}}}", whole + Fraction(above, below)),
        (f"{whole}½", whole + Fraction(1, 2)),
        (f"{whole}.{part}e{exponent}", scaled),
        (f"{whole}.{part} × 10^{exponent}", scaled),
        (rf"{whole}.{part} \cdot 10^{{{exponent}}}", scaled),
        (f"{whole}.{part}×10{raised}", scaled),
    ]
    text, value = draw(st.sampled_from(styles))
    if draw(st.booleans()):
        fullwidth = str.maketrans("0123456789", "０１２３４５６７８９")
        text = text.translate(fullwidth)
    return text, Fraction(value)


@given(
    written=written_numbers(),
    sign=st.sampled_from(["", "-", "\u2212", "\u2013", "\uff0d", "+", "-$", "$\u2212", "\u20ac"]),
    before=st.sampled_from(["", "is ", "= ", "($x$, 3) or ", "a 5 and ", "**", "答案是", "12-"]),
    after=st.sampled_from(["", ".", " apples", "**", ")", ", I think", "\n", " cm^2", "%"]),
)
def test_a_value_in_any_style_is_read_back(written, sign, before, after):
    """Behind "12-" a sign would be the second one of a subtraction, so none is written there."""
    text, value = written
    if before == "12-" or (before == "**" and sign.startswith("$")):
        sign = ""
    number = find_last_number(before + sign + text + after)
    negative = any(minus in sign for minus in "-\u2212\u2013\uff0d")
    assert number is not None and number.value == (-value if negative else value)
    assert number.is_percent == (after == "%")


@given(written=written_numbers())
def test_latex_of_a_number_is_read_back_as_it(written):
    number = whole_number(written[0])
    assert number is not None and number.value == written[1]
    assert not_none(whole_number(latex(number))).value == written[1]


LONG = {
    "powers": "10^1/" * 8_000,
    "products of powers": "5x10^1x" * 6_000,
    "carets": "1^" * 20_000,
    "slashes": "1/" * 20_000,
    "mixed numbers": "1 1/2 " * 6_000,
    "fractions": r"\frac{1}{2}" * 4_000,
    "list": "1," * 20_000,
    "spaced list": "1 " * 20_000,
    "spaces": "1" + " " * 40_000,
    "exponent": "10^" + "9" * 40_000,
    "roots": r"\sqrt[" * 8_000 + "1",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_reading_takes_time_in_proportion_to_the_length(text):
    """Four times the text must not take sixteen times as long; small times are noise."""

    def cost(part: str) -> float:
        clock = time.process_time()
        find_last_number(part)
        return time.process_time() - clock

    assert cost(text) < 9 * min(cost(text[: len(text) // 4]) for _ in range(2)) + 0.1
