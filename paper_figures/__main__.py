"""Draw a figure of the paper: `python -m paper_figures FIGURE`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from .commands import main

        sys.exit(main())
    except ModuleNotFoundError as e:
        if (e.name or "llm").partition(".")[0] in ("llm", "sim", "jackpot", "paper_figures"):
            raise
        sys.exit(
            f"error: {e}: this Python ({sys.executable}) lacks a package that the command needs. "
            "Use that of the environment, .venv/bin/python, which `make install` makes"
        )
    except KeyboardInterrupt:
        sys.exit(130)
