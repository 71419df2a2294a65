"""Settings of older code, and where they are now: for messages and for refusing old run folders.

No old name is read as the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .sections import flat_table

RENAMED = {
    "task.name": "task.type",
    "task.gym_task": "task.generator",
    "task.gym_size": "task.size",
    "task.forms": "task.digit_synonyms",
    "task.slots": "task.pad_prompt_to",
    "task.scorer": "reward.type",
    "task.score_seconds": "reward.seconds",
    "task.score_characters_max": "reward.characters_max",
    "task.score_workers": "reward.workers",
    "policy.lora_rank": "policy.lora.rank",
    "policy.lora_alpha": "policy.lora.alpha",
    "actor.lora_rank": "actor.lora.rank",
    "actor.lora_alpha": "actor.lora.alpha",
    "actor.kind": "actor.type",
    "actor.distill_coef": "actor.distill.coef",
    "actor.distill_direction": "actor.distill.type",
    "actor.distill_top_k": "actor.distill.top_k",
    "actor.distill_temperature": "actor.distill.temperature",
    "warmup.steps": "pretrain.policy_steps",
    "warmup.folder": "pretrain.folder",
    "warmup.policy_steps": "pretrain.policy_steps",
    "warmup.actor_steps": "pretrain.actor_steps",
    "warmup.batch_size": "pretrain.batch_size",
    "warmup.lr": "pretrain.lr",
    "warmup.policy_error": "pretrain.policy_error",
    "warmup.actor_error": "pretrain.actor_error",
    "rollout.source": "actor.type",
    "rollout.engine": "rollout.engine.type",
    "rollout.engine_timeout": "rollout.engine.timeout",
    "rollout.engine_memory": "rollout.engine.memory",
    "rollout.allocation.kappa": "rollout.allocation.concentration",
    "rollout.pruning.candidates": "rollout.pruning.candidate_fraction",
    "correction.name": "correction.type",
    "correction.tis_cap": "correction.cap",
    "correction.icepop_low": "correction.low",
    "correction.icepop_high": "correction.high",
    "correction.target": "correction.target.type",
    "correction.c2": "correction.target.c2",
    "correction.lam": "correction.lam.value",
    "correction.lam_from": "correction.lam.type",
    "correction.budget": "correction.lam.budget",
    "correction.lam_decay": "correction.lam.decay",
    "correction.lam_min": "correction.lam.min",
    "correction.lam_max": "correction.lam.max",
    "correction.z": "correction.z.type",
    "correction.z_tail": "correction.z.tail.type",
    "correction.kappa": "correction.z.tail.kappa",
    "loss.anchor_coef": "loss.initial_kl_coef",
    "loss.clip_low": "objective.clip_low",
    "loss.clip_high": "objective.clip_high",
    "loss.actor_ppo": "actor.ppo",
    "loss.actor_correction": "actor.correction.type",
    "loss.distill_coef": "actor.distill.coef",
    "loss.distill_direction": "actor.distill.type",
    "loss.distill_top_k": "actor.distill.top_k",
    "loss.distill_temperature": "actor.distill.temperature",
    "control.lam_decay": "correction.lam.decay",
    "control.lam_min": "correction.lam.min",
    "control.lam_max": "correction.lam.max",
    "objective.baseline_coef": "objective.baseline.coef",
    "optim.actor_lr": "actor.lr",
    "optim.sequences_per_microbatch": "optim.microbatch.sequences",
    "optim.tokens_per_microbatch": "optim.microbatch.tokens",
    "alarm.action": "alarm.action.type",
    "alarm.lower_factor": "alarm.action.factor",
    "alarm.lowerings_max": "alarm.action.lowerings_max",
}


def old_names(table: Mapping[str, Any]) -> list[str]:
    """Names of older code among the settings of a TOML file."""
    return [key for key in flat_table(table) if key in RENAMED]
