"""What is refused before anything starts: settings out of bounds, and settings without effect.

Which settings a section has is its type's affair (schema.py); here is what depends on several.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from llm.errors import ConfigError

from .objective_rules import check_objective, ratio_denominator
from .rollout_rules import check_rollout, drafts, is_lossless, reuses_logp
from .schema import (
    CHARACTER_IDS,
    DIGIT_SYNONYMS_MAX,
    AddTask,
    AlphaDpoObjective,
    ArithmeticTask,
    AutoReward,
    BapoObjective,
    DigitTask,
    EarlyExitActor,
    EndingReward,
    ExactReward,
    FunctionReward,
    IcePopWeight,
    JackpotCorrection,
    ModelConfig,
    NewTarget,
    OwnReward,
    ProblemsTask,
    RatioTail,
    RolloutConfig,
    SeparateActor,
    Settings,
    StateZ,
    TisWeight,
    TvDivergence,
    Weight,
    WholeCompletionObjective,
)
from .sections import default_values, flatten, short_repr
from .template_arguments import read_arguments

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
    "rollout.mode.lam.budget rollout.engine.memory correction.lam.value correction.lam.budget "
    "correction.lam.min "
    "correction.lam.max correction.c1 correction.target.c2 correction.cap correction.high "
    "objective.clip_low objective.clip_high objective.cap objective.share objective.low_step "
    "objective.high_step objective.value_rollouts objective.baseline.coef actor.clip_low "
    "actor.clip_high "
    "loss.updates_per_rollout control.kl_target control.gain "
    "optim.policy_lr optim.grad_clip optim.microbatch.tokens alarm.kl_max alarm.ratio_max "
    "alarm.patience alarm.action.factor run.steps run.eval_every run.eval_prompts "
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
    "correction.c1 correction.target.c2 correction.cap correction.high actor.correction.cap "
    "actor.correction.high objective.clip_low objective.clip_high objective.cap "
    "actor.clip_low actor.clip_high optim.grad_clip alarm.kl_max alarm.ratio_max"
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
_SEQUENCES_MAX = 10_000_000  # of a step: their prompts alone are gigabytes
_BELOW_ONE = ("correction.lam.decay", "alarm.action.factor", "objective.decay")
IDLE_TYPES = {  # what a section that may be without effect as a whole then is
    "control.type": "none",
    "actor.correction.type": "none",
    "correction.target.type": "ref",
    "objective.sequence_mask.type": "none",
}
CHARACTER_TASKS = ("chain", "sort", "reverse", "add")  # built models are pretrained on these


def check(cfg: Settings) -> None:
    """Refuse a `Config` that is out of bounds or holds a setting that nothing would read.

    Raises:
        ConfigError: naming the setting, what was wanted, what was found.
    """
    _check_bounds(cfg)
    _check_fit(cfg)
    _check_effect(cfg)


_INSTEAD_OF_INFINITY = {  # where none is a type
    "objective.divergence.delta": " (--objective.divergence.type none leaves no token out)",
}


def _check_bounds(cfg: Settings) -> None:
    flat = flatten(cfg)
    _require(bool(flat["run.folder"].strip()), "run.folder", "''", "the name of a folder")
    for key, value in flat.items():
        if isinstance(value, str):
            _require("\0" not in value, key, repr(value), "without the character NUL")
            _require(
                not any("\ud800" <= c <= "\udfff" for c in value),
                key,
                ascii(value),
                "without lone surrogates (they stand for bytes that are no UTF-8, and no file of a "
                "run can hold them)",
            )
            blank = value != "" and not value.strip()
            _require(not blank, key, repr(value), "empty, or more than white space")
        if isinstance(value, int):
            _require(abs(value) < 2**63, key, "a larger number", "below 2^63")
        if isinstance(value, float):
            finite = math.isfinite(value) or (value == math.inf and key in _MAY_BE_INFINITE)
            _require(finite, key, value, "a finite number" + _INSTEAD_OF_INFINITY.get(key, ""))
    for key in flat.keys() & set(_POSITIVE):
        _require(flat[key] > 0, key, flat[key], "greater than 0")
    for key in flat.keys() & set(_NOT_NEGATIVE):
        _require(flat[key] >= 0, key, flat[key], "at least 0")
    for key in ("pretrain.policy_error", "pretrain.actor_error"):
        _require(0 <= flat[key] <= 1, key, flat[key], "between 0 and 1")
    for key in flat.keys() & _AT_MOST.keys():
        _require(flat[key] <= _AT_MOST[key], key, flat[key], f"at most {_AT_MOST[key]:.10g}")
    for key in flat.keys() & _AT_LEAST.keys():
        _require(flat[key] >= _AT_LEAST[key], key, flat[key], f"at least {_AT_LEAST[key]:g}")
    for key, value in flat.items():  # after those with a bound of their own
        if isinstance(value, float) and math.isfinite(value):
            wanted = f"at most {_FLOAT32_MAX:g} (it is used in float32)"
            _require(abs(value) <= _FLOAT32_MAX, key, value, wanted)
            wanted = f"at least {_FLOAT32_MIN:g} in size (smaller is nothing in float32)"
            _require(value == 0 or abs(value) >= _FLOAT32_MIN, key, value, wanted)
    for key in flat.keys() & set(_BELOW_ONE):
        _require(flat[key] < 1, key, flat[key], "below 1")
    for key in flat.keys() & {"policy.width", "actor.width"}:
        _require(flat[key] % 16 == 0, key, flat[key], "a multiple of 16")
    if "rollout.allocation.concentration" in flat:
        concentration = flat["rollout.allocation.concentration"]
        _require(concentration > 2, "rollout.allocation.concentration", concentration, "above 2")
    if cfg.control.type == "kl":
        top = cfg.control.factor_max
        _require(top > 1, "control.factor_max", top, "above 1")


def _check_fit(cfg: Settings) -> None:
    """Settings that must agree with each other."""
    r = cfg.rollout
    _check_task(cfg)
    _check_reward(cfg)
    per_prompt = r.rollouts_per_prompt
    _require(per_prompt >= 2, "rollout.rollouts_per_prompt", per_prompt, "at least 2 (a group)")
    _check_ranges(flatten(cfg))
    late = cfg.optim.lr_warmup_steps
    _require(late < cfg.run.steps, "optim.lr_warmup_steps", late, "below run.steps")
    sequences, updates = r.prompts_per_step * per_prompt, cfg.loss.updates_per_rollout
    _require(
        sequences <= _SEQUENCES_MAX,
        "rollout.prompts_per_step",
        r.prompts_per_step,
        f"at most {_SEQUENCES_MAX // per_prompt}: with {per_prompt} completions each, a step holds "
        f"more than {_SEQUENCES_MAX} sequences",
    )
    _require(
        sequences % updates == 0,
        "loss.updates_per_rollout",
        updates,
        f"a divisor of the {sequences} sequences per step",
    )
    if r.engine.type == "vllm" and cfg.actor.type == "quantized":
        raise ConfigError(
            "--rollout.engine.type vllm cannot sample from --actor.type quantized, whose weights "
            "are torchao's: use --rollout.engine.type hf or process"
        )
    if cfg.optim.head == "chunked" and cfg.actor.distill.top_k > 0:
        raise ConfigError(
            "--optim.head chunked cannot compute --actor.distill.top_k, which needs whole logits: "
            "use --optim.head auto or dense"
        )
    divergence = getattr(cfg.objective, "divergence", None)
    if isinstance(divergence, TvDivergence) and divergence.delta >= 1:
        raise ConfigError(
            f"--objective.divergence.delta {divergence.delta} would have no effect: a total "
            "variation is at most 1. Lower it, or choose --objective.divergence.type none"
        )
    if getattr(cfg.alarm.action, "lowerings_max", 1) == 0:
        raise ConfigError(
            "--alarm.action.lowerings_max 0 lowers no learning rate, so alarm.action.factor would "
            "have no effect: choose --alarm.action.type stop, or allow at least 1"
        )
    if not cfg.policy.path:  # else seen when the tokenizers are opened
        check_vocabulary(cfg, CHARACTER_IDS + 10 * (cfg.task.digit_synonyms - 1))
    check_rollout(cfg)
    _check_control(cfg)
    _check_actor(cfg)
    check_objective(cfg, fresh=_samples_what_is_trained(cfg, cfg.policy.dtype))


def _check_ranges(flat: Mapping[str, Any]) -> None:
    """Pairs of a lower and an upper setting. flat: all settings by name."""
    for low, high in (
        ("correction.low", "correction.high"),
        ("actor.correction.low", "actor.correction.high"),
        ("correction.lam.min", "correction.lam.max"),
        ("objective.low_min", "objective.low_max"),
        ("objective.high_min", "objective.high_max"),
    ):
        if low in flat:
            _require(flat[low] <= flat[high], high, flat[high], f">= {low}")
    if "correction.lam.min" in flat:
        least, most = flat["correction.lam.min"], flat["correction.lam.max"]
        why = "above correction.lam.min: a lam that cannot move is --correction.lam.type fixed"
        _require(least != most, "correction.lam.max", most, why)
    for low, high in (
        ("correction.low", "correction.high"),
        ("actor.correction.low", "actor.correction.high"),
    ):
        if low in flat:
            _require(flat[low] < flat[high], high, flat[high], f"above {low}, or nothing is kept")


def check_vocabulary(cfg: Settings, vocabulary: int) -> None:
    """Refuse a top k of which the models have too few token ids, and a tail that is empty.

    The default of rollout.top_k is left alone, for models with fewer ids than that: all of them
    are kept.

    Raises:
        ConfigError: it was set, something reads it, and there are not as many; a top k of
            distillation that is the full vocabulary; a choice about tokens outside the top k where
            none are.
    """
    distilled = cfg.actor.distill.top_k
    if distilled >= vocabulary:
        raise ConfigError(
            f"--actor.distill.top_k {distilled} leaves none of the models' {vocabulary} token ids "
            "for the bucket, so it would have no effect: set 0, the full vocabulary, or a smaller k"
        )
    top_k = cfg.rollout.top_k
    if "rollout.top_k" in without_effect(cfg):
        return
    wanted = f"at most {vocabulary}, which keeps every token id that the models have"
    _require(top_k in (RolloutConfig.top_k, min(top_k, vocabulary)), "rollout.top_k", top_k, wanted)
    z = cfg.correction.z if isinstance(cfg.correction, JackpotCorrection) else None
    tail = z.tail if isinstance(z, StateZ) else RatioTail()
    if top_k >= vocabulary and not isinstance(tail, RatioTail) and not tail.kappa:
        raise ConfigError(
            f"--correction.z.tail.type {tail.type} would have no effect: --rollout.top_k {top_k} "
            f"keeps all {vocabulary} token ids of the models, so no token is outside the top k. "
            "Leave the tail out, or lower the top k"
        )


def _check_task(cfg: Settings) -> None:
    t, r = cfg.task, cfg.rollout
    read_arguments(t.template_arguments)
    if isinstance(t, DigitTask | AddTask | ArithmeticTask):
        few, most = t.digits_min, t.digits_max
        _require(few <= most, "task.digits_max", most, ">= task.digits_min")
    if isinstance(t, DigitTask) and t.pad_prompt_to:
        wide = t.pad_prompt_to >= t.digits_max
        _require(wide, "task.pad_prompt_to", t.pad_prompt_to, "at least task.digits_max, or 0")
    if isinstance(t, DigitTask | AddTask):
        longest = t.digits_max + (2 if t.type == "add" else 1)
        _require(
            r.max_new_tokens >= longest,
            "rollout.max_new_tokens",
            r.max_new_tokens,
            f"at least {longest}: the longest answer and its end-of-sequence token",
        )
    elif not cfg.policy.path:
        raise ConfigError(
            f"--task.type {t.type} needs a model that reads text: give --policy.path (built models "
            f"know only the character tasks {', '.join(CHARACTER_TASKS)})"
        )
    if isinstance(t, ProblemsTask) and not t.source:
        raise ConfigError(
            "--task.type problems needs --task.source: a .jsonl or .parquet file, a hub dataset "
            "id, or gsm8k, math, deepscaler"
        )


def _check_reward(cfg: Settings) -> None:
    """The form of the function's name; what it names is seen when it is loaded."""
    if not isinstance(cfg.reward, FunctionReward):
        return
    name = cfg.reward.function
    place, _, attribute = name.rpartition(":")
    path = place if place.endswith(".py") else place.replace(".", "")
    if not attribute.replace(".", "").isidentifier() or not path or "\0" in name:
        raise ConfigError(
            f"--reward.function must be FILE.py:NAME or package.module:NAME, got {name!r} "
            "(a scorer: --reward.type auto)"
        )


def _check_control(cfg: Settings) -> None:
    n = cfg.control
    if n.type == "none" or not cfg.actor.trained:
        return
    if not (n.distill or n.actor_lr or n.policy_lr):
        raise ConfigError(
            "--control.type kl is set and nothing is driven: --control.distill, "
            "--control.actor_lr or --control.policy_lr must be True"
        )
    if n.distill and cfg.actor.distill.type == "none":
        raise ConfigError(
            "--control.distill multiplies the coefficient of --actor.distill, whose type is none: "
            "choose --actor.distill.type forward or reverse, or set --control.distill False"
        )


def _check_actor(cfg: Settings) -> None:
    a = cfg.actor
    if a.trained and not a.ppo and a.distill.type == "none":
        raise ConfigError(
            "--actor.type separate is an actor that is trained, and both its losses are off: use "
            "--actor.type frozen, or --actor.ppo True or --actor.distill.type forward"
        )
    # p_new leaves p_inf behind only where there is an update before the last
    moves = cfg.loss.updates_per_rollout > 1 and cfg.correction.target.type == "new"
    equal = _samples_what_is_trained(cfg, cfg.policy.dtype) and not moves
    if is_lossless(cfg) and cfg.correction.type != "none" and equal:
        raise ConfigError(
            "--rollout.mode.lam.value 1 is lossless: completions follow the policy itself, so "
            "p_inf = p_ref and there is no mismatch to correct. Set --correction.type none, a "
            "--rollout.mode.lam.value below 1, or --rollout.max_staleness above 0"
        )
    if a.type == "self" and cfg.correction.type != "none" and equal:
        raise ConfigError(
            "--actor.type self samples from the policy itself, so p_inf = p_ref and there is no "
            "mismatch to correct: set --correction.type none, or --correction.target.type new "
            "with --loss.updates_per_rollout above 1 (the policy grows stale between its updates), "
            "or --rollout.max_staleness above 0. Another --rollout.engine.type than hf, or "
            "--policy.dtype bfloat16, computes differently when it samples, which may be corrected "
            "too"
        )
    if isinstance(a, EarlyExitActor) and not cfg.policy.path:  # else seen when it is loaded
        layers = cfg.policy.layers
        wanted = f"below policy.layers, which is {layers}"
        _require(a.exit_layers < layers, "actor.exit_layers", a.exit_layers, wanted)
    if isinstance(a, ModelConfig) and bool(cfg.policy.path) != bool(a.path):
        missing = "actor" if cfg.policy.path else "policy"
        if not _character_model(cfg.policy.path or a.path):
            raise ConfigError(
                f"--{missing}.path is empty, so that model would be built over the character "
                "alphabet and share no tokenizer with the other: give both paths"
            )


def _samples_what_is_trained(cfg: Settings, dtype: str) -> bool:
    """Whether log p_inf is what training computes of the model that samples, but for rounding in
    float32. The same weights round differently in another engine, and token by token in bfloat16.
    """
    r = cfg.rollout
    return r.max_staleness == 0 and r.engine.type == "hf" and dtype == "float32"


def _character_model(path: str) -> bool:
    """A folder without a tokenizer holds a model over the character alphabet."""
    return os.path.isdir(path) and not os.path.exists(Path(path) / "tokenizer_config.json")


def _require(ok: bool, key: str, value: Any, wanted: str) -> None:
    if not ok:
        shown = value if len(str(value)) <= 200 else short_repr(value)
        raise ConfigError(f"--{key} must be {wanted}, got {shown}")


def _check_effect(cfg: Settings) -> None:
    """A setting changed from its default that nothing would read is an error, not a no-op."""
    flat, default = flatten(cfg), default_values(cfg) | IDLE_TYPES
    for key, needed in without_effect(cfg).items():
        if flat[key] != default[key]:
            refuse_idle(key, flat[key], needed)


def refuse_idle(key: str, value: Any, needed: str) -> NoReturn:
    """Raises ConfigError for a setting that nothing would read."""
    raise ConfigError(
        f"--{key} {value} would have no effect: it needs {needed}. Remove it, or change that"
    )


def without_effect(cfg: Settings) -> dict[str, str]:
    """Settings that nothing would read, whatever their values, and what that takes.

    Of a section that has no effect as a whole its `type` alone. Bounds need not hold.
    """
    flat = flatten(cfg)
    return {
        key: need.condition
        for need in _needs(cfg)
        if not need.met
        for key in need.keys.split()
        if key in flat
    }


def applicable(cfg: Settings) -> dict[str, Any]:
    """{'section.name': value} without the settings that have no effect and their default values."""
    flat, default = flatten(cfg), default_values(cfg) | IDLE_TYPES
    idle = [key for key in without_effect(cfg) if flat[key] == default[key]]
    gone = tuple(key.removesuffix("type") for key in idle if key in IDLE_TYPES)
    return {k: v for k, v in flat.items() if k not in idle and not k.startswith(gone)}


class _Need(NamedTuple):
    """Settings, separated by spaces; whether anything reads them; what that takes."""

    keys: str
    met: bool
    condition: str


def _needs(cfg: Settings) -> list[_Need]:
    return [
        *_model_needs(cfg),
        *_ratio_needs(cfg),
        *_objective_needs(cfg),
        *_loop_needs(cfg),
        *_task_needs(cfg),
    ]


def _model_needs(cfg: Settings) -> list[_Need]:
    """What a model that is loaded makes idle. Rules, because `path` itself chooses, and decides
    over [pretrain] too: a `type` beside it could contradict it."""
    a, pretrain = cfg.actor, cfg.pretrain
    built_policy = not cfg.policy.path
    built_actor = isinstance(a, ModelConfig) and not a.path
    policy = built_policy and pretrain.policy_steps > 0
    actor = built_actor and pretrain.actor_steps > 0
    return [
        _Need("policy.layers policy.width", built_policy, "an empty policy.path"),
        _Need("actor.layers actor.width", built_actor, "an empty actor.path"),
        _Need(
            "pretrain.folder",
            policy or actor,
            "a model that is built and pretrained (pretrain.policy_steps or actor_steps above 0)",
        ),
        _Need("pretrain.policy_steps", built_policy, "an empty policy.path"),
        _Need("pretrain.actor_steps", built_actor, "actor.type separate or frozen, without path"),
        _Need("pretrain.policy_error", policy, "a policy that is pretrained"),
        _Need("pretrain.actor_error", actor, "an actor that is pretrained"),
        _Need("pretrain.lr pretrain.batch_size", policy or actor, "a model that is pretrained"),
    ]


def _ratio_needs(cfg: Settings) -> list[_Need]:
    """What acts on ratios of log-probabilities, and does nothing where these are always 1."""
    a, several = cfg.actor, cfg.loss.updates_per_rollout > 1
    mismatch = corrects = scales = False
    if isinstance(a, SeparateActor) and a.ppo:
        # of p_actor_ref and q, Eq. 6; drafted tokens follow another distribution than the actor's
        mismatch = not _samples_what_is_trained(cfg, a.dtype) or drafts(cfg)
        corrects, scales = a.correction.type != "none", not _leaves_one(a.correction)
    target = cfg.correction.target
    return [
        _Need(
            "actor.correction.type",
            mismatch or scales,
            f"actor.ppo, and {_MISMATCH} (else what samples is what is trained)",
        ),
        _Need(
            "objective.clip_low objective.clip_high",
            several or cfg.objective.type != "ppo",  # others of ratio 1 are refused as a whole
            "loss.updates_per_rollout > 1 (else p_new is p_ref and every ratio is 1)",
        ),
        _Need(
            "objective.cap objective.sequence_mask.type",
            several or ratio_denominator(cfg) == "inf",
            "loss.updates_per_rollout > 1, or a ratio to p_inf (else p_new is p_ref and every "
            "ratio is 1)",
        ),
        _Need(
            "actor.clip_low actor.clip_high",
            # With a correction the actor's ratio is to p_actor_ref, which a single update is at.
            cfg.actor.ppo and (several or (mismatch and not corrects)),
            "actor.ppo, and loss.updates_per_rollout > 1; or actor.correction.type none, and "
            f"{_MISMATCH} (else every ratio of Eq. 6 is 1)",
        ),
        _Need(
            "correction.target.type",
            several or (isinstance(target, NewTarget) and target.c2 < 1),  # caps p_ref / p_new = 1
            "loss.updates_per_rollout > 1 (at a single update p_new is p_ref)",
        ),
    ]


_MISMATCH = (
    "rollout.max_staleness > 0, another rollout.engine.type than hf, actor.dtype bfloat16, or "
    "rollout.mode.type drafted"
)


def _objective_needs(cfg: Settings) -> list[_Need]:
    """What values of the objective's own switch off."""
    o = cfg.objective
    lower = upper = moved = True
    if isinstance(o, BapoObjective):
        lower, upper = o.low_min != o.low_max, o.high_min != o.high_max
    if isinstance(o, AlphaDpoObjective):
        moved = o.alpha > 0
    return [
        _Need("objective.low_step", lower, "objective.low_max above objective.low_min"),
        _Need("objective.high_step", upper, "objective.high_max above objective.high_min"),
        _Need("objective.decay objective.bias_correction", moved, "objective.alpha above 0"),
    ]


def _leaves_one(weight: Weight) -> bool:
    """Whether F(r) is 1 around r = 1, where F and its absence are the same."""
    if isinstance(weight, TisWeight):
        return weight.cap >= 1
    return not isinstance(weight, IcePopWeight) or weight.low < 1 < weight.high


def _loop_needs(cfg: Settings) -> list[_Need]:
    """What spans sections, and the alarm's patience: any of four limits gives it an effect, several
    may be given, and a `type` for it could be chosen without a limit."""
    alarm, updates, correction = cfg.alarm, cfg.loss.updates_per_rollout, cfg.correction
    whole = isinstance(cfg.objective, WholeCompletionObjective)
    jackpot = per_state = isinstance(correction, JackpotCorrection)
    if isinstance(correction, JackpotCorrection):
        per_state = "state" in (correction.z.type, correction.lam.type)
    limited = (alarm.kl_max, alarm.ratio_max) != (math.inf, math.inf)
    limited = limited or alarm.accept_min > 0 or alarm.entropy_min > 0
    ahead = cfg.actor.type != "frozen" or cfg.rollout.engine.type != "hf" or drafts(cfg)
    return [
        _Need(
            "rollout.max_staleness",
            ahead,
            "an actor whose weights change, or an engine that samples while the policy is updated "
            "(rollout.engine.type process or vllm)",
        ),
        _Need(
            "rollout.mode.reuse_logp",
            reuses_logp(cfg),
            "a pass that it can save: rollout.max_staleness 0, loss.updates_per_rollout > 1 or "
            "several microbatches, and no correction.z.tail.type ratio, which needs all of p",
        ),
        _Need(
            "rollout.top_k",
            per_state or cfg.objective.needs_topk,
            "correction.type jackpot with z.type state or lam.type state, or "
            "objective.divergence.type top_k_tv or top_k_kl",
        ),
        _Need(
            "loss.denominator",
            not whole and (jackpot or cfg.loss.denominator != "accepted"),
            "an objective of tokens (a mean of its own is part of this one)"
            if whole
            else "correction.type = jackpot (nothing else rejects)",
        ),
        _Need(
            "loss.advantage",
            not whole or cfg.actor.ppo,
            "an objective of tokens, or actor.ppo (this objective takes rewards)",
        ),
        _Need("alarm.accept_min", jackpot, "correction.type = jackpot (nothing else rejects)"),
        _Need("control.type", cfg.actor.trained, "a trained actor (actor.type separate)"),
        _Need(
            "run.eval_updates",
            updates > max(1, cfg.run.eval_updates),
            "updates_per_rollout above it",
        ),
        _Need(
            "alarm.patience", limited, "a limit: alarm.kl_max, ratio_max, accept_min, entropy_min"
        ),
    ]


def _task_needs(cfg: Settings) -> list[_Need]:
    """Rules, because what decides is another section, or a value: whether `source` names a file,
    how long prompts are. `batched` idles one of a function's settings, so is no type of its own."""
    t = cfg.task
    characters = not cfg.policy.path or _character_model(cfg.policy.path)
    reward = cfg.reward
    spelled = isinstance(reward, AutoReward | ExactReward | EndingReward | OwnReward)
    needs = [
        _Need(
            "task.digit_synonyms",
            spelled and characters,
            "a model over the character alphabet, and another reward.type than number and "
            "math_verify",
        ),
        _Need(
            "reward.workers",
            not (isinstance(reward, OwnReward) and reward.batched),
            "reward.batched False (else one call at once)",
        ),
    ]
    if isinstance(t, DigitTask):  # below digits_max it is out of bounds
        fills = not t.digits_max <= t.pad_prompt_to <= t.digits_min
        needs.append(_Need("task.pad_prompt_to", fills, "task.digits_min below it"))
    if isinstance(t, ProblemsTask):
        hub = not t.source.endswith(_FILES)
        sets = [source.strip() for source in t.eval_source.split(",") if source.strip()]
        held_out = any(not source.endswith(_FILES) for source in sets)
        needs += [
            _Need("task.split", hub, "a source on the hub"),
            _Need("task.eval_split", held_out, "an eval_source on the hub"),
        ]
    return needs


_FILES = (".jsonl", ".parquet")
