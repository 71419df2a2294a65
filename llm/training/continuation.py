"""What a run that goes on with other settings should know: which they are, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.settings.loading import Config
from llm.settings.resuming import CONTINUATION, shown

from .optimizer import lr_factor

Differences = Mapping[str, tuple[Any, Any]]  # {'section.name': (there, now)}


def continuation_notes(cfg: Config, differs: Differences, done: int) -> list[str]:
    """Lines for the user; none where nothing changed, or before any step.

    Args:
        cfg: the settings now.
        differs: the settings that were others.
        done: steps that are done.
    """
    continued = {key: pair for key, pair in differs.items() if key in CONTINUATION}
    if not continued or done == 0:
        return []
    notes = [f"goes on after {done} steps with other settings: {shown(continued)}"]
    steps_there, _ = continued.get("run.steps", (cfg.run.steps, None))
    if isinstance(steps_there, int):
        notes += _schedule_note(cfg, steps_there, done)
        notes += _staleness_note(cfg, steps_there, done)
        notes += _evaluation_note(cfg, steps_there, done)
    return notes


def _schedule_note(cfg: Config, steps_there: int, done: int) -> list[str]:
    """The learning rates' schedule ends with the run, so another length moves it."""
    steps = cfg.run.steps
    before, after = (
        [lr_factor(cfg.optim, step, n) for step in range(done + 1)] for n in (steps_there, steps)
    )
    if done == steps or before[:done] == after[:done]:
        return []
    return [
        f"optim.schedule {cfg.optim.schedule} ends with the run, and its end moves from step "
        f"{steps_there} to {steps}: the learning rates were at {before[done - 1]:.3g} of their "
        f"full value in the last step and go on at {after[done]:.3g}. So this run differs from one "
        f"that had {steps} steps from its start, which would have had {after[done - 1]:.3g} there"
    ]


def _staleness_note(cfg: Config, steps_there: int, done: int) -> list[str]:
    """The last steps of a run request no batch beyond its end, so a longer run has fresher ones."""
    ahead = done - 1 + cfg.rollout.max_staleness  # the last batch that would have been requested
    if ahead <= steps_there or cfg.run.steps <= steps_there:
        return []
    first, last = steps_there + 1, min(ahead, cfg.run.steps)
    return [
        f"rollout.max_staleness {cfg.rollout.max_staleness}: the batches of steps {first} to "
        f"{last} are sampled from newer weights than in a run that had {cfg.run.steps} steps from "
        "its start, because nothing was sampled beyond the former end"
    ]


def _evaluation_note(cfg: Config, steps_there: int, done: int) -> list[str]:
    """A run ends with an evaluation, which a longer run perhaps does not make at that step."""
    every, steps = cfg.run.eval_every, cfg.run.steps
    if done != steps_there or steps <= steps_there or done % every == 0:
        return []
    best = ", but it counts for checkpoints/best" if cfg.run.keep_best else ""
    return [
        f"the evaluation after step {done}, where the run ended, is replaced by a full step"
        f"{best}; a run that had {steps} steps from its start would not have evaluated there "
        f"(run.eval_every {every})"
    ]
