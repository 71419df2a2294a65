"""Draw a figure of the paper: `python -m paper_figures FIGURE`."""

from __future__ import annotations

import sys

from .commands import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
