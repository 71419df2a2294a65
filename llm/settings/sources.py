"""Where each setting comes from: an equation or a section of the paper, another paper, or "ours".

"ours" is a choice of this project that no paper makes. A setting whose docstring names its source
is not repeated here. Neither is one of a type whose docstring names it, where that is the source of
the setting too. `python -m llm train --help` prints these docstrings, and the page of settings
prints both.
"""

from __future__ import annotations

from collections.abc import Mapping

_OURS = (
    "task.pool task.digits_min task.digits_max task.digit_synonyms task.pad_prompt_to "
    "task.instruction task.prompt_format task.system_prompt task.template_arguments task.bad_rows "
    "task.prompt_tokens_max task.source task.split task.eval_source task.eval_split "
    "task.prompt_column task.answer_column "
    "reward.type reward.characters reward.seconds reward.characters_max reward.workers "
    "reward.batched reward.on_error reward.function reward.memory reward.callable "
    "policy.path actor.path actor.lag actor.exit_layers actor.noise "
    "pretrain.folder pretrain.policy_steps pretrain.actor_steps pretrain.batch_size "
    "pretrain.policy_error pretrain.actor_error "
    "rollout.max_new_tokens rollout.engine.type rollout.engine.timeout rollout.mode.block.type "
    "rollout.mode.block.length_max rollout.mode.reuse_logp "
    "correction.lam.decay correction.lam.min correction.lam.max "
    "optim.lr_warmup_steps optim.head "
    "optim.microbatch.type optim.microbatch.sequences optim.microbatch.tokens "
    "alarm.kl_max alarm.ratio_max alarm.accept_min alarm.entropy_min alarm.patience "
    "alarm.action.type alarm.action.factor alarm.action.lowerings_max "
    "run.folder run.steps run.seed run.eval_every run.eval_updates run.eval_prompts "
    "run.checkpoint_every run.stop_seconds run.checkpoints_kept run.keep_best run.samples_kept "
    "run.self_test_max run.tracker run.device run.threads"
)
_MODELS = {
    "Qwen3, arXiv 2505.09388": "policy.layers policy.width actor.layers actor.width",
    "mixed precision, arXiv 1710.03740": "policy.dtype actor.dtype",
    "LoRA, arXiv 2106.09685": "policy.lora.type policy.lora.rank policy.lora.alpha "
    "actor.lora.type actor.lora.rank actor.lora.alpha",
    "separate: the paper, Algorithm 1; the other types: ours": "actor.type",
    "torchao's weight-only quantization": "actor.bits",
    "AdamW, arXiv 1711.05101": "actor.lr optim.policy_lr optim.weight_decay optim.eps",
    "Adam, arXiv 1412.6980": "pretrain.lr",
    "gradient clipping, arXiv 1211.5063": "optim.grad_clip",
    "cosine: arXiv 1608.03983; the others: customary": "optim.schedule",
    "fully sharded data parallelism, arXiv 2304.11277": "run.sharding",
    "activation checkpointing, arXiv 1604.06174": "run.activation_checkpointing",
}
_ROLLOUTS = {
    "gym: arXiv 2505.24760; the other types: ours": "task.type",
    "reasoning-gym, arXiv 2505.24760": "task.generator task.size",
    "GRPO, arXiv 2402.03300": "rollout.prompts_per_step rollout.rollouts_per_prompt",
    "customary; 1 is the model's own distribution": "rollout.temperature",
    "the paper, Sec. 4.4": "rollout.top_k",
    "asynchronous training as AReaL, arXiv 2505.24298": "rollout.max_staleness",
    "VIP, arXiv 2602.01601; CoBA-RL, arXiv 2602.03048": "rollout.allocation.type",
    "PODS, arXiv 2504.13818": "rollout.down_sampling.keep",
    "Dynamic Pruning PO, arXiv 2603.04135": "rollout.pruning.prompt_rate "
    "rollout.pruning.completion_rate rollout.pruning.candidate_fraction",
    "vLLM, arXiv 2309.06180": "rollout.engine.memory",
    "speculative decoding, arXiv 2211.17192": "rollout.mode.type rollout.mode.block.length",
    "1: arXiv 2211.17192; below 1: ours, docs/theory_drafting.md": "rollout.mode.lam.type "
    "rollout.mode.lam.value",
    "ours, docs/theory_drafting.md": "rollout.mode.lam.budget rollout.mode.lam.gain "
    "rollout.mode.lam.min rollout.mode.lam.max rollout.mode.lam.price",
    "pass@k, arXiv 2107.03374": "run.eval_completions",
}
_LOSSES = {
    "Hinton et al., arXiv 1503.02531": "actor.distill.temperature",
    "forward: the paper, Eq. 7; reverse: ours": "actor.distill.type",
    "the paper, Sec. 2.2 (TIS)": "actor.correction.cap correction.cap",
    "the paper, Sec. 2.2 (IcePop)": "actor.correction.low actor.correction.high "
    "correction.low correction.high",
    "the paper, Sec. 4.3": "correction.target.c2",
    "bernoulli: the paper, Eq. 5; expected: ours": "correction.mask",
    "token: the paper, Eq. 5; prefix: ours": "correction.scope",
    "fixed: the paper, Definition 3.2; the other types: ours": "correction.lam.type",
    "the paper, Definition 3.2": "correction.lam.value",
    "the paper, Theorem 3.4": "correction.lam.budget",
    "dropped: the paper, Sec. 4.4; others: ours, docs/theory_topk.md": "correction.z.tail.type",
    "the paper, Sec. 4.4 (kappa)": "correction.z.tail.kappa",
    "each type's own paper: see the list of types": "objective.type",
    "DeepSeek-V3.2, arXiv 2512.02556": "objective.sequence_mask.type",
    "divergence PPO, arXiv 2602.04879": "objective.divergence.type objective.divergence.delta",
    "DMPO, arXiv 2510.08233": "objective.baseline.type objective.baseline.coef",
    "GRPO, arXiv 2402.03300; Dr. GRPO, arXiv 2503.20783; RLOO, arXiv 2402.14740": "loss.advantage",
    "the paper, Algorithm 1": "loss.updates_per_rollout",
    "ours; future work in the paper, Sec. 8": "control.type control.kl_target control.distill "
    "control.actor_lr control.policy_lr control.gain control.factor_max",
    "proposed, accepted: ours; sequence: arXiv 2402.03300": "loss.denominator",
    "GRPO, arXiv 2402.03300 (its KL term)": "loss.initial_kl_coef",
}
SOURCES: Mapping[str, str] = {
    key: source
    for table in ({"ours": _OURS}, _MODELS, _ROLLOUTS, _LOSSES)
    for source, keys in table.items()
    for key in keys.split()
}
