"""The lab's door: `python -m sim COMMAND`. A command is a module with `main(argv) -> exit code`."""

from __future__ import annotations

import os
import sys

from .commands import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
