"""Memory that ran out, in a sentence: the phase, what was expected, which settings to lower."""

from __future__ import annotations

from llm.phases import phase_of
from llm.planning import memory
from llm.settings.loading import Config, ModelConfig
from llm.training.context import open_device

_SMALLER = "--policy.dtype to bfloat16, train adapters (--policy.lora.rank), or take smaller models"
_REMEDIES = {  # by a word of the phase
    "rollout": "--rollout.prompts_per_step or --rollout.max_new_tokens (key-value cache, logits)",
    "update": "--optim.microbatch.sequences, or set --optim.microbatch.type tokens or "
    "--run.activation_checkpointing True (logits, activations)",
    "evaluation": "--run.eval_prompts or --run.eval_completions, or --rollout.max_new_tokens",
    "data": "the number of rows, or the length of their prompts and other columns",
    "pretraining": "--pretrain.batch_size, or take smaller models",
    "self-test": f"--rollout.max_new_tokens, --task.prompt_tokens_max, or {_SMALLER}",
}


def out_of_memory_text(cfg: Config, e: BaseException) -> str:
    """The message for a person. The phase is what `phases.during` noted on the exception."""
    phase = phase_of(e) or "while models were opened or tested"
    first = (str(e).splitlines() or [type(e).__name__])[0][:200]
    remedy = next((text for word, text in _REMEDIES.items() if word in phase), _SMALLER)
    return (
        f"out of memory {phase} ({first}). {_expected(cfg)} Lower {remedy}. `python -m llm plan` "
        "shows all parts"
    )


def _expected(cfg: Config) -> str:
    """What the estimate says; nothing where it cannot be made."""
    try:
        policy = memory.shape(cfg.policy)
        actor = memory.shape(cfg.actor) if isinstance(cfg.actor, ModelConfig) else None
        parts = memory.estimate(cfg, policy, actor, cfg.task.prompt_tokens_max)
        free = memory.available(open_device(cfg.run.device))
    except Exception:  # memory is short, and this is no more than a help
        return "The estimate of what it needs cannot be made now."
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    shown = ", ".join(f"{name} {n / 1e9:.2g} GB" for name, n in largest)
    return (
        f"The estimate at the longest prompt and completion was {sum(parts.values()) / 1e9:.2g} GB "
        f"({shown}, ...), and {free / 1e9:.2g} GB are free now."
    )
