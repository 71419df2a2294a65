"""python -m llm train: read the settings, prepare the run folder, train or resume."""

from __future__ import annotations

import sys

_AGAIN = "the same command goes on from the last checkpoint"


def main(argv: list[str]) -> int:
    """Exit codes: 0 complete, 2 a setting or file, 3 diverged, 130 or 143 interrupted and saved."""
    from . import config

    files, flags = split_arguments(argv)
    cfg = config.load(files, [f for f in flags if f != "--dry-run"])
    if "--dry-run" in flags:
        sys.stdout.write(config.dump(cfg))
        return 0
    from . import run

    folder = run.prepare(cfg)
    if (folder / "summary.json").exists():
        sys.stdout.write(f"{folder}: already complete\n")
        return 0
    from .checkpoint import Diverged
    from .interrupt import Stopped
    from .train import train

    try:
        summary = train(cfg, folder)
    except Stopped as e:
        return _fail(f"stopped by a signal, after saving; {_AGAIN}", e.exit_code)
    except Diverged as e:
        return _fail(str(e), 3)
    except KeyboardInterrupt:
        return _fail(f"interrupted; {_AGAIN}", 130)
    except OSError as e:
        name = e.filename or folder
        return _fail(f"cannot write {name}: {e.strerror or e}; what was saved is kept, {_AGAIN}", 2)
    sys.stdout.write(
        f"{folder}: pass rate {summary['pass_rate_first']:.3f} -> {summary['pass_rate_last']:.3f} "
        f"after {summary['steps']} steps\n"
    )
    return 0


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """Configuration files, wherever they stand, and flags with their values."""
    files: list[str] = []
    flags: list[str] = []
    for i, word in enumerate(argv):
        after = argv[i - 1] if i else ""
        value = after.startswith("--") and "=" not in after and after != "--dry-run"
        (files if word.endswith(".toml") and not value else flags).append(word)
    return files, flags


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
