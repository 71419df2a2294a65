"""Which settings may change when a run goes on: one table, every setting in it.

identity: what a run is. Another value is another run, and is refused.
continuation: how long a run goes on, and how it is watched and kept. Another value is taken over.
place: where and by what a run is computed. It changes results by rounding at most.

docs/resuming.md explains it; `python -m llm.settings.resuming` prints the page's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .sections import short_repr

IDENTITY = frozenset(
    "task.type task.digits_min "
    "task.digits_max task.digit_synonyms task.pad_prompt_to task.instruction task.prompt_format "
    "task.system_prompt task.template_arguments task.pool "
    "task.bad_rows task.prompt_tokens_max task.source task.split task.eval_source task.eval_split "
    "task.prompt_column task.answer_column task.generator task.size "
    "reward.type reward.function reward.callable reward.seconds reward.memory "
    "reward.characters reward.characters_max reward.batched "
    "policy.path policy.layers policy.width policy.dtype policy.lora.type policy.lora.rank "
    "policy.lora.alpha actor.type actor.path actor.layers actor.width actor.dtype "
    "actor.lora.type actor.lora.rank actor.lora.alpha "
    "actor.lr actor.ppo actor.clip_low actor.clip_high actor.correction.type "
    "actor.correction.cap actor.correction.low actor.correction.high actor.distill.type "
    "actor.distill.coef actor.distill.top_k actor.distill.temperature actor.lag "
    "actor.bits actor.exit_layers actor.noise "
    "pretrain.policy_steps pretrain.actor_steps pretrain.batch_size pretrain.lr "
    "pretrain.policy_error pretrain.actor_error "
    "rollout.prompts_per_step rollout.rollouts_per_prompt rollout.temperature rollout.top_k "
    "rollout.max_new_tokens rollout.engine.type rollout.max_staleness "
    "rollout.mode.type rollout.mode.block.type rollout.mode.block.length "
    "rollout.mode.block.length_max rollout.mode.lam.type rollout.mode.lam.value "
    "rollout.mode.lam.budget rollout.mode.lam.gain rollout.mode.lam.min rollout.mode.lam.max "
    "rollout.mode.lam.price rollout.mode.reuse_logp "
    "rollout.allocation.type rollout.allocation.prompt_weight rollout.allocation.window "
    "rollout.allocation.rollouts_min rollout.allocation.rollouts_max "
    "rollout.allocation.concentration rollout.allocation.failure_steps "
    "rollout.down_sampling.type rollout.down_sampling.keep "
    "rollout.pruning.type rollout.pruning.prompt_rate rollout.pruning.completion_rate "
    "rollout.pruning.candidate_fraction "
    "correction.type correction.target.type correction.target.c2 correction.cap correction.low "
    "correction.high correction.lam.type correction.lam.value correction.lam.budget "
    "correction.lam.decay correction.lam.min correction.lam.max correction.mask correction.scope "
    "correction.z.type correction.z.tail.type correction.z.tail.kappa correction.c1 "
    "objective.type objective.ratio objective.clip_low "
    "objective.clip_high objective.divergence.type objective.divergence.delta objective.cap "
    "objective.share objective.accounting objective.low_min objective.low_max objective.low_step "
    "objective.high_min objective.high_max objective.high_step objective.tau "
    "objective.sequence_mask.type objective.sequence_mask.delta objective.beta "
    "objective.value_beta objective.value_rollouts objective.alpha objective.baseline.type "
    "objective.baseline.coef objective.ess_min objective.gamma_beta_ratio objective.decay "
    "objective.bias_correction "
    "loss.advantage loss.updates_per_rollout loss.denominator loss.initial_kl_coef "
    "control.type control.kl_target control.distill control.actor_lr control.policy_lr "
    "control.gain control.factor_max "
    "optim.policy_lr optim.schedule optim.lr_warmup_steps optim.weight_decay optim.eps "
    "optim.grad_clip "
    "run.seed".split()
)
CONTINUATION = frozenset(
    "alarm.action.type alarm.action.factor alarm.action.lowerings_max alarm.kl_max "
    "alarm.ratio_max alarm.accept_min alarm.entropy_min alarm.patience reward.on_error "
    "run.steps run.stop_seconds run.eval_every run.eval_updates run.eval_prompts "
    "run.eval_completions run.checkpoint_every run.checkpoints_kept run.keep_best run.samples_kept "
    "run.self_test_max run.tracker".split()
)
PLACE = frozenset(
    "reward.workers pretrain.folder rollout.engine.timeout "
    "rollout.engine.memory "
    "optim.microbatch.type optim.microbatch.sequences optim.microbatch.tokens optim.head "
    "run.folder run.device run.threads run.sharding run.activation_checkpointing".split()
)


def is_identity(key: str) -> bool:
    """Whether another value of this setting makes another run; true of an unknown one."""
    return key not in CONTINUATION and key not in PLACE


def identity_of(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Those of {'section.name': value} that belong to a run's identity."""
    return {key: value for key, value in flat.items() if is_identity(key)}


def changed(there: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ between two runs: {'section.name': (there, now)}, absent as "absent"."""
    absent = "absent"
    return {
        key: (there.get(key, absent), now.get(key, absent))
        for key in {**now, **there}
        if there.get(key, absent) != now.get(key, absent)
    }


def shown(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as words, for a message: the first of them where there are many."""
    words = [
        f"{key:.80} ({short_repr(there)} there, {short_repr(now)} now)"
        for key, (there, now) in differences.items()
    ]
    more = [f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    return ", ".join([*words[:_SHOWN], *more])


_SHOWN = 20  # of another run's settings, which a damaged file may have without end


def table() -> str:
    """All settings by section and kind, as the table of docs/resuming.md."""
    kinds = (IDENTITY, CONTINUATION, PLACE)
    lines = ["| section | identity | continuation | place |", "| --- | --- | --- | --- |"]
    for section in sorted({key.split(".")[0] for kind in kinds for key in kind}):
        own = ([k for k in sorted(kind) if k.split(".")[0] == section] for kind in kinds)
        cells = (", ".join(f"`{k.partition('.')[2]}`" for k in kind) for kind in own)
        lines.append(f"| `{section}` | {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines).replace("|  |", "| |") + "\n"


if __name__ == "__main__":
    print(table(), end="")
