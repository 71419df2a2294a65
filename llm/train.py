"""Algorithm 1: sample from p_inf, weigh by OBRS, update the policy and the actor together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llm import distributed
from llm.algorithm.advantages import group_advantage
from llm.algorithm.control import Controls, initial_controls, next_controls
from llm.algorithm.correction import CorrectionState, TokenWeights, next_state
from llm.checkpoints.checkpoint import (
    Guard,
    identity,
    latest,
    load_state,
    require_room,
    save_best,
    save_state,
)
from llm.checkpoints.state_tensors import Part
from llm.models import sharding
from llm.rollout.engines.base import Engine, EngineError, order_ahead
from llm.rollout.sampling import Batch
from llm.runs import metrics_files, trackers
from llm.runs.alarms import Alarms, NonFinite, writable
from llm.runs.metrics_files import NoFiles, RunFiles
from llm.runs.progress import Progress
from llm.runs.signals import Interrupts, Stopped
from llm.settings.loading import Config
from llm.tasks.problem import Problem
from llm.training import evaluation as evaluate
from llm.training import forward, sample_records, self_test
from llm.training.context import Setup, open_setup
from llm.training.microbatches import microbatches
from llm.training.update import Share, merge, open_optimizers, set_learning_rates, shares, update


def train(cfg: Config, folder: Path) -> dict:
    """Run or resume Algorithm 1 in `folder`; returns the summary that it also writes there.

    Under torchrun all ranks call it. Each samples, scores and trains on its own sequences; rank 0
    writes.

    Raises:
        Diverged: an alarm, or NaN or inf in a loss, weight or gradient; nothing was trained on it.
        Stopped: SIGTERM or Ctrl-C, after saving.
        ValueError: models, data or checkpoints that do not fit the configuration.
    """
    setup = open_setup(cfg, folder)
    with contextlib.closing(setup):
        tracker = trackers.open_tracker(cfg.run, folder, silent=not distributed.is_main())
        with contextlib.closing(tracker), Interrupts() as interrupts:
            distributed.tell(lambda: interrupts.requested)
            return _train(setup, folder, tracker, interrupts)


def _train(setup: Setup, folder: Path, tracker: trackers.Tracker, interrupts: Interrupts) -> dict:
    cfg, policy, actor, engine = setup.cfg, setup.policy, setup.actor, engine_of(setup)
    optimizers = open_optimizers(setup)
    parts: dict[str, Part] = {"policy": policy, **actor.parts()}
    parts |= {f"optimizer_{name}": o for name, o in optimizers.items()}
    whole = parts | ({"rollouts": engine} if cfg.rollout.max_staleness > 0 else {})
    checkpoints, whose = folder / "checkpoints", identity(cfg)
    found = distributed.share_json(str(latest(checkpoints) or ""))
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
                correction, moved = next_state(cfg.correction, cfg.control, correction, weights)
                decisions += moved
                if cfg.control.kl_target > 0 and math.isfinite(row["kl_policy_actor_now"]):
                    controls, moved = next_controls(cfg, controls, row["kl_policy_actor_now"])
                    decisions += moved
            done = step + 1
            # torchrun tells one rank after another: all stop with the first
            wished = distributed.largest(interrupts.exit_code)
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
    return distributed.share_json(metrics_files.summarise(folder, cfg) if main else None)


def engine_of(setup: Setup) -> Engine:
    assert setup.engine is not None  # a training setup has one
    return setup.engine


def rollout(setup: Setup, step: int, guard: Guard, ahead: int | None = None) -> Batch:
    """This step's prompts, each completed by a group, scored; advantages before any rejection.

    Those of this rank: neighbouring prompts, sampled as they are among all. Orders the batches of
    the `ahead` next steps too, by default rollout.max_staleness.
    """
    cfg, r, engine = setup.cfg, setup.cfg.rollout, engine_of(setup)
    own, group = distributed.part(r.prompts_per_step), r.rollouts_per_prompt
    place = (own.start * group, r.prompts_per_step * group)
    here = Guard(guard.checkpoints)  # ranks sample different numbers of tokens

    def problems(of: int) -> list[Problem]:
        return setup.task.batch(cfg.run.seed, of, r.prompts_per_step)[own.start : own.stop]

    def sampled() -> Batch:
        last = min(step + (r.max_staleness if ahead is None else ahead), cfg.run.steps)
        order_ahead(engine, range(step, last + 1), problems, place)
        return engine.collect(
            step,
            problems(step),
            check=lambda logq: here.finite(step, **{"log-probability of the sampling model": logq}),
        )

    batch = distributed.together(sampled, NonFinite, EngineError)
    reward = evaluate.rewards(batch, setup.scorer).to(setup.device)
    advantage = group_advantage(reward, r.rollouts_per_prompt, cfg.loss.advantage)
    return replace(batch, reward=reward, advantage=advantage)


@torch.no_grad()
def check_models(setup: Setup, batch: Batch, guard: Guard, step: int) -> None:
    """Only models that still give finite log-probabilities are worth a checkpoint."""
    models = {"policy": setup.policy, "actor": setup.actor.model, **setup.trained}
    for name, model in models.items():
        side = forward.forward(setup, model, batch.rows(torch.arange(1)))._replace(entropy=True)
        found = forward.read([side], setup.cfg.rollout.temperature)[0][0]
        entropy: Any = found.entropy  # takes in all log-probabilities
        guard.finite(step, **{f"log-probability of {name} after the update": entropy})


def rollout_metrics(batch: Batch, setup: Setup, step: int) -> dict[str, float]:
    """Of all ranks' sequences."""
    reward = distributed.gather(batch.reward)
    groups = reward.reshape(-1, setup.cfg.rollout.rollouts_per_prompt)
    lengths = distributed.gather(batch.is_completion.sum(dim=1))
    return {
        "reward_mean": float(reward.mean()),
        "groups_informative": float((groups != groups[:, :1]).any(dim=1).float().mean()),
        "length_mean": float(lengths.float().mean()),
        "finished": float(distributed.gather(batch.finished).float().mean()),
        "tokens": int(lengths.sum()),
        "staleness": float((step - batch.version[batch.is_completion]).float().mean()),
        **_sums(engine_of(setup).counts()),
        **_sums(setup.scorer.counts()),
    }


def _sums(counts: dict[str, int]) -> dict[str, int]:
    """What was counted on all ranks together."""
    found = distributed.gather_json(counts)
    return {k: sum(each[k] for each in found) for k in counts}


@torch.no_grad()
def evaluation(setup: Setup, batch: Batch) -> dict[str, float]:
    """Held-out pass rates, and both exact KLs on the states of this batch."""
    clock = time.perf_counter()
    policy, actor = setup.policy, setup.actor.model
    found = {"pass_rate": evaluate.pass_rate(policy, setup)}
    if actor is policy:
        found |= {"kl_policy_actor": 0.0, "kl_actor_policy": 0.0}
    else:
        found["pass_rate_actor"] = evaluate.pass_rate(actor, setup)
        sums = dict.fromkeys(("kl_policy_actor", "kl_actor_policy", "tokens"), 0.0)
        for mb, _ in microbatches(setup.cfg, batch):
            n = int(mb.is_completion.sum())
            if n:
                one, other = (forward.forward(setup, m, mb) for m in (policy, actor))
                kls = forward.exact_kls(one, other, setup.cfg.rollout.temperature)
                sums = {k: v + n * {**kls, "tokens": 1}[k] for k, v in sums.items()}
        *both, total = distributed.add_up(list(sums.values()), setup.device)
        found |= {k: kl / total for k, kl in zip(sums, both, strict=False)}
    found |= {f"eval_{k}": v for k, v in _sums(setup.scorer.counts()).items()}
    found["seconds_eval"] = time.perf_counter() - clock
    return found


def start_text(setup: Setup, row: dict) -> str:
    skipped = f", {setup.task.skipped} bad rows skipped" if setup.task.skipped else ""
    return (
        f"actor: {setup.actor.kind}, KL(policy, actor) {row['kl_policy_actor']:.4g} nats per token "
        f"at the start{skipped}\n"
    )


def sample_rows(setup: Setup, step: int, share: Share, weights: TokenWeights) -> list[dict]:
    """Some of an update's completions, on whichever rank, token by token, for the report.

    weights: of the tokens of all ranks.
    """
    batch, place, every = share.batch, share.places(), share.tokens()
    columns = ("weight", "log_ratio", "accept_prob", "accepted")
    mine: dict[str, Any] = {name: every.mine(getattr(weights, name)) for name in columns}
    own = replace(weights, **mine)
    kept, places = setup.cfg.run.samples_kept, (place.tolist(), every.sequences)
    rows = sample_records.token_rows(step, batch, setup.tokenizer, own, kept, places)
    places_of = distributed.gather_json([batch.index.tolist(), place.tolist()])
    order = {i: p for part in places_of for i, p in zip(*part, strict=False)}
    found = [r for rows in distributed.gather_json(rows) for r in rows]
    return sorted(found, key=lambda r: order[r["sequence"]])


def progress_text(row: dict) -> str:
    rate = row["tokens"] / (row["seconds_rollout"] + row["seconds_update"])
    kl = f"  KL(q,p) {row['kl_inf_target_k3']:.4f}" if "kl_inf_target_k3" in row else ""
    accept = f"  accept {row['accept_rate']:.3f}" if "accept_rate" in row else ""
    alarms = f"  ALARM {', '.join(row['alarms'])}" if row["alarms"] else ""
    return f"reward {row['reward_mean']:.3f}{kl}{accept}  {rate:.0f} tokens/s{alarms}"


def dry_step(setup: Setup, folder: Path) -> dict:
    """One step of everything but evaluation, in memory alone; `folder` is only named in errors."""
    cfg, guard = setup.cfg, Guard(folder)
    optimizers, controls, state = open_optimizers(setup), initial_controls(cfg), CorrectionState()
    clock = time.perf_counter()
    batch = rollout(setup, 0, guard, ahead=0)
    row = rollout_metrics(batch, setup, 0) | {"seconds_rollout": time.perf_counter() - clock}
    clock = time.perf_counter()
    set_learning_rates(cfg, optimizers, controls, 1.0, 0)
    share = shares(setup, batch, state, 0)[0]
    found = update(setup, optimizers, share, controls, state, guard, 0)
    weights = [found.pop("weights")]
    row |= merge([found], weights, cfg)
    row["seconds_update"] = (time.perf_counter() - clock) * cfg.loss.updates_per_rollout
    return row
