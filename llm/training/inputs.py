"""What a run is made of: digests of models and data, kept in inputs.json.

A run goes on only from what it was made of. A model or a file of rows that was replaced between
two starts would change the run without a word: the policy is in the checkpoint, and its frozen
weights, a frozen actor, the initial policy and the data are not. (A reward function's digest is
kept in the checkpoints, with the settings.)
"""

from __future__ import annotations

from pathlib import Path

from llm import distributed
from llm.checkpoints.atomic_files import write_json
from llm.models.digests import digests, folder_of, model_files
from llm.regular_files import read_json
from llm.runs import run_folder
from llm.settings.loading import ConfigError

from .context import TrainContext

Inputs = dict[str, str]  # {"role: file", or a source of rows as its task names it: SHA-256}
FILE = "inputs.json"


def checked_inputs(ctx: TrainContext, folder: Path) -> Inputs:
    """Digests of what this start found, the same as those of the run in `folder`, if it holds one.
    All ranks must call; on others than the first it is empty.

    Raises:
        ConfigError: what is not as it was when the run began, by name and place; or inputs.json is
            damaged. On all ranks.
    """

    def inputs_now() -> Inputs:
        if not distributed.is_main():
            return {}
        places = {role: folder_of(ctx.cfg, role, folder) for role in ("policy", "actor")}
        files = {
            f"{role}: {path.name}": path
            for role, place in places.items()
            if place is not None and place.is_dir()
            for path in model_files(place)
        }
        inputs = {**digests(files), **ctx.task.digests}
        where = {f"{role}: ": str(place) for role, place in places.items()}
        check_inputs(folder, inputs, where)
        return inputs

    return distributed.raise_on_all_ranks(inputs_now, ConfigError)


def check_inputs(folder: Path, now: Inputs, where: dict[str, str]) -> None:
    """Compare with what the run in `folder` was made of.

    Args:
        where: the place of names that start so, for messages.

    Raises:
        ConfigError: see `checked_inputs`.
    """
    path = folder / FILE
    if not path.exists() or not run_folder.holds_run(folder):
        return  # a run that kept none: those of now are kept from here on
    try:
        there = read_json(path)
        if not isinstance(there, dict) or not all(isinstance(v, str) for v in there.values()):
            raise ValueError("it holds no digests")
    except (OSError, ValueError) as e:
        raise ConfigError(f"cannot read {path}: {e}; move it away to do without it") from e
    for name in sorted(there.keys() | now.keys()):
        if there.get(name) == now.get(name):
            continue
        place = next((f" in {at}" for start, at in where.items() if name.startswith(start)), "")
        state = "is gone" if name not in now else "is new" if name not in there else "has changed"
        marks = f"SHA-256 {there.get(name, 'none')[:12]} then, {now.get(name, 'none')[:12]} now"
        raise ConfigError(
            f"{folder} is a run that was made of something else: {name}{place} {state} since it "
            f"began ({marks}). Put back what was there, or start another --run.folder"
        )


def keep_inputs(folder: Path, inputs: Inputs) -> None:
    """Write inputs.json, unless it says just this."""
    path = folder / FILE
    if not path.exists() or read_json(path) != inputs:
        write_json(path, inputs)
