"""`python -m sim COMMAND`. A command is a module with `main(argv) -> exit code`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    try:
        from .commands import main

        sys.exit(main())
    except ModuleNotFoundError as e:
        if (e.name or "sim").partition(".")[0] in ("sim", "jackpot"):
            raise
        sys.exit(
            f"error: {e}: this Python ({sys.executable}) lacks a package that the command needs. "
            "Use that of the environment, .venv/bin/python, which `make install` makes"
        )
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
