"""Train the runs that are missing, several at once, one thread each; go on where it stopped."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from .configurations import RunSpec
from .run_store import HOME, code_version, finished, folder, resolved

_DIVERGED, _INTERRUPTED = 3, (130, 143)
_WATCH_SECONDS = 2  # how often a worker looks whether its parent is gone
_SAVING_SECONDS = 20  # what a worker has from the first SIGTERM until it is killed
_REPEAT_SECONDS = 0.2  # between two SIGTERMs
_POLL_SECONDS = 1.0  # the longest wait for a worker without a look at signals


class Evaluation(NamedTuple):
    """mean@k and pass@k of a finished run's last checkpoint. flags: settings of `llm eval`."""

    run: RunSpec
    flags: tuple[str, ...]
    prompts: int = 128
    samples: int = 4


class Failed(RuntimeError):
    """A run ended in a way that is no result, or the work was interrupted."""


def train(
    runs: Iterable[RunSpec],
    workers: int,
    home: Path = HOME,
    ended: Callable[[RunSpec], None] = lambda run: None,
) -> None:
    """Bring every run to its end. ended: called with each run as it finishes, those that were
    finished before first.

    Raises:
        Failed: a run ended otherwise, with its message; those that ended well are kept.
    """
    by_folder = {folder(r, home): r for r in runs}  # worlds may differ in what a method leaves out
    todo = [r for r in by_folder.values() if not finished(r, home)]
    for r in by_folder.values():
        if r not in todo:
            ended(r)
    jobs = [(_train_one, r, home) for r in todo]
    _all(jobs, [r.text() for r in todo], workers, lambda job: ended(job[1]))


def evaluate(evaluations: Iterable[Evaluation], workers: int, home: Path = HOME) -> None:
    """Bring every evaluation to its end; its entry is then in the run's eval.json.

    Raises:
        Failed: as `train`.
    """
    todo: dict[Path, list[Evaluation]] = {}  # all of one run in one job: they share a file
    for e in dict.fromkeys(evaluations):
        if entry(e, home) is None:
            todo.setdefault(folder(e.run, home), []).append(e)
    names = [f"{own[0].run.text()} on {len(own)} held-out sets" for own in todo.values()]
    _all([(_evaluate_run, own, home) for own in todo.values()], names, workers)


def entry(evaluation: Evaluation, home: Path = HOME) -> dict | None:
    """What `llm eval` wrote of it; None if it has not run."""
    file = Path(resolved(evaluation.run, home).run.folder) / "eval.json"
    for result in json.loads(file.read_text()) if file.exists() else []:
        policy = result["models"]["policy"]
        same = (result["overrides"], policy["prompts"], policy["samples"])
        if same == (list(evaluation.flags), evaluation.prompts, evaluation.samples):
            return dict(result)
    return None


def _nothing(job: tuple) -> None:
    """Nobody waits for the end of a job."""


def _all(
    jobs: list[tuple], names: list[str], workers: int, ended: Callable[[tuple], None] = _nothing
) -> None:
    if not jobs:
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they import torch
    context = multiprocessing.get_context("spawn")
    start, faults = time.monotonic(), []
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_end_with, initargs=(os.getpid(),)
    )
    with _terminated_as_interrupted():
        try:
            faults = _results(pool, jobs, names, workers, ended)
        except BaseException:
            _end_workers(pool)
            raise
        # A worker may have died. The pool then ends the others by a SIGTERM, which a training
        # worker takes as the wish to save: it would wait for its next job, and the pool for it.
        _end_workers(pool) if faults else pool.shutdown()
    if faults:
        raise Failed("; ".join(faults))
    sys.stderr.write(f"{len(jobs)} done in {time.monotonic() - start:.0f} s\n")


def _results(
    pool: Executor,
    jobs: list[tuple],
    names: list[str],
    workers: int,
    ended: Callable[[tuple], None] = _nothing,
) -> list[str]:
    """Do all jobs, or until one fails those that are begun; what failed, by name. ended: called
    with each job that ended well."""
    # no more is handed out than is worked on, so that an interrupt leaves nothing running
    waiting = list(zip(jobs, names, strict=True))[::-1]
    running: dict[Future, tuple[tuple, str]] = {}
    done, spent, faults = 0, 0.0, []
    while waiting or running:
        while waiting and len(running) < workers:
            job, name = waiting.pop()
            running[pool.submit(*job)] = job, name
        # not for ever: a signal that arrives as the wait begins is answered when it ends
        for future in wait(running, _POLL_SECONDS, FIRST_COMPLETED).done:
            job, name = running.pop(future)
            try:
                said, seconds, fault = future.result()
            except Exception as e:  # whatever a worker died of, told with the run's name
                said, seconds, fault = f"{type(e).__name__}: {e}", 0.0, True
            done, spent = done + 1, spent + seconds
            left = spent / done * (len(jobs) - done) / workers
            sys.stderr.write(
                f"[{done}/{len(jobs)}] {name}: {said}, {seconds:.0f} s; "
                f"ETA {int(left) // 60}:{int(left) % 60:02d}\n"
            )
            if fault:
                faults.append(f"{name}: {said}")
                waiting.clear()
            else:
                ended(job)
    return faults


def _end_workers(pool: Executor) -> None:
    """Let the workers save what they train, and end them: after _SAVING_SECONDS by force.

    A worker that trains saves at a SIGTERM and goes on living. One that starts or waits for a job
    dies of it. So the signal is repeated: it reaches every worker once its run is saved.
    """
    # before `shutdown`, which forgets them; a pool of threads has none
    workers = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    end = time.monotonic() + _SAVING_SECONDS
    try:
        while any(w.is_alive() for w in workers) and time.monotonic() < end:
            for w in workers:
                w.terminate()
            time.sleep(_REPEAT_SECONDS)
    finally:  # a second Ctrl-C waits for nothing
        for w in workers:
            w.kill()


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is a Ctrl-C."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with(parent: int) -> None:
    """In a worker: end some seconds after its parent did, however that ended; a run is saved."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SAVING_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_one(run: RunSpec, home: Path) -> tuple[str, float, bool]:
    """(what to say of it, seconds, whether it failed). What it prints goes to its log.txt."""
    from llm.commands import train as train_command
    from llm.runs import run_folder

    cfg, start = resolved(run, home), time.monotonic()
    where = Path(cfg.run.folder)
    where.mkdir(parents=True, exist_ok=True)
    with _quietly(where / "log.txt"):
        code = train_command.run_config(cfg)
    run_folder.release(where)
    seconds = time.monotonic() - start
    log = (where / "log.txt").read_text(encoding="utf-8")
    if code not in (0, _DIVERGED):
        said = "interrupted" if code in _INTERRUPTED else log[log.rfind("error:") :].strip()
        return said, seconds, True
    outcome = {
        "exit": code,
        "message": log[log.rfind("error:") :].strip() if code else "",
        "seconds": seconds,
        "code": code_version(),
        "run": run._asdict(),
    }
    _write(where / "outcome.json", outcome)
    if code:
        return "diverged", seconds, False
    summary = json.loads((where / "summary.json").read_text())
    said = f"{summary['pass_rate_first']:.3f} -> {summary['pass_rate_last']:.3f}"
    return said, seconds, False


def _evaluate_run(evaluations: list[Evaluation], home: Path) -> tuple[str, float, bool]:
    """All evaluations of one run, one after the other."""
    from llm.commands import evaluate as evaluate_command

    start, results = time.monotonic(), []
    where = folder(evaluations[0].run, home)
    with _quietly(where / "eval_log.txt"):
        for e in evaluations:
            numbers = ("--prompts", str(e.prompts), "--samples", str(e.samples))
            evaluate_command.main([str(where), *e.flags, *numbers])
            results.append(entry(e, home) or {})
    values = [f["models"]["policy"]["mean_at_k"]["value"] for f in results]
    said = "mean@k " + ", ".join(f"{v:.3f}" for v in values)
    return said, time.monotonic() - start, False


@contextlib.contextmanager
def _quietly(log: Path):
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def _write(path: Path, content: dict) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    draft.replace(path)
