"""Drawing that figures share: curves with every seed thin and the mean bold, and saving them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper_figures.analysis import run_statistics
from paper_figures.experiments.configurations import RunSpec
from paper_figures.experiments.run_store import HOME

from . import style

KL_LINEAR = 0.01  # nats: below this the axis of KL is linear, so that 0 can be shown


def plt() -> Any:
    """pyplot, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    return pyplot


def seeds_and_mean(
    ax: Any,
    runs: Sequence[RunSpec],
    column: str,
    per_step: float = 1.0,
    home: Path = HOME,
    **look: Any,
) -> None:
    """One method: each seed thin, the mean over seeds bold where all of them were measured.

    per_step: what the x axis counts in a step (examples, updates).
    """
    curves = [run_statistics.curve(r, column, home) for r in runs]
    curves = [(x, y) for x, y in curves if len(x)]
    for x, y in curves:
        ax.plot(x * per_step, y, **{**look, "linewidth": 0.5, "alpha": 0.35, "label": None})
    if curves:
        common = np.asarray(sorted(set.intersection(*(set(x) for x, _ in curves))))
        means = np.mean([y[np.isin(x, common)] for x, y in curves], axis=0)
        ax.plot(common * per_step, means, **{"linewidth": 1.6, **look})


def methods(
    ax: Any, runs: Iterable[RunSpec], column: str, per_step: float = 1.0, home: Path = HOME
) -> None:
    """All methods among the runs, in the order in which they first stand there."""
    by_method: dict[str, list[RunSpec]] = {}
    for r in runs:
        by_method.setdefault(r.method, []).append(r)
    for name, own in by_method.items():
        look = style.method_style(name) | {"label": style.method_label(name)}
        seeds_and_mean(ax, own, column, per_step, home, **look)


def kl_axis(ax: Any, top: float) -> None:
    """A scale on which both a KL of 0.02 and one of 1 can be read, and 0 too."""
    ax.set_yscale("symlog", linthresh=KL_LINEAR, linscale=0.5)
    ticks = [t for t in (0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10) if t <= top]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_ylim(0, top)
    ax.minorticks_off()


def legend(fig: Any, axes: Any, columns: int) -> None:
    """One legend below all panels, of what is labelled in these axes, each label once."""
    handles: dict[str, Any] = {}
    for ax in np.ravel(axes):
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def save(fig: Any, out: Path, name: str) -> list[Path]:
    """PNG and PDF, and the figure closed."""
    paths = [out / f"{name}.{suffix}" for suffix in ("png", "pdf")]
    for path in paths:
        fig.savefig(path, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
        fig.set_layout_engine("none")  # it is laid out: not again for the second file
    plt().close(fig)
    return paths
