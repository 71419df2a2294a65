"""What is refused before anything starts: settings out of bounds, and settings without effect.

Which settings a section has is its type's affair (schema.py); here is what depends on several.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from llm.errors import ConfigError

from .bounds import check_bounds, check_ranges, require
from .objective_rules import check_objective, ratio_denominator
from .rollout_rules import check_rollout, drafts, is_lossless, reuses_logp
from .schema import (
    CHARACTER_IDS,
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
from .sections import default_values, flatten
from .template_arguments import read_arguments

_SEQUENCES_MAX = 10_000_000  # of a step: their prompts alone are gigabytes
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
    check_bounds(flatten(cfg))
    _check_fit(cfg)
    _check_effect(cfg)


def _check_fit(cfg: Settings) -> None:
    """Settings that must agree with each other."""
    r = cfg.rollout
    _check_task(cfg)
    _check_reward(cfg)
    per_prompt = r.rollouts_per_prompt
    check_ranges(flatten(cfg))
    late = cfg.optim.lr_warmup_steps
    require(late < cfg.run.steps, "optim.lr_warmup_steps", late, "below run.steps")
    sequences, updates = r.prompts_per_step * per_prompt, cfg.loss.updates_per_rollout
    require(
        sequences <= _SEQUENCES_MAX,
        "rollout.prompts_per_step",
        r.prompts_per_step,
        f"at most {_SEQUENCES_MAX // per_prompt}: with {per_prompt} completions each, a step holds "
        f"more than {_SEQUENCES_MAX} sequences",
    )
    require(
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
    require(top_k in (RolloutConfig.top_k, min(top_k, vocabulary)), "rollout.top_k", top_k, wanted)
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
        require(few <= most, "task.digits_max", most, ">= task.digits_min")
    if isinstance(t, DigitTask) and t.pad_prompt_to:
        wide = t.pad_prompt_to >= t.digits_max
        require(wide, "task.pad_prompt_to", t.pad_prompt_to, "at least task.digits_max, or 0")
    if isinstance(t, DigitTask | AddTask):
        longest = t.digits_max + (2 if t.type == "add" else 1)
        require(
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
        require(a.exit_layers < layers, "actor.exit_layers", a.exit_layers, wanted)
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
