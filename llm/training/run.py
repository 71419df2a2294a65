"""A run in its folder: what goes from step to step, what is written, and when it ends.

`train.py` says what a step does. Here is the rest: resuming, evaluations, alarms, files,
checkpoints and signals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jackpot.torch.control import next_controls
from jackpot.torch.correction import next_state
from llm import distributed
from llm.checkpoints.checkpoint import (
    best,
    identity,
    latest,
    load_state,
    require_space,
    save_best,
    save_state,
)
from llm.checkpoints.state_tensors import StatefulPart
from llm.errors import NonFinite, RunFilesError
from llm.models import sharding
from llm.phases import during
from llm.rollout.batch import Batch
from llm.runs import metrics_files, run_folder
from llm.runs.alarms import Alarms, writable
from llm.runs.metrics_files import NoFiles, RunFiles
from llm.runs.nonfinite_guard import Guard
from llm.runs.progress import Progress
from llm.runs.signals import Overdue, Signals, Stopped
from llm.runs.trackers import Tracker, open_tracker
from llm.settings.schema import UniformAllocation

from .context import TrainContext
from .continuation import continuation_notes
from .evaluation import evaluate, pass_rate
from .forward import forward, logprobs_and_kls
from .inputs import checked_inputs, keep_inputs
from .keywords import control_keywords, next_state_keywords
from .optimizer import open_learner, set_learning_rates
from .record import Record, progress_text, start_text
from .rollout_phase import rollout_metrics, sample_rollouts, visits
from .sample_records import histogram_row, sample_rows
from .saved_state import SavedState, saved_state


@contextlib.contextmanager
def open_run(ctx: TrainContext, folder: Path) -> Iterator[Run]:
    """The run in `folder`, new or from its last checkpoint. A signal lets it save first."""
    tracker = open_tracker(ctx.cfg.run, folder, silent=not distributed.is_main())
    with contextlib.closing(tracker), Signals(ctx.cfg.run.stop_seconds) as signals:
        with during("while the run was opened"):
            run = Run(ctx, folder, tracker, signals)
        yield run


def last_evaluation(ctx: TrainContext) -> dict[str, Any]:
    """`evaluate` after all updates; KLs are of states of completions, hence one more rollout."""
    return evaluate(ctx, sample_rollouts(ctx, ctx.cfg.run.steps))


class Run:
    """learner: optimizers and what changes from step to step. best: the highest held-out pass rate
    so far.
    """

    def __init__(self, ctx: TrainContext, folder: Path, tracker: Tracker, signals: Signals) -> None:
        """Raises CheckpointError if the last checkpoint is damaged or another run's, OSError if
        the first one would have no room."""
        cfg, main = ctx.cfg, distributed.is_main()
        self.ctx, self.folder, self.tracker, self.signals = ctx, folder, tracker, signals
        self.checkpoints = folder / "checkpoints"
        self.learner = open_learner(ctx, Guard(self.checkpoints, together=True))
        self._parts: dict[str, StatefulPart] = {"policy": ctx.policy, **ctx.actor.parts()}
        self._parts |= {f"optimizer_{role}": o for role, o in self.learner.optimizers.items()}
        if ctx.history is not None:
            self._parts["prompt_history"] = ctx.history
        if ctx.values is not None:
            self._parts["optimal_values"] = ctx.values
        if cfg.objective.type == "alpha_dpo":
            self._parts["pair_gaps"] = self.learner.gaps
        if ctx.engine is not None and ctx.engine.dial is not None:
            self._parts["draft_dial"] = ctx.engine.dial
        self.inputs = checked_inputs(ctx, folder)
        # after the learner: a checkpoint is read into its optimisers
        state = self._load()
        self.first_step: int = state.step if state else 0
        if state:
            self.learner.controls, self.learner.correction = state.controls, state.correction
        self.best: float | None = self._best_so_far(state)
        sizes = state.bytes if state else {}
        self.files = RunFiles(folder, sizes, self.first_step) if main else NoFiles()
        self.alarms = Alarms(cfg.alarm, self.checkpoints, state.alarms if state else None)
        self._has_saved = state is not None
        self.progress = Progress(folder.name, cfg.run.steps, self.first_step, silent=not main)
        # by the size of what the first checkpoint will hold
        if main:
            require_space(self.checkpoints, self._parts)

    def claim(self) -> None:
        """Before the first step, when everything that can be refused was looked at: take over the
        settings that may change, and drop rows of after the checkpoint. A start that ended before
        has changed nothing of the run."""
        if not distributed.is_main():
            return
        differs = run_folder.claim(self.folder, self.ctx.cfg)
        if self.first_step:
            run_folder.note_evaluation_change(self.folder, differs)
        keep_inputs(self.folder, self.inputs)
        for line in continuation_notes(self.ctx.cfg, differs, self.first_step):
            sys.stderr.write(f"{self.folder.name}: {line}\n")
        self.files.cut()

    def steps(self) -> range:
        """The steps that are left."""
        return range(self.first_step, self.ctx.cfg.run.steps)

    @contextlib.contextmanager
    def recorded_step(self, step: int) -> Iterator[Record]:
        """A step's record. NaN or inf that no update can leave out is written, and ends the run.

        Raises:
            Stopped: a signal came, and the step takes longer than run.stop_seconds from then on.
        """
        record = Record(step, evaluated=step % self.ctx.cfg.run.eval_every == 0)
        before = self._json(step)  # now: what `_save_before` saves must not hold half a step
        if self.ctx.actor.trained:
            record.add({"distill_coef": self.learner.controls.distill_coef})  # in force now
        try:
            with during(f"after the updates of step {step}"):  # its phases name themselves
                yield record
        except Overdue:
            raise Stopped(self.signals.exit_code, self._save_before(record, before)) from None
        except NonFinite:
            # what explains the end is written before it: samples, the row, the alarm
            self._write_samples(record)
            self.alarms.halt()
            record.add({"updates_skipped": 1})
            record.decisions.clear()  # no step follows that they could be in force in
            self._write_row(record)
            raise

    @contextlib.contextmanager
    def skipping_nonfinite(self, record: Record) -> Iterator[None]:
        """Leave out an update with NaN or inf, unless alarms stop the run. No optimiser stepped."""
        try:
            yield
        except NonFinite:
            if self.ctx.cfg.alarm.action.type == "stop":
                raise
            record.skip_update()  # the alarm lowers the learning rates

    def record_rollout(self, record: Record, batch: Batch) -> None:
        """Metrics of all that was sampled, before anything is left out."""
        record.add(rollout_metrics(self.ctx, batch, record.step))
        record.visits = visits(self.ctx, batch)

    def evaluate_if_due(self, record: Record, batch: Batch) -> None:
        """Every run.eval_every steps: held-out pass rates, KLs, and the best checkpoint."""
        if not record.evaluated:
            return
        with record.within("evaluation"):
            record.add(evaluate(self.ctx, batch))
        if record.step == 0 and distributed.is_main():
            kind, task = self.ctx.actor.kind, self.ctx.task
            sys.stderr.write(start_text(kind, task.skipped, task.repeats, record.row))
        self._keep_if_best(record.step, record.row["pass_rate"])

    def set_learning_rates(self, record: Record) -> None:
        """Those of this step: scheduled, lowered by alarms, and controlled."""
        lowered = self.alarms.state.lr_factor
        record.add(set_learning_rates(self.ctx.cfg, self.learner, lowered, record.step))

    def evaluate_between_updates_if_due(self, record: Record) -> None:
        """Between the updates of a step, every run.eval_updates of them: the pass rate."""
        every, begun = self.ctx.cfg.run.eval_updates, record.updates_begun
        if every and begun and begun % every == 0:
            self.ctx.gather_shards()  # the sampler reads the full model, updates move shards
            rates = record.row.setdefault("pass_rate_updates", [])
            with during(f"in the evaluation between updates of step {record.step}"):
                rates.append([begun, pass_rate(self.ctx.policy, self.ctx)])

    def record_updates(self, record: Record) -> None:
        """The metrics of the step's updates; of an evaluated step also samples and histograms."""
        record.merge_updates(self.ctx.cfg.correction.type)
        self._write_samples(record)
        if record.evaluated and record.weights:
            self.files.write("histograms", histogram_row(record.step, record.weights))

    def move_closed_loops(self, record: Record) -> None:
        """lam and the tail ratio follow the step's weights; controls follow its measured KL; the
        history of prompts takes in the step's rewards, and drafting's dial its acceptance."""
        cfg, weights = self.ctx.cfg, record.weights
        if self.ctx.history is not None and record.visits is not None:
            rates = not isinstance(cfg.rollout.allocation, UniformAllocation)
            self.ctx.history.add(*record.visits, cfg.loss.advantage, rates=rates)
        if self.ctx.engine is not None and self.ctx.engine.dial is not None:
            # after all of the step's tokens: see draft_dial.py
            moved = self.ctx.engine.dial.move(record.row["draft_accept_rate"])
            record.decisions.append(moved)
        if not weights:
            return
        # After the step's coins: a lam that its own tokens had moved would bias their weights.
        self.learner.correction, decisions = next_state(
            self.learner.correction, weights, **next_state_keywords(cfg)
        )
        record.decisions += decisions
        kl = record.row.get("kl_policy_actor_now", math.nan)
        if cfg.control.type == "kl" and math.isfinite(kl):
            self.learner.controls, decisions = next_controls(
                self.learner.controls, kl, **control_keywords(cfg)
            )
            record.decisions += decisions

    @torch.no_grad()
    def decide_save(self, record: Record, batch: Batch) -> None:
        """Sets save_due and exit_code; where a checkpoint is due, refuses non-finite models.

        All ranks must call. A checkpoint is due every run.checkpoint_every steps, after the last
        step, and where a signal came.
        """
        # torchrun tells one rank after another to end: all stop with the first
        record.exit_code = distributed.all_reduce_max(self.signals.exit_code)
        run, done = self.ctx.cfg.run, record.step + 1
        due = done % run.checkpoint_every == 0 or done == run.steps
        record.save_due = bool(due or record.exit_code)
        if not record.save_due:
            return
        models = {"policy": self.ctx.policy, "actor": self.ctx.actor.model, **self.ctx.trained}
        for role, model in models.items():
            # one sequence is enough for the weights that all tokens share
            head_input = forward(self.ctx, model, batch.rows(torch.arange(1)))
            asked = head_input._replace(entropy=True)  # (t,): takes in all log-probabilities
            (output,), _ = logprobs_and_kls([asked], self.ctx.cfg.rollout.temperature)
            name = f"log-probability of {role} after the update"
            self.learner.guard.finite(record.step, **{name: output.entropy})

    def finish_step(self, record: Record) -> None:
        """Write the row, let alarms decide, save where it is due.

        Raises:
            Diverged: an alarm stops the run.
            Stopped: a signal came, and everything is saved.
        """
        done = record.step + 1
        row = self._write_row(record)
        self.alarms.enforce(record.step)  # after the row is written, so that a stop is explained
        if record.save_due:
            if self.ctx.engine is not None:  # rollouts sampled ahead are part of the checkpoint
                self.ctx.engine.gather()
            lost = distributed.all_reduce_max(self._has_saved and not self.checkpoints.is_dir())
            self._save(done, self._all_parts(), self._json(done))
            self._has_saved = True
            if lost:
                raise RunFilesError(
                    f"{self.checkpoints} was removed by something else while the run went on. The "
                    f"state after {done} steps is saved there: the same command goes on from it"
                )
        self.progress.show(done, progress_text(row))
        # after the last step there is nothing to go on with: the run ends as if no signal came
        if record.exit_code and done < self.ctx.cfg.run.steps:
            self.progress.close()
            raise Stopped(record.exit_code)

    def _save_before(self, record: Record, before: dict[str, Any]) -> bool:
        """Save what the steps before this one have done; whether that was possible.

        It is while no update of the step has begun, on one rank, and where no rollouts wait that
        were sampled ahead: of those this step has taken one already.
        """
        ahead = self.ctx.cfg.rollout.max_staleness > 0
        if record.phase == "update" or ahead or distributed.world_size() > 1:
            return False
        if record.step > self.first_step:
            self._save(record.step, self._parts, before)
        return True

    def _save(self, step: int, parts: dict[str, StatefulPart], state: dict[str, Any]) -> None:
        """A checkpoint of this run, which no signal interrupts."""
        keep = self.ctx.cfg.run.checkpoints_kept
        with self.signals.saving(), during(f"in the checkpoint after {step} steps"):
            save_state(self.checkpoints, step, parts, state, keep, self._identity())

    @during("in the evaluation after the last step")
    def finish(self) -> dict[str, Any]:
        """Evaluate after all updates and write that as the last row; returns the summary."""
        cfg = self.ctx.cfg
        last = last_evaluation(self.ctx)
        self.progress.close()
        row = {"step": cfg.run.steps, **last}
        self._keep_if_best(cfg.run.steps, row["pass_rate"])
        self.files.write("metrics", row)
        self.tracker.log(cfg.run.steps, row)
        # only the first rank has the files; every rank returns the same summary
        main = distributed.is_main()
        return distributed.broadcast_object(
            metrics_files.summarise(self.folder, cfg) if main else None
        )

    def _load(self) -> SavedState | None:
        """Restore the last checkpoint, if there is one; returns what it holds besides tensors."""
        ctx = self.ctx
        # the first rank decides: another might see a checkpoint a moment earlier
        newest = distributed.broadcast_object(str(latest(self.checkpoints) or ""))
        if not newest:
            return None
        path = Path(newest)
        state = saved_state(load_state(path, self._all_parts(), self._identity()), path)
        sharding.spread(ctx.shards, ctx.full_models)
        # as `publish_weights` did after that step: actor and engine hold what they then held
        ctx.actor.refresh(ctx.policy, state.step - 1)
        if ctx.engine is not None:
            ctx.engine.update(ctx.actor.model, version=state.step)
        return state

    def _identity(self) -> dict[str, str]:
        """What makes a checkpoint this run's: settings, and the source of a reward function."""
        return {**identity(self.ctx.cfg), **self.ctx.scorer.identity()}

    def _best_so_far(self, state: SavedState | None) -> float | None:
        """Also of an evaluation after the last checkpoint, such as a finished run's last: the best
        checkpoint that is kept never gives way to a worse one."""
        kept = best(self.checkpoints) if state else None
        if state is None or kept is None:
            return state.best if state else None
        there = saved_state(load_state(kept, {}, self._identity()), kept).best
        return max((rate for rate in (state.best, there) if rate is not None), default=None)

    def _all_parts(self) -> dict[str, StatefulPart]:
        """Those of the best checkpoint, and rollouts that were sampled ahead."""
        if self.ctx.cfg.rollout.max_staleness == 0 or self.ctx.engine is None:
            return self._parts
        return {**self._parts, "rollouts": self.ctx.engine}

    def _json(self, step: int) -> dict[str, Any]:
        """What a checkpoint holds besides tensors."""
        return {
            "step": step,
            "bytes": self.files.sizes(),  # resuming cuts each file to them: no row is there twice
            "controls": dataclasses.asdict(self.learner.controls),
            "correction": dataclasses.asdict(self.learner.correction),
            "alarms": self.alarms.to_json(),
            "best": self.best,
        }

    def _keep_if_best(self, step: int, rate: float) -> None:
        if self.best is not None and rate <= self.best:
            return
        if not self.folder.is_dir():
            raise RunFilesError(
                f"{self.folder} was removed by something else while the run went on, in step "
                f"{step}, with pass rate {rate:.4g}: nothing of the run is left to go on from"
            )
        self.best = rate
        if self.ctx.cfg.run.keep_best:
            whose = self._identity()
            with self.signals.saving(), during(f"in the best checkpoint, of step {step}"):
                save_best(self.checkpoints, step, self._parts, self._json(step), whose)

    def _write_row(self, record: Record) -> dict[str, Any]:
        """The step's row with its alarms, and what alarms and controls decided."""
        row = {**record.row, "alarms": self.alarms.check(record.row)}
        decided: list[Any] = [*record.decisions]
        if self.alarms.decision:
            decided.append(self.alarms.decision.entry())
        self.files.write("decisions", *({"step": record.step, **d} for d in decided))
        finite = writable(row)  # JSON has no NaN and no inf
        self.files.write("metrics", finite)
        self.tracker.log(record.step, finite)
        return row

    def _write_samples(self, record: Record) -> None:
        if record.evaluated and record.first_update:
            self.files.write("samples", *sample_rows(self.ctx, record.step, *record.first_update))
            record.first_update = None
