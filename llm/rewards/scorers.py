"""Scores: completion ids and the right answer in, 0 or 1 out. No answer is ever executed.

A completion that does not end itself scores 0 with every scorer: one cut off at max_new_tokens has
not answered ("12" may be the start of "123").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

from llm.settings.schema import TaskConfig
from llm.tokenizers.digit_synonyms import read
from llm.tokenizers.pretrained import CharTokenizer

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


class Scorer(Protocol):
    def score(self, completions: list[list[int]], answers: list[str]) -> list[float]:
        """One score for each completion: sampled ids, end-of-sequence included, no padding."""

    def counts(self) -> dict[str, int]:
        """What went wrong since the last call; {} where nothing can."""

    def close(self) -> None:
        """End what the scorer started."""


def scorer_name(cfg: TaskConfig) -> str:
    """exact, number or math_verify: what `auto` means for this task."""
    if cfg.scorer != "auto":
        return cfg.scorer
    return {"arithmetic": "number", "problems": "math_verify"}.get(cfg.name, "exact")


def open_scorer(cfg: TaskConfig, tokenizer: Any) -> Scorer:
    """The task's scorer.

    Raises:
        ConfigError: math_verify without its package.
    """
    name = scorer_name(cfg)
    if name == "math_verify":
        return MathScorer(cfg, tokenizer)
    if name == "number":
        return TextScorer(tokenizer, same_number)
    strict = isinstance(tokenizer, CharTokenizer)
    if strict and cfg.forms > 1:
        return TextScorer(tokenizer, lambda text, answer: read(text, cfg.forms) == answer)
    return TextScorer(tokenizer, same_text if strict else same_stripped_text)


class TextScorer:
    """1.0 where a rule holds between the completion's text and the answer."""

    def __init__(self, tokenizer: Any, rule: Callable[[str, str], bool]) -> None:
        self._tokenizer, self._rule = tokenizer, rule

    def score(self, completions: list[list[int]], answers: list[str]) -> list[float]:
        texts = [finished_text(c, self._tokenizer) for c in completions]
        pairs = zip(texts, answers, strict=True)
        return [float(t is not None and self._rule(t, a)) for t, a in pairs]

    def counts(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


class MathScorer:
    """1.0 where the completion's final expression equals the answer as mathematics."""

    def __init__(self, cfg: TaskConfig, tokenizer: Any) -> None:
        from .math_verifier import Verifier

        self._tokenizer, self._longest = tokenizer, cfg.score_characters_max
        self._verifier = Verifier(cfg.score_workers, cfg.score_seconds)

    def score(self, completions: list[list[int]], answers: list[str]) -> list[float]:
        texts = [finished_text(c, self._tokenizer) or "" for c in completions]
        pairs = [
            (gold_expression(a), final_expression(t[-self._longest :]))
            for t, a in zip(texts, answers, strict=True)
        ]
        return [float(right) for right in self._verifier.equal(pairs)]

    def counts(self) -> dict[str, int]:
        return self._verifier.counts()

    def close(self) -> None:
        self._verifier.close()


def finished_text(completion: list[int], tokenizer: Any) -> str | None:
    """Text of a completion that ends itself, else None."""
    if not completion or completion[-1] not in tokenizer.eos:
        return None
    return tokenizer.decode(completion)


def same_text(text: str, answer: str) -> bool:
    return text == answer


def same_stripped_text(text: str, answer: str) -> bool:
    return text.strip() == answer.strip()


def same_number(text: str, answer: str) -> bool:
    """The last number in the text has the value of the answer."""
    found = last_number(text)
    return found is not None and found == last_number(answer)


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
    end, found = -1, ""
    for match in _FORMULA.finditer(text):
        end, found = match.end(), next(g for g in match.groups() if g)
    for match in _FRACTION.finditer(text, max(end, 0)):
        found = match.group().rstrip(".,")
    if is_scientific(found.replace(",", "")):  # LaTeX would read 1e-7 as e times 1, minus 7
        number = last_number(found)
        return "" if number is None else format(number, "f")
    return found.strip()


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
