"""python -m llm train: read the settings, prepare the run folder, train or resume."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import ConfigError
from llm.output import tell_torchrun
from llm.runs.first_checks import check_first
from llm.settings.loading import split_arguments

if TYPE_CHECKING:
    from llm.settings.loading import Config

_AGAIN = "the same command goes on from the last checkpoint"


def main(argv: list[str]) -> int:
    """Exit codes: 0 complete, 1 another rank ended, 2 a setting or file, 3 diverged, 130 or 143
    interrupted and saved. Of several ranks, the first that knows why says it."""
    from llm import settings

    files, flags = split_arguments(argv)
    if not argv:
        raise ConfigError(_nothing_given())
    cfg = settings.load(files, [f for f in flags if f != "--dry-run"])
    if "--dry-run" in flags:
        sys.stdout.write(settings.dump(cfg))
        return 0
    check_first(cfg)
    from llm import distributed

    distributed.check_settings(cfg)
    code = 0
    try:
        with distributed.process_group(cfg.run.device):
            try:
                code = run_config(cfg)
            except (Exception, distributed.Terminated) as e:
                lost = distributed.why_lost(e)
                if not lost:
                    raise
                code = _fail(f"{lost}; {_AGAIN}", 1)
            if code:
                raise _RunsFailed
    except BaseException as e:
        if not isinstance(e, _RunsFailed):
            code = code or 1
            if distributed.world_size() == 1:
                raise
            traceback.print_exc()
        if distributed.world_size() > 1:  # the others may be gone: no good-byes
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _nothing_given() -> str:
    """What to do instead of `train` alone, which would spend minutes on a run nobody asked for."""
    folder = Path(__file__).resolve().parents[1] / "configs"
    near = Path(os.path.relpath(folder))
    names = "\n".join(f"  {near / path.name}" for path in sorted(folder.glob("*.toml")))
    return (
        "nothing was given to train. Give a configuration and a folder:\n"
        f"  python -m llm train {near / 'tiny_cpu.toml'} --run.folder runs/mine\n"
        f"Configurations to start from:\n{names}\n"
        "`python -m llm train --help` lists every setting"
    )


class _RunsFailed(Exception):
    """The reason is on stderr."""


def run_config(cfg: Config) -> int:
    """Train or resume one run in this process; returns its exit code, with the reason on stderr."""
    from llm.errors import Diverged
    from llm.phases import is_out_of_memory, phase_of
    from llm.runs.signals import Overdue, Stopped

    folder = Path(cfg.run.folder)
    try:
        summary = _trained(cfg, folder)
    except Overdue as e:
        return _fail(f"stopped by a signal {phase_of(e) or 'before the first step'}; {_AGAIN}",
                     e.exit_code)  # fmt: skip
    except Stopped as e:
        how = (
            "after saving"
            if e.saved
            else (
                "in a step that was not finished within --run.stop_seconds and cannot be saved half"
            )
        )
        return _fail(f"stopped by a signal, {how}; {_AGAIN}", e.exit_code)
    except Diverged as e:
        return _fail(str(e), 3)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {_AGAIN}", 130)
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        from .out_of_memory import out_of_memory_text

        return _fail(f"{out_of_memory_text(cfg, e)}; what was saved is kept, {_AGAIN}", 2)
    except OSError as e:
        name = e.filename or cfg.run.folder
        return _fail(f"cannot write {name}: {e.strerror or e}; what was saved is kept, {_AGAIN}", 2)
    except ValueError as e:  # ConfigError and CheckpointError are ValueErrors
        return _fail(str(e), 2)
    if summary is None:
        _say(f"{folder}: already complete; a larger --run.steps goes on with it{_idle(cfg)}\n")
        return 0
    _say(
        f"{folder}: pass rate {summary['pass_rate_first']:.3f} -> {summary['pass_rate_last']:.3f} "
        f"after {summary['steps']} steps{_other_evaluation(summary)}\n"
    )
    return 0


def _other_evaluation(summary: dict[str, Any]) -> str:
    """Why the first pass rate is not to be compared with the last; "" where it is."""
    changes = summary.get("evaluation_changed", {})
    if not changes:
        return ""
    named = ", ".join(f"{key} {before} -> {now}" for key, (before, now) in changes.items())
    return f" (not comparable: the evaluation was changed on the way, {named})"


def _idle(cfg: Config) -> str:
    """Settings that a complete run would take over, and does not without another step."""
    from llm import distributed
    from llm.runs.run_folder import settings_there
    from llm.settings.loading import applicable
    from llm.settings.resuming import CONTINUATION, changed, shown

    if not distributed.is_main():
        return ""
    differs = changed(settings_there(Path(cfg.run.folder)), applicable(cfg))
    idle = {key: pair for key, pair in differs.items() if key in CONTINUATION}
    return f". Without another step these have no effect: {shown(idle)}" if idle else ""


def _trained(cfg: Config, folder: Path) -> dict[str, Any] | None:
    """The summary of the run; None where it was complete already. Its folder is let go at the end,
    also where another start in this process follows."""
    from llm import distributed
    from llm.runs import run_folder
    from llm.settings.schema import RunConfig
    from llm.train import train

    with run_folder.prepared(cfg) if distributed.is_main() else contextlib.nullcontext():
        if distributed.is_main() and cfg.run.folder == RunConfig.folder:  # perhaps not chosen
            sys.stderr.write(f"run folder: {folder}, the default of --run.folder\n")
        complete = distributed.is_main() and run_folder.is_complete(folder, cfg)
        if distributed.broadcast_object(complete):
            return None
        return train(cfg, folder)


def _say(text: str) -> None:
    from llm import distributed

    if distributed.is_main():
        sys.stdout.write(text)


def _fail(message: str, code: int) -> int:
    from llm import distributed

    if distributed.is_first_to_report(message):
        sys.stderr.write(f"error: {message}\n")
        tell_torchrun(message)
    return code
