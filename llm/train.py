"""Algorithm 1: sample from p_inf, weigh by OBRS, update the policy and the actor together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

from llm.algorithm.control import Controls, initial_controls, next_controls
from llm.algorithm.correction import CorrectionState, next_state
from llm.checkpoints.checkpoint import (
    identity,
    latest,
    load_state,
    require_room,
    save_best,
    save_state,
)
from llm.checkpoints.state_tensors import StatefulPart
from llm.models import sharding
from llm.runs import metrics_files, trackers
from llm.runs.alarms import Alarms, NonFinite, writable
from llm.runs.metrics_files import NoFiles, RunFiles
from llm.runs.nonfinite_guard import Guard
from llm.runs.progress import Progress
from llm.runs.signals import Signals, Stopped
from llm.settings.loading import Config
from llm.training import evaluation as evaluate
from llm.training import sample_records, self_test
from llm.training.context import TrainContext, open_context
from llm.training.evaluation import evaluation
from llm.training.minibatches import shares
from llm.training.optimizer import open_optimizers, set_learning_rates
from llm.training.recorder import progress_text, sample_rows, start_text
from llm.training.rollout_phase import engine_of, rollout, rollout_metrics
from llm.training.run_state import check_models
from llm.training.update import merge, update

from . import distributed


def train(cfg: Config, folder: Path) -> dict:
    """Run or resume Algorithm 1 in `folder`; returns the summary that it also writes there.

    Under torchrun all ranks call it. Each samples, scores and trains on its own sequences; rank 0
    writes.

    Raises:
        Diverged: an alarm, or NaN or inf in a loss, weight or gradient; nothing was trained on it.
        Stopped: SIGTERM or Ctrl-C, after saving.
        ValueError: models, data or checkpoints that do not fit the configuration.
    """
    setup = open_context(cfg, folder)
    with contextlib.closing(setup):
        tracker = trackers.open_tracker(cfg.run, folder, silent=not distributed.is_main())
        with contextlib.closing(tracker), Signals() as interrupts:
            distributed.on_signal(lambda: interrupts.requested)
            return _train(setup, folder, tracker, interrupts)


def _train(
    setup: TrainContext, folder: Path, tracker: trackers.Tracker, interrupts: Signals
) -> dict:
    cfg, policy, actor, engine = setup.cfg, setup.policy, setup.actor, engine_of(setup)
    optimizers = open_optimizers(setup)
    parts: dict[str, StatefulPart] = {"policy": policy, **actor.parts()}
    parts |= {f"optimizer_{name}": o for name, o in optimizers.items()}
    whole = parts | ({"rollouts": engine} if cfg.rollout.max_staleness > 0 else {})
    checkpoints, whose = folder / "checkpoints", identity(cfg)
    found = distributed.broadcast_object(str(latest(checkpoints) or ""))
    kept = Path(found) if found else None
    state: dict[str, Any] = load_state(kept, whole, whose) if kept else {"step": 0}
    if kept:
        sharding.spread(setup.shards, setup.whole)
        actor.refresh(policy, state["step"] - 1)
        engine.update(actor.model, version=state["step"])
    main = distributed.is_main()
    files = RunFiles(folder, state.get("bytes", {})) if main else NoFiles()
    guard = Guard(checkpoints, together=True)
    controls = Controls(**state["controls"]) if kept else initial_controls(cfg)
    correction = CorrectionState(**state.get("correction", {}))
    alarms = Alarms(cfg.alarm, checkpoints, state.get("alarms"))
    best: float | None = state.get("best")
    progress = Progress(folder.name, cfg.run.steps, state["step"], silent=not main)

    def now(step: int) -> dict:
        """What a checkpoint holds besides tensors."""
        return {
            "step": step,
            "bytes": files.sizes(),
            "controls": dataclasses.asdict(controls),
            "correction": dataclasses.asdict(correction),
            "alarms": alarms.to_json(),
            "best": best,
        }

    def note(row: dict[str, Any], decisions: list) -> dict[str, Any]:
        """Write a step's row, its alarms in it, and its decisions."""
        row = {**row, "alarms": alarms.check(row)}
        made = [*decisions, *([alarms.decision.entry()] if alarms.decision else [])]
        files.write("decisions", *({"step": row["step"], **d} for d in made))
        files.write("metrics", writable(row))
        tracker.log(row["step"], writable(row))
        return row

    if main:
        require_room(checkpoints, parts)
    self_test.self_test(setup)
    for step in range(state["step"], cfg.run.steps):
        row: dict[str, Any] = {"step": step}
        try:
            # Phase 1. Rollout: sample from p_inf, keep its log-probabilities and top k (l. 3-10)
            clock = time.perf_counter()
            batch = rollout(setup, step, guard)
            row |= rollout_metrics(batch, setup, step)
            row["seconds_rollout"] = time.perf_counter() - clock
            evaluated = step % cfg.run.eval_every == 0
            if evaluated:
                row |= evaluation(setup, batch)
                if step == 0 and main:
                    sys.stderr.write(start_text(setup, row))
                if best is None or row["pass_rate"] > best:
                    best = row["pass_rate"]
                    if cfg.run.keep_best:
                        save_best(checkpoints, step, parts, now(step), whose)

            # Phase 2. Update policy (Eq. 5) and actor (Eq. 6, 7), minibatch by minibatch (l. 11-28)
            clock = time.perf_counter()
            row |= set_learning_rates(cfg, optimizers, controls, alarms.state.lr_factor, step)
            if actor.trained:
                row["distill_coef"] = controls.distill_coef
            seen: list[dict[str, Any]] = []
            skipped, within = 0, []
            for number, share in enumerate(shares(setup, batch, correction, step)):
                if number and cfg.run.eval_updates and number % cfg.run.eval_updates == 0:
                    sharding.collect(setup.shards, setup.whole)
                    within.append([number, evaluate.pass_rate(policy, setup)])
                try:
                    found = update(setup, optimizers, share, controls, correction, guard, step)
                except NonFinite:
                    if cfg.alarm.action == "stop":
                        raise
                    skipped += 1  # no optimiser was stepped; the alarm lowers their rates
                    continue
                if evaluated and not seen:
                    files.write("samples", *sample_rows(setup, step, share, found["weights"]))
                seen.append(found)
            weights = [s.pop("weights") for s in seen]
            row |= merge(seen, weights, cfg)
            row["updates_skipped"] = skipped
            if within:
                row["pass_rate_updates"] = within
            if evaluated and weights:
                files.write("histograms", sample_records.histogram_row(step, weights))
            row["seconds_update"] = time.perf_counter() - clock

            # Between steps: actor and engine follow, the loops move, the alarms look
            sharding.collect(setup.shards, setup.whole)
            actor.refresh(policy, step)
            engine.update(actor.model, version=step + 1)
            decisions: list = []
            if weights:
                correction, moved = next_state(cfg.correction, correction, weights)
                decisions += moved
                if cfg.control.type == "kl" and math.isfinite(row["kl_policy_actor_now"]):
                    controls, moved = next_controls(cfg, controls, row["kl_policy_actor_now"])
                    decisions += moved
            done = step + 1
            # torchrun tells one rank after another: all stop with the first
            wished = distributed.all_reduce_max(interrupts.exit_code)
            due = bool(done % cfg.run.checkpoint_every == 0 or done == cfg.run.steps or wished)
            if due:
                check_models(setup, batch, guard, step)
        except NonFinite:
            alarms.halt()  # where no update can be left out, there is nothing to go on with
            note(row | {"updates_skipped": 1}, [])
            raise
        row = note(row, decisions)
        alarms.enforce(step)
        if due:
            engine.gather()
            save_state(checkpoints, done, whole, now(done), cfg.run.checkpoints_kept, whose)
        progress.show(done, progress_text(row))
        if wished and done < cfg.run.steps:
            progress.close()
            raise Stopped(wished)

    progress.close()
    batch = rollout(setup, cfg.run.steps, guard)
    last = {"step": cfg.run.steps, **evaluation(setup, batch)}
    if cfg.run.keep_best and (best is None or last["pass_rate"] > best):
        best = last["pass_rate"]
        save_best(checkpoints, cfg.run.steps, parts, now(cfg.run.steps), whose)
    files.write("metrics", last)
    tracker.log(cfg.run.steps, last)
    return distributed.broadcast_object(metrics_files.summarise(folder, cfg) if main else None)
