"""Scores are right, hostile answers score 0 within bounds, and nothing in an answer is executed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path

import pytest

from llm.errors import ConfigError
from llm.rewards import math_verifier, math_verifier_worker
from llm.rewards.answers import final_expression, gold_expression, last_boxed, last_number
from llm.rewards.math_verifier import Verifier, VerifierError
from llm.rewards.scorers import MathScorer, open_scorer
from llm.settings.schema import TaskConfig
from llm.tokenizers.character import CharTokenizer

CHARS = CharTokenizer()
ROOT = Path(__file__).parents[3]


class Unicode:
    """A tokenizer for tests: ids are code points, 0 ends."""

    eos = frozenset({0, 1})

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).split("\0")[0]


def ended(text: str) -> list[int]:
    return [*map(ord, text), 0]


def score(name: str, text: str, answer: str) -> float:
    scorer = open_scorer(TaskConfig(name="problems", scorer=name), Unicode())
    return scorer.score([ended(text)], [answer])[0]


# Text and numbers


@pytest.mark.parametrize(
    ("text", "ends", "right"),
    [
        *[("344", True, 1.0), ("344", False, 0.0), ("345", True, 0.0), ("3445", True, 0.0)],
        *[("34", True, 0.0), ("", True, 0.0), (" 344", True, 0.0)],
    ],
)
def test_a_character_completion_must_end_itself_and_read_exactly(text, ends, right):
    ids = CHARS.encode(text) + ([1] if ends else [])
    assert open_scorer(TaskConfig(), CHARS).score([ids], ["344"]) == [right]


def test_padding_inside_a_character_completion_is_no_answer():
    assert open_scorer(TaskConfig(), CHARS).score([[CHARS.pad, 5, 1], []], ["3", ""]) == [0.0, 0.0]


def test_exact_ignores_outer_whitespace_of_a_models_own_tokenizer():
    assert score("exact", " 344\n", "344") == 1.0
    assert score("exact", "3 44", "344") == 0.0


@pytest.mark.parametrize("name", ["exact", "number", "math_verify"])
def test_a_completion_that_does_not_end_itself_scores_0(name, verifier):
    scorer = open_scorer(TaskConfig(name="problems", scorer=name), Unicode())
    if name == "math_verify":
        scorer._verifier = verifier
    assert scorer.score([ended("12")[:-1], ended("12"), []], ["12"] * 3) == [0.0, 1.0, 0.0]


def test_auto_is_number_for_arithmetic_math_verify_for_problems_and_else_exact():
    assert isinstance(open_scorer(TaskConfig(name="problems"), Unicode()), MathScorer)
    completion = [ended("so 12")]
    for name, right in {"arithmetic": 1.0, "gym": 0.0, "chain": 0.0}.items():
        assert open_scorer(TaskConfig(name=name), Unicode()).score(completion, ["12"]) == [right]


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


def test_a_power_of_ten_is_no_other_number():
    assert score("number", "so 1e-7", "1e-7") == 1.0
    assert score("number", "so 0.0000001", "1e-7") == 1.0
    assert score("number", "so 7", "1e-7") == 0.0


def test_number_compares_values():
    assert score("number", "so it is 1,234.0", "1234") == 1.0
    assert score("number", "so it is 1234 or 12", "1234") == 0.0
    assert score("number", "none", "none") == 0.0


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

    assert cost(text) < 9 * min(cost(text[: len(text) // 4]) for _ in range(2)) + 0.1


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


# math-verify in workers

LIGHT = """import json, sys, time
{start}
print('{{"ready": true}}', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if job["answer"].startswith("slow"):
        time.sleep(60)
    if job["answer"] == "flood":
        print("x" * 100_000, end="", flush=True)
        time.sleep(60)
    ok = json.dumps({{"ok": job["gold"] == job["answer"]}})
    print({{"nonsense": "[1"}}.get(job["answer"], ok), flush=True)
"""


@pytest.fixture
def light_workers(monkeypatch, tmp_path):
    """Verifiers whose workers compare texts: what is tested is how they are kept."""
    made = []

    def make(workers: int, seconds: float, start: str = "") -> Verifier:
        (tmp_path / "verify_worker.py").write_text(LIGHT.format(start=start))
        monkeypatch.setattr(math_verifier, "__file__", str(tmp_path / "math_verifier.py"))
        made.append(Verifier(workers, seconds))
        return made[-1]

    yield make
    for v in made:
        v.close()


@pytest.fixture(scope="module")
def verifier():
    v = Verifier(1, 5.0)
    yield v
    v.close()


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("42", "42.0", True),
        ("42", "41", False),
        ("1,234", "1234", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", "1/2", True),
        (r"\sqrt{2}", "1.41421356", True),
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2-1", "(x-1)(x+2)", False),
        (r"\{1,2\}", "2, 1", True),
        ("42", r"42\text{ apples}", True),
        (r"\text{Evelyn}", "Evelyn", True),
        ("[1,2]", "(1,2)", False),
        ("(1,2)", "(2,1)", False),
        ("2.5", "2.50", True),
        ("x<2", r"(-\infty,2)", True),
        (r"\sin^2 x+\cos^2 x", "1", True),
        (r"\tan x", r"\frac{\sin x}{\cos x}", True),
        (r"\int_0^1 x dx", "0.5", True),
        (r"\sum_{i=1}^{10} i", "55", True),
        (r"\lim_{x\to 0} \frac{\sin x}{x}", "1", True),
        (r"a^2+2abc+z", r"z+a^2+2abc", True),
        (r"(a+b)(c+d)(e+f)", r"ace+acf+ade+adf+bce+bcf+bde+bdf", False),
        (r"(p+q)(r+s)(t+u)", r"prt+pru+pst+psu+qrt+qru+qst+qsu", True),
        ("(1,2) \\cup (3,4)", "(3,4) \\cup (1,2)", True),
    ],
)
def test_answers_are_compared_as_mathematics(verifier, gold, answer, right):
    assert verifier.equal([(gold, answer)]) == [right]


def test_gold_comes_first(verifier):
    """math-verify is not symmetric: an interval answers an inequality, not the reverse."""
    pairs = [("1<x<2", "(1,2)"), ("(1,2)", "1<x<2")]
    assert verifier.equal(pairs) == [True, False]


def test_results_come_in_the_order_asked_and_repeats_are_judged_once(verifier):
    pairs = [(str(i % 7), str(i % 3)) for i in range(40)]
    assert verifier.equal(pairs) == [i % 7 == i % 3 for i in range(40)]


def test_only_expressions_are_readable_golds(verifier):
    golds = ["42", r"\frac{1}{2}", "", "$", r"\frac{", "x" * 2000, r"\text{yes}"]
    assert verifier.readable(golds) == [True, True, False, False, False, False, True]


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
    cfg = TaskConfig(name="problems", score_seconds=1.5, score_workers=2)
    scorer = open_scorer(cfg, Unicode())
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


def test_slow_answers_cost_their_limit_score_0_and_are_counted(light_workers):
    """Two of three answers are slow, one of them twice."""
    v = light_workers(1, 0.3)
    pairs = [("42", "slow 1"), ("42", "42"), ("42", "slow 2"), ("42", "slow 1")]
    assert v.equal(pairs) == [False, True, False, False]
    assert v.counts() == {"score_timeouts": 3, "score_crashes": 0}
    assert v.counts() == {"score_timeouts": 0, "score_crashes": 0}


def test_slow_answers_are_judged_side_by_side(light_workers):
    """Eight answers of 0.5 s by four workers take two rounds."""
    v = light_workers(4, 0.5)
    assert v.equal([(str(i), str(i)) for i in range(8)]) == [True] * 8
    clock = time.monotonic()
    assert v.equal([("42", f"slow {i}") for i in range(8)]) == [False] * 8
    assert time.monotonic() - clock < 4.0 and v.counts()["score_timeouts"] == 8


def test_starting_a_worker_is_not_charged_to_an_answer(light_workers):
    v = light_workers(1, 0.4, start="time.sleep(1.0)")
    assert v.equal([("1", "1")]) == [True]


def test_only_the_last_characters_of_an_answer_are_read(verifier):
    scorer = MathScorer(TaskConfig(name="problems", score_characters_max=50), Unicode())
    scorer._verifier = verifier
    texts = ["42" + " " * pad for pad in (48, 49)]
    assert scorer.score([ended(t) for t in texts], ["42", "42"]) == [1.0, 0.0]


def test_a_worker_killed_in_the_middle_costs_one_answer_and_is_replaced(light_workers):
    v = light_workers(1, 20.0)
    assert v.equal([("1", "1")]) == [True]
    (first,) = v._workers
    threading.Timer(0.3, os.kill, (first.process.pid, signal.SIGKILL)).start()
    assert v.equal([("2", "slow"), ("3", "3"), ("4", "5")]) == [False, True, False]
    assert v.counts() == {"score_timeouts": 0, "score_crashes": 1}
    assert v._workers[0].process.pid != first.process.pid


def test_a_worker_that_dies_idle_costs_no_answer(light_workers):
    v = light_workers(1, 20.0)
    assert v.equal([("1", "1")]) == [True]
    os.kill(v._workers[0].process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, v._workers[0].process.pid, os.WEXITED | os.WNOWAIT)
    assert v.equal([("2", "2")]) == [True]
    assert v.counts()["score_crashes"] == 0


def test_workers_that_cannot_start_stop_the_run_with_their_reason(monkeypatch, tmp_path):
    """No answer is to blame, and scoring everything 0 would train on nothing."""
    (tmp_path / "verify_worker.py").write_text('print(\'{"error": "no memory"}\')')
    monkeypatch.setattr(math_verifier, "__file__", str(tmp_path / "math_verifier.py"))
    v = Verifier(2, 1.0)
    with pytest.raises(VerifierError, match=r"5 math-verify workers in a row .* no memory"):
        v.equal([("1", "1")])
    assert v._workers == []


def test_a_worker_that_talks_nonsense_is_a_crash(light_workers):
    v = light_workers(1, 9.0)
    assert v.equal([("1", "nonsense"), ("2", "2"), ("3", "flood")]) == [False, True, False]
    assert v.counts() == {"score_timeouts": 0, "score_crashes": 2}


def test_an_interrupt_leaves_no_worker_behind(light_workers, monkeypatch):
    v = light_workers(1, 9.0)
    v.equal([("1", "1")])
    pid = v._workers[0].process.pid

    def interrupted(*_: object) -> list:
        raise KeyboardInterrupt

    monkeypatch.setattr(math_verifier, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        v.equal([("2", "2")])
    assert not alive(pid) and v._workers == []


def test_close_leaves_no_process_and_the_pool_may_be_used_again(light_workers):
    v = light_workers(2, 9.0)
    assert v.equal([("1", "1"), ("2", "2")]) == [True, True]
    pids = [w.process.pid for w in v._workers]
    assert len(pids) == 2 and all(map(alive, pids))
    v.close()
    assert not any(map(alive, pids))
    assert v.equal([("1", "1")]) == [True]


def test_workers_end_when_their_parent_is_killed():
    code = (
        "import os, signal; from llm.verify import Verifier; v = Verifier(1, 1.0);"
        "v.equal([('1', '1')]); print(v._workers[0].process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    for _ in range(100):
        if not alive(int(done.stdout)):
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent by 5 s")


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_without_math_verify_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(math_verifier.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jackpot-obrs\[math\]'"):
        open_scorer(TaskConfig(name="problems"), Unicode())


LOCKED = {
    "eval": "eval('1 + 1')",
    "exec": "exec('x = 1')",
    "compile": "compile('1', '<string>', 'eval')",
    "sympy's parser": "import sympy; sympy.sympify('x + 1')",
    "shell": "os.system('true')",
    "process": "import subprocess; subprocess.Popen(['true'])",
    "fork": "os.fork()",
    "exec of a program": "os.execv('/bin/true', ['true'])",
    "writing": "open('x', 'w')",
    "appending": "open('x', 'ab')",
    "opening to write": "os.open('x', os.O_WRONLY | os.O_CREAT)",
    "removing": "os.remove('x')",
    "connecting": "import socket; socket.socket()",
}


def test_a_locked_worker_compiles_nothing_starts_nothing_and_writes_nothing(tmp_path):
    """Each attempt alone, in one process; the harmless last one shows that reading still works."""
    attempts = [f"def f{i}():\n import os; {c}" for i, c in enumerate(LOCKED.values())]
    code = "\n".join(
        [
            "import sys; sys.path.insert(0, sys.argv[1])",
            "import os, socket, subprocess, sympy, verify_worker",
            *attempts,
            "verify_worker.lock_down()",
            *(
                f"try: f{i}(); print('no')\nexcept (PermissionError, ValueError): print('refused')"
                for i in range(len(LOCKED))
            ),
            "print(len(open(math_verifier_worker.__file__).read()) > 100)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "llm")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(zip([*LOCKED, "reading"], done.stdout.split(), strict=True))
    assert found == dict.fromkeys(LOCKED, "refused") | {"reading": "True"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["x", "1+1", "Symbol('x')", "__import__('os')", "1 ", "\u0661", ""]
)
def test_plain_number_reads_decimals_only(text):
    assert str(math_verifier_worker.plain_number("007")) == "7"
    assert float(math_verifier_worker.plain_number("2.50")) == 2.5
    with pytest.raises(ValueError, match="not a plain number"):
        math_verifier_worker.plain_number(text)
