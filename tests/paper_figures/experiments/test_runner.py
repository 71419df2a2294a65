"""The figures' runs are trained and evaluated by workers, once, and end with their command."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import figure_runs
import llm_process
import pytest
from figure_runs import tiny
from optional import not_none

from paper_figures.analysis import run_statistics
from paper_figures.experiments import configurations, run_store, runner
from paper_figures.experiments.run_lists import FULL
from paper_figures.report import contents


@pytest.fixture
def in_threads(monkeypatch):
    """The pool's work in this process."""
    monkeypatch.setattr(
        runner, "ProcessPoolExecutor", lambda n, context, **_: ThreadPoolExecutor(1)
    )


def test_two_runs_really_train_once_and_one_that_diverged_is_kept(tmp_path, capfd, monkeypatch):
    """Through worker processes; the second is stopped by an alarm, as NaN would stop it."""
    good, bad = tiny(), tiny(alarm__entropy_min=100.0, run__steps=6)
    runner.train([good, bad, good], 1, tmp_path)
    said = capfd.readouterr().err
    assert "[2/2]" in said
    assert "diverged" in said
    assert run_store.outcome(good, tmp_path)["exit"] == 0
    assert run_store.outcome(bad, tmp_path)["exit"] == 3
    assert "alarm entropy" in run_store.outcome(bad, tmp_path)["message"]
    assert not run_statistics.diverged(good, tmp_path)
    assert run_statistics.diverged(bad, tmp_path)
    steps, rates = run_statistics.pass_rates(bad, tmp_path)
    assert list(steps) == [0, 2, 4, 6]
    assert list(rates[-3:]) == [0, 0, 0]
    assert list(run_statistics.pass_rates(good, tmp_path)[0]) == [0, 2, 4]
    monkeypatch.setattr(runner, "_train_one", lambda r, home: pytest.fail("trained again"))
    runner.train([good, bad], 1, tmp_path)


def test_a_run_that_failed_is_told_and_not_kept(tmp_path, in_threads):
    (tmp_path / "pretrained").write_text("a file where a folder should be")
    failing = tiny()
    with pytest.raises(runner.Failed, match=r"seed 900: error: .*pretrained"):
        runner.train([failing], 1, tmp_path)
    assert not run_store.finished(failing, tmp_path)


def test_what_a_worker_dies_of_is_told_with_the_run(tmp_path, in_threads, monkeypatch):
    def broken(r, home):
        raise MemoryError("no room")

    monkeypatch.setattr(runner, "_train_one", broken)
    with pytest.raises(runner.Failed, match=r"chain on-policy .*seed 900: MemoryError: no room"):
        runner.train([tiny()], 1, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_command_that_is_ended_leaves_no_worker_and_a_run_to_go_on_with(tmp_path, number):
    """SIGTERM is a Ctrl-C; after SIGKILL the workers see that they are alone."""
    home = tmp_path / "home"
    parent = llm_process.called(functools.partial(figure_runs.train_long, home))
    own = run_store.folder(tiny(run__steps=100_000), home)
    wait_for(lambda: (own / "metrics.jsonl").exists() and (own / "metrics.jsonl").stat().st_size)
    workers = children(not_none(parent.pid))
    assert workers
    os.kill(not_none(parent.pid), number)
    parent.join(60)
    assert parent.exitcode == (130 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: not [p for p in workers if alive(p)])
    assert list(own.glob("checkpoints/step_*"))
    assert not (own / "outcome.json").exists()


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(x) for x in text.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def saves(folder: Path) -> tuple[str, float, bool]:
    """A job like training: its first SIGTERM is the wish to save, and its process lives on."""
    asked: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    (folder / "saves").touch()
    wait_for(lambda: asked)
    (folder / "saved").touch()
    signal.signal(signal.SIGTERM, former)
    return "interrupted", 0.0, True


def deaf(folder: Path) -> tuple[str, float, bool]:
    """A job that no SIGTERM ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "deaf").touch()
    time.sleep(8)
    (folder / "finished").touch()
    return "finished", 0.0, False


def dies(folder: Path) -> None:
    wait_for((folder / "saves").exists)
    os._exit(1)


@pytest.fixture
def forked(monkeypatch):
    """Workers that start at once."""
    context = runner.multiprocessing.get_context("fork")
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(runner, "_SAVING_SECONDS", 2.0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupt_lets_workers_save_and_kills_those_that_do_not_end(tmp_path, forked, number):
    """Only the command gets the signal; of its workers one saves and one is deaf."""

    def interrupt():
        try:
            wait_for(lambda: all((tmp_path / name).exists() for name in ("saves", "deaf")), 60)
        finally:  # a job that never starts fails the test, and does not hang it
            os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        runner._all([(saves, tmp_path), (deaf, tmp_path)], ["saves", "deaf"], 2)
    wait_for(lambda: not runner.multiprocessing.active_children())
    assert {file.name for file in tmp_path.iterdir()} == {"saves", "saved", "deaf"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_worker_that_dies_keeps_the_command_from_waiting_for_the_others(tmp_path, forked):
    """The pool's own end of them is a SIGTERM, after which one that saved waits for a job."""
    with pytest.raises(runner.Failed, match="dies: BrokenProcessPool"):
        runner._all([(saves, tmp_path), (dies, tmp_path)], ["saves", "dies"], 2)
    wait_for(lambda: not runner.multiprocessing.active_children())
    assert (tmp_path / "saved").exists()


def test_nothing_more_is_started_after_a_fault(tmp_path, in_threads, monkeypatch):
    started = []

    def train_one(run, home):
        started.append(run)
        return None, 0.0, True

    monkeypatch.setattr(runner, "_train_one", train_one)
    with pytest.raises(runner.Failed):
        runner.train([tiny(run__steps=n) for n in (4, 5, 6)], 1, tmp_path)
    assert len(started) == 1


def test_an_evaluation_is_found_by_its_flags_and_numbers(tmp_path):
    own = tiny()
    figure_runs.write(own, tmp_path, [0.1, 0.2, 0.3])
    wanted = runner.Evaluation(own, ("--task.digits-max", "2"))
    assert runner.entry(wanted, tmp_path) is None
    figure_runs.write_eval(wanted, tmp_path, 0.25, 0.5)
    found = not_none(runner.entry(wanted, tmp_path))
    assert found["models"]["policy"]["mean_at_k"]["value"] == 0.25
    assert runner.entry(wanted._replace(prompts=64), tmp_path) is None
    assert runner.entry(wanted._replace(flags=()), tmp_path) is None


def test_a_worker_that_imports_no_figure_knows_every_world():
    text = (
        "from paper_figures.experiments.configurations import WORLDS; print(*WORLDS, sep=chr(10))"
    )
    found = subprocess.run(
        [sys.executable, "-c", text], cwd=run_store.ROOT, capture_output=True, text=True, check=True
    )
    wanted = {r.world for own in contents.figures().values() for f in own for r in f.runs(FULL)}
    assert wanted | {configurations.SMOLLM2} <= set(found.stdout.split("\n"))
