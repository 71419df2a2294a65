"""`python -m llm eval RUN`: mean@k and pass@k of a run's checkpoint, on its own or any task."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm import settings
from llm.phases import during
from llm.regular_files import read_json
from llm.runs.first_checks import usable_cores
from llm.settings.loading import Config, ConfigError, ModelConfig
from llm.settings.paths import path_of
from llm.settings.schema import FunctionReward, OwnReward
from llm.settings.validation import flatten

if TYPE_CHECKING:
    from llm.training.context import TrainContext

_SECTIONS = ("--task.", "--reward.")
_OVERRIDES = ("--rollout.temperature", "--rollout.max_new_tokens", "--run.device")
_PROG = "python -m llm eval"
_RETRIES = 2  # a run in progress drops and replaces checkpoints


def main(argv: list[str]) -> int:
    """Evaluate, print a table, append to eval.json and draw eval.png; returns 0.

    The table comes first: what was computed is not lost where the folder cannot be written.
    """
    flags, rest = split_overrides(argv)
    args = _parser().parse_args(rest)
    for name, least in (("prompts", 1), ("samples", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    if not (args.run / "config.toml").is_file():
        raise ConfigError(f"{args.run} is not a run folder: it holds no config.toml")
    own = settings.load([args.run / "config.toml"], [], prog=_PROG)
    cfg = settings.load([args.run / "config.toml"], flags, prog=_PROG)
    check_allowed(cfg, flags, args.allow_reward_function)
    out = args.out or args.run
    earlier = _read_entries(out / "eval.json")
    setup, step, checkpoint = _open(own, cfg, args.run, args.checkpoint)
    try:
        results, by_set = _evaluate(setup, args.prompts, args.samples, args.seed)
        counts = setup.scorer.counts()
    finally:
        setup.scorer.close()
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "checkpoint": checkpoint.name,
        "step": step,
        "seed": args.seed,
        "overrides": flags,
        "task": {k: v for k, v in flatten(cfg).items() if k.startswith(("task.", "reward."))},
        "reward_function": cfg.reward.name if isinstance(cfg.reward, OwnReward) else "",
        "temperature": cfg.rollout.temperature,
        "max_new_tokens": cfg.rollout.max_new_tokens,
        "models": results,
        **({"sets": by_set} if by_set else {}),
        **counts,
    }
    sys.stdout.write(table(entry))
    sys.stdout.flush()
    _save(out, [*earlier, entry], results)
    sys.stdout.write(f"wrote {out / 'eval.json'} and {out / 'eval.png'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROG,
        allow_abbrev=False,
        description="mean@k and pass@k (unbiased) of a run's checkpoint on held-out problems, with "
        "95 % intervals. --task.* and --reward.* settings, --rollout.temperature, "
        "--rollout.max_new_tokens and --run.device replace the run's own, so a run can be "
        "evaluated on any task.",
    )
    parser.add_argument("run", type=path_of, help="run folder")
    parser.add_argument(
        "--prompts", type=int, default=500, help="held-out prompts of each set (default 500)"
    )
    parser.add_argument("--samples", type=int, default=4, help="samples per prompt (default 4)")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of prompts, samples and intervals (default 1)"
    )
    parser.add_argument(
        "--allow-reward-function",
        action="store_true",
        help="execute the reward function that the run's config.toml names",
    )
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest")
    parser.add_argument(
        "--out", type=path_of, help="folder of eval.json and eval.png (default RUN)"
    )
    return parser


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """Flags that replace settings of the run, with their values; and all the rest.

    Raises:
        ConfigError: a setting that an evaluation does not read.
    """
    flags, rest = [], []
    words = iter(argv)
    for word in words:
        name = word.split("=")[0].replace("-", "_").replace("__", "--", 1)
        if not name.startswith("--") or "." not in name:
            rest.append(word)
            continue
        if not (name.startswith(_SECTIONS) or name in _OVERRIDES):
            raise ConfigError(
                f"{word} does nothing in an evaluation; these settings can be replaced: --task.*, "
                f"--reward.*, {', '.join(_OVERRIDES)}"
            )
        flags.append(word)
        if "=" not in word:
            flags += [value for value in (next(words, None),) if value is not None]
    return flags, rest


def check_allowed(cfg: Config, flags: list[str], allowed: bool) -> None:
    """Refuse to execute a function that only the run's own config.toml names.

    A run folder may be somebody else's. What a flag names is the user's own wish.

    Raises:
        ConfigError: naming the function and what to do.
    """
    named = any(flag.split("=")[0] == "--reward.function" for flag in flags)
    if isinstance(cfg.reward, FunctionReward) and not named and not allowed:
        raise ConfigError(
            f"the run's config.toml names a reward function, {cfg.reward.function}, whose code "
            "this evaluation would execute. Look at it, then give --allow-reward-function; or give "
            "another --reward.function, or a scorer, which executes nothing: --reward.type auto"
        )


def open_evaluation(
    own: Config, cfg: Config, folder: Path, checkpoint: Path
) -> tuple[TrainContext, int]:
    """Models as the run's settings say, from a checkpoint; task and sampling as `cfg` says.

    Returns:
        The setup, and the step of the checkpoint.
    """
    import torch

    from llm.checkpoints.checkpoint import load_state
    from llm.models import roles
    from llm.models.actors import Actor
    from llm.rewards import scorers
    from llm.tasks import factory
    from llm.training.context import TrainContext, open_device

    if cfg.task.digit_synonyms != own.task.digit_synonyms:
        raise ConfigError(
            f"--task.digit_synonyms {cfg.task.digit_synonyms} makes a vocabulary that differs from "
            "that of the run's models, which were built with task.digit_synonyms "
            f"{own.task.digit_synonyms}: leave it out"
        )
    torch.set_num_threads(min(cfg.run.threads, usable_cores()))  # perhaps another machine's run
    device = open_device(cfg.run.device)
    tokenizer = roles.open_tokenizer(cfg, folder)
    task = factory.open_task(cfg.task, tokenizer, cfg.reward)
    policy = roles.open_shell(own, "policy", folder)
    actor = Actor("self", policy)
    parts = {"policy": policy}
    if isinstance(own.actor, ModelConfig):  # a frozen actor is in no checkpoint
        opened = roles.open_shell if own.actor.trained else roles.open_model
        actor = Actor(own.actor.type, opened(own, "actor", folder))
        parts |= actor.parts()
    state = load_state(checkpoint, parts)
    for model in (policy, actor.model):
        model.to(device)
    scorer = scorers.open_scorer(cfg.task, tokenizer, cfg.reward)
    return TrainContext(cfg, tokenizer, task, scorer, policy, actor, None, device), int(
        state["step"]
    )


def _open(own: Config, cfg: Config, folder: Path, which: str) -> tuple[TrainContext, int, Path]:
    """`open_evaluation` of the newest or best checkpoint, once more where the run replaced it."""
    from llm.errors import CheckpointError

    for retries in reversed(range(_RETRIES + 1)):
        checkpoint = _checkpoint(folder, which)
        before = _written(checkpoint)
        try:
            with during("while models and data were opened"):
                return *open_evaluation(own, cfg, folder, checkpoint), checkpoint
        except CheckpointError:
            damaged = before is not None and _written(checkpoint) == before
            if damaged or retries == 0:
                raise
    raise AssertionError("unreachable")


def _written(checkpoint: Path) -> tuple[int, int] | None:
    """What tells a checkpoint from its successor of the same name; None if it is gone."""
    try:
        status = (checkpoint / "manifest.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _evaluate(
    setup: TrainContext, prompts: int, samples: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summaries by model; and the same for each of several evaluation sets."""
    from llm.training.evaluation import sample_scores

    sets = setup.task.held_out_sets(seed, prompts)
    problems = [problem for own in sets.values() for problem in own]
    evaluated = {"policy": setup.policy}
    if setup.actor.kind != "self":
        evaluated["actor"] = setup.actor.model
    results: dict[str, Any] = {}
    by_set: dict[str, Any] = {label: {} for label in sets}
    for name, model in evaluated.items():
        try:
            with during(f"in the evaluation of the {name}"):
                scores = sample_scores(model, setup, problems, samples, seed)  # (problems, samples)
        except BaseException:  # of memory, or a signal: what is computed is not lost with the rest
            sys.stdout.write("".join(f"{line}\n" for line in _lines(results, False)))
            raise
        results[name], first = _summary(scores, seed), 0
        for label, own in sets.items():
            by_set[label][name] = _summary(scores[first : first + len(own)], seed)
            first += len(own)
    return results, by_set if len(by_set) > 1 else {}


def _summary(scores: Any, seed: int) -> dict[str, Any]:
    """mean@k and pass@k of scores (problems, samples), and their mean."""
    from llm.report.pass_at_k import summary

    right = scores >= 1.0  # a full score, or a reward of at least 1
    return summary(right, seed) | {"score_mean": float(scores.mean())}


def _checkpoint(folder: Path, which: str) -> Path:
    from llm.checkpoints import checkpoint

    find = checkpoint.best if which == "best" else checkpoint.latest
    # twice: between listing and looking, the only one may give way to its successor
    path = find(folder / "checkpoints") or find(folder / "checkpoints")
    if path is None:
        hint = "; try --checkpoint newest" if which == "best" else ""
        raise ConfigError(f"{folder} holds no complete {which} checkpoint{hint}")
    return path


def _read_entries(path: Path) -> list[Any]:
    try:
        entries = read_json(path) if path.exists() else []
        if not isinstance(entries, list):
            raise ValueError("it holds no list")
    except (OSError, ValueError) as e:
        raise ConfigError(f"{path} cannot be added to ({e}); move it away") from e
    return entries


def _save(folder: Path, entries: list[Any], results: dict[str, Any]) -> None:
    from llm.checkpoints.atomic_files import write_json
    from llm.report import plots
    from llm.report.run_files import write

    curves = [(name, s["pass_at_k"]) for name, s in results.items()]
    try:
        write_json(folder / "eval.json", entries)
    except OSError as e:
        raise ConfigError(
            f"cannot write {folder / 'eval.json'}: {e.strerror}. The results are printed above; "
            "--out FOLDER writes them elsewhere"
        ) from e
    write(folder / "eval.png", plots.pass_at_k(curves), follow=False)


def table(entry: dict[str, Any]) -> str:
    """What an entry of eval.json says, for a terminal."""
    lines = [
        f"{entry['checkpoint']} (step {entry['step']}), task {entry['task']['task.type']}, "
        f"temperature {entry['temperature']:g}, 95 % intervals"
    ]
    models = dict(entry["models"])
    for label, of_set in entry.get("sets", {}).items():
        models |= {f"{name} on {label}": s for name, s in of_set.items()}
    return "\n".join(lines + _lines(models, bool(entry.get("reward_function")))) + "\n"


def _lines(models: dict[str, Any], has_function: bool) -> list[str]:
    """Of summaries by model."""
    lines = []
    for name, s in models.items():
        lines.append(f"{name}: {s['prompts']} held-out prompts, {s['samples']} samples each")
        if has_function:
            lines.append(f"  reward   {s['score_mean']:.3f} on average; below, right is 1 or more")
        rows = [("mean@1", s["mean_at_1"])]
        if s["samples"] > 1:
            rows.append((f"mean@{s['samples']}", s["mean_at_k"]))
            rows += [(f"pass@{p['k']}", p) for p in s["pass_at_k"] if p["k"] > 1]
        for label, r in rows:
            lines.append(f"  {label:<9}{r['value']:.3f}  {r['low']:.3f} to {r['high']:.3f}")
    return lines
