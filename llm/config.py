"""Every setting of a run, its default, its bounds, and the one parser for files and flags.

A TOML file is turned into flags (`[correction] lam = 1.2` -> `--correction.lam 1.2`) and the user's
own flags follow, so one parser checks both and the last word wins.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints


@dataclass(frozen=True)
class TaskConfig:
    name: Literal["chain"] = "chain"
    """chain: a prompt of digits; the answer is their running sums modulo 10."""
    digits_min: int = 8
    """Fewest digits in a prompt."""
    digits_max: int = 8
    """Most digits in a prompt."""


@dataclass(frozen=True)
class ModelConfig:
    path: str = ""
    """Folder with a transformers causal language model (safetensors); empty: build and warm up."""
    layers: int = 2
    """Decoder layers of a built model (Qwen3 architecture)."""
    width: int = 64
    """Hidden size of a built model; must be a multiple of 16."""


@dataclass(frozen=True)
class WarmupConfig:
    folder: str = ""
    """Where warmed-up models are kept and found again; empty: inside the run folder."""
    policy_steps: int = 400
    """Supervised steps of the policy before reinforcement learning."""
    actor_steps: int = 600
    """Supervised steps of the actor."""
    batch_size: int = 128
    """Demonstrations per supervised step."""
    lr: float = 3e-3
    """Highest learning rate of both (Adam); rises over 20 steps, then falls linearly to a tenth."""
    policy_error: float = 0.15
    """Share of steps at which a demonstration for the policy goes wrong (and stays wrong)."""
    actor_error: float = 0.25
    """The same for the actor: more errors make a weaker actor and a larger mismatch."""


@dataclass(frozen=True)
class RolloutConfig:
    source: Literal["actor", "policy"] = "actor"
    """Who samples: the actor (Jackpot), or the policy itself (on-policy baseline)."""
    prompts_per_step: int = 16
    """Distinct prompts per step."""
    rollouts_per_prompt: int = 8
    """Completions per prompt: the group whose mean reward is the baseline."""
    temperature: float = 1.0
    """Of the distribution sampled from, and of every log-probability trained on."""
    top_k: int = 20
    """Log-probabilities of q kept per position, those of its k likeliest tokens."""
    max_new_tokens: int = 12
    """Longest completion, in tokens, end-of-sequence included."""


@dataclass(frozen=True)
class CorrectionConfig:
    name: Literal["none", "importance", "tis", "icepop", "jackpot"] = "jackpot"
    """F of Sec. 2.2, or Jackpot's rejection and weight (Eq. 5)."""
    target: Literal["ref", "new"] = "ref"
    """p of the ratio p/q: the policy before the updates, or the one being updated (Sec. 4.3).
    The same thing while updates_per_rollout is 1."""
    lam: float = 1.0
    """OBRS threshold (jackpot). Not given in the paper."""
    mask: Literal["bernoulli", "expected"] = "bernoulli"
    """Draw the acceptance coin, or use its expectation (jackpot)."""
    z: Literal["state", "batch"] = "state"
    """Z per state from top-k (the paper), or the batch's acceptance rate (unbiased) (jackpot)."""
    z_tail: Literal["lumped", "dropped"] = "lumped"
    """Tokens outside the top k: counted as one token, or left out as in the paper (z = state)."""
    kappa: bool = True
    """Calibrate Z per state by the batch's acceptance (z = state)."""
    c1: float = 3.0
    """Cap on the OBRS weight; inf: none (jackpot). Not given in the paper."""
    c2: float = 3.0
    """Cap on p_ref / p_new; inf: none (target = new). Not given in the paper."""
    tis_cap: float = 2.0
    """Largest weight of tis."""
    icepop_low: float = 0.5
    """Smallest ratio icepop keeps."""
    icepop_high: float = 2.0
    """Largest ratio icepop keeps."""


@dataclass(frozen=True)
class LossConfig:
    clip_low: float = 0.2
    """PPO clips the ratio p_new / p_ref below at 1 - clip_low; inf: no clip."""
    clip_high: float = 0.2
    """PPO clips the ratio above at 1 + clip_high; inf: no clip."""
    updates_per_rollout: int = 1
    """Optimiser steps per rollout batch, each on its share of the sequences."""
    denominator: Literal["proposed", "accepted"] = "proposed"
    """Policy loss per proposed token, or per accepted one (jackpot)."""
    actor_ppo: bool = True
    """Train the actor by PPO on its own rollouts (Eq. 6)."""
    distill_coef: float = 1.0
    """Weight of KL(policy || actor) in the actor's loss (Eq. 7); 0: none. The paper gives none."""


@dataclass(frozen=True)
class OptimConfig:
    policy_lr: float = 2e-4
    """Learning rate of the policy (AdamW, betas 0.9 and 0.95, no weight decay)."""
    actor_lr: float = 6e-4
    """Learning rate of the actor."""
    grad_clip: float = 1.0
    """Largest norm of each model's gradient."""
    sequences_per_microbatch: int = 0
    """Sequences per forward pass; 0: all of an update's. Changes memory, not the result."""


@dataclass(frozen=True)
class RunConfig:
    folder: str = "runs/default"
    """Where everything of this run is written; an interrupted run there goes on."""
    steps: int = 300
    """Rollout batches."""
    seed: int = 0
    """Of every random stream."""
    eval_every: int = 10
    """Steps between evaluations; the first is before training, the last after it."""
    eval_prompts: int = 384
    """Held-out prompts per evaluation, one completion each."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step always has one."""
    threads: int = 1
    """Torch threads."""


@dataclass(frozen=True)
class Config:
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: ModelConfig = field(default_factory=ModelConfig)
    actor: ModelConfig = field(default_factory=lambda: ModelConfig(layers=1, width=32))
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        _check_bounds(self)
        _check_effect(self)

    @property
    def actor_is_trained(self) -> bool:
        return self.loss.actor_ppo or self.loss.distill_coef > 0


class ConfigError(ValueError):
    """A setting that is out of bounds, unknown, or without effect."""


_POSITIVE = (
    "task.digits_min task.digits_max policy.layers policy.width actor.layers actor.width "
    "warmup.batch_size warmup.lr rollout.prompts_per_step rollout.temperature rollout.top_k "
    "rollout.max_new_tokens correction.lam correction.c1 correction.c2 correction.tis_cap "
    "correction.icepop_high loss.clip_low loss.clip_high loss.updates_per_rollout optim.policy_lr "
    "optim.actor_lr optim.grad_clip run.steps run.eval_every run.eval_prompts run.checkpoint_every "
    "run.threads"
).split()
_NOT_NEGATIVE = (
    "warmup.policy_steps warmup.actor_steps loss.distill_coef correction.icepop_low run.seed "
    "optim.sequences_per_microbatch"
).split()
_MAY_BE_INFINITE = {
    "correction.c1",
    "correction.c2",
    "correction.tis_cap",
    "correction.icepop_high",
}
_MAY_BE_INFINITE |= {"loss.clip_low", "loss.clip_high", "optim.grad_clip"}
_SHARES = ("warmup.policy_error", "warmup.actor_error")


def _check_bounds(cfg: Config) -> None:
    flat = flatten(cfg)
    for key, value in flat.items():
        if isinstance(value, float):
            finite = math.isfinite(value) or (value == math.inf and key in _MAY_BE_INFINITE)
            _require(finite, key, value, "a finite number")
    for key in _POSITIVE:
        _require(flat[key] > 0, key, flat[key], "greater than 0")
    for key in _NOT_NEGATIVE:
        _require(flat[key] >= 0, key, flat[key], "at least 0")
    for key in ("warmup.lr", "optim.policy_lr", "optim.actor_lr"):
        _require(flat[key] <= 10, key, flat[key], "at most 10")
    for key in _SHARES:
        _require(0 <= flat[key] <= 1, key, flat[key], "between 0 and 1")
    for key in ("policy.width", "actor.width"):
        _require(flat[key] % 16 == 0, key, flat[key], "a multiple of 16")
    t, r, c = cfg.task, cfg.rollout, cfg.correction
    _require(t.digits_min <= t.digits_max, "task.digits_max", t.digits_max, ">= task.digits_min")
    longest = t.digits_max + 1
    _require(
        r.max_new_tokens >= longest,
        "rollout.max_new_tokens",
        r.max_new_tokens,
        f"at least {longest}: the longest answer and its end-of-sequence token",
    )
    per_prompt = r.rollouts_per_prompt
    _require(per_prompt >= 2, "rollout.rollouts_per_prompt", per_prompt, "at least 2 (a group)")
    _require(
        c.icepop_low <= c.icepop_high, "correction.icepop_high", c.icepop_high, ">= icepop_low"
    )
    sequences, updates = r.prompts_per_step * per_prompt, cfg.loss.updates_per_rollout
    _require(
        sequences % updates == 0,
        "loss.updates_per_rollout",
        updates,
        f"a divisor of the {sequences} sequences per step",
    )


def _require(ok: bool, key: str, found: Any, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"--{key} must be {wanted}, got {found}")


def _check_effect(cfg: Config) -> None:
    """A setting changed from its default that nothing would read is an error, not a no-op."""
    c = cfg.correction
    jackpot, per_state = c.name == "jackpot", c.name == "jackpot" and c.z == "state"
    has_actor = cfg.rollout.source == "actor"
    warm_policy = not cfg.policy.path and cfg.warmup.policy_steps > 0
    warm_actor = has_actor and not cfg.actor.path and cfg.warmup.actor_steps > 0
    needs = [
        ("correction.lam correction.mask correction.z correction.c1", jackpot, "name = jackpot"),
        ("loss.denominator", jackpot, "correction.name = jackpot (nothing else rejects)"),
        ("correction.z_tail correction.kappa", per_state, "name = jackpot and z = state"),
        ("correction.target", c.name != "none", "a correction other than none"),
        ("correction.c2", c.target == "new", "target = new"),
        ("correction.tis_cap", c.name == "tis", "name = tis"),
        ("correction.icepop_low correction.icepop_high", c.name == "icepop", "name = icepop"),
        ("optim.actor_lr", cfg.actor_is_trained, "a trained actor (actor_ppo or distill_coef > 0)"),
        ("actor.layers actor.width actor.path warmup.actor_steps", has_actor, "an actor"),
        ("warmup.policy_steps", not cfg.policy.path, "an empty policy.path"),
        ("warmup.actor_steps", not cfg.actor.path, "an empty actor.path"),
        ("warmup.policy_error", warm_policy, "a warm-up of the policy"),
        ("warmup.actor_error", warm_actor, "a warm-up of the actor"),
        ("warmup.lr warmup.batch_size", warm_policy or warm_actor, "a warm-up"),
        ("policy.layers policy.width", not cfg.policy.path, "an empty policy.path"),
        ("actor.layers actor.width", not cfg.actor.path, "an empty actor.path"),
    ]
    found, default = flatten(cfg), _defaults()
    for keys, met, condition in needs:
        for key in keys.split():
            if not met and found[key] != default[key]:
                raise ConfigError(
                    f"--{key} {found[key]} would have no effect: it needs {condition}. "
                    f"Remove it, or change that"
                )
    if cfg.rollout.source == "policy":
        if cfg.actor_is_trained or c.name != "none":
            raise ConfigError(
                "--rollout.source policy samples from the policy itself, so there is no actor to "
                "train and no mismatch to correct: set --correction.name none, "
                "--loss.actor_ppo False and --loss.distill_coef 0"
            )


def _defaults() -> dict[str, Any]:
    """The defaults, flat, without running the checks again."""
    plain = object.__new__(Config)
    for f in dataclasses.fields(Config):
        object.__setattr__(plain, f.name, f.default_factory())  # type: ignore[operator,misc]
    return flatten(plain)


def flatten(cfg: Config) -> dict[str, Any]:
    """{'section.name': value} in the order of declaration."""
    return {
        f"{section.name}.{f.name}": getattr(getattr(cfg, section.name), f.name)
        for section in dataclasses.fields(cfg)
        for f in dataclasses.fields(getattr(cfg, section.name))
    }


def load(files: list[str], flags: list[str], prog: str = "python -m llm train") -> Config:
    """Read TOML files, then flags; the last word wins.

    Raises:
        ConfigError: a file that is missing or not TOML, an unknown key (with a suggestion), a
            value of the wrong type, out of bounds, or without effect.
        SystemExit: from the flag parser, for the same faults in a flag, or for --help.
    """
    import tyro

    args = [arg for name in files for arg in _file_flags(Path(name))]
    return tyro.cli(
        Config,
        args=args + flags,
        prog=prog,
        description="Train a policy from another model's rollouts.",
        config=(tyro.conf.FlagConversionOff,),
    )


def _file_flags(path: Path) -> list[str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read config file {path}: {e.strerror}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not TOML: {e}") from e
    types = {
        f"{section}.{name}": kind
        for section, cls in get_type_hints(Config).items()
        for name, kind in get_type_hints(cls).items()
    }
    flags = []
    for section, values in table.items():
        for name, value in (values if isinstance(values, dict) else {"": values}).items():
            key = f"{section}.{name}".rstrip(".")
            if key not in types:
                raise ConfigError(f"{path}: unknown key {key}{_suggestion(key, list(types))}")
            _check_type(path, key, value, types[key])
            flags += [f"--{key}", str(value)]
    return flags


def _check_type(path: Path, key: str, value: Any, kind: Any) -> None:
    """A number given as text, or a float where a count belongs, is refused before the parser."""
    allowed = {int: (int,), float: (int, float), bool: (bool,)}.get(kind, (str,))
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "str")
        raise ConfigError(f"{path}: {key} must be a {wanted}, got {value!r}")


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    same_name = [k for k in known if k.split(".")[-1] == key.split(".")[-1]]
    best = same_name or close
    return f"; perhaps you meant {best[0]}?" if best else "; see python -m llm train --help"


def dump(cfg: Config) -> str:
    """The resolved configuration as TOML that `load` reads back to an equal one."""
    lines = []
    for section in dataclasses.fields(cfg):
        lines.append(f"[{section.name}]")
        part = getattr(cfg, section.name)
        lines += [f"{f.name} = {_toml(getattr(part, f.name))}" for f in dataclasses.fields(part)]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
