"""One step's row of metrics.jsonl, as it is filled in, and the line on the terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

from jackpot.torch.control import Decision
from jackpot.torch.correction import TokenWeights
from jackpot.torch.diagnostics import correction_metrics
from llm.phases import during

from .minibatches import Minibatch


class Record:
    """What a step measures. evaluated: it began with an evaluation, so its samples are kept.

    weights: of each update, over the tokens of all ranks. decisions: what closed loops moved.
    save_due: a checkpoint follows the step. exit_code: of the signal that came, or 0. phase: the
    last that began, "rollout", "evaluation" or "update". visits: what the history of prompts will
    take in, rows of the pool and rewards, (B,) each.
    """

    def __init__(self, step: int, *, evaluated: bool) -> None:
        self.step, self.evaluated = step, evaluated
        self.row: dict[str, Any] = {"step": step}
        self.weights: list[TokenWeights] = []  # of each update, over the tokens of all ranks
        self.first_update: tuple[Minibatch, TokenWeights] | None = None
        self.decisions: list[Decision] = []
        self.visits: tuple[torch.Tensor, torch.Tensor] | None = None
        self.save_due, self.exit_code, self.phase = False, 0, ""
        self._updates: list[dict[str, float]] = []
        self._skipped = 0

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Wall-clock of a phase, as seconds_<phase>."""
        clock = time.perf_counter()
        with self.within(phase):
            yield
        # only of a phase that ended: a row never holds the time of a part of one
        self.row[f"seconds_{phase}"] = time.perf_counter() - clock

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """What is raised in it says where that was."""
        self.phase = phase
        with during(f"in the {phase} of step {self.step}"):
            yield

    def add(self, values: dict[str, Any]) -> None:
        self.row |= values

    def add_update(
        self, minibatch: Minibatch, weights: TokenWeights, metrics: dict[str, float]
    ) -> None:
        """What `train.update` returned."""
        self.weights.append(weights)
        self._updates.append(metrics)
        # the one whose samples are written: there p_new is still p_ref
        self.first_update = self.first_update or (minibatch, weights)

    def skip_update(self) -> None:
        """An update was not made, because something in it was NaN or inf."""
        self._skipped += 1

    def merge_updates(self, correction: str) -> None:
        """Metrics of the step: token metrics over all its tokens, the others averaged."""
        self.row |= merged(self._updates, self.weights, correction)
        self.row["updates_skipped"] = self._skipped

    @property
    def updates_begun(self) -> int:
        return len(self._updates) + self._skipped


def merged(
    updates: list[dict[str, float]], weights: list[TokenWeights], correction: str
) -> dict[str, float]:
    """Metrics of a step from those of its updates. correction: the type of the weights."""
    if not updates:
        return {}
    # Losses, norms and clip fractions are of an update, and updates count alike. What is of tokens
    # (acceptance, ratios) is computed of all the step's tokens, so that none counts more.
    by_metric = {k: [u[k] for u in updates if k in u] for update in updates for k in update}
    means = {k: sum(values) / len(values) for k, values in by_metric.items()}
    return correction_metrics(weights, correction) | means


def start_text(kind: str, skipped_rows: int, repeats: int, row: dict[str, Any]) -> str:
    """Said once, before the first update."""
    skipped = f", {skipped_rows} bad rows skipped" if skipped_rows else ""
    skipped += f", {repeats} repeated rows counted once" if repeats else ""
    return (
        f"actor: {kind}, KL(policy, actor) {row['kl_policy_actor']:.4g} nats per token "
        f"at the start{skipped}\n"
        "reward: of the actor's rollouts of training prompts; pass rate: of held-out prompts\n"
    )


def progress_text(row: dict[str, Any]) -> str:
    """The step in a line."""
    rate = row["tokens"] / (row["seconds_rollout"] + row["seconds_update"])
    kl = f"  KL(q,p) {row['kl_inf_target_k3']:.4f}" if "kl_inf_target_k3" in row else ""
    accept = f"  accept {row['accept_rate']:.3f}" if "accept_rate" in row else ""
    alarms = f"  ALARM {', '.join(row['alarms'])}" if row["alarms"] else ""
    return f"reward {row['reward_mean']:.3f}{kl}{accept}  {rate:.0f} tokens/s{alarms}"
