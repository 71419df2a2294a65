"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure


def save(figure: Figure, stem: Path, *, dpi: int) -> list[Path]:
    """Write stem.png and stem.pdf; returns both. dpi: dots per inch of the first."""
    written = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "pdf")]
    for path in written:
        figure.savefig(path, dpi=dpi)
        figure.set_layout_engine("none")  # it is laid out: not again for the second file
    return written
