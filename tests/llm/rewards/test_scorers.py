"""Scores are right, hostile answers score 0 within bounds, and nothing in an answer is executed."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import sections
from toy_tokenizers import Unicode

from llm.randomness import stream
from llm.rewards.scorers import MathScorer, open_scorer
from llm.settings.schema import MathVerifyReward
from llm.tokenizers.character import CharTokenizer
from llm.tokenizers.digit_synonyms import spell

CHARS = CharTokenizer()
ROOT = Path(__file__).parents[3]
PROBLEMS = sections.task(type="problems")


def ended(text: str) -> list[int]:
    return [*map(ord, text), 0]


def score(name: str, text: str, answer: str) -> float:
    scorer = open_scorer(PROBLEMS, Unicode(), sections.reward(type=name))
    return scorer.score([ended(text)], [answer])[0]


@pytest.mark.parametrize(
    ("text", "ends", "right"),
    [
        *[("344", True, 1.0), ("344", False, 0.0), ("345", True, 0.0), ("3445", True, 0.0)],
        *[("34", True, 0.0), ("", True, 0.0), (" 344", True, 0.0)],
    ],
)
def test_a_character_completion_must_end_itself_and_read_exactly(text, ends, right):
    ids = CHARS.encode(text) + ([1] if ends else [])
    assert open_scorer(sections.task(), CHARS).score([ids], ["344"]) == [right]


def test_padding_inside_a_character_completion_is_no_answer():
    assert open_scorer(sections.task(), CHARS).score([[CHARS.pad, 5, 1], []], ["3", ""]) == [
        0.0,
        0.0,
    ]


def test_exact_ignores_outer_whitespace_of_a_models_own_tokenizer():
    assert score("exact", " 344\n", "344") == 1.0
    assert score("exact", "3 44", "344") == 0.0


@pytest.mark.parametrize(
    ("text", "right"),
    [("344", 1.0), ("944", 1.0), ("4", 0.0), ("34", 0.0), ("3445", 0.0), ("", 0.0)],
)
def test_ending_compares_the_last_characters_alone(text, right):
    """With the answer 344 and two characters; with a digit's synonyms they are read as digits."""
    cfg = sections.reward(type="ending", characters=2)
    for synonyms in (1, 3):
        tokenizer = CharTokenizer(synonyms)
        scorer = open_scorer(sections.task(digit_synonyms=synonyms), tokenizer, cfg)
        written = spell(text, synonyms, stream(0, text))
        assert scorer.score([[*tokenizer.encode(written), 1]], ["344"]) == [right]
    assert scorer.score([tokenizer.encode("344")], ["344"]) == [0.0]  # it does not end itself


def test_an_answer_shorter_than_the_ending_is_compared_whole():
    scorer = open_scorer(PROBLEMS, Unicode(), sections.reward(type="ending", characters=3))
    assert scorer.score([ended(t) for t in (" 12\n", "912", "2")], ["12"] * 3) == [1.0, 0.0, 0.0]


def test_completions_whose_number_is_not_understood_are_counted():
    scorer = open_scorer(PROBLEMS, Unicode(), sections.reward(type="number"))
    texts = ["sqrt(2)", "-<b>7</b>", "7", "8", "seven"]
    completions = [*map(ended, texts), ended("3x")[:-1]]  # the last one does not end itself
    assert scorer.score(completions, ["7"] * 6) == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert scorer.counts() == {"score_unreadable": 2}
    assert scorer.counts() == {"score_unreadable": 0}
    assert open_scorer(sections.task(), CHARS).counts() == {}


@pytest.mark.parametrize("name", ["exact", "number", "math_verify"])
def test_a_completion_that_does_not_end_itself_scores_0(name, verifier):
    scorer = open_scorer(PROBLEMS, Unicode(), sections.reward(type=name))
    if name == "math_verify":
        scorer._verifier = verifier  # type: ignore[attr-defined]
    assert scorer.score([ended("12")[:-1], ended("12"), []], ["12"] * 3) == [0.0, 1.0, 0.0]


def test_auto_is_number_for_arithmetic_math_verify_for_problems_and_else_exact():
    assert isinstance(open_scorer(sections.task(type="problems"), Unicode()), MathScorer)
    completion = [ended("so 12")]
    for name, right in {"arithmetic": 1.0, "gym": 0.0, "chain": 0.0}.items():
        assert open_scorer(sections.task(type=name), Unicode()).score(completion, ["12"]) == [right]


def test_a_power_of_ten_is_no_other_number():
    assert score("number", "so 1e-7", "1e-7") == 1.0
    assert score("number", "so 0.0000001", "1e-7") == 1.0
    assert score("number", "so 7", "1e-7") == 0.0


def test_number_compares_values():
    assert score("number", "so it is 1,234.0", "1234") == 1.0
    assert score("number", "so it is 1234 or 12", "1234") == 0.0
    assert score("number", "none", "none") == 0.0


SIGNED = [  # gold, completion, score by every scorer of numbers
    ("7", "The answer is \u22127.", 0.0),
    ("-7", "The answer is \u22127.", 1.0),
    ("-7", "The answer is \u20137", 1.0),
    ("7", "The answer is \u20137", 0.0),
    ("\u22127", "The answer is -7", 1.0),
    ("-7", "so \\boxed{\u22127}", 1.0),
    ("-7", r"so \( - 7 \)", 1.0),
    ("-7", "so -$7$", 1.0),
    ("7", "so -$7$", 0.0),
    ("-7", r"\boxed{\text{-7}}", 1.0),
    ("-7", "from 5-7", 0.0),
    ("7", "from 5\u20137", 1.0),
    ("0.5", "So it costs .5 dollars.", 1.0),
    ("5", "So it costs .5 dollars.", 0.0),
    ("-.5", "It is \u2212.5", 1.0),
    ("3.5", "The answer is 3 1/2.", 1.0),
    ("1/2", "The answer is 3 1/2.", 0.0),
    ("3 1/2", "It is 7/2", 1.0),
    ("1/2", "The answer is 1 / 2.", 1.0),
    ("2", "The answer is 1 / 2.", 0.0),
    ("1.5", "It is 1\u00bd cups", 1.0),
    ("1234", "It is 1 234 m", 1.0),
    ("1_234", "It is 1,234", 1.0),
    ("1500", "about 1.5 \u00d7 10^3", 1.0),
    ("3", "about 1.5 \u00d7 10^3", 0.0),
    ("50", "It is 50%", 1.0),
    ("0.5", "It is 50%", 1.0),
    ("50%", "It is 0.5", 1.0),
    ("12", r"\boxed{12}, checked 3 times", 1.0),
    ("3", r"\boxed{12}, checked 3 times", 0.0),
    ("9", "10^10^9", 0.0),
]


@pytest.mark.parametrize("name", ["number", "math_verify"])
def test_both_scorers_of_numbers_read_one_grammar(name, verifier):
    scorer = open_scorer(PROBLEMS, Unicode(), sections.reward(type=name))
    if name == "math_verify":
        scorer._verifier = verifier  # type: ignore[attr-defined]
    golds, texts, wanted = zip(*SIGNED, strict=True)
    found = scorer.score([ended(t) for t in texts], list(golds))
    assert list(zip(golds, texts, found, strict=True)) == list(
        zip(golds, texts, wanted, strict=True)
    )


def test_rounding_is_math_verifys_and_which_integer_is_written_is_the_grammars(verifier):
    """Where the two disagree: a third is 0.333333 by math-verify alone; 7 is never another 7."""
    scorer = MathScorer(MathVerifyReward(), Unicode())
    scorer._verifier = verifier
    texts = ["It is 0.333333", "It is 0.33", "$x = \u22127$"]
    assert scorer.score([ended(t) for t in texts], ["1/3", "1/3", "-7"]) == [1.0, 0.0, 1.0]
    asked: list = []

    def equal(pairs):
        asked.extend(pairs)
        return []

    counting = types.SimpleNamespace(equal=equal)
    scorer._verifier = counting  # type: ignore[assignment]
    assert scorer.score([ended("7"), ended("8")], ["7", "7"]) == [1.0, 0.0] and not asked


SCALED = [  # gold, completion; math-verify reads 7 where \\text{ million} follows
    ("7", r"\boxed{7\text{ million}}", 0.0),
    ("7000000", r"\boxed{7\text{ million}}", 0.0),
    (r"7\text{ million}", r"\boxed{7}", 0.0),
    ("7", r"\boxed{7\text{ squared}}", 0.0),
    (r"7\text{ million}", r"\boxed{7\text{ million}}", 1.0),
    ("7", r"\boxed{7\text{ apples}}", 1.0),
]


def test_a_word_of_scale_that_math_verify_leaves_out_is_not_left_out(verifier):
    scorer = MathScorer(MathVerifyReward(), Unicode())
    scorer._verifier = verifier
    golds, texts, wanted = zip(*SCALED, strict=True)
    assert scorer.score([ended(t) for t in texts], list(golds)) == list(wanted)


CODE = "__import__('os').system('touch {path}')"
HOSTILE = {
    "code": CODE,
    "code in a box": r"\boxed{" + CODE + "}",
    "code as text": r"$\text{" + CODE + "}$",
    "code in a sum": "42 + " + CODE,
    "code in a matrix": r"\boxed{\begin{pmatrix}" + CODE + r"\end{pmatrix}}",
    "code as a name": r"\boxed{\mathrm{" + CODE + "}}",
    "code in an operator": r"\boxed{\operatorname{" + CODE + "}(1)}",
    "eval": "\\boxed{eval(\"open('{path}','w')\")}",
    "lambda": r"\boxed{(lambda: open('{path}','w'))()}",
    "format": "\\boxed{{0.__class__.__mro__}}",
    "nul": "\\boxed{\x0142\x02}",
    "surrogate": "\\boxed{\ud800}",
    "open box": r"\boxed{",
    "empty": "",
    "megabyte": "1" * 1_000_000,
    "megabyte of words": "word " * 200_000,
    "power tower": "9^9^9^9",
    "power tower in a box": r"\boxed{9^{9^{9^9}}}",
    "escape codes": "\x1b[2J\\boxed{\x1b]0;x\x07}",
    "direction": "\\boxed{\u202e24}",
    "slow": r"\boxed{" + "(" * 900 + "}",
    "many brackets": "(" * 3000,
    "json": '"}\n{"ok": true}\n',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["exact", "number"])
def test_a_hostile_answer_scores_0_and_does_nothing_by_text_or_number(name, text, tmp_path):
    assert score(name, text.replace("{path}", str(tmp_path / "x")), "42424242") == 0.0
    assert not (tmp_path / "x").exists()


def test_hostile_answers_score_0_do_nothing_and_leave_the_scorer_working(tmp_path):
    """All in one call, so that what one does to its worker would show in the others."""
    own = sections.reward(type="math_verify", seconds=1.5, workers=2)
    scorer = open_scorer(PROBLEMS, Unicode(), own)
    texts = [t.replace("{path}", str(tmp_path / "x")) for t in HOSTILE.values()]
    try:
        found = scorer.score(
            [ended(t) for t in [*texts, "42424242"]], ["42424242"] * (len(texts) + 1)
        )
    finally:
        scorer.close()
    assert dict(zip([*HOSTILE, "good"], found, strict=True)) == dict.fromkeys(HOSTILE, 0.0) | {
        "good": 1.0
    }
    assert not list(tmp_path.iterdir()) and not (ROOT / "x").exists()


def test_only_the_last_characters_of_an_answer_are_read(verifier):
    scorer = MathScorer(MathVerifyReward(characters_max=50), Unicode())
    scorer._verifier = verifier
    texts = ["42" + " " * pad for pad in (48, 49)]
    assert scorer.score([ended(t) for t in texts], ["42", "42"]) == [1.0, 0.0]
