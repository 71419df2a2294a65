"""The answer in a text: the last number, the last box, the final expression."""

from __future__ import annotations

import re
from decimal import Decimal

_EXPONENT = r"(?:[eE][-+]?[0-9]+)"
_NUMBER = re.compile(  # each character is read once
    rf"(?P<digits>(?:(?<![\w)\]}}])-)?\.?[0-9][0-9,.]*)(?P<exponent>{_EXPONENT}?)"
)


_SCIENTIFIC = re.compile(rf"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+){_EXPONENT}")
_EXPONENT_MAX = 4  # characters of an exponent, its sign included
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?")
_DIGITS_MAX = 100
_FORMULA = re.compile(  # bounded lengths keep the search linear
    r"\$([^$\n]{1,300})\$|\\\(([^\n]{1,300}?)\\\)|\\\[(.{1,300}?)\\\]", re.DOTALL
)


_FRACTION = re.compile(rf"(?:(?<![\w)\]}}])-)?[0-9][0-9,.]*(?:/[0-9]+|{_EXPONENT})?")
_WORDS = re.compile(r"[^\W\d_]+(?:[\s,;:.!?'\"-]+[^\W\d_]+)*[.!?]?")
_FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan log exp max min mod".split())


def last_number(text: str) -> Decimal | None:
    """The last number written in digits, thousands commas allowed; None if there is none.

    A minus sign counts unless something to subtract from precedes it: "17-25" ends in 25. "3,4" are
    two numbers, "1.2.3" is none, and neither is one of more than 100 digits. "1e-7" is one number.
    """
    chunk = exponent = ""
    for match in _NUMBER.finditer(text.replace("\N{MINUS SIGN}", "-")):
        chunk, exponent = match.group("digits"), match.group("exponent")
    chunk = chunk.rstrip(".,")
    digits = chunk.replace(",", "") if _THOUSANDS.fullmatch(chunk) else chunk.rsplit(",", 1)[-1]
    if not digits or len(digits) > _DIGITS_MAX or digits.count(".") > 1:
        return None
    return Decimal(digits + exponent) if len(exponent) <= 1 + _EXPONENT_MAX else None


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} (or \fbox) holds, braces matched; None if there is none.

    Also understands `\boxed 5$`, which some MATH solutions have.
    """
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    rest = text[start + len(r"\fbox") :].removeprefix("d").lstrip()
    if not rest.startswith("{"):
        return rest.split("$")[0].strip() or None
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
                return rest[1:i].strip() or None
    return None


def final_expression(text: str) -> str:
    r"""LaTeX of what a text gives as its answer: the last box; without one, the formula ($, \(, \[)
    or plain number that ends last; "" if there is neither, or the last box never closes.
    """
    if r"\boxed" in text or r"\fbox" in text:
        return last_boxed(text) or ""
    end, expression = -1, ""
    for match in _FORMULA.finditer(text):
        end, expression = match.end(), next(g for g in match.groups() if g)
    for match in _FRACTION.finditer(text, max(end, 0)):
        expression = match.group().rstrip(".,")
    if is_scientific(expression.replace(",", "")):  # LaTeX would read 1e-7 as e times 1, minus 7
        number = last_number(expression)
        return "" if number is None else format(number, "f")
    return expression.strip()


def gold_expression(answer: str) -> str:
    """LaTeX of a data set's answer: its box's content, or the answer without dollar signs."""
    answer = answer.strip()
    if r"\boxed" in answer:
        return last_boxed(answer) or ""
    if answer.startswith("$") and answer.endswith("$") and not answer.endswith(r"\$"):
        answer = answer.strip("$").strip()
    return answer


def is_scientific(expression: str) -> bool:
    """True for 1e-7 and the like, which LaTeX reads as a multiple of Euler's number."""
    return _SCIENTIFIC.fullmatch(expression) is not None


def is_prose(expression: str) -> bool:
    """True where there is nothing but letters and punctuation, two words at least of them long."""
    if not _WORDS.fullmatch(expression):
        return False
    words = re.findall(r"[^\W\d_]{3,}", expression)
    return len([w for w in words if w.lower() not in _FUNCTIONS]) >= 2
