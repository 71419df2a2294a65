"""math-verify in worker processes: time and memory are bounded, nothing is executed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sections
from toy_tokenizers import Unicode

from llm.errors import ConfigError
from llm.rewards import math_verifier, math_verifier_worker
from llm.rewards.math_verifier import Verifier, VerifierError
from llm.rewards.scorers import open_scorer

ROOT = Path(__file__).parents[3]
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
        (tmp_path / "math_verifier_worker.py").write_text(LIGHT.format(start=start))
        monkeypatch.setattr(math_verifier, "__file__", str(tmp_path / "math_verifier.py"))
        made.append(Verifier(workers, seconds))
        return made[-1]

    yield make
    for v in made:
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
    (tmp_path / "math_verifier_worker.py").write_text('print(\'{"error": "no memory"}\')')
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
        "import os, signal; from llm.rewards.math_verifier import Verifier; v = Verifier(1, 1.0);"
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
    with pytest.raises(ConfigError, match=r"pip install -e '.\[math\]' in the checkout"):
        open_scorer(sections.task(type="problems"), Unicode())


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
            "import os, socket, subprocess, sympy, math_verifier_worker",
            *attempts,
            "math_verifier_worker.lock_down()",
            *(
                f"try: f{i}(); print('no')\nexcept (PermissionError, ValueError): print('refused')"
                for i in range(len(LOCKED))
            ),
            "print(len(open(math_verifier_worker.__file__).read()) > 100)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "llm" / "rewards")],
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
