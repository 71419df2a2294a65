"""What is refused before anything starts: settings out of bounds, and settings without effect."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from llm.errors import ConfigError

from .schema import DIGIT_SYNONYMS_MAX

_POSITIVE = (
    "task.digits_min task.digits_max task.prompt_tokens_max task.gym_size task.score_seconds "
    "task.score_characters_max task.score_workers policy.layers policy.width policy.lora_alpha "
    "actor.layers actor.width actor.lora_alpha actor.lag actor.exit_layers actor.noise "
    "warmup.batch_size warmup.lr rollout.prompts_per_step rollout.temperature rollout.top_k "
    "rollout.max_new_tokens rollout.engine_timeout rollout.engine_memory correction.lam "
    "correction.budget correction.c1 correction.c2 correction.tis_cap correction.icepop_high "
    "loss.clip_low loss.clip_high loss.updates_per_rollout loss.distill_temperature control.gain "
    "control.lam_min control.lam_max optim.policy_lr optim.actor_lr optim.grad_clip task.forms "
    "alarm.kl_max alarm.ratio_max alarm.patience alarm.lower_factor run.steps run.eval_every "
    "run.eval_prompts run.checkpoint_every run.checkpoints_kept run.threads"
).split()
_NOT_NEGATIVE = (
    "policy.lora_rank actor.lora_rank warmup.policy_steps warmup.actor_steps "
    "rollout.max_staleness task.slots loss.distill_coef loss.distill_top_k loss.anchor_coef "
    "control.kl_target control.lam_decay correction.icepop_low optim.lr_warmup_steps "
    "optim.weight_decay optim.sequences_per_microbatch optim.tokens_per_microbatch "
    "alarm.accept_min alarm.entropy_min alarm.lowerings_max run.seed run.eval_updates "
    "run.samples_kept run.self_test_max"
).split()
_MAY_BE_INFINITE = set(
    "correction.c1 correction.c2 correction.tis_cap correction.icepop_high loss.clip_low "
    "loss.clip_high optim.grad_clip alarm.kl_max alarm.ratio_max".split()
)
_AT_MOST = {
    "task.forms": DIGIT_SYNONYMS_MAX,
    "warmup.lr": 10,
    "optim.policy_lr": 10,
    "optim.actor_lr": 10,
    "optim.weight_decay": 1,
    "rollout.max_staleness": 64,
    "rollout.engine_memory": 1,
    "correction.budget": 1,
    "alarm.accept_min": 1,
}
CHARACTER_TASKS = ("chain", "sort", "reverse", "add")  # built models are warmed up on these


def check(cfg: Any) -> None:
    """Refuse a `Config` that is out of bounds or holds a setting that nothing would read.

    Raises:
        ConfigError: naming the setting, what was wanted, what was found.
    """
    _check_bounds(cfg)
    _check_fit(cfg)
    _check_effect(cfg)


def _check_bounds(cfg: Any) -> None:
    flat = flatten(cfg)
    for key, value in flat.items():
        if isinstance(value, float):
            finite = math.isfinite(value) or (value == math.inf and key in _MAY_BE_INFINITE)
            _require(finite, key, value, "a finite number")
    for key in _POSITIVE:
        _require(flat[key] > 0, key, flat[key], "greater than 0")
    for key in _NOT_NEGATIVE:
        _require(flat[key] >= 0, key, flat[key], "at least 0")
    for key, top in _AT_MOST.items():
        _require(flat[key] <= top, key, flat[key], f"at most {top}")
    for key in ("warmup.policy_error", "warmup.actor_error"):
        _require(0 <= flat[key] <= 1, key, flat[key], "between 0 and 1")
    for key in ("control.lam_decay", "alarm.lower_factor"):
        _require(flat[key] < 1, key, flat[key], "below 1")
    _require(cfg.control.factor_max > 1, "control.factor_max", cfg.control.factor_max, "above 1")
    for key in ("policy.width", "actor.width"):
        _require(flat[key] % 16 == 0, key, flat[key], "a multiple of 16")


def _check_fit(cfg: Any) -> None:
    """Settings that must agree with each other."""
    t, r, c, n = cfg.task, cfg.rollout, cfg.correction, cfg.control
    _require(t.digits_min <= t.digits_max, "task.digits_max", t.digits_max, ">= task.digits_min")
    if t.slots:
        _require(t.slots >= t.digits_max, "task.slots", t.slots, "at least task.digits_max, or 0")
    if t.name in CHARACTER_TASKS:
        longest = t.digits_max + (2 if t.name == "add" else 1)
        _require(
            r.max_new_tokens >= longest,
            "rollout.max_new_tokens",
            r.max_new_tokens,
            f"at least {longest}: the longest answer and its end-of-sequence token",
        )
    elif not cfg.policy.path:
        raise ConfigError(
            f"--task.name {t.name} needs a model that reads text: give --policy.path (built models "
            f"know only the character tasks {', '.join(CHARACTER_TASKS)})"
        )
    if t.name == "problems" and not t.source:
        raise ConfigError(
            "--task.name problems needs --task.source: a .jsonl or .parquet file, a hub dataset "
            "id, or gsm8k, math, deepscaler"
        )
    per_prompt = r.rollouts_per_prompt
    _require(per_prompt >= 2, "rollout.rollouts_per_prompt", per_prompt, "at least 2 (a group)")
    _require(
        c.icepop_low <= c.icepop_high, "correction.icepop_high", c.icepop_high, ">= icepop_low"
    )
    late = cfg.optim.lr_warmup_steps
    _require(late < cfg.run.steps, "optim.lr_warmup_steps", late, "below run.steps")
    _require(n.lam_min <= n.lam_max, "control.lam_max", n.lam_max, ">= control.lam_min")
    sequences, updates = r.prompts_per_step * per_prompt, cfg.loss.updates_per_rollout
    _require(
        sequences % updates == 0,
        "loss.updates_per_rollout",
        updates,
        f"a divisor of the {sequences} sequences per step",
    )
    if r.engine == "vllm" and cfg.actor.kind == "quantized":
        raise ConfigError(
            "--rollout.engine vllm cannot sample from --actor.kind quantized, whose weights are "
            "torchao's: use --rollout.engine hf or process"
        )
    if cfg.optim.head == "chunked" and cfg.loss.distill_top_k > 0:
        raise ConfigError(
            "--optim.head chunked cannot compute --loss.distill_top_k, which needs whole logits: "
            "use --optim.head auto or dense"
        )
    if n.kl_target > 0 and not (n.distill or n.actor_lr or n.policy_lr):
        raise ConfigError(
            "--control.kl-target is set and nothing is driven: --control.distill, "
            "--control.actor-lr or --control.policy-lr must be True"
        )
    if n.kl_target > 0 and n.distill and cfg.loss.distill_coef == 0:
        raise ConfigError(
            "--control.distill multiplies --loss.distill-coef, which is 0: give it a value, or set "
            "--control.distill False"
        )
    if cfg.actor.kind in ("separate", "frozen") and bool(cfg.policy.path) != bool(cfg.actor.path):
        missing = "actor" if cfg.policy.path else "policy"
        if not _character_model(cfg.policy.path or cfg.actor.path):
            raise ConfigError(
                f"--{missing}.path is empty, so that model would be built over the character "
                "alphabet and share no tokenizer with the other: give both paths"
            )


def _character_model(path: str) -> bool:
    """A folder without a tokenizer holds a model over the character alphabet."""
    from pathlib import Path

    return Path(path).is_dir() and not (Path(path) / "tokenizer_config.json").exists()


def _require(ok: bool, key: str, found: Any, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"--{key} must be {wanted}, got {found}")


def _check_effect(cfg: Any) -> None:
    """A setting changed from its default that nothing would read is an error, not a no-op."""
    _check_actor_losses(cfg)
    found, default = flatten(cfg), _defaults(type(cfg))
    for keys, met, condition in _needs(cfg):
        for key in keys.split():
            if not met and found[key] != default[key]:
                raise ConfigError(
                    f"--{key} {found[key]} would have no effect: it needs {condition}. "
                    f"Remove it, or change that"
                )


def _check_actor_losses(cfg: Any) -> None:
    kind, trained = cfg.actor.kind, cfg.actor_is_trained
    if kind != "separate" and trained:
        raise ConfigError(
            f"--actor.kind {kind} has an actor that is not trained: set --loss.actor_ppo False and "
            "--loss.distill_coef 0"
        )
    if kind == "separate" and not trained:
        raise ConfigError(
            "--actor.kind separate is an actor that is trained, and both its losses are off: use "
            "--actor.kind frozen, or --loss.actor_ppo True or --loss.distill_coef above 0"
        )
    several, c = cfg.loss.updates_per_rollout > 1, cfg.correction
    stale = cfg.rollout.max_staleness > 0 or (several and c.target == "new")
    if kind == "self" and c.name != "none" and not stale:
        raise ConfigError(
            "--actor.kind self samples from the policy itself, so p_inf = p_ref and there is no "
            "mismatch to correct: set --correction.name none, or --correction.target new with "
            "--loss.updates_per_rollout above 1 (the policy grows stale between its updates), or "
            "--rollout.max_staleness above 0"
        )


def _needs(cfg: Any) -> list[tuple[str, bool, str]]:
    """(settings, whether something reads them, what that takes)."""
    t, c, a, loss = cfg.task, cfg.correction, cfg.actor, cfg.loss
    jackpot, per_state = c.name == "jackpot", c.name == "jackpot" and c.z == "state"
    other = a.kind in ("separate", "frozen")
    trained = cfg.actor_is_trained
    warm_policy = not cfg.policy.path and cfg.warmup.policy_steps > 0
    warm_actor = other and not a.path and cfg.warmup.actor_steps > 0
    characters = t.name in CHARACTER_TASKS
    spelled = not cfg.policy.path or _character_model(cfg.policy.path)
    verified = t.scorer == "math_verify" or (t.scorer == "auto" and t.name == "problems")
    distilled = loss.distill_coef > 0
    caps = (c.name, loss.actor_correction)
    updates = loss.updates_per_rollout
    alarm = cfg.alarm
    limits = (alarm.kl_max, alarm.ratio_max) != (math.inf, math.inf)
    limits = limits or alarm.accept_min > 0 or alarm.entropy_min > 0
    hub, eval_hub = (not x.endswith((".jsonl", ".parquet")) for x in (t.source, t.eval_source))
    return [
        (
            "rollout.top_k",
            jackpot and (c.z == "state" or c.lam_from == "state"),
            "name = jackpot with z = state or lam_from = state",
        ),
        (
            "loss.clip_low loss.clip_high",
            updates > 1 or loss.actor_ppo,
            "updates_per_rollout > 1 or actor_ppo (else every PPO ratio is 1)",
        ),
        ("run.eval_updates", cfg.run.eval_updates < updates, "loss.updates_per_rollout above it"),
        ("alarm.patience", limits, "a limit: alarm.kl_max, ratio_max, accept_min, entropy_min"),
        ("task.split", hub, "a source on the hub"),
        ("task.eval_split", bool(t.eval_source) and eval_hub, "an eval_source on the hub"),
        (
            "warmup.folder",
            not cfg.policy.path or (other and not a.path),
            "a model that is built and warmed up",
        ),
        ("rollout.engine_timeout", cfg.rollout.engine != "hf", "rollout.engine process or vllm"),
        ("rollout.engine_memory", cfg.rollout.engine == "vllm", "rollout.engine vllm"),
        ("correction.lam", jackpot and c.lam_from == "value", "name = jackpot, lam_from = value"),
        (
            "correction.lam_from correction.mask correction.scope correction.z correction.c1",
            jackpot,
            "name = jackpot",
        ),
        ("correction.budget", jackpot and c.lam_from != "value", "lam_from other than value"),
        (
            "loss.denominator",
            jackpot or loss.denominator == "sequence",
            "correction.name = jackpot (nothing else rejects)",
        ),
        ("correction.z_tail", per_state, "name = jackpot and z = state"),
        ("correction.kappa", per_state and c.z_tail != "ratio", "z = state, z_tail not ratio"),
        ("correction.target", c.name != "none", "a correction other than none"),
        ("correction.c2", c.name != "none" and c.target == "new", "target = new"),
        ("correction.tis_cap", "tis" in caps, "name = tis or loss.actor_correction = tis"),
        ("correction.icepop_low correction.icepop_high", "icepop" in caps, "name = icepop"),
        ("loss.actor_correction", loss.actor_ppo, "actor_ppo"),
        (
            "loss.distill_direction loss.distill_top_k loss.distill_temperature",
            distilled,
            "distill_coef > 0",
        ),
        (
            "control.lam_decay control.lam_min control.lam_max",
            jackpot and c.lam_from == "tracked",
            "lam_from = tracked",
        ),
        ("control.kl_target", trained, "a trained actor"),
        (
            "control.distill control.actor_lr control.policy_lr control.gain control.factor_max",
            cfg.control.kl_target > 0,
            "control.kl_target > 0",
        ),
        (
            "optim.sequences_per_microbatch",
            cfg.optim.tokens_per_microbatch == 0,
            "optim.tokens_per_microbatch 0",
        ),
        ("optim.actor_lr actor.lora_rank", trained, "a trained actor (actor.kind separate)"),
        ("policy.lora_alpha", cfg.policy.lora_rank > 0, "policy.lora_rank > 0"),
        ("actor.lora_alpha", a.lora_rank > 0, "actor.lora_rank > 0"),
        (
            "actor.layers actor.width actor.path actor.dtype warmup.actor_steps",
            other,
            "actor.kind separate or frozen",
        ),
        ("actor.lag", a.kind == "stale", "actor.kind stale"),
        ("actor.bits", a.kind == "quantized", "actor.kind quantized"),
        ("actor.exit_layers", a.kind == "early_exit", "actor.kind early_exit"),
        ("actor.noise", a.kind == "noisy", "actor.kind noisy"),
        ("warmup.policy_steps", not cfg.policy.path, "an empty policy.path"),
        ("warmup.actor_steps", not a.path, "an empty actor.path"),
        ("warmup.policy_error", warm_policy, "a warm-up of the policy"),
        ("warmup.actor_error", warm_actor, "a warm-up of the actor"),
        ("warmup.lr warmup.batch_size", warm_policy or warm_actor, "a warm-up"),
        ("policy.layers policy.width", not cfg.policy.path, "an empty policy.path"),
        ("actor.layers actor.width", not a.path, "an empty actor.path"),
        (
            "task.digits_min task.digits_max",
            characters or t.name == "arithmetic",
            "a task made of digits",
        ),
        ("task.slots", characters and t.name != "add", "task.name chain, sort or reverse"),
        (
            "task.forms",
            characters and t.scorer in ("auto", "exact") and spelled,
            "a task of characters, the scorer exact, and a model over the character alphabet",
        ),
        (
            "task.source task.split task.eval_source task.eval_split task.prompt_column "
            "task.answer_column",
            t.name == "problems",
            "task.name problems",
        ),
        (
            "task.bad_rows task.prompt_tokens_max",
            t.name in ("problems", "gym"),
            "task.name problems or gym",
        ),
        ("task.gym_task task.gym_size", t.name == "gym", "task.name gym"),
        ("task.instruction task.prompt_format", not characters, "a task in words"),
        (
            "task.score_seconds task.score_characters_max task.score_workers",
            verified,
            "the scorer math_verify",
        ),
        ("alarm.accept_min", jackpot, "correction.name = jackpot (nothing else rejects)"),
        (
            "alarm.lower_factor alarm.lowerings_max",
            cfg.alarm.action == "lower",
            "alarm.action lower",
        ),
    ]


def _defaults(cls: type) -> dict[str, Any]:
    """The defaults, flat, without running the checks again."""
    plain: Any = object.__new__(cls)
    for f in dataclasses.fields(cls):
        object.__setattr__(plain, f.name, f.default_factory())  # type: ignore[operator,misc]
    return flatten(plain)


def flatten(cfg: Any) -> dict[str, Any]:
    """{'section.name': value} in the order of declaration."""
    return {
        f"{section.name}.{f.name}": getattr(getattr(cfg, section.name), f.name)
        for section in dataclasses.fields(cfg)
        for f in dataclasses.fields(getattr(cfg, section.name))
    }
