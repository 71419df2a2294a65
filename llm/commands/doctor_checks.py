"""The checks of `python -m llm doctor`, in the order in which they run.

A check is a `Line`: ok, a warning, or a problem with a remedy; none of them raises. They write
nothing into the run folder. A built model that is not pretrained yet is replaced by a random one of
its shape.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from llm.checkpoints.checkpoint import latest
from llm.models import pretraining, roles
from llm.models.loading import check_positions, positions_of
from llm.phases import is_out_of_memory, phase_of
from llm.planning import choosing, memory
from llm.runs import alarms, run_folder
from llm.runs.first_checks import (
    check_folder,
    check_packages,
    check_reward_function,
    check_threads,
)
from llm.settings.loading import Config, ConfigError, ModelConfig, load, split_arguments
from llm.settings.schema import OwnReward, PretrainConfig
from llm.tasks import factory, problem
from llm.tasks.factory import prompt_lengths, require_distinct_prompts
from llm.tokenizers.pretrained import HubTokenizer
from llm.training import self_test
from llm.training.context import TrainContext, open_context, open_device

from .doctor_arithmetic import OK, PROBLEM, WARNING, Line, arithmetic, tied_weights
from .dry_run import dry_step

__all__ = ["OK", "PROBLEM", "WARNING", "Line", "diagnose"]


def diagnose(argv: list[str]) -> Iterator[Line]:
    """Lines as the checks end. Never raises for what the settings or their files hold."""
    cfg, line = _attempt("settings", lambda: _load(argv))
    yield line or Line("settings", OK, "read, and every one has an effect")
    if cfg is None:
        return
    yield Line("evidence", OK, choosing.sentence(choosing.fitting(cfg)))
    yield from _attempt_lines("run folder", lambda: (None, [_folder(cfg)]))[1]
    yield from _attempt_lines("packages", lambda: (None, [_packages(cfg)]))[1]
    _, line = _attempt("reward", lambda: check_reward_function(cfg.reward))
    if line:
        yield line
        return
    device, line = _attempt("device", lambda: _device(cfg))
    yield line or Line("device", OK, str(device))
    tokenizer, line = _attempt(
        "tokenizers", lambda: roles.open_tokenizer(cfg, Path(cfg.run.folder))
    )
    yield line or Line("tokenizers", OK, f"one for both models, {tokenizer.vocab_size} ids")
    if device is None or tokenizer is None:
        return
    task, line = _attempt("data", lambda: factory.open_task(cfg.task, tokenizer, cfg.reward))
    if task is None:
        assert line is not None
        yield line
        return
    longest, lines = _attempt_lines("data", lambda: _data(cfg, task, tokenizer))
    yield from lines
    if longest is None:
        return
    shapes, lines = _attempt_lines("memory", lambda: _memory(cfg, device, longest))
    yield from lines
    if shapes is None or any(x.status == PROBLEM for x in lines):
        return
    yield from _attempt_lines("disk", lambda: (None, [_disk(cfg, *shapes)]))[1]
    policy, actor = shapes
    fits, line = _attempt("positions", lambda: _positions(cfg, policy, actor, longest))
    yield line or fits
    if fits is None:
        return
    yield from _attempt_lines("prompts", lambda: (None, _prompts(tokenizer)))[1]
    with tempfile.TemporaryDirectory() as scratch:
        yield from _with_models(cfg, Path(scratch))


def _with_models(cfg: Config, scratch: Path) -> Iterator[Line]:
    """Checks that need weights: open, self-test, one step."""
    opened, lines = _attempt_lines("models", lambda: _models(cfg, scratch))
    yield from lines
    if opened is None:
        return
    setup, is_random = opened
    try:
        yield from _attempt_lines("tied weights", lambda: (None, [tied_weights(setup)]))[1]
        result, lines = _attempt_lines("self-test", lambda: _self_test(setup))
        yield from lines
        yield arithmetic(setup, result)
        _, lines = _attempt_lines("one step", lambda: (None, _step(setup, scratch, is_random)))
        yield from lines
    finally:
        setup.close()
        gc.collect()


def _attempt(check: str, body: Callable[[], Any]) -> tuple[Any, Line | None]:
    """(result, None), or (None, the problem as a line)."""
    try:
        return body(), None
    except ConfigError as e:
        return None, Line(check, PROBLEM, str(e))
    except Exception as e:
        text = str(e).splitlines()[0] if str(e) else ""
        if is_out_of_memory(e):
            seen = f"out of memory {phase_of(e)} ({type(e).__name__}: {text})"
            return None, Line(check, PROBLEM, seen, "see what the line memory says to lower")
        return None, Line(check, PROBLEM, f"{type(e).__name__}: {text}")


def _attempt_lines(
    check: str, body: Callable[[], tuple[Any, list[Line]]]
) -> tuple[Any, list[Line]]:
    result, line = _attempt(check, body)
    return (None, [line]) if line else result


def _load(argv: list[str]) -> Config:
    files, flags = split_arguments(argv)
    return load(files, flags, prog="python -m llm doctor")


def _folder(cfg: Config) -> Line:
    folder = Path(cfg.run.folder).absolute()
    check_folder(folder, "--run.folder")
    if not run_folder.holds_run(folder):
        run_folder.check_no_run(folder, cfg)
        return Line("run folder", OK, f"{folder} is free to use")
    run_folder.check_same(folder, cfg)
    if run_folder.is_complete(folder, cfg):
        remedy = "raise --run.steps to go on, or choose another --run.folder"
        return Line("run folder", WARNING, f"{folder} holds this run, complete", remedy)
    kept = latest(folder / "checkpoints")
    return Line("run folder", OK, f"{folder} holds this run, which would go on: {kept}")


def _packages(cfg: Config) -> Line:
    check_packages(cfg)
    return Line("packages", OK, "those that the settings need are installed")


def _device(cfg: Config) -> torch.device:
    check_threads(cfg.run.threads)
    return open_device(cfg.run.device)


def _data(cfg: Config, task: problem.Task, tokenizer: Any) -> tuple[int, list[Line]]:
    """Longest of the prompts in tokens, and what was seen of the data."""
    require_distinct_prompts(cfg, task)
    held = task.held_out(cfg.run.seed, cfg.run.eval_prompts)
    lengths = prompt_lengths(cfg, task, tokenizer)
    detail = f"prompts of {min(lengths)} to {max(lengths)} tokens"
    lines = []
    if task.skipped:
        lines.append(
            Line("data", WARNING, f"{task.skipped} bad rows are skipped", "look at them: bad_rows")
        )
    if len(held) < cfg.run.eval_prompts:
        lines.append(
            Line(
                "data",
                WARNING,
                f"only {len(held)} held-out problems, {cfg.run.eval_prompts} were asked for",
                "lower --run.eval_prompts or give --task.eval_source",
            )
        )
    lines = lines or [Line("data", OK, f"{detail}, {len(held)} held out")]
    if task.repeats:
        lines.append(Line("data", OK, f"{task.repeats} repeated rows are counted once"))
    return max(lengths), lines


def _memory(cfg: Config, device: torch.device, longest: int) -> tuple[Any, list[Line]]:
    policy = memory.shape(cfg.policy)
    actor = memory.shape(cfg.actor) if isinstance(cfg.actor, ModelConfig) else None
    parts = memory.estimate(cfg, policy, actor, longest)
    engine = cfg.rollout.engine
    if engine.type == "vllm" and device.type == "cuda":  # takes its share, needed or not
        share = engine.memory * torch.cuda.get_device_properties(device).total_memory
        parts = {k: n for k, n in parts.items() if k not in ("engine's copy", "key-value cache")}
        parts["vLLM's share"] = int(share)
    needed, free = sum(parts.values()), memory.available(device)
    detail = ", ".join(f"{k} {_bytes(n)}" for k, n in sorted(parts.items(), key=lambda x: -x[1]))
    budget = f"about {_bytes(needed)} of {_bytes(free)} free on {device.type}: {detail}"
    remedy = (
        "lower --optim.microbatch.sequences (logits, activations) or "
        "--rollout.prompts_per_step (cache), train adapters (--policy.lora.rank), or use "
        "--policy.dtype bfloat16"
    )
    status = PROBLEM if needed > free else WARNING if needed > 0.8 * free else OK
    return (policy, actor), [Line("memory", status, budget, remedy if status != OK else "")]


def _disk(cfg: Config, policy: Any, actor: Any) -> Line:
    folder = Path(cfg.run.folder).absolute()
    there = next(p for p in (folder, *folder.parents) if p.is_dir())
    each, free = memory.checkpoint_bytes(cfg, policy, actor), shutil.disk_usage(there).free
    copies = cfg.run.checkpoints_kept + 1 + cfg.run.keep_best  # one more while it is written
    detail = f"{copies} checkpoints of {_bytes(each)}, {_bytes(free)} free in {there}"
    if copies * each > free:
        remedy = "free some, lower --run.checkpoints_kept, or set --run.keep_best False"
        return Line("disk", PROBLEM, detail, remedy)
    return Line("disk", OK, detail)


def _models(cfg: Config, scratch: Path) -> tuple[tuple[TrainContext, bool], list[Line]]:
    """Both models opened, and whether any is random, not being pretrained."""
    folder = Path(cfg.run.folder)
    roles = ["policy"] * (not cfg.policy.path)
    if isinstance(cfg.actor, ModelConfig) and not cfg.actor.path:
        roles.append("actor")
    finished = [pretraining.is_kept(cfg, role, folder) for role in roles]
    for role, is_there in zip(roles, finished, strict=True):
        if is_there:
            pretraining.pretrained(cfg, role, folder)  # refuses a damaged one
    is_random = not all(finished)
    if is_random:
        steps = {f"{role}_steps": 0 for role in roles}
        blank = PretrainConfig(**steps)  # type: ignore[arg-type]  # inside `scratch`
        cfg = dataclasses.replace(cfg, pretrain=blank)
    setup = open_context(cfg, scratch if is_random else folder)
    count = sum(p.numel() for p in setup.policy.parameters())
    trained = sum(p.numel() for p in setup.policy.parameters() if p.requires_grad)
    detail = f"policy of {count:,} parameters, {trained:,} trained; actor: {setup.actor.kind}"
    if is_random:
        detail += "; random weights here, as pretraining is not done yet"
    return (setup, is_random), [Line("models", OK, detail)]


def _positions(cfg: Config, policy: Any, actor: Any, longest: int) -> Line:
    by_role = {"policy": policy} | ({} if actor is None else {"actor": actor})
    check_positions(by_role, longest, cfg.rollout.max_new_tokens)
    needed = longest + cfg.rollout.max_new_tokens
    limits = ", ".join(f"{role}: {positions_of(m) or 'no limit'}" for role, m in by_role.items())
    return Line("positions", OK, f"longest prompt and completion: {needed} tokens ({limits})")


def _prompts(tokenizer: Any) -> list[Line]:
    """What ends and opens a turn of the chat template, and what in it depends on the day."""
    if not isinstance(tokenizer, HubTokenizer):
        return []
    lines = [] if tokenizer.closing() is None else [_end_of_turn(tokenizer)]
    if header := tokenizer.unopened():
        seen = (
            f"the chat template writes {header[:60]!r} before an answer, and ends a prompt without "
            "it, so a completion would have to begin with it"
        )
        remedy = "let the template write it where add_generation_prompt is set"
        lines.append(Line("chat template", WARNING, seen, remedy))
    if tokenizer.is_dated:
        day = tokenizer.today.isoformat()
        lines.append(Line("date", OK, f"the chat template names the day; this run keeps {day}"))
    return lines


def _end_of_turn(tokenizer: HubTokenizer) -> Line:
    """What closes an answer in the chat template, against what ends a completion: a model ends its
    answers as it was taught to."""
    closes, ends = tokenizer.end_of_turn(), sorted(tokenizer.eos)
    only = f"completions end only with the ids {ends}"
    if closes is not None and closes[0] in ends:
        return Line("end of turn", OK, f"{closes[1]!r} ends a completion (ends: {ends})")
    if closes is not None:
        seen = (
            f"the chat template closes an answer with {closes[1]!r} (id {closes[0]}), and {only}: "
            "they would run to max_new_tokens and score 0"
        )
        remedy = "add that id to eos_token_id in generation_config.json"
        return Line("end of turn", PROBLEM, seen, remedy)
    text = tokenizer.closing()
    what = f"the plain text {text[:40]!r}" if text else "nothing"
    remedy = (
        "see whether the model ends its answers (the line completions here, finished in "
        "metrics.jsonl); if it does not, give it the template that it was trained with"
    )
    seen = f"the chat template closes an answer with {what}, and {only}"
    return Line("end of turn", WARNING, seen, remedy)


def _self_test(setup: TrainContext) -> tuple[dict[str, Any], list[Line]]:
    difference = self_test.self_test(setup)
    text = (
        f"log p_inf and log p_ref differ by at most {difference['max']:.2g} nats on "
        f"{difference['tokens']} tokens, by {difference['passes']:.2g} between passes of other "
        f"lengths, with padding and with a cache, allowed {difference['tolerance']:g}"
    )
    return difference, [Line("self-test", OK, text)]


def _step(setup: TrainContext, scratch: Path, is_random: bool) -> list[Line]:
    cfg, row = setup.cfg, dry_step(setup, scratch)
    peak = ""
    if setup.device.type == "cuda":
        peak = f", {_bytes(torch.cuda.max_memory_allocated(setup.device))} of GPU memory"
    seconds = row["seconds_rollout"] + row["seconds_update"]
    sequences = cfg.rollout.prompts_per_step * cfg.rollout.rollouts_per_prompt
    evaluations = cfg.run.steps // cfg.run.eval_every + 1
    each = row["seconds_rollout"] * cfg.run.eval_prompts / sequences * cfg.run.eval_completions
    both = 1 if setup.actor.kind == "self" else 2
    total = seconds * cfg.run.steps + both * each * evaluations
    detail = (
        f"{seconds:.2g} s ({row['tokens']} tokens{peak}); {cfg.run.steps} steps and {evaluations} "
        f"evaluations take roughly {_duration(total)}" + ", pretraining apart" * is_random
    )
    lines = [Line("one step", OK, detail)]
    if isinstance(cfg.reward, OwnReward):
        lines.append(_reward_function(row, sequences))
    if is_random:
        return lines  # what random models sample says nothing about the run
    if isinstance(cfg.actor, ModelConfig) and isinstance(setup.tokenizer, HubTokenizer):
        lines += _strangers(row, setup.tokenizer.vocab_size)
    if row["groups_informative"] == 0:
        lines.append(
            Line(
                "rewards",
                WARNING,
                f"all completions of each prompt have one reward (mean {row['reward_mean']:.3g}): "
                "no advantage, nothing to learn from in this step",
                "choose easier problems, more --rollout.rollouts_per_prompt, or look at the scorer",
            )
        )
    if row["finished"] < 0.5:
        lines.append(
            Line(
                "completions",
                WARNING,
                f"only {row['finished']:.0%} end themselves within max_new_tokens; the others "
                "score 0",
                "raise --rollout.max_new_tokens, or look at the chat template",
            )
        )
    _, fired, decision = alarms.next_alarms(cfg.alarm, alarms.AlarmState(), row)
    if fired and decision is not None:
        lines.append(Line("alarms", WARNING, f"{decision.reason} in the first step", "set others"))
    return lines


def _strangers(row: dict[str, Any], ids: int) -> list[Line]:
    """Whether the policy gives the actor's tokens less than chance does, 1 / ids.

    No two models of one family do so. A head whose ids are in another order than its tokenizer's
    does, and so does a mask of the policy over what the actor says.
    """
    gap, chance = row.get("kl_inf_target_k3", 0.0), math.log(ids)
    # where a few tokens of large p / q make the estimate, that of KL(policy || actor) is larger
    if gap <= chance or row["kl_target_inf_est"] > gap:
        return []
    seen = (
        f"KL(actor || policy) is about {gap:.3g} nats per token, and {chance:.3g} between one sure "
        "token and chance: the ids of one of the two seem to mean other tokens"
    )
    remedy = "look at where the actor's weights and tokenizer are from; take two of one family"
    return [Line("actor", PROBLEM, seen, remedy)]


def _reward_function(row: dict[str, Any], sequences: int) -> Line:
    """How many of a step's rewards failed; which and why the scorer has written to stderr."""
    failed = {k: row[k] for k in ("score_errors", "score_timeouts", "score_crashes")}
    total = sum(failed.values())
    kinds = ", ".join(f"{n} {name}" for name, n in failed.items() if n)
    if not total:
        return Line("reward", OK, f"the function gave {sequences} rewards")
    return Line(
        "reward",
        PROBLEM if total == sequences else WARNING,
        f"the function failed for {total} of {sequences} completions ({kinds})",
        "see the messages above; raise --reward.seconds or --reward.memory, or mend the function",
    )


def _bytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
