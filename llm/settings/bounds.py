"""The bounds of single settings, and of pairs: tables, their check, and their words for a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm.errors import ConfigError

from .schema import DIGIT_SYNONYMS_MAX
from .sections import short_repr

_POSITIVE = (
    "task.digits_min task.digits_max task.digit_synonyms task.prompt_tokens_max task.size "
    "reward.seconds reward.characters reward.characters_max reward.workers "
    "policy.layers policy.width policy.lora.rank policy.lora.alpha actor.layers actor.width "
    "actor.lora.rank actor.lora.alpha actor.lag actor.exit_layers "
    "actor.noise actor.lr actor.distill.coef actor.distill.temperature actor.correction.cap "
    "actor.correction.high pretrain.batch_size pretrain.lr rollout.prompts_per_step "
    "rollout.temperature rollout.top_k rollout.max_new_tokens rollout.engine.timeout "
    "rollout.allocation.rollouts_min rollout.allocation.rollouts_max rollout.allocation.window "
    "rollout.allocation.failure_steps rollout.down_sampling.keep "
    "rollout.mode.block.length rollout.mode.block.length_max rollout.mode.lam.value "
    "rollout.mode.lam.budget rollout.mode.lam.gain rollout.mode.lam.min rollout.mode.lam.max "
    "rollout.mode.lam.price rollout.engine.memory correction.lam.value correction.lam.budget "
    "correction.lam.min "
    "correction.lam.max correction.c1 correction.target.c2 correction.cap correction.high "
    "objective.clip_low objective.clip_high objective.cap objective.share objective.low_step "
    "objective.high_step objective.value_rollouts objective.baseline.coef actor.clip_low "
    "actor.clip_high "
    "loss.updates_per_rollout control.kl_target control.gain "
    "optim.policy_lr optim.eps optim.grad_clip optim.microbatch.tokens alarm.kl_max "
    "alarm.ratio_max alarm.patience alarm.action.factor run.steps run.eval_every run.eval_prompts "
    "run.eval_completions run.stop_seconds run.checkpoint_every run.checkpoints_kept run.threads"
).split()
_NOT_NEGATIVE = (
    "task.pool task.pad_prompt_to reward.memory "
    "actor.distill.top_k "
    "objective.divergence.delta objective.tau objective.sequence_mask.delta objective.low_min "
    "objective.value_beta objective.gamma_beta_ratio objective.alpha "
    "objective.ess_min objective.decay "
    "actor.correction.low pretrain.policy_steps pretrain.actor_steps rollout.max_staleness "
    "correction.lam.decay correction.low loss.initial_kl_coef optim.lr_warmup_steps "
    "optim.weight_decay optim.microbatch.sequences alarm.accept_min alarm.entropy_min "
    "alarm.action.lowerings_max run.seed run.eval_updates run.samples_kept run.self_test_max"
).split()
_MAY_BE_INFINITE = (
    "correction.c1 correction.target.c2 correction.high actor.correction.high "
    "objective.clip_low objective.clip_high objective.cap actor.clip_low actor.clip_high "
    "optim.grad_clip alarm.kl_max alarm.ratio_max"
).split()
_FLOAT32_MAX = 3e38
_FLOAT32_MIN = 1.2e-38  # what is smaller loses digits or is 0 there
TEMPERATURE_MIN, TEMPERATURE_MAX = 1e-6, 1e6
_AT_MOST = {
    "task.digit_synonyms": DIGIT_SYNONYMS_MAX,
    "pretrain.lr": 10,
    "optim.policy_lr": 10,
    "actor.lr": 10,
    "optim.weight_decay": 1,
    "optim.eps": 1,
    "rollout.max_staleness": 64,
    # logits over the temperature must stay finite in float32, and differ at all
    **dict.fromkeys(("rollout.temperature", "actor.distill.temperature"), TEMPERATURE_MAX),
    "rollout.engine.memory": 1,
    # seconds, more than a week: beyond any use, and less than a clock of the system can hold
    **dict.fromkeys(("rollout.engine.timeout", "reward.seconds"), 1_000_000),
    "run.stop_seconds": 1_000_000,
    "objective.ess_min": 1,
    "objective.value_rollouts": 10_000,
    **dict.fromkeys(("correction.lam.budget", "rollout.mode.lam.budget"), 1),
    "rollout.mode.lam.value": 1,
    "rollout.mode.lam.gain": 1,
    "objective.share": 1,
    "objective.low_max": 1,
    "alarm.accept_min": 1,
    # Beyond any use, and more than a machine holds: a slip of a digit is said, not tried for hours
    **dict.fromkeys(("policy.layers", "actor.layers"), 1_000),
    **dict.fromkeys(("policy.width", "actor.width"), 65_536),
    **dict.fromkeys(("policy.lora.rank", "actor.lora.rank", "actor.lag", "run.threads"), 4_096),
    "reward.workers": 1_024,
    "reward.characters": 1_000,
    **dict.fromkeys(("task.digits_min", "task.digits_max", "task.pad_prompt_to"), 10_000),
    **dict.fromkeys(("rollout.prompts_per_step", "rollout.rollouts_per_prompt"), 1_000_000),
    **dict.fromkeys(("pretrain.batch_size", "rollout.top_k", "task.pool"), 10_000_000),
    "task.size": 1_000_000,  # problems that are generated before the run, in minutes
    "reward.memory": 1_000_000_000,  # MiB: in bytes a number that the system can read
    **dict.fromkeys(("rollout.allocation.window", "rollout.allocation.failure_steps"), 1_000),
    **dict.fromkeys(("task.prompt_tokens_max", "rollout.max_new_tokens"), 10_000_000),
    **dict.fromkeys(("run.eval_prompts", "run.eval_completions"), 10_000_000),
}
_AT_LEAST = {
    **dict.fromkeys(("rollout.temperature", "actor.distill.temperature"), TEMPERATURE_MIN),
    # AdamW moves a weight by about the rate, and less than 1e-12 leaves one of 1e-4 as it is
    **dict.fromkeys(("optim.policy_lr", "actor.lr", "pretrain.lr"), 1e-12),
    "reward.seconds": 1e-3,  # in less no call ends
    "rollout.engine.timeout": 0.1,
}
_BELOW_ONE = ("correction.lam.decay", "alarm.action.factor", "objective.decay")
_ABOVE = {"rollout.allocation.concentration": 2, "control.factor_max": 1}
_SHARES = ("pretrain.policy_error", "pretrain.actor_error")
_MULTIPLES_OF_16 = ("policy.width", "actor.width")
_INSTEAD_OF_INFINITY = {  # where none is a type
    "objective.divergence.delta": " (--objective.divergence.type none leaves no token out)",
    "correction.cap": " (--correction.type importance has no cap)",
    "actor.correction.cap": " (--actor.correction.type importance has no cap)",
}
_NOT_ABOVE = (  # pairs of a lower and an upper setting
    ("correction.low", "correction.high"),
    ("actor.correction.low", "actor.correction.high"),
    ("correction.lam.min", "correction.lam.max"),
    ("objective.low_min", "objective.low_max"),
    ("objective.high_min", "objective.high_max"),
)
_BELOW = (  # pairs that may not be equal either, and what is said then
    (
        "correction.lam.min",
        "correction.lam.max",
        "above correction.lam.min: a lam that cannot move is --correction.lam.type fixed",
    ),
    ("correction.low", "correction.high", "above correction.low, or nothing is kept"),
    (
        "actor.correction.low",
        "actor.correction.high",
        "above actor.correction.low, or nothing is kept",
    ),
)
# Checked where the other settings are at hand (validation.py, rollout_rules.py); words for a page.
_CHECKED_WITH_OTHERS = {
    "task.digits_max": "at least task.digits_min",
    "task.pad_prompt_to": "0, or at least task.digits_max",
    "task.source": "not empty",
    "reward.function": "FILE.py:NAME or package.module:NAME",
    "actor.exit_layers": "below policy.layers",
    "actor.correction.high": "finite where actor.correction.low is 0",
    "correction.high": "finite where correction.low is 0",
    "objective.divergence.delta": "below 1 for a total variation",
    "rollout.mode.block.length": "at most rollout.max_new_tokens",
    "rollout.mode.block.length_max": "above rollout.mode.block.length, "
    "at most rollout.max_new_tokens",
    "rollout.down_sampling.keep": "at least 2, below rollout.rollouts_per_prompt",
    "rollout.pruning.prompt_rate": "at least 0, below 1",
    "rollout.pruning.completion_rate": "at least 0, below 1",
    "rollout.pruning.candidate_fraction": "greater than 0, at most 1",
    "loss.updates_per_rollout": "divides the sequences of a step",
    "optim.lr_warmup_steps": "below run.steps",
    "alarm.action.lowerings_max": "at least 1",
    "run.folder": "not empty",
}


class Bound(NamedTuple):
    """What one setting's value must be, in words, and whether a value is."""

    wanted: str
    holds: Callable[[Any], bool]


def require(ok: bool, key: str, value: Any, wanted: str) -> None:
    """Raises ConfigError, with what was wanted and found, unless `ok`."""
    if not ok:
        shown = value if len(str(value)) <= 200 else short_repr(value)
        raise ConfigError(f"--{key} must be {wanted}, got {shown}")


def bounds_of(key: str) -> list[Bound]:
    """The bounds of a number that hold whatever the other settings are."""
    bounds = []
    if key in _POSITIVE:
        bounds.append(Bound("greater than 0", lambda x: x > 0))
    if key in _NOT_NEGATIVE:
        bounds.append(Bound("at least 0", lambda x: x >= 0))
    if key in _SHARES:
        bounds.append(Bound("between 0 and 1", lambda x: 0 <= x <= 1))
    if key in _AT_MOST:
        most = _AT_MOST[key]
        bounds.append(Bound(f"at most {most:.10g}", lambda x: x <= most))
    if key in _AT_LEAST:
        least = _AT_LEAST[key]
        bounds.append(Bound(f"at least {least:g}", lambda x: x >= least))
    if key in _BELOW_ONE:
        bounds.append(Bound("below 1", lambda x: x < 1))
    if key in _MULTIPLES_OF_16:
        bounds.append(Bound("a multiple of 16", lambda x: x % 16 == 0))
    if key in _ABOVE:
        above = _ABOVE[key]
        bounds.append(Bound(f"above {above}", lambda x: x > above))
    if key == "rollout.rollouts_per_prompt":
        bounds.append(Bound("at least 2 (a group)", lambda x: x >= 2))
    return bounds


def words_of(key: str) -> str:
    """Every bound of a setting, those by other settings too; empty: none but its type's."""
    words = [bound.wanted for bound in bounds_of(key)]
    strict = {(low, high) for low, high, _ in _BELOW}
    pairs = [*strict, *(pair for pair in _NOT_ABOVE if pair not in strict)]
    for low, high in sorted(pairs):
        words += [f"{'above' if (low, high) in strict else 'at least'} {low}"] * (key == high)
        words += [f"{'below' if (low, high) in strict else 'at most'} {high}"] * (key == low)
    words += [_CHECKED_WITH_OTHERS[key]] if key in _CHECKED_WITH_OTHERS else []
    words += ["may be inf"] if key in _MAY_BE_INFINITE else []
    return "; ".join(words)


def check_bounds(flat: Mapping[str, Any]) -> None:
    """Raises ConfigError for a value out of bounds. flat: all settings by name."""
    require(bool(flat["run.folder"].strip()), "run.folder", "''", "the name of a folder")
    for key, value in flat.items():
        if isinstance(value, str):
            _check_text(key, value)
        if isinstance(value, int):
            require(abs(value) < 2**63, key, "a larger number", "below 2^63")
        if isinstance(value, float):
            finite = math.isfinite(value) or (value == math.inf and key in _MAY_BE_INFINITE)
            require(finite, key, value, "a finite number" + _INSTEAD_OF_INFINITY.get(key, ""))
    for key, value in flat.items():
        for wanted, holds in bounds_of(key):
            require(holds(value), key, value, wanted)
    for key, value in flat.items():  # after those with a bound of their own
        if isinstance(value, float) and math.isfinite(value):
            wanted = f"at most {_FLOAT32_MAX:g} (it is used in float32)"
            require(abs(value) <= _FLOAT32_MAX, key, value, wanted)
            wanted = f"at least {_FLOAT32_MIN:g} in size (smaller is nothing in float32)"
            require(value == 0 or abs(value) >= _FLOAT32_MIN, key, value, wanted)


def _check_text(key: str, value: str) -> None:
    require("\0" not in value, key, repr(value), "without the character NUL")
    require(
        not any("\ud800" <= c <= "\udfff" for c in value),
        key,
        ascii(value),
        "without lone surrogates (they stand for bytes that are no UTF-8, and no file of a "
        "run can hold them)",
    )
    blank = value != "" and not value.strip()
    require(not blank, key, repr(value), "empty, or more than white space")


def check_ranges(flat: Mapping[str, Any]) -> None:
    """Pairs of a lower and an upper setting. flat: all settings by name."""
    for low, high in _NOT_ABOVE:
        if low in flat:
            require(flat[low] <= flat[high], high, flat[high], f">= {low}")
    for low, high, wanted in _BELOW:
        if low in flat:
            require(flat[low] < flat[high], high, flat[high], wanted)
    for section in ("correction", "actor.correction"):
        if f"{section}.low" in flat and flat[f"{section}.low"] == 0:
            high = f"{section}.high"
            instead = f" (to keep every ratio: --{section}.type importance)"
            require(flat[high] < math.inf, high, math.inf, _CHECKED_WITH_OTHERS[high] + instead)
