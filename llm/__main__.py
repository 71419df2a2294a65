"""The trainer's door: python -m llm train | eval."""

from __future__ import annotations

import sys

_HELP = """python -m llm: train a policy from another model's rollouts (arXiv 2602.06107)

  python -m llm train CONFIG.toml [MORE.toml ...] [--section.key value ...] [--dry-run]
        Train, or go on where an interrupted run of the same settings stopped. Files are read in
        order, flags come last. --dry-run prints the resolved configuration and stops.
        `train --help` lists every setting, its default and its meaning.

  python -m llm eval RUN [--prompts N] [--seed S]
        Held-out pass rate, with a 95 % interval, of a run's newest checkpoint.

Configurations to start from: llm/configs/*.toml. A run folder holds config.toml, provenance.json,
metrics.jsonl (every name is explained in llm/metrics.py), checkpoints/, at the end summary.json.
"""


_AGAIN = "the same command goes on from the last checkpoint"


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return 0 if argv else 2
    commands = {"train": _train, "eval": _eval}
    if argv[0] not in commands:
        return _fail(f"unknown command {argv[0]!r}; there are: {', '.join(commands)}")
    try:
        return commands[argv[0]](argv[1:])
    except ValueError as e:  # ConfigError and CheckpointError are ValueErrors
        return _fail(str(e))
    except KeyboardInterrupt:
        return _fail(f"interrupted; {_AGAIN}", code=130)


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


def _train(argv: list[str]) -> int:
    from . import config

    files = [a for i, a in enumerate(argv) if a.endswith(".toml") and _is_positional(argv, i)]
    flags = [a for i, a in enumerate(argv) if not (a in files and _is_positional(argv, i))]
    dry = "--dry-run" in flags
    cfg = config.load(files, [f for f in flags if f != "--dry-run"])
    if dry:
        sys.stdout.write(config.dump(cfg))
        return 0
    from . import run

    folder = run.prepare(cfg)
    if (folder / "summary.json").exists():
        sys.stdout.write(f"{folder}: already complete\n")
        return 0
    from .checkpoint import Diverged
    from .train import train

    try:
        summary = train(cfg, folder)
    except Diverged as e:
        return _fail(str(e), code=3)
    except OSError as e:
        return _fail(
            f"cannot write {e.filename or folder}: {e.strerror}; what was saved is kept, {_AGAIN}"
        )
    sys.stdout.write(
        f"{folder}: pass rate {summary['pass_rate_first']:.3f} -> {summary['pass_rate_last']:.3f} "
        f"after {summary['steps']} steps\n"
    )
    return 0


def _is_positional(argv: list[str], i: int) -> bool:
    return (
        i == 0
        or not argv[i - 1].startswith("--")
        or "=" in argv[i - 1]
        or argv[i - 1] == "--dry-run"
    )


def _eval(argv: list[str]) -> int:
    import argparse
    import dataclasses
    from pathlib import Path

    parser = argparse.ArgumentParser(prog="python -m llm eval")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--prompts", type=int, default=1000, help="held-out prompts (default 1000)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the prompts and samples (default 1)"
    )
    args = parser.parse_args(argv)
    from .config import ConfigError, load

    if not (args.run / "config.toml").exists():
        raise ConfigError(f"{args.run} is not a run folder: it holds no config.toml")
    if args.prompts < 1 or args.seed < 0:
        raise ConfigError("--prompts must be at least 1 and --seed at least 0")
    cfg = load([str(args.run / "config.toml")], [])
    from .checkpoint import latest, load_state
    from .evaluate import pass_rate
    from .models import shells

    kept = latest(args.run / "checkpoints")
    if kept is None:
        raise ConfigError(f"{args.run} holds no complete checkpoint yet")
    found = shells(cfg)
    load_state(kept, found)
    sampled = dataclasses.replace(cfg.run, eval_prompts=args.prompts, seed=args.seed)
    cfg = dataclasses.replace(cfg, run=sampled)
    for name, model in found.items():
        low, high, share = _interval(pass_rate(model, cfg), args.prompts)
        sys.stdout.write(
            f"{name}: pass rate {share:.3f} (95 % Wilson interval {low:.3f} to {high:.3f})\n"
        )
    return 0


def _interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float, float]:
    """Wilson score interval of a share of n."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half), share


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
