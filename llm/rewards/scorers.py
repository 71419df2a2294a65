"""Scores: completion ids and the right answer in, 0 or 1 out. No answer is ever executed.

A completion that does not end itself scores 0 with every scorer: one cut off at max_new_tokens has
not answered ("12" may be the start of "123"). A reward function of the user's, which may stand in
place of a scorer, judges such completions too and returns any finite float (function_scorer.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from llm.settings.schema import (
    AutoReward,
    EndingReward,
    ExactReward,
    MathVerifyReward,
    NumberReward,
    OwnReward,
    PythonReward,
    RewardConfig,
    TaskConfig,
)
from llm.tokenizers.character import CharTokenizer
from llm.tokenizers.digit_synonyms import as_digits

from . import number_grammar
from .answers import (
    as_latex,
    final_answer,
    final_number,
    gold_expression,
    gold_number,
    scale_words,
)
from .number_grammar import Number


class Scorer(Protocol):
    def score(
        self,
        completions: list[list[int]],
        answers: list[str],
        prompts: Sequence[str] = (),
        extras: Sequence[str] = (),
    ) -> list[float]:
        """One score for each completion: sampled ids, end-of-sequence included, no padding.

        prompts, and extras, the rows' other columns as JSON: what a reward function is given.
        """

    def counts(self) -> dict[str, int]:
        """What went wrong since the last call; {} where nothing can."""

    def identity(self) -> dict[str, str]:
        """What of it, beyond the settings, belongs to the run's identity."""

    def close(self) -> None:
        """End what the scorer started."""


def reward_of(cfg: TaskConfig, reward: RewardConfig) -> RewardConfig:
    """The reward's settings, with what `auto` means for this task in its place."""
    if not isinstance(reward, AutoReward):
        return reward
    if cfg.type == "problems":
        return MathVerifyReward()
    return NumberReward() if cfg.type == "arithmetic" else ExactReward()


_AUTO = AutoReward()


def open_scorer(
    cfg: TaskConfig,
    tokenizer: Any,
    reward: RewardConfig = _AUTO,
    function: Callable[..., Any] | None = None,
) -> Scorer:
    """The task's scorer, or the reward function where there is one.

    Args:
        cfg: of the task.
        tokenizer: of the models.
        reward: a function that it names is loaded in a worker process at once, and so executed.
        function: a callable of this process, in place of a scorer.

    Raises:
        ConfigError: math_verify without its package; a function that cannot be loaded.
    """
    if function is not None or isinstance(reward, OwnReward):
        from .function_scorer import FunctionScorer

        own = reward if isinstance(reward, OwnReward) else PythonReward()
        return FunctionScorer(own, tokenizer, function)
    reward = reward_of(cfg, reward)
    if isinstance(reward, MathVerifyReward):
        return MathScorer(reward, tokenizer)
    if isinstance(reward, NumberReward):
        return TextScorer(tokenizer, same_number, has_unread_number)
    strict = isinstance(tokenizer, CharTokenizer)
    rule = same_text if strict else same_stripped_text
    if isinstance(reward, EndingReward):
        rule = functools.partial(same_ending, characters=reward.characters)
    if strict and cfg.digit_synonyms > 1:
        return TextScorer(
            tokenizer, lambda text, answer: rule(as_digits(text, cfg.digit_synonyms), answer)
        )
    return TextScorer(tokenizer, rule)


class TextScorer:
    """1.0 where a rule holds between the completion's text and the answer."""

    def __init__(
        self,
        tokenizer: Any,
        rule: Callable[[str, str], bool],
        unreadable: Callable[[str], bool] | None = None,
    ) -> None:
        """unreadable: which of the texts that score 0 are counted (score_unreadable)."""
        self._tokenizer, self._rule = tokenizer, rule
        self._unreadable, self._count = unreadable, 0

    def score(
        self,
        completions: list[list[int]],
        answers: list[str],
        prompts: Sequence[str] = (),
        extras: Sequence[str] = (),
    ) -> list[float]:
        texts = [finished_text(c, self._tokenizer) for c in completions]
        pairs = zip(texts, answers, strict=True)
        scores = [float(t is not None and self._rule(t, a)) for t, a in pairs]
        if self._unreadable is not None:
            wrong = [t for t, score in zip(texts, scores, strict=True) if t and not score]
            self._count += sum(map(self._unreadable, wrong))
        return scores

    def counts(self) -> dict[str, int]:
        count, self._count = self._count, 0
        return {} if self._unreadable is None else {"score_unreadable": count}

    def identity(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


class MathScorer:
    """1.0 where the completion's final expression equals the answer as mathematics."""

    def __init__(self, cfg: MathVerifyReward, tokenizer: Any) -> None:
        from .math_verifier import Verifier

        self._tokenizer, self._longest = tokenizer, cfg.characters_max
        self._verifier = Verifier(cfg.workers, cfg.seconds)

    def score(
        self,
        completions: list[list[int]],
        answers: list[str],
        prompts: Sequence[str] = (),
        extras: Sequence[str] = (),
    ) -> list[float]:
        texts = [finished_text(c, self._tokenizer) or "" for c in completions]
        scores: dict[int, float] = {}
        pairs: dict[int, tuple[str, str]] = {}
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            gold, gold_value = as_latex(gold_expression(answer))
            expression, value = final_answer(text[-self._longest :])
            equal = equal_numbers(gold_value, value)
            if equal is None and scale_words(gold) != scale_words(expression):
                equal = False  # math-verify would compare the numbers without these words
            if equal is None:
                pairs[i] = gold, expression
            else:
                scores[i] = float(equal)
        judged = self._verifier.equal(list(pairs.values()))
        scores |= {i: float(right) for i, right in zip(pairs, judged, strict=True)}
        return [scores[i] for i in range(len(texts))]

    def counts(self) -> dict[str, int]:
        return self._verifier.counts()

    def identity(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        self._verifier.close()


def finished_text(completion: list[int], tokenizer: Any) -> str | None:
    """Text of a completion that ends itself, else None."""
    if not completion or completion[-1] not in tokenizer.eos:
        return None
    return tokenizer.decode(completion)


def same_text(text: str, answer: str) -> bool:
    return text == answer


def same_ending(text: str, answer: str, characters: int) -> bool:
    """The last characters are those of the answer; all of it, where it has no more."""
    return text.strip()[-characters:] == answer.strip()[-characters:]


def same_stripped_text(text: str, answer: str) -> bool:
    return text.strip() == answer.strip()


def same_number(text: str, answer: str) -> bool:
    """The last number in the text has the value of the answer."""
    number, gold = final_number(text), gold_number(answer)
    return number is not None and gold is not None and number_grammar.same(number, gold)


def has_unread_number(text: str) -> bool:
    """Whether a text holds digits, but no number that the grammar understands."""
    return final_number(text) is None and number_grammar.has_digits(text)


def equal_numbers(gold: Number | None, value: Number | None) -> bool | None:
    """What the grammar alone decides: equal numbers are right, different integers are wrong.

    None where math-verify decides: one of both is no number of the grammar, or they differ and one
    is no integer, so that rounding counts (1/3 and 0.333333).
    """
    if gold is None or value is None:
        return None
    if number_grammar.same(gold, value):
        return True
    integers = gold.value.denominator == value.value.denominator == 1
    return False if integers and gold.is_percent == value.is_percent else None
