r"""The answer in a text: the number, box or formula that it gives last.

What a number is says number_grammar.py, for every scorer. Where a text holds a box (\boxed, \fbox),
its last box is the answer and nothing outside counts.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

from . import number_grammar
from .number_context import is_operand
from .number_grammar import Number, whole_number

_SCIENTIFIC = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")
_FORMULA = re.compile(  # bounded lengths keep the search linear; "$5 and $6" are sums of money
    r"\$([^$\n]{1,300})\$(?!\.?[0-9])|\\\(([^\n]{1,300}?)\\\)|\\\[(.{1,300}?)\\\]", re.DOTALL
)
_PLAIN = re.compile(r"-?[0-9][0-9,.]*(?:/[0-9]+)?")  # LaTeX reads these as the grammar does
_WORDS = re.compile(r"[^\W\d_]+(?:[\s,;:.!?'\"-]+[^\W\d_]+)*[.!?]?")
_FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan log exp max min mod".split())
_SCALE_WORDS = re.compile(
    r"(?<=[0-9})]) ?(?:\\(?:text|mathrm|mbox) ?\{ ?)?"
    r"(hundreds?|thousands?|[mbtr]+illions?|dozens?|squared|cubed|factorial)(?![a-z])"
)
_BESIDE = 200  # characters beside a box or formula that may make it a part of something
_DASH_OF_LIST = re.compile(r"(?:^|\n) {0,8}- $")
_JOINS_AFTER = re.compile(
    r"\$?(?:!| ?(?:[\^×÷√π]|/ ?[\w({\\]|\\(?:pi|sqrt|times|cdot|div)(?![A-Za-z])))"
)


def last_number(text: str) -> Fraction | None:
    """The value of `final_number`; None if there is none."""
    number = final_number(text)
    return None if number is None else number.value


def final_number(text: str) -> Number | None:
    """The number that a text gives as its answer: all of its last box, or what stands last.

    A minus sign counts unless something to subtract from precedes it: "17-25" ends in 25. "3,4" are
    two numbers, "1.2.3" is none, and neither is one of more than 100 digits. "1e-7" is one number.
    """
    if _has_box(text):
        text = _answer_in_box(text)
        return whole_number(text) or number_grammar.find_last_number(text)
    return number_grammar.find_last_number(text)


def _has_box(text: str) -> bool:
    return r"\boxed" in text or r"\fbox" in text


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} (or \fbox) holds, braces matched; None if there is none.

    Also understands `\boxed 5$`, which some MATH solutions have.
    """
    return _last_box(text)[0]


def _answer_in_box(text: str) -> str:
    r"""What the last box holds; "" where the box is a part of something, as in -\boxed{7}."""
    content, start, end = _last_box(text)
    after = number_grammar.plain(text[end : end + _BESIDE])
    joined = _is_operand(text, start) or _JOINS_AFTER.match(after)
    return "" if joined else content or ""


def _is_operand(text: str, start: int) -> bool:
    """Whether a sign or an operation before text[start] takes what begins there."""
    before = text[max(0, start - _BESIDE) : start]
    if start <= _BESIDE or "\n" in before:
        before = _DASH_OF_LIST.sub("", before)
    before = number_grammar.plain(before)
    return is_operand(before, start <= _BESIDE)


def _last_box(text: str) -> tuple[str | None, int, int]:
    """Content of the last box, where the box begins, and where it ends."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None, 0, 0
    rest = text[start + len(r"\fbox") :].removeprefix("d").lstrip()
    at = len(text) - len(rest)
    if not rest.startswith("{"):
        content = rest.split("$")[0]
        return content.strip() or None, start, at + len(content)
    depth, escaped = 0, False
    for i, c in enumerate(rest):
        if escaped:
            escaped = False
        elif c == "\\":
            escaped = True
        elif c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0:
                return rest[1:i].strip() or None, start, at + i + 1
    return None, start, len(text)


def final_expression(text: str) -> str:
    r"""LaTeX of what a text gives as its answer: the last box; without one, the formula ($, \(, \[)
    or number that ends last; "" if there is neither, or the last box never closes.
    """
    return final_answer(text)[0]


def final_answer(text: str) -> tuple[str, Number | None]:
    """`final_expression`, and the number that it is, if it is one."""
    if _has_box(text):
        return as_latex(_answer_in_box(text))
    formula = next(iter(deque(_FORMULA.finditer(text), maxlen=1)), None)
    if formula is not None and not number_grammar.has_digits(text[formula.end() :]):
        content = next(g for g in formula.groups() if g)
        if whole_number(content) is None:
            return ("", None) if _is_operand(text, formula.start()) else as_latex(content)
    number = number_grammar.find_last_number(text)  # with the sign outside, as in -$7$
    if number is None:
        return "", None
    bare = number._replace(is_percent=False)  # math-verify would compare a hundredth
    return _number_latex(bare, bare.source.rstrip(" %")), number


def as_latex(expression: str) -> tuple[str, Number | None]:
    """An expression as math-verify reads it rightly, and the number that it is, if it is one.

    A number of the grammar is written so that LaTeX has one reading of it. In everything else only
    minus signs and digits become plain characters.
    """
    number = whole_number(expression)
    if number is None:
        return expression.translate(number_grammar.SIGNS_AND_DIGITS).strip(), None
    return _number_latex(number, expression.strip()), number


def _number_latex(number: Number, source: str) -> str:
    return source if _PLAIN.fullmatch(source) else number_grammar.latex(number)


def gold_expression(answer: str) -> str:
    """LaTeX of a data set's answer: its box's content, or the answer without dollar signs."""
    answer = answer.translate(number_grammar.SIGNS_AND_DIGITS).strip()
    if r"\boxed" in answer:
        return last_boxed(answer) or ""
    if answer.startswith("$") and answer.endswith("$") and not answer.endswith(r"\$"):
        answer = answer.strip("$").strip()
    return answer


def gold_number(answer: str) -> Number | None:
    """The number that a data set's answer is, or that stands last in it."""
    return whole_number(gold_expression(answer)) or final_number(answer)


def scale_words(expression: str) -> list[str]:
    r"""Words after numbers that make other numbers of them, as in "7\text{ million}".

    math-verify leaves out such words, and reads 7.
    """
    words = _SCALE_WORDS.findall(number_grammar.plain(expression).lower())
    return [word.removesuffix("s") for word in words]


def is_scientific(expression: str) -> bool:
    """True for 1e-7 and the like, which LaTeX reads as a multiple of Euler's number."""
    return _SCIENTIFIC.fullmatch(expression) is not None


def is_prose(expression: str) -> bool:
    """True where there is nothing but letters and punctuation, two words at least of them long."""
    if not _WORDS.fullmatch(expression):
        return False
    words = re.findall(r"[^\W\d_]{3,}", expression)
    return len([w for w in words if w.lower() not in _FUNCTIONS]) >= 2
