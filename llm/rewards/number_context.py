r"""What may stand before and after a number: everything else makes it a part of something unknown.

The property that the grammar keeps: a text whose last number it does not wholly understand has no
number. "sqrt(2)", "5!", "-(7)", "negative 7", "3x", "0.\overline{3}", "2 + 3" and "(3, 7)" are
none, though each ends in digits. So an answer in a notation that is missing here scores 0, and none
is read as another number.

What is understood beside a number is listed here: ends of texts and lines, words, punctuation, bold
type, brackets and formulas around it, "=" and arrows, units, and LaTeX commands that calculate
nothing. Each look reads at most `_LOOK` characters.
"""

from __future__ import annotations

import re
import unicodedata

_LOOK = 80  # characters before and after a number
_LAYERS = 8  # brackets, marks and commands around a number
_WORDS_BEFORE = re.compile(  # the number after them is a part of a larger expression
    r"(?:^|[^a-z])(?:negative|minus|plus|times|over|divided by|multiplied by|mod(?:ulo)?|choose|"
    r"sqrt|root|(?:root|square|cube|powers?|log|logarithm|factorial|half|third|quarter|sine|cosine|"
    r"tangent|reciprocal|inverse|negation|opposite|absolute value|floor|ceiling|percent|multiple|"
    r"exponential|double|triple) of|log|ln|lg|exp|a?(?:sin|cos|tan|cot|sec|csc)h?|"
    r"arc(?:sin|cos|tan)|abs|floor|ceil|round|gcd|lcm|max|min|base|point|power|"
    r"raised to|twice|double|triple|half|than|at least|at most|up to|not|"
    r"out of|log(?:[0-9]{1,3}|_\{?\w{1,6}\}?))[ ,]?$|n['’]t ?$|% ?of ?$|"
    r"(?:[0-9)}] |raised )to the(?: power(?: of)?)? ?$|to the power of ?$",
    re.IGNORECASE,
)
_ORDINAL = "(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth)"
_WORDS_AFTER = re.compile(  # they make another number of the one before them
    r"(?:squared|cubed|factorial|hundreds?|thousands?|[mbtr]+illions?|dozens?|choose|mod(?:ulo)?|"
    rf"plus|minus|raised|half|halves|{_ORDINAL}s|{_ORDINAL}(?: of|(?! [a-z]))|"
    r"(?:times|over|divided by|multiplied by) ?(?:[(\\$√]|[b-hj-z](?![a-z]))|"
    r"pi|tau|sqrt|root|log|ln|exp|sin|cos|tan|and a (?:half|third|quarter)|"
    r"to the (?:power|minus|negative|[a-z]+th)|in base)\b",
    re.IGNORECASE,
)
_UNITS = frozenset(
    "st nd rd th m cm mm km dm g kg mg s sec secs ms h hr hrs min mins am pm l L ml mL J kJ W "
    "kW V Hz kHz MHz lb lbs oz ft in yd mi mph kmh ha deg px".split()
)
_CALM_COMMANDS = frozenset(
    "approx sim simeq cong to rightarrow Rightarrow implies iff longrightarrow therefore quad "
    "qquad colon displaystyle item end right degree".split()
)
_WRAPPERS = frozenset(
    "text textbf textit textrm mathrm mathbf mathit mathsf mbox boxed fbox underline emph".split()
)
_RELATIONS = "=≈≃≅∼→⇒⟹⟶∴"
_SIGNS_OF_MONEY = re.compile(r"(?:^|[^A-Za-z])(?:US|A|AU|C|CA|NZ|HK|S|SG|R)$")
_TAG_BEFORE = re.compile(r"(?:</?[A-Za-z][\w-]{0,40}/?>|\|>|[-=]+>)$")
_TAG_AFTER = re.compile(r"</?[A-Za-z][\w-]{0,40}/?>|<\|")
_GROUP_BEFORE = re.compile(r"\\([A-Za-z]{1,12}) ?\{[^{}]{0,60}\} ?$")
_COMMAND_BEFORE = re.compile(r"\\([A-Za-z]{1,20}) ?$")
_COMMAND_AFTER = re.compile(r"\\([A-Za-z]{1,20})\*? ?\{? ?")
_MARKS_BEFORE = re.compile(r"[*_`\"'“”‘’«„$]+$")
_MARKS_AFTER = re.compile(r"(?:[)\]}]|\\[)\]]|\*\*?(?![*\w])|__?(?![\w{(\\])|[`\"'”’»$])")
_BULLET = re.compile(r"(?:^|\n) {0,8}[+*•·]? {0,4}$")
_RATE = re.compile(r"/ ?[A-Za-z]{2}")  # "$5/hour"
_WORD = re.compile(r"[^\W\d_]+")
# mathematics, accents, currencies, other numerals, combining marks, raised letters (unicodedata)
_NOT_CALM = ("Sm", "Sk", "Sc", "No", "Nl", "Mn", "Me", "Lm")
_OTHER_BRACKETS = "⌊⌋⌈⌉⟨⟩‖"  # of functions
_ENDS_OF_LINE = "+×÷/^√"  # a line that ends so goes on in the next


def understood(text: str, start: int, end: int) -> bool:
    """Whether the number at text[start:end], with sign, currency and percent sign, stands alone.

    It does not where anything beside it makes it a part of an expression, a name or a notation that
    is not known.
    """
    in_list = re.search(r"[,;] ?$", text[max(0, start - 2) : start])
    if in_list and re.match(r" ?(?:[)\]}]|\\[)\]}])", text[end : end + 3]):
        return False  # the last of a tuple, an interval or a set
    return understood_before(text, start) and understood_after(text, end)


def understood_before(text: str, start: int) -> bool:
    """Whether what stands before text[start] leaves the number there as it is."""
    head = text[max(0, start - _LOOK) : start]
    touches = True  # nothing but marks and brackets between the number and the end of the head
    opened = False  # a bracket is among them
    for _ in range(_LAYERS):
        marks = _MARKS_BEFORE.search(head)
        if not head or head.endswith("\n"):
            return _starts_anew(head)
        if marks:
            head = head[: marks.start()]
            if not _may_be_marked(head, marks.group(), touches):
                return False
        elif head.endswith((r"\(", r"\[")):
            head = head[:-2]
        elif head[-1] in "([{（【":
            head, opened = head[:-1], True
            command = _COMMAND_BEFORE.search(head)
            if command and command[1] in _WRAPPERS:
                head = head[: command.start()]
        elif head[-1] == " ":
            head, touches = head.rstrip(" "), False
            if _BULLET.search(head + " "):
                return _starts_anew(head)
        elif opened and (head[-1].isdigit() or head[-1] in ")]}"):
            return False  # a factor
        else:
            return _last_is_calm(head, touches)
    return False


def _starts_anew(head: str) -> bool:
    """Whether the line before the one that `head` ends in does not go on in it."""
    return not head[: head.rfind("\n") + 1].rstrip(" \n").endswith(tuple(_ENDS_OF_LINE))


def _may_be_marked(head: str, marks: str, touches: bool) -> bool:
    """Whether marks that follow `head` are quotes, dollars or bold type, not operators."""
    c = head[-1:]
    if not set(marks) & set("*_"):
        return c not in ("}", "!", "^") or not touches
    if touches:  # they open bold type
        return not (c.isalnum() or c in ("}", ")", "]", "!", "%"))
    return c not in ("", " ", "\n") and not c.isdigit()  # they close it


def _last_is_calm(head: str, touches: bool) -> bool:
    """Whether the word, sign or command at the end of `head`, which is not empty, changes nothing.

    touches: no space is between it and the number.
    """
    c = head[-1]
    command = _COMMAND_BEFORE.search(head)
    if command:
        return command[1] in _CALM_COMMANDS
    if _WORDS_BEFORE.search(head):
        return False
    if c.isalpha() and unicodedata.category(c) != "Lm":
        word = _WORD.findall(head)[-1]
        if touches and _is_cased(c):
            return bool(_SIGNS_OF_MONEY.search(head))
        return len(word) > 1 or not _is_cased(c) or word in "aAI"
    if c == ":":
        return not (re.search(r"[0-9]:$", head) and touches) and not re.search(r"[0-9] :$", head)
    if c == "=":
        return not re.search(r"(?:[!<>≠]|:=?)=$", head)
    if c == ">":
        return bool(_TAG_BEFORE.search(head))
    if c in ")]}":
        group = _GROUP_BEFORE.search(head)
        return not touches or bool(group and group[1] in _WRAPPERS)
    if c == "!":
        return not touches
    if c == "\\":
        return head.endswith("\\\\")
    if c == "°":
        return not touches
    if c in "-+*/|@<^_~·•%‰" + _OTHER_BRACKETS or (
        touches and c in "–#" and not head.endswith("##")
    ):
        return c == "%" and not touches
    if c.isdecimal():
        return not touches
    if c == "." and touches:
        return not re.search(r"[0-9]\.$", head)
    if c in _RELATIONS:
        return True
    return unicodedata.category(c) not in _NOT_CALM


def understood_after(text: str, end: int) -> bool:
    """Whether what stands from text[end] on leaves the number before it as it is."""
    decimal = "." in text[max(0, end - 40) : end].rpartition(" ")[2]
    tail, closed = text[end : end + _LOOK], False
    for _ in range(_LAYERS):
        marks = _MARKS_AFTER.match(tail)
        if not marks:
            break
        tail, closed = tail[marks.end() :], True
    if not tail or tail[0] == "\n":
        return True
    if tail.startswith(("...", "…", "..")) and decimal and not closed:
        return False  # 0.333... goes on
    spaces = len(tail) - len(tail.lstrip(" "))
    rest = tail[spaces:]
    if not rest or rest[0] == "\n":
        return True
    return _next_is_calm(rest, spaces > 0)


def _next_is_calm(rest: str, spaced: bool) -> bool:
    """Whether the word, sign or command at the start of `rest`, not empty, changes nothing."""
    c = rest[0]
    if c == "\\":
        return _command_is_calm(rest)
    if c == "°":
        return True
    if _is_cased(c):
        return _word_is_calm(rest, spaced)
    if c == "-":
        operand = re.match(r"-+ ?(?:[b-zB-HJ-Z](?![^\W\d_])|[(\[{\\$\d√π])", rest)
        return operand is None
    if c == "*":
        return spaced and re.match(r"\*\*?[^\W\d_]{2}", rest) is not None
    if c == "<":
        return _TAG_AFTER.match(rest) is not None
    if c in ",;":
        return re.match(r"[,;] ?\$?[-+]? ?(?:∞|\\infty|[b-zB-HJ-Z](?![\w'’]))", rest) is None
    if c == "(":
        return (
            spaced
            and re.match(r"\(-?[^\W\d_]{2}|\([aAI] ", rest) is not None
            and not (re.match(r"\((?:mod|base)", rest))
        )
    if c == "[":
        return spaced
    if c == "/" and _RATE.match(rest):
        return not _WORDS_AFTER.match(rest[1:].lstrip(" "))
    if c in "!/^_|@‰{+>~·•‱" + _OTHER_BRACKETS:
        return False
    if c in _RELATIONS or c in "#&%":
        return c != "%"
    if c.isdigit():
        return spaced and c.isascii()
    return unicodedata.category(c) not in _NOT_CALM


def _word_is_calm(rest: str, spaced: bool) -> bool:
    """A unit, or after a space a word of prose."""
    word = (_WORD.match(rest) or [""])[0]
    if _WORDS_AFTER.match(rest):
        return False
    return word in _UNITS or (spaced and (len(word) > 1 or word in "aAI"))


def _command_is_calm(rest: str) -> bool:
    """A LaTeX command after a number: text, a space, the end of a formula."""
    command = _COMMAND_AFTER.match(rest)
    if not command:
        return rest[:2] in ("\\\\", "\\)", "\\]", "\\$", "\\&", "\\n")
    if command[1] in _WRAPPERS:
        inside = rest[command.end() :].lstrip(" ")
        return not inside or not _is_cased(inside[0]) or _word_is_calm(inside, True)
    return command[1] in _CALM_COMMANDS


def _is_cased(character: str) -> bool:
    """Of a script with capitals: Chinese or Japanese has no space beside a number."""
    return character.lower() != character.upper()
