"""A reward function of the user's: its failures are counted, shown, and cost what they must."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from optional import not_none
from toy_tokenizers import Unicode

from llm.errors import Interruption
from llm.rewards import function_pool
from llm.rewards.function_pool import RewardError
from llm.rewards.function_scorer import FunctionScorer, arguments, source_digest
from llm.rewards.scorers import open_scorer
from llm.settings.schema import AutoReward, DigitTask, FunctionReward, PythonReward

SOURCE = """
import os, subprocess, threading, time
def reward(prompt, completion, answer, finished, level=0):
    if completion == "raise":
        raise KeyError("no such thing")
    if completion == "late":
        time.sleep(60)
    if completion == "exit":
        os._exit(3)
    if completion == "leave":
        raise SystemExit(0)
    if completion == "memory":
        bytearray(2 << 30)  # never touched, so never there
    if completion == "pid":
        return os.getpid()
    if completion == "child":
        child = subprocess.Popen(["sleep", "60"])
        open(answer, "w").write(f"{os.getpid()} {child.pid}")
        time.sleep(60)
    if completion == "fork":
        os.fork()  # both return
    if completion == "daemon" and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(answer, "w").write(f"{os.getpid()} ")
            time.sleep(60)
        os._exit(0)
    if completion == "thread":
        threading.Thread(target=time.sleep, args=[60]).start()
    if completion == "control":
        raise ValueError(chr(27) + chr(10) + chr(0x202E) + "x" * 1000)
    if completion == "print":
        print('{"rewards": [9.0]}')
    return len(prompt) + finished / 2 + level
def together(completion, **columns):
    if completion[0] == "short":
        return [1.0]
    return [len(c) + columns["level"][i] for i, c in enumerate(completion)]
def needs(prompt, difficulty):
    return 1.0
"""


def ended(text: str) -> list[int]:
    return [*map(ord, text), 0]


def score(scorer, *completions: str, answer: str = "", extra: str = "") -> list[float]:
    n = len(completions)
    return scorer.score([ended(c) for c in completions], [answer] * n, ["pp"] * n, [extra] * n)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def scorer(file):
    """One worker for the module."""
    cfg = FunctionReward(function=f"{file}:reward", seconds=0.5, workers=1, memory=1024)
    found = open_scorer(DigitTask(), Unicode(), cfg)
    yield found
    found.close()


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_function_is_given_prompt_completion_answer_and_the_rows_other_columns(scorer):
    assert score(scorer, "x", extra='{"level": 4, "unused": [1]}') == [6.5]
    assert scorer.score([ended("x")[:-1], []], ["", ""], ["p", ""], ["", ""]) == [1.0, 0.0]
    assert arguments(ended("so"), "7", "p", '{"prompt": 1, "a": null}', Unicode()) == {
        "prompt": "p",
        "completion": "so",
        "answer": "7",
        "finished": True,
        "a": None,
    }
    assert arguments([], "", "p", '{"answer": {"ground_truth": "7"}}', Unicode())["answer"] == {
        "ground_truth": "7"
    }


def test_every_kind_of_failure_scores_0_is_counted_and_costs_no_other_completion(scorer, capsys):
    (first,) = score(scorer, "pid")
    kinds = ["raise", "late", "exit", "leave", "memory", "print"]
    assert score(scorer, *kinds) == [0.0] * 5 + [2.5]
    assert scorer.counts() == {"score_errors": 3, "score_timeouts": 1, "score_crashes": 1}
    assert scorer.counts() == {"score_errors": 0, "score_timeouts": 0, "score_crashes": 0}
    (second,) = score(scorer, "pid")
    assert first != second and not alive(int(first)) and alive(int(second))
    shown = capsys.readouterr().err
    assert (
        "failed: KeyError: 'no such thing' (mine.py, line 5); prompt 'pp', completion 'raise'"
        in (shown)
    )
    assert "no reply within 0.5 s (reward.seconds)" in shown and "ended (exit code 3)" in shown
    assert shown.count("failed:") == 3, "only the first few are shown"


def test_a_worker_that_is_late_is_killed_with_what_it_started(scorer, tmp_path):
    assert score(scorer, "child", answer=str(tmp_path / "pids")) == [0.0]
    worker, child = map(int, (tmp_path / "pids").read_text().split())
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.01)
    assert not alive(worker) and not alive(child)
    assert scorer.counts()["score_timeouts"] == 1


def test_a_process_that_left_the_session_and_lost_its_parent_ends_with_its_worker(scorer, tmp_path):
    """As a daemon does, by two forks and setsid: it has neither the group nor a parent of ours."""
    place = tmp_path / "pid"
    assert score(scorer, "daemon", answer=str(place)) == [2.5]
    while not (place.exists() and place.read_text().endswith(" ")):
        time.sleep(0.01)
    daemon = int(place.read_text())
    (worker,) = score(scorer, "pid")
    assert alive(daemon) and os.getpgid(daemon) != int(worker)
    scorer.close()
    for _ in range(100):
        if not alive(daemon):
            break
        time.sleep(0.01)
    assert not alive(daemon)


def test_a_worker_whose_trainer_is_gone_ends_despite_a_thread_that_does_not(scorer):
    assert score(scorer, "thread") == [2.5]
    (pid,) = map(int, score(scorer, "pid"))
    pipe = not_none(scorer._pool._workers[0].process.stdin)
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), pipe.fileno())  # closes it, as the trainer's death does
    for _ in range(200):
        if not alive(pid):
            break
        time.sleep(0.01)
    assert not alive(pid)
    scorer.close()


def test_what_an_error_says_controls_no_terminal(scorer, capsys):
    """A message often holds the completion, which is a model's."""
    scorer._shown.clear()
    assert score(scorer, "control") == [0.0]
    shown = capsys.readouterr().err
    assert "ValueError: \\x1b\\n\\u202exxx" in shown and shown.count("\n") == 1
    assert scorer.counts()["score_errors"] == 1


@pytest.mark.parametrize("forged", ["[NaN]", "[1e999]", "[1" + "0" * 400 + "]", "[-1e16]", "[[]]"])
def test_a_reply_that_a_function_forges_gives_no_reward_that_is_none(forged):
    """It has the pipe, so it can write there. The length of a list is checked by its reader."""
    assert function_pool._parsed(f'{{"rewards": {forged}}}'.encode()) == {}
    assert function_pool._parsed(b'{"rewards": [-1e15, 1, "late"]}') == {
        "rewards": [-1e15, 1, "late"]
    }


def test_a_system_that_starts_no_process_is_named(scorer, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    scorer.close()
    with monkeypatch.context() as patch:
        patch.setattr(function_pool.subprocess, "Popen", refused)
        with pytest.raises(RewardError, match=r"no worker can be started .* temporarily"):
            score(scorer, "x")
    assert score(scorer, "x") == [2.5]


def test_a_process_that_the_function_forks_gives_no_reply(scorer):
    """It would be taken for that of the next completion."""
    assert score(scorer, *["fork"] * 4, "x", extra='{"level": 1}') == [3.5] * 5
    assert not any(scorer.counts().values())


def test_a_worker_that_does_not_read_is_late(scorer):
    (pid,) = map(int, score(scorer, "pid"))
    os.kill(pid, signal.SIGSTOP)
    late = threading.Timer(10.0, os.kill, (pid, signal.SIGKILL))  # a trainer that waits: it died
    late.start()
    assert score(scorer, "x" * 2_000_000) == [0.0]  # more than a pipe holds
    assert late.is_alive()
    late.cancel()
    assert scorer.counts() == {"score_errors": 0, "score_timeouts": 1, "score_crashes": 0}


def test_an_interrupt_leaves_no_worker_behind_and_close_ends_all(scorer, monkeypatch):
    (pid,) = score(scorer, "pid")

    def interrupted(*_: object) -> list:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scorer._pool._selector, "select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(scorer, "x")
    assert not alive(int(pid)) and scorer._pool._workers == []
    (pid,) = score(scorer, "pid")  # it may be used again
    scorer.close()
    assert not alive(int(pid))


def test_a_batch_is_one_call_and_a_list_of_another_length_fails_as_a_whole(file, capsys):
    cfg = FunctionReward(function=f"{file}:together", batched=True)
    scorer = FunctionScorer(cfg, Unicode(), None)
    try:
        long = "x" * 200_000  # more than a pipe holds
        assert score(scorer, "a", long, extra='{"level": 1}') == [2.0, 200_001.0]
        assert score(scorer, "short", "a") == [0.0, 0.0]
        assert scorer.counts()["score_errors"] == 2
        assert "it returned 1 rewards for 2 completions" in capsys.readouterr().err
        assert scorer.score([], [], [], []) == []
    finally:
        scorer.close()


def test_a_failure_stops_the_run_where_that_is_asked_for():
    scorer = FunctionScorer(PythonReward(on_error="stop"), Unicode(), lambda **columns: None)
    with pytest.raises(RewardError, match=r"returned None .*prompt 'pp'.*on_error zero"):
        score(scorer, "x")


def test_an_argument_that_no_row_has_stops_the_run(file):
    scorer = FunctionScorer(FunctionReward(function=f"{file}:needs"), Unicode(), None)
    try:
        with pytest.raises(RewardError, match=r"'difficulty', which no row has: there are prompt"):
            score(scorer, "x")
    finally:
        scorer.close()


def test_a_callable_is_called_in_this_process_and_an_interrupt_goes_through(capsys):
    seen: list = []

    def mine(completion, **columns):
        seen.append((completion, columns["level"], os.getpid()))
        return 1 / (len(completion) - 1)

    scorer = open_scorer(DigitTask(), Unicode(), AutoReward(), mine)
    assert score(scorer, "xxx", "x", extra='{"level": 4}') == [0.5, 0.0]
    assert seen == [("xxx", 4, os.getpid()), ("x", 4, os.getpid())]
    assert scorer.counts()["score_errors"] == 1
    assert "ZeroDivisionError" in capsys.readouterr().err

    def interrupt(**columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(FunctionScorer(PythonReward(), Unicode(), interrupt), "x")
    leaves = FunctionScorer(PythonReward(), Unicode(), lambda **columns: sys.exit(0))
    assert score(leaves, "x") == [0.0] and leaves.counts()["score_errors"] == 1


class Panic(BaseException):
    """As PyO3 raises where a library in Rust panics."""


@pytest.mark.parametrize(("raised", "passes"), [(Panic, False), (Interruption, True)])
def test_what_a_callable_raises_is_its_failure_unless_it_is_told_to_end(raised, passes):
    def mine(**columns):
        raise raised

    scorer = FunctionScorer(PythonReward(), Unicode(), mine)
    with pytest.raises(raised) if passes else contextlib.nullcontext():
        assert score(scorer, "x") == [0.0] and scorer.counts()["score_errors"] == 1


def test_a_callable_of_which_every_call_would_fail_is_refused_before_the_first():
    async def later(completion):
        return 1.0

    def by_position(completion, /):
        return 1.0

    for function, said in ((later, "it is async"), (by_position, "'completion' by position only")):
        with pytest.raises(ValueError, match=said):
            FunctionScorer(PythonReward(), Unicode(), function)


def test_the_identity_holds_the_digest_of_the_source(scorer, file):
    import hashlib

    (digest,) = scorer.identity().values()
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert source_digest(score) != source_digest(ended) == source_digest(ended)


@pytest.mark.parametrize(
    ("source", "name", "reason"),
    [
        ("", "reward", r"no function 'reward'; its functions: none"),
        ("def reward(:\n", "reward", "SyntaxError"),
        ("async def reward(completion): return 1.0\n", "reward", "it is async"),
        ("import nowhere_to_be_found\n", "reward", "ModuleNotFoundError"),
        ("raise SystemExit(7)\n", "reward", "SystemExit: 7"),
        ("import os; os._exit(7)\n", "reward", "exit code 7"),
        (None, "reward", "FileNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_refused_with_its_reason(
    tmp_path, source, name, reason
):
    if source is not None:
        (tmp_path / "own.py").write_text(source)
    with pytest.raises(RewardError, match=rf"(?s)cannot be loaded: .*{reason}"):
        FunctionScorer(FunctionReward(function=f"{tmp_path}/own.py:{name}"), Unicode(), None)


@pytest.mark.parametrize("changed", ["own", "helper"])
def test_a_file_that_changes_while_it_is_used_stops_the_run(tmp_path, changed):
    """A replaced worker would reward by other rules than the ones before it."""
    source = "import os\nimport helper\ndef f(**columns):\n    os._exit(1)\n"
    (tmp_path / "own.py").write_text(source)
    (tmp_path / "helper.py").write_text("")
    scorer = FunctionScorer(FunctionReward(function=f"{tmp_path}/own.py:f"), Unicode(), None)
    assert [*scorer.identity()][1:] == ["reward.function: helper.py (SHA-256)"]
    try:
        assert score(scorer, "x") == [0.0]
        (tmp_path / f"{changed}.py").write_text("def f(**columns):\n    return 1.0\n")
        with pytest.raises(RewardError, match="changed while it was in use"):
            score(scorer, "x")
        assert not_none(scorer._pool)._workers == []
    finally:
        scorer.close()


def test_a_callable_of_an_earlier_start_is_asked_for_by_name():
    with pytest.raises(RewardError, match=r"llm.train\(cfg, reward=mine\): give it so again"):
        FunctionScorer(PythonReward(callable="mod.mine"), Unicode(), None)


def test_workers_that_cannot_start_again_stop_the_run(file, monkeypatch):
    scorer = FunctionScorer(FunctionReward(function=f"{file}:reward", workers=1), Unicode(), None)
    try:
        assert score(scorer, "exit") == [0.0]
        monkeypatch.setattr(function_pool, "_START_SECONDS", 0.0)
        with pytest.raises(RewardError, match=r"not ready after 0 s"):
            score(scorer, "x")
    finally:
        scorer.close()
