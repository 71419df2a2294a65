"""`python -m llm ...` in a process of its own that need not load torch: it is forked from one that
has, which runs nothing else."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import unflushed  # noqa: F401  what is forked does not wait for the disk either

CONTEXT = multiprocessing.get_context("forkserver")
# transformers imports the others with the first model: once here, not in each process
MODELS = ["transformers.models.qwen3.modeling_qwen3", "transformers.loss.loss_utils"]
CONTEXT.set_forkserver_preload(["llm.train", "llm.commands.train", *MODELS])


def started(*words: str, stderr: Path | str = os.devnull) -> BaseProcess:
    """The running command; its exit code is `exitcode`, -9 after a SIGKILL. What it says goes to
    the file."""
    process = CONTEXT.Process(target=_main, args=(words, str(stderr)))
    process.start()
    return process


def called(function: Callable[[], None], stderr: Path | str = os.devnull) -> BaseProcess:
    """The same for a function of a test's module."""
    process = CONTEXT.Process(target=_call, args=(function, str(stderr)))
    process.start()
    return process


def scripted(
    script: Path, words: Sequence[str], env: Mapping[str, str], stderr: Path
) -> BaseProcess:
    """`python SCRIPT WORDS`, with these variables of the environment besides."""
    process = CONTEXT.Process(target=_run, args=(script, words, dict(env), str(stderr)))
    process.start()
    return process


def _run(script: Path, words: Sequence[str], env: dict[str, str], stderr: str) -> None:
    _redirect(stderr)
    os.environ.update(env)
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")


def _call(function: Callable[[], None], stderr: str) -> None:
    _redirect(stderr)
    function()


def _redirect(stderr: str) -> None:
    for number, path in ((1, os.devnull), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)


def _main(words: tuple[str, ...], stderr: str) -> None:
    _redirect(stderr)
    import torch

    from llm import __main__

    torch.set_num_threads(1)
    sys.exit(__main__.main(list(words)))
