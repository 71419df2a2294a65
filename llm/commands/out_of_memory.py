"""Memory that ran out, in a sentence: the phase, what was expected, which settings to lower."""

from __future__ import annotations

import torch

from llm.planning import memory
from llm.settings.loading import Config, ModelConfig
from llm.training.context import open_device

_SAID = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_REMEDIES = {
    "rollout": "--rollout.prompts_per_step or --rollout.max_new_tokens (key-value cache, logits)",
    "update": "--optim.microbatch.sequences, or set --optim.microbatch.type tokens or "
    "--run.activation_checkpointing True (logits, activations)",
    "evaluation": "--run.eval_prompts or --run.eval_completions, or --rollout.max_new_tokens",
    "": "--policy.dtype to bfloat16, train adapters (--policy.lora_rank), or take smaller models",
}


def is_out_of_memory(e: BaseException) -> bool:
    """Of the CPU or a GPU; torch has an exception of its own for GPUs alone."""
    if isinstance(e, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(e, RuntimeError) and any(text in str(e).lower() for text in _SAID)


def out_of_memory_text(cfg: Config, e: BaseException) -> str:
    """The message for a person. The phase is a note that `Record.timed` leaves on the exception."""
    note = next((n for n in getattr(e, "__notes__", []) if n.startswith("phase: ")), "")
    phase, _, step = note.removeprefix("phase: ").partition(", ")
    where = f"in the {phase} of {step}" if phase else "while models were opened or tested"
    first = (str(e).splitlines() or [type(e).__name__])[0][:200]
    return (
        f"out of memory {where} ({first}). {_expected(cfg)} Lower {_REMEDIES.get(phase, '')}"
        f"{'' if phase in _REMEDIES else _REMEDIES['']}. `python -m llm plan` shows all parts"
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
