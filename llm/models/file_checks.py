"""What is checked of a model's files before any of them is loaded: a folder may be anybody's.

Only safetensors inside the folder are read. transformers follows an index to whatever it names,
reads adapters whose config names another folder, and opens pickles; none of that is wanted here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from llm.regular_files import read_text
from llm.settings.loading import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDEX_BYTES_MAX = 64_000_000  # one of a model with 10^5 tensors has 10 MB


def check_files(path: str, local: bool, config: Any) -> None:
    """Refuse a model whose files name what must not be loaded.

    Args:
        path: a folder or a hub id. local: which of the two. config: of the model.

    Raises:
        ConfigError: the index names something other than a safetensors file of the folder; a file
            is a link that leads out of it; the folder holds adapters; its config names files.
    """
    named = getattr(config, "transformers_weights", None)
    if named is not None:
        raise ConfigError(
            f"config.json of {path} names the file {str(named)[:100]!r} as its weights "
            f"(transformers_weights): only {WEIGHTS}, or the files of {INDEX}, are read"
        )
    if find(path, "adapter_config.json", local) is not None:
        raise ConfigError(
            f"{path} holds adapters beside a model (adapter_config.json): merge them into the "
            "model, or remove them"
        )
    whole = find(path, WEIGHTS, local)
    index = None if whole else find(path, INDEX, local)
    names = sorted(set(weight_map(index).values())) if index else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(
                f"{index} names the file {name[:100]!r}: only safetensors files beside it are "
                "loaded, so nothing was"
            )
    if local:
        for name in [*names, "config.json", *(x.name for x in (whole, index) if x)]:
            check_inside(Path(path), name)


def find(path: str, name: str, local: bool) -> Path | None:
    """A file of a model: in its folder, or in the hub's cache, fetched if need be; None without."""
    if local:
        file = Path(path) / name
        return file if file.exists() or file.is_symlink() else None
    cached = cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if cached is None else Path(cached)


def weight_map(index: Path) -> dict[str, str]:
    """{tensor: file} of an index.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        table = json.loads(read_text(index, _INDEX_BYTES_MAX))["weight_map"]
        if not all(isinstance(x, str) for pair in table.items() for x in pair):
            raise TypeError("weight_map must hold names alone")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ConfigError(f"cannot read {index}: {type(e).__name__}: {e}") from e
    return dict(table)


def file_of(path: str, local: bool, tensor: str) -> str:
    """The file that a tensor of a loaded model was read from, as far as its name tells."""
    index = None if find(path, WEIGHTS, local) else find(path, INDEX, local)
    return weight_map(index).get(tensor, INDEX) if index else WEIGHTS


def check_inside(folder: Path, name: str) -> None:
    """Raises ConfigError for a link out of the folder, and for what is no regular file."""
    file, home = folder / name, folder.resolve()
    real = file.resolve()
    # the hub's cache: snapshots/<commit>/ holds links into blobs/ beside snapshots/
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if real.parent not in homes:
        raise ConfigError(
            f"{file} is a link out of its folder, to {real}: put the file itself there"
        )
    if not real.is_file():
        raise ConfigError(f"{file} is missing, or is not a regular file")
