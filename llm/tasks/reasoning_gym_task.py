"""Problems from reasoning-gym's generators. Its questions and answers are used, its scorers never.

Several of its scorers evaluate the model's answer as code. Here an answer is compared as text or
number by rewards/scorers.py, and only generators whose answers can be judged so may be named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from llm.errors import ConfigError
from llm.settings.schema import GymTask, RewardConfig

from .datasets import checked_problems, instructed
from .problem import HELD_OUT, Problem, RowTask, digest, is_held_out

_SEED = 0  # of the generator: runs with different seeds hold out the same problems


def open_gym(cfg: GymTask, tokenizer: Any, reward: RewardConfig) -> RowTask:
    """`size` problems of a generator, an eighth of the prompts held out.

    Raises:
        ConfigError: a generator that is not on the list, reasoning-gym is missing, bad rows, or
            too few problems to hold any out.
    """
    allowed = get_args(get_type_hints(GymTask)["generator"])
    if cfg.generator not in allowed:
        raise ConfigError(f"--task.generator {cfg.generator} is not one of {', '.join(allowed)}")
    try:
        import reasoning_gym
    except ImportError as e:
        raise ConfigError(
            "--task.type gym needs reasoning-gym, which is not installed: pip install "
            "-e '.[gym]' in the checkout"
        ) from e
    dataset = reasoning_gym.create_dataset(cfg.generator, size=cfg.size, seed=_SEED)
    rows = (dataset[i] for i in range(cfg.size))
    source = f"reasoning-gym {cfg.generator}"
    distinct, skipped, repeats = checked_problems(_checked(rows), cfg, tokenizer, source, reward)
    train = [p for p in distinct if not is_held_out(p.prompt)]
    held = [p for p in distinct if is_held_out(p.prompt)]
    if not train or not held:
        raise ConfigError(
            f"--task.size {cfg.size} gives {len(distinct)} different problems, too few to "
            "hold any out: raise it"
        )
    digests = {f"data: {source}": digest(distinct)}
    train, held = (instructed(problems, cfg.instruction) for problems in (train, held))
    return RowTask(train, {HELD_OUT: held}, skipped, repeats, digests)


def _checked(rows: Any) -> Iterator[tuple[str, Problem | str]]:
    for number, row in enumerate(rows, 1):
        question, answer = row.get("question"), row.get("answer")
        ok = isinstance(question, str) and isinstance(answer, str) and question.strip() and answer
        yield f"problem {number}", Problem(question.strip(), answer.strip()) if ok else "no text"
