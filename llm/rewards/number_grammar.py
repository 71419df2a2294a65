r"""What a number in a text is: one grammar, which every scorer reads with.

    number    = [sign] [currency] [sign] magnitude [percent]
    magnitude = mixed | fraction | power | decimal
    mixed     = digits " " digits "/" digits         "1 1/2"; the fraction is below 1
              | digits [" "] vulgar | vulgar         "1½", "½"
              | digits "\frac{" digits "}{" digits "}"
    fraction  = decimal slash decimal                "3/4", "3 / 4", "\frac{3}{4}"
    power     = [decimal times] "10" exponent        "1.5 × 10^3", "10³"
              | decimal ("e" | "E") [sign] digits    "1e3"
    decimal   = integer ["." digits] | "." digits    "1,234.5", ".5"
    integer   = digits | groups                      "1234", "1,234", "1 234", "1_234", "1'234"
    groups    = 1 to 3 digits, then groups of exactly 3, all after the same separator
    sign      = "+" | "-" | U+2212 | en dash | ...   see `SIGNS_AND_DIGITS`; an em dash is none

A sign counts where it touches its number (or where only "=" or an opening bracket is before it) and
nothing that could be subtracted from touches the sign: in "5-7", "x-7" and "f(2)-7" the last number
is 7.

What a power, a root, a subscript, a further slash or point makes part of something else is not a
number: "2^10", "√2", "101_2", "1/2/3", "1.2.3". Digits that touch a letter before them, or are the
letter's exponent or index, are part of a name and are passed over: "H2O", "cm^2", "x_1". What else
may stand beside a number says number_context.py: whatever is not wholly understood is no number.

Every search is linear: a run of digits is read once, and everything else has a largest length.
Values are exact. A decimal has at most 100 characters and a power of ten at most 10^±1000, so no
value has more than about 1,100 digits.
"""

from __future__ import annotations

import html
import re
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from .number_context import understood, understood_after

DIGITS_MAX = 100  # characters of a decimal
PLACES_MAX = 30  # of a decimal in LaTeX: more digits than any comparison by rounding looks at
_WINDOW = 2000  # characters from the end of a text that are looked at first
_MARGIN = 500  # of a window: more than the longest number and what is looked at before it
_CHAIN_MAX = 8  # more parts than a number has: what comes before changes nothing
EXPONENT_MAX = 1000  # of ten: beyond any quantity, and 10**1000 is still computed at once

# Characters that stand for an ASCII one. Minus signs: hyphen, non-breaking hyphen, figure dash, en
# dash, minus, small and fullwidth hyphen. Digits: fullwidth, and the styles of mathematics. A dash
# that is not among them is none, and makes the number after it unknown (number_context.py).
SIGNS_AND_DIGITS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
    | {chr(0xFF10 + d): str(d) for d in range(10)}
    | {chr(0x1D7CE + i): str(i % 10) for i in range(50)}
)
_SPACES = "\u00a0\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))  # all of Zs but
# U+0020 and U+1680, which looks like a dash
_ENDS_OF_LINES = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_TRANSLATION = SIGNS_AND_DIGITS | str.maketrans(
    dict.fromkeys(_SPACES, " ")
    | dict.fromkeys(_ENDS_OF_LINES, "\n")
    | dict.fromkeys("\u2044\u2215\uff0f", "/")
    | dict.fromkeys("\u2715\u2716\u2a09\u2a2f", "\u00d7")
    | dict.fromkeys("\u204e\ufe61\uff0a", "*")
    | {"\uff0b": "+", "\uff0e": ".", "\uff05": "%", "\ufe6a": "%", "\uff04": "$", "\u2019": "'"}
    | {"\uff1d": "=", "\uff3e": "^", "\uff3f": "_", "\t": "  "}  # columns are no group of digits
)
# Characters that nobody sees. Between two digits they stay, and make a number unknown, as do all
# other ones of the category Cf: an invisible product, a soft hyphen, a change of direction.
_UNSEEN = "\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"
_UNSEEN_RUN = re.compile(f"(?<![0-9{_UNSEEN}])[{_UNSEEN}]+|[{_UNSEEN}]+(?![0-9{_UNSEEN}])")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MARKUP = (  # of HTML
    (re.compile(r"<!--.{0,200}?-->", re.DOTALL), ""),
    (re.compile(r"<sup>([^<>]{1,40})</sup>", re.IGNORECASE), r"^{\1}"),
    (re.compile(r"<sub>([^<>]{1,40})</sub>", re.IGNORECASE), r"_{\1}"),
)
_BLANKS = (  # so that a look of bounded length sees what is beyond them
    (re.compile(r" {4,}"), "   "),
    (re.compile(r"(?: {0,3}\n){3,}"), "\n\n"),
)
_VULGAR = {
    **{"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5)},
    **{"⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8)},
    **{"⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9), "⅒": (1, 10)},
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")

# LaTeX that stands for something else. Lengths are bounded, so each search is linear.
_LATEX = (
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"\\[,;:> ]|~|\\(?:q?quad|thinspace|enspace|space)(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:newline|hline|par|noindent)(?![A-Za-z])"), "\n"),
    (re.compile(r"(?<![\\}])\{ ?([-+]) ?\}"), r"\1"),
    (re.compile(r"(?<![A-Za-z0-9\\}^_])\{ ?\}"), ""),
    (re.compile(r"\\!|(?:\\(?:left|right|[bB]igg?[lr])|(?<![0-9])\\[bB]igg?)(?![A-Za-z.])"), ""),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile(r"\^ ?\{? ?(?:\\circ\b|°) ?\}?"), "°"),
    (re.compile(r" ?\\(?:times|cdot)\b ?"), " × "),
    (
        re.compile(
            r"(?P<whole>[0-9] ?)?(?P<minus>-?)\\[dt]?frac\s{0,3}"
            r"(?:\{\s{0,3}(?P<minus_inside>-?)\s{0,3}(?P<above>[0-9]{1,100})\s{0,3}\}|"
            r"(?P<digit>[0-9]))\s{0,3}"
            r"(?:\{\s{0,3}(?P<below>[0-9]{1,100})\s{0,3}\}|(?P<digit_below>[0-9]))"
        ),
        lambda match: _plain_fraction(match),
    ),
)
_SIGNS = "".join(_VULGAR)
_RUN = re.compile(  # possessive: each character is read once
    r"(?P<digits>(?:(?<![A-Za-z0-9_.)])\.)?[0-9]++(?:[ ,._'][0-9]++)*+)"
    rf"(?P<exponent>\.?[eE][-+]?[0-9]++)?+(?P<vulgar> ?[{_SIGNS}])?+|(?P<alone>[{_SIGNS}])"
)
_DECIMAL = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
_GROUPS = re.compile(r"[0-9]{1,3}(?P<mark>[ ,_'])[0-9]{3}(?:(?P=mark)[0-9]{3})*(?:\.[0-9]+)?")
_EUROPEAN = re.compile(r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+")
_SLASH = re.compile(r" {0,3}/ {0,3}")
_TIMES = re.compile(r" {0,3}[×x*·⋅] {0,3}")
_PART_OF = re.compile(  # between a base and its exponent or index; "**" alone may mean bold type
    r"(?: ?\^ ?| \*\* |\*\*|_)\{? ?[-+]?"
)
_EXPONENT = re.compile(
    r"(?: ?\^ ?| \*\* |\*\*)(?:\{ ?(?P<braced>[-+]?[0-9]+) ?\}|(?P<bare>[-+]?[0-9]+))"
    r"|(?P<raised>[⁺⁻]?[⁰¹²³⁴-⁹]+)"
)
_MORE = re.compile(r"\.?[0-9]| ?[/^_] ?[0-9{(]")  # makes an expression of the power before it
_CURRENCY = re.compile(r"(?:\$\$?|[€£¥₹₽₩₪₺]|\\\(|\\\[) ?$")
_AFTER_CURRENCY = re.compile(r" ?[€£¥₹₽₩₪₺]")
_PERCENT = re.compile(r" ?%| (?:percent|per cent)\b", re.IGNORECASE)
_BEFORE_OPERAND = re.compile(
    r"(?:[)\]] ?\^\{?-?|√|\\sqrt(?:\[[0-9]{1,3}\])? ?\{?|±|∓|\\pm|\\mp) ?\$? ?$"
)
_AFTER_OPERAND = re.compile(r" ?(?:\^|π|\\pi\b|√|\\sqrt|[⁰¹²³⁴-⁹])")
_SPACED_SIGN = re.compile(r"(?:[=≈({\[]|(?<![\w)\]}])\$) ?[-+] $")
_SPACED_MINUS = re.compile(r"(?:[0-9)\]}°]|[0-9)\]}] ?%|\w\$) {1,2}- {1,2}$")
_DATE = re.compile(r"[0-9]-[0-9]{1,4}-$|[0-9]\.? {0,3}[A-Za-z] {0,3}-$")  # or a power: "1 e-3"
_WRAPPED = re.compile(  # a change of the type alone
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathtt|"
    r"mathnormal|mathord|mathbin|mathrel|mathop|boldsymbol|bm|mbox|hbox|emph|underline)"
    r"\*?\s{0,3}\{([^{}]{0,200})\}"
)
_VECTOR = re.compile(r"\\(?:mathbf|mathit|mathsf|boldsymbol|bm)")
_NESTED_MAX = 3  # such commands within each other
_INDEX = re.compile(r"[\^_]\{?-?$")
_COMMAND = re.compile(r"\\[A-Za-z]{1,20}$")


class Number(NamedTuple):
    """A number, and how it stands in `plain` of its text; in "50%" the value is 50."""

    value: Fraction
    is_percent: bool
    source: str


class _Item(NamedTuple):
    """What has the looks of a decimal: its digits without marks of groups, and what touches them.

    exponent: of "1e3". vulgar: a character such as "½", after the digits or without any.
    """

    digits: str
    start: int
    end: int
    exponent: str = ""
    vulgar: str = ""


class _Magnitude(NamedTuple):
    """Neighbouring items that make one number. form: how; "" where they make none."""

    form: str
    items: list[_Item]
    end: int
    exponent: str = ""


def plain(text: str) -> str:
    """The text, with plain characters for all the characters and LaTeX that numbers may have."""
    for _ in range(2):  # "&amp;minus;" too
        text = _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
    text = text.replace("\r\n", "\n").translate(_TRANSLATION)
    text = _UNSEEN_RUN.sub("", text)
    for pattern, by in _MARKUP if "<" in text else ():
        text = pattern.sub(by, text)
    if "\\" in text:
        for _ in range(_NESTED_MAX):
            text = _WRAPPED.sub(_unwrapped, text)
    if any(mark in text for mark in ("\\", "^", "{", "~")):
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    for pattern, by in _BLANKS:
        text = pattern.sub(by, text)
    return text


def _unwrapped(wrapped: re.Match[str]) -> str:
    r"""What \text{...} holds: "\text{-}7" is "-7". Words stay apart from digits beside them.

    Left as they are, which makes them unknown: digits inside that touch digits or a sign outside,
    digits with spaces between them, and a letter in the type of vectors.
    """
    text, inside = wrapped.string, wrapped[1]
    before, after = text[: wrapped.start()][-1:], text[wrapped.end() : wrapped.end() + 1]
    first, last = inside[:1] or after, inside[-1:] or before
    if ((before.isdigit() or before in ("+", "-")) and first.isdigit()) or (
        last.isdigit() and after.isdigit()
    ):
        return wrapped.group()
    if re.search(r"[0-9] +[0-9]", inside) or (
        len(inside) == 1 and inside.isalpha() and _VECTOR.match(wrapped.group())
    ):
        return wrapped.group()
    left = " " if before.isdigit() and first.isalpha() else ""
    right = " " if last.isalpha() and after.isdigit() else ""
    return f"{left}{inside}{right}"


def find_last_number(text: str) -> Number | None:
    """The number that stands last in a text; None if there is none, or if what stands last is no
    number: a date, a power other than of ten, a decimal of more than 100 characters.
    """
    text = plain(text)
    size = _WINDOW
    while True:  # most texts end soon after their last number; windows grow, so this is linear
        window = text[-size:]
        last = _last_magnitude(window)
        is_all = len(window) == len(text)
        if last is not None and (
            is_all or last.items[0].start >= _MARGIN or len(last.items) > _CHAIN_MAX
        ):
            return _number(window, last)
        if is_all:
            return None
        size *= 4


def has_digits(text: str) -> bool:
    """Whether anything in a text has the looks of a number, names apart."""
    text = plain(text)
    return any(not _is_name(text, item.start) for item in _items(text))


def _last_magnitude(text: str) -> _Magnitude | None:
    """What stands last of all that looks like a number, names apart."""
    items = _items(text)
    last, at = None, 0
    while at < len(items):
        if _is_name(text, items[at].start):
            at += 1
            continue
        last = _magnitude(text, items, at)
        at += len(last.items)
    return last


def whole_number(text: str) -> Number | None:
    """The number that a text is, with nothing else in it but dollar signs around; else None."""
    if len(text) > 10 * DIGITS_MAX:
        return None
    text = _without_dollars(plain(text).strip().removesuffix("."))
    text = re.sub(r"^([-+]) +", r"\1", text)  # what opens a text is no subtraction
    number = find_last_number(text)
    return number if number is not None and number.source == text else None


def same(one: Number, other: Number) -> bool:
    """Whether two numbers are equal.

    "50%" equals "50%", and it equals 50 and 1/2 too: data sets write percentages in all three ways.
    """
    if one.is_percent == other.is_percent:
        return one.value == other.value
    share, bare = (one, other) if one.is_percent else (other, one)
    return bare.value in (share.value, share.value / 100)


def latex(number: Number) -> str:
    r"""The number as LaTeX that has one reading: an integer, a decimal, or \frac{a}{b}."""
    a, b = abs(number.value.numerator), number.value.denominator
    text = str(a)
    if b != 1:
        places = next((n for n in range(1, PLACES_MAX + 1) if 10**n % b == 0), 0)
        digits = str(a * 10**places // b).zfill(places + 1)
        text = f"{digits[:-places]}.{digits[-places:]}" if places else rf"\frac{{{a}}}{{{b}}}"
    return "-" * (number.value < 0) + text + r"\%" * number.is_percent


def _plain_fraction(match: re.Match[str]) -> str:
    r"""\frac{1}{2} as 1/2; after a digit, as the fraction of a mixed number."""
    fraction = f"{match['above'] or match['digit']}/{match['below'] or match['digit_below']}"
    minus = "-" * ((match["minus"] + (match["minus_inside"] or "")).count("-") % 2)
    if match["whole"] and not minus:
        return f"{match['whole'].rstrip()} {fraction}"
    return f"{match['whole'] or ''}{minus}{fraction}"


def _without_dollars(text: str) -> str:
    for opens, closes in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inside = len(text) > len(opens) + len(closes)
        if inside and text.startswith(opens) and text.endswith(closes):
            return text[len(opens) : -len(closes)].strip()
    return text


def _items(text: str) -> list[_Item]:
    """Everything that looks like a decimal, in order."""
    items: list[_Item] = []
    for match in _RUN.finditer(text):
        if match["alone"]:
            items.append(_Item("", match.start(), match.end(), vulgar=match["alone"]))
            continue
        items += _split(text, match)
        if match["exponent"] or match["vulgar"]:
            items[-1] = items[-1]._replace(
                end=match.end(),
                exponent=(match["exponent"] or "").lstrip(".")[1:],
                vulgar=(match["vulgar"] or "").strip(),
            )
    return items


def _split(text: str, match: re.Match[str]) -> list[_Item]:
    """The items of a run of digits with single marks between them: "1,234" is one, "3,4" are two.

    A space groups nothing where the digits after it belong to a fraction ("1 100/200").
    """
    digits, start = match["digits"], match.start("digits")
    spaced = " " in digits
    if _GROUPS.fullmatch(digits) and not (spaced and _SLASH.match(text, match.end())):
        return [_Item(re.sub(r"[ ,_']", "", digits), start, match.end("digits"))]
    if _EUROPEAN.fullmatch(digits):  # "1.234,5" in some countries, a list in others
        return [_Item(digits, start, match.end("digits"))]
    items: list[_Item] = []
    for part in re.finditer(r"[^ ]+", digits) if spaced or "," in digits else ():
        if _GROUPS.fullmatch(part.group()):
            kept = re.sub(r"[,_']", "", part.group())
            items.append(_Item(kept, start + part.start(), start + part.end()))
            continue
        for each in re.finditer(r"[^,]+", part.group()):
            at = start + part.start() + each.start()
            items.append(_Item(each.group(), at, at + len(each.group())))
    return items or [_Item(digits, start, match.end("digits"))]


def _is_name(text: str, start: int) -> bool:
    """Digits that touch a letter before them (H2O), or that are its exponent or index (cm^2)."""
    index = _INDEX.search(text, max(0, start - 3), start)
    at = index.start() if index else start
    before = text[at - 1 : at] if at else ""
    if index and before == "}":
        return True
    return _is_letter(before) and not _COMMAND.search(text, max(0, at - 21), at)


def _is_letter(character: str) -> bool:
    """Of a script with capitals: Chinese or Japanese has no space before a number."""
    return character.lower() != character.upper()


def _magnitude(text: str, items: list[_Item], at: int) -> _Magnitude:
    """The items from `at` on that belong together."""
    power = _power(text, items, at)
    if power is not None:
        return power
    first, start = items[at], items[at].start
    chain, is_fraction = [first], True  # joined by slashes, or by ^ and _
    while len(chain) < len(items) - at:
        gap = text[chain[-1].end : items[at + len(chain)].start][:12]
        slash = bool(_SLASH.fullmatch(gap))
        if not slash and not _PART_OF.fullmatch(gap):
            break
        is_fraction = is_fraction and slash
        chain.append(items[at + len(chain)])
    form = {1: "decimal", 2: "fraction"}.get(len(chain), "") if is_fraction else ""
    if len(chain) == 1 and first.digits.isdecimal() and text[first.end : first.end + 1] == " ":
        rest = _mixed(text, items, at, first)
        if rest:
            form, chain = "mixed", [first, *rest]
    end = chain[-1].end
    operand = _BEFORE_OPERAND.search(text, max(0, start - 16), start)
    if operand or _AFTER_OPERAND.match(text, end):
        form = ""
    return _Magnitude(form, chain, end)


def _mixed(text: str, items: list[_Item], at: int, first: _Item) -> list[_Item]:
    """The two items of a proper fraction one space after an integer; [] if there is none."""
    rest = items[at + 1 : at + 4]
    if len(rest) < 2 or rest[0].start != first.end + 1 or first.exponent or first.vulgar:
        return []
    gaps = [text[a.end : b.start][:12] for a, b in pairwise(rest)]
    plain_digits = all(x.digits.isdecimal() and not x.exponent for x in rest[:2])
    if not plain_digits or not _SLASH.fullmatch(gaps[0]) or any(map(_SLASH.fullmatch, gaps[1:])):
        return []
    above, below = (x.digits.lstrip("0").zfill(1) for x in rest[:2])
    return rest[:2] if (len(above), above) < (len(below), below) else []


def _power(text: str, items: list[_Item], at: int) -> _Magnitude | None:
    """A power of ten from `at` on, alone or times a decimal."""
    ten = at
    if at + 1 < len(items) and _TIMES.fullmatch(text[items[at].end : items[at + 1].start][:12]):
        ten = at + 1
    if items[ten].digits != "10" or items[ten].exponent or items[ten].vulgar:
        return None
    match = _EXPONENT.match(text, items[ten].end)
    if match is None or _MORE.match(text, match.end()):
        return None
    after = next((i for i in range(ten + 1, len(items)) if items[i].start >= match.end()), None)
    used = items[at:after]
    exponent = match["braced"] or match["bare"] or match["raised"].translate(_SUPERSCRIPTS)
    form = "power" if ten == at else "times power"
    return _Magnitude(form, used, match.end(), exponent)


def _number(text: str, magnitude: _Magnitude) -> Number | None:
    """A magnitude with its sign, currency and percent sign; None where what stands beside it is not
    understood."""
    value = _value(magnitude)
    if value is None:
        return None
    at = magnitude.items[0].start
    percent = _PERCENT.match(text, magnitude.end)
    after = percent or _AFTER_CURRENCY.match(text, magnitude.end)
    end = after.end() if after else magnitude.end
    if _is_subtracted(text, at):
        start, signed = _before_currency(text, at), False
        before = text[max(0, start - 12) : start]
        known = understood_after(text, end) and not _DATE.search(before)
    else:
        start, signed = _start(text, at)
        known = understood(text, start, end)
    return Number(-value if signed else value, bool(percent), text[start:end]) if known else None


def _is_subtracted(text: str, at: int) -> bool:
    """Whether a minus sign before the magnitude at `at` subtracts it, or ends a range: "5-7"."""
    start = _before_currency(text, at)
    if start > 1 and text[start - 1] == "-":
        before = text[start - 2]
        return before != "+" and _ends_a_term(before) and text[max(0, start - 3) : start] != "---"
    return _SPACED_MINUS.search(text, max(0, start - 6), start) is not None


def _start(text: str, at: int) -> tuple[int, bool]:
    """Where a number whose magnitude begins at `at` begins, and whether it has a minus sign."""
    start, negative = _before_currency(text, at), False
    spaced = _SPACED_SIGN.search(text, max(0, start - 4), start)
    sign = start - (2 if spaced else 1)
    if sign >= 0 and text[sign] in "+-" and not _ends_a_term(text[sign - 1 : sign]):
        start, negative = _before_currency(text, sign), text[sign] == "-"
    return start, negative


def _before_currency(text: str, at: int) -> int:
    match = _CURRENCY.search(text, max(0, at - 4), at)
    return match.start() if match else at


def _ends_a_term(character: str) -> bool:
    """Whether a minus sign that touches this character before it subtracts."""
    if not character:
        return False
    return _is_letter(character) or character.isdigit() or character in ")]}%°+-" + _SIGNS


def _value(magnitude: _Magnitude) -> Fraction | None:
    """The exact value; None where there is none, or where it would be too long."""
    if magnitude.form == "power":
        return _times_power_of_ten(Fraction(1), magnitude.exponent)
    numbers = magnitude.items[:1] if magnitude.form == "times power" else magnitude.items
    values = [v for v in map(_item_value, numbers) if v is not None] if magnitude.form else []
    if not values or len(values) < len(numbers):
        return None
    first, *rest = values
    if magnitude.form == "times power":
        return _times_power_of_ten(first, magnitude.exponent)
    if magnitude.form == "decimal":
        return first
    above, below = (first, *rest) if magnitude.form == "fraction" else rest
    if not below:
        return None
    return above / below if magnitude.form == "fraction" else first + above / below


def _item_value(item: _Item) -> Fraction | None:
    value = Fraction(0)
    if item.digits:
        if len(item.digits) > DIGITS_MAX or not _DECIMAL.fullmatch(item.digits):
            return None
        value = Fraction(item.digits)
    if item.vulgar:
        return value + Fraction(*_VULGAR[item.vulgar]) if value.denominator == 1 else None
    return _times_power_of_ten(value, item.exponent) if item.exponent else value


def _times_power_of_ten(value: Fraction, exponent: str) -> Fraction | None:
    if len(exponent) > 10 or abs(int(exponent)) > EXPONENT_MAX:
        return None
    return value * Fraction(10) ** int(exponent)
