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
    r"(?:[负負减減加乘以除号號方之]|マイナス|마이너스|(?:^|[^a-zà-ÿа-я])"
    r"(?:moins|menos|meno|минус)) ?$|"
    r"(?:^|[^a-z])(?:negative|neg\.?|minus|plus|times|over|divided by|multiplied by|"
    r"mod(?:ulo)?|choose|"
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
_TAG_BEFORE = re.compile(r"(?:</?[A-Za-z][\w-]{0,40} ?/?>|<\|[\w-]{1,40}\|>)$")
_ARROW_BEFORE = re.compile(r"[-=]+>$")
_OTHER_TAG = re.compile(  # mathematics, raised and struck-out text
    r"</?(?:m(?:ath|frac|sqrt|root|su[bp]|subsup|over|under|underover|[nois]|row|style|text|fenced|"
    r"padded|multiscripts)|su[bp]|del|s|strike)[ />]",
    re.IGNORECASE,
)
_INLINE = re.compile(  # tags that set nothing apart
    r"</?(?:b|i|em|strong|u|span|font|mark|small|big|code|tt|kbd|a|var|q)[ />]", re.IGNORECASE
)
_FACTOR = re.compile(r"[0-9)\]}] {1,3}$")  # "2 *7"
_INDEXED = re.compile(r"[\^_] ?[-+]?\w+$")
_POWER_AFTER = re.compile(r"\.? {0,3}[eE] {0,3}[-+]? {0,3}[0-9]")
_STYLE_BEFORE = re.compile(r"\\(?:displaystyle|textstyle|scriptstyle|bf|it|rm|tt|sf|em) ?$")
_SIGN_NAMES = re.compile(
    r"\b(?:MINUS|PLUS|DASH|HYPHEN|TIMES|MULTIPLICATION|DIVISION|ROOT|OPERATOR|SALTIRE|CROSS|"
    r"HORIZONTAL|PRIME|FACTORIAL|EXPONENT|SQUARED|CUBED|OGHAM|DECIMAL|THOUSANDS)\b|^DIVI|^NEGATIVE"
)
_CALM_GROUPS = frozenset("begin end tag label ref eqref cite section subsection".split())
_CLOSES = re.compile(r"(?:[`\"'”’»$]|\\[)\]])+$")
_MINUS_WORDS = re.compile(
    r"(?:[负負减減]|マイナス|마이너스|(?:^|[^a-zà-ÿа-я])"
    r"(?:negative|neg\.?|minus|moins|menos|meno|минус))$",
    re.IGNORECASE,
)
_SIGN_COMMANDS = frozenset(
    "pm mp sqrt div times cdot ast star minus textminus textendash ominus frac dfrac tfrac binom "
    "over phantom hphantom".split()
)
_TAG_AFTER = re.compile(r"</?[A-Za-z][\w-]{0,40} ?/?>")
_COMMAND_BEFORE = re.compile(r"\\([A-Za-z]{1,20}) ?$")
_COMMAND_AFTER = re.compile(r"\\([A-Za-z]{1,20})\*? ?\{? ?")
_MARKS_BEFORE = re.compile(r"[*_`\"'“”‘’«„$]+$")
_MARKS_AFTER = re.compile(r"(?:[)\]}]|\\[)\]]|\*\*?(?![*\w])|__?(?![\w{(\\])|[`\"'”’»$])")
_BULLET = re.compile(r"(?:^|\n) {0,8}[+*•·]? {0,4}$")
_RATE = re.compile(r"/ ?[A-Za-z]{2}")  # "$5/hour"
_WORD = re.compile(r"[^\W\d_]+")
# mathematics, accents, currencies, other numerals, combining marks, raised letters (unicodedata)
# and what nobody sees or knows: controls, formats, characters without a meaning
_NOT_CALM = ("Sm", "Sk", "Sc", "No", "Nl", "Mn", "Me", "Lm", "Cc", "Cf", "Cs", "Co", "Cn")
_ENTITY_BEFORE = re.compile(r"&#?[A-Za-z0-9]{2,32};$")
_SIZES = "十百千万萬亿億兆半倍"
_OTHER_BRACKETS = "⌊⌋⌈⌉⟨⟩‖"  # of functions


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
        marks, tag = _MARKS_BEFORE.search(head), _TAG_BEFORE.search(head)
        if not head:
            return start <= _LOOK  # else there is more than was looked at
        if head[-1] == "\n":
            line = head.rstrip(" \n")
            if not line.endswith(("(", "[", "{")) or line.endswith((r"\(", r"\[")):
                return not _goes_on(line) and not (opened and line.endswith(("}", "^", "_")))
            head, touches = line, False
        elif marks:
            head = head[: marks.start()]
            if not _may_be_marked(head, marks.group(), touches):
                return False
        elif tag:  # of a known kind: what is before it matters
            if _OTHER_TAG.match(tag.group()):
                return False
            head, touches = head[: tag.start()], touches and bool(_INLINE.match(tag.group()))
        elif head.endswith((r"\(", r"\[")):
            head = head[:-2]
        elif head[-1] in "([{（【":
            head, opened = head[:-1], True
            command = _COMMAND_BEFORE.search(head)
            if command and command[1] in _WRAPPERS:
                head = head[: command.start()]
        elif head[-1] == " ":
            head, touches = head.rstrip(" "), False
            if head and head[-1] != "\n" and _BULLET.search(head + " "):
                return ("\n" in head or start <= _LOOK) and _starts_anew(head)
        elif opened and (head[-1].isdigit() or head[-1] in ")]}"):
            return False  # a factor
        elif style := _STYLE_BEFORE.search(head):
            head, touches = head[: style.start()], True  # it swallows the space
        else:
            return _last_is_calm(head, touches)
    return False


def _starts_anew(head: str) -> bool:
    """Whether the line before the one that `head` ends in does not go on in it."""
    return not _goes_on(head[: head.rfind("\n") + 1].rstrip(" \n"))


def _goes_on(line: str) -> bool:
    """Whether what a line ends in takes the number that opens the next one as an operand."""
    for _ in range(_LAYERS):
        shown = _TAG_BEFORE.search(line) or _STYLE_BEFORE.search(line)
        if not shown:
            break
        if _OTHER_TAG.match(shown.group()):
            return True
        line = line[: shown.start()].rstrip(" \n")
    bare = _CLOSES.sub("", line)
    in_formula = line[len(bare) :].strip("`\"'”’»") != ""  # which has ended
    if bare.endswith("*"):  # it closes bold type, or it multiplies
        stars = re.findall(r"\*+", bare.rpartition("\n")[2])
        return len(stars) % 2 == 1 or _operates(bare.rstrip("*"))
    command = _COMMAND_BEFORE.search(bare)
    if command:
        known = command[1] in _CALM_COMMANDS
        return command[1] in _SIGN_COMMANDS if in_formula else not known
    if _operates(bare) or _WORDS_BEFORE.search(bare):
        return True
    return bare.endswith((")", "]", "}")) and not in_formula and not _closes_calmly(bare)


def _operates(head: str) -> bool:
    """Whether the last character of `head` is a sign or an operation, or one that nobody knows."""
    c = head[-1:]
    if c == "-":
        return not head.endswith("--")
    if c == ">":
        return not _TAG_BEFORE.search(head) and not _ARROW_BEFORE.search(head)
    if not c or c in _RELATIONS or c in "|~`":
        return False
    kind = unicodedata.category(c)
    if kind == "Lm":  # it lengthens a vowel, or looks like a dash
        return not "\u3041" <= head[-2:-1] <= "\u30ff"  # kana
    if kind == "Sk":  # accents, but not the colour of a picture
        return c < "\u3000"
    return c in "/^·" or kind in ("Sm", "Cc", "Cf", "Cs", "Co", "Cn") or _is_sign_by_name(c)


def is_operand(before: str, is_all: bool) -> bool:
    """Whether a sign or an operation at the end of `before` takes what follows as its operand.

    Words and comparisons do not: this is asked of a box, which says of itself that it holds the
    answer. is_all: nothing stands before `before`.
    """
    head = before
    for _ in range(_LAYERS):
        head = head.rstrip(" \n")
        marks, tag = _MARKS_BEFORE.search(head), _TAG_BEFORE.search(head)
        style = _STYLE_BEFORE.search(head)
        if not head:
            return not is_all
        if tag and _OTHER_TAG.match(tag.group()):
            return True
        if marks and not marks.group().strip("*_"):
            inside = head[: marks.start()]
            return _operates(inside) or not _may_be_marked(inside, marks.group(), head == before)
        if shown := marks or tag or style:
            head = head[: shown.start()]
        elif head.endswith(("(", "[", "{")):
            head = head[:-1].removesuffix("\\")
        else:
            break
    command = _COMMAND_BEFORE.search(head)
    if command:
        return command[1] in _SIGN_COMMANDS
    if head.endswith((")", "]", "}")):
        return not _closes_calmly(head)
    return _MINUS_WORDS.search(head) is not None or (
        _operates(head) and head[-1] not in "<>≤≥≦≧⩽⩾≠∈"
    )


def _is_sign_by_name(c: str) -> bool:
    """Whether a character's Unicode name says that it is a sign, a dash or an operation."""
    category = unicodedata.category(c)
    if category == "Pd":
        return c not in "-—"
    return category in ("So", "Po", "Zs") and bool(_SIGN_NAMES.search(unicodedata.name(c, "")))


def _may_be_marked(head: str, marks: str, touches: bool) -> bool:
    """Whether marks that follow `head` are quotes, dollars or bold type, not operators."""
    c = head[-1:]
    if not set(marks) & set("*_"):
        return c not in ("}", "!", "^") or not touches
    if touches:  # they open bold type
        return not _FACTOR.search(head) and not (c.isalnum() or c in ("}", ")", "]", "!", "%"))
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
        return bool(_ARROW_BEFORE.search(head))
    if c in ")]}":
        return not touches and _closes_calmly(head)
    if _ENTITY_BEFORE.search(head):
        return False
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
        return not touches and not _INDEXED.search(head)
    if c == "." and touches:
        return not re.search(r"[0-9]\.$", head)
    if c in _RELATIONS:
        return True
    if touches and c not in ",;、—&" and head[-2:-1].isdigit():
        return False  # a mark between digits, which may group them or be a decimal point
    return _is_calm_kind(c) and not (touches and unicodedata.category(c) == "So")


def _is_calm_kind(c: str) -> bool:
    """Whether a character is punctuation or a picture, no sign and none that nobody sees."""
    return unicodedata.category(c) not in _NOT_CALM and not _is_sign_by_name(c)


def _closes_calmly(head: str) -> bool:
    """Whether the bracket that closes at the end of `head` holds no sign, operation or argument."""
    c, inside = head[-1], head[:-1].rstrip(" \n")
    if inside.endswith("\\") and c in ")]":
        inside = inside[:-1]
    command = _COMMAND_BEFORE.search(inside)
    if (
        _operates(inside)
        or _WORDS_BEFORE.search(inside)
        or (command and command[1] not in _CALM_COMMANDS)
    ):
        return False
    if c != "}":
        return True
    if inside.endswith("\\"):
        return False  # a set
    depth, at = 1, len(head) - 2
    while at >= 0 and depth:
        depth += (head[at] == "}") - (head[at] == "{")
        at -= 1
    before = head[: at + 1].rstrip(" ")
    command = _COMMAND_BEFORE.search(before)
    if command:
        return command[1] in _CALM_GROUPS
    return depth == 0 and not before.endswith(("}", "]", "_")) and not _operates(before)


def understood_after(text: str, end: int) -> bool:
    """Whether what stands from text[end] on leaves the number before it as it is."""
    decimal = "." in text[max(0, end - 40) : end].rpartition(" ")[2]
    tail, closed, apart = text[end : end + _LOOK], False, False
    for _ in range(_LAYERS):
        marks, tag = _MARKS_AFTER.match(tail), _TAG_AFTER.match(tail)
        if tag and _OTHER_TAG.match(tag.group()):
            return False
        passed = marks or tag
        if not passed:
            break
        apart = apart or (tag is not None and not _INLINE.match(tag.group()))
        tail, closed = tail[passed.end() :], True
    if tail.startswith(("...", "…", "..")) and decimal and not closed:
        return False  # 0.333... goes on
    rest = tail.lstrip(" ")
    if _POWER_AFTER.match(rest):
        return False
    if rest.startswith("\n"):
        return _next_line_is_calm(rest[1:].lstrip(" "))
    return not rest or _next_is_calm(rest, apart or rest != tail)


def _next_line_is_calm(line: str) -> bool:
    """Whether the line after a number does not go on with it; an empty one ends a paragraph."""
    if not line or line[0] == "\n":
        return True
    if line[0] == "\\":
        return _command_is_calm(line)
    if line[0] in "^!/×÷√·" or _is_sign_by_name(line[0]):
        return False
    return not _WORDS_AFTER.match(line)


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
        return rest.startswith("<|")  # a special token
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
    if c in _SIZES or rest.startswith("分之"):
        return False
    if re.match(r"[^,;、—\s\w][0-9]", rest) and not spaced and c not in "-.'&":
        return False
    return _is_calm_kind(c)


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
    return command[1] in _CALM_COMMANDS


def _is_cased(character: str) -> bool:
    """Of a script with capitals: Chinese or Japanese has no space beside a number."""
    return character.lower() != character.upper()
