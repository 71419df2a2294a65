"""The hub of models and data sets, its local cache, and paths that may lead to it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from llm.errors import ConfigError
from llm.regular_files import irregular

HUB_SECONDS = 10.0  # for one small answer
_on_hub: set[tuple[str, str]] = set()  # asked already, by this process


def is_local(path: str) -> bool:
    """True for an existing folder, False for what looks like a hub id (owner/name).

    Raises:
        ConfigError: neither; or a folder of a run, of a checkpoint, or of adapters alone; or one in
            which something stands in the place of a file and is none (`check_model_files`).
    """
    if Path(path).is_dir():
        _check_model_folder(Path(path))
        return True
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]*[\w-]", path, flags=re.ASCII):
        return False
    if Path(path).is_file():
        raise ConfigError(f"cannot load a model from {path}: it is a file; give the folder of it")
    raise ConfigError(
        f"cannot load a model from {path}: there is no such folder, and it is not a hub id "
        "(owner/name)"
    )


def _check_model_folder(folder: Path) -> None:
    """Raises ConfigError if what a run made is given in place of a model, or a file is none."""
    check_model_files(folder)

    def holds(*names: str) -> bool:
        return all((folder / name).exists() for name in names)

    if holds("config.json"):
        return
    remedy = "write a model folder with `python -m llm export RUN --to FOLDER`, and give that"
    if holds("manifest.json", "state.json"):
        raise ConfigError(f"{folder} is a checkpoint of a run, not a model folder: {remedy}")
    if holds("config.toml", "checkpoints"):
        raise ConfigError(f"{folder} is a run folder, not a model folder: {remedy}")
    if holds("adapter_config.json"):
        raise ConfigError(
            f"{folder} holds adapters without their model: export them with `--adapters merge`, or "
            "merge them into it"
        )


_OF_MODELS = (".json", ".model", ".txt")  # config and tokenizer, as transformers names them
_READ = (*_OF_MODELS, ".jinja", ".safetensors", ".tiktoken", ".bpe", ".spm", ".vocab")
_TEMPLATES = "additional_chat_templates"  # a folder of them, which transformers reads too
_TEXT_BYTES_MAX = 500_000_000  # of a file but the weights: the largest tokenizers have a tenth


def check_model_files(folder: Path, weights: bool = True) -> None:
    """Refuse what stands in the place of a model's file and cannot be read as one.

    transformers takes a broken link, a FIFO or a folder for an absent file. Without its chat
    template a model would be given plain text, and without its generation config other ids would
    end a completion, both in silence. A link to a file is one: the hub's cache is made of them.

    Args:
        weights: whether to look at the weights too.

    Raises:
        ConfigError: naming it, and what it is; or a file too large to be read as text.
    """
    ends = tuple(end for end in _READ if weights or end != ".safetensors")
    there = [p for p in sorted(folder.iterdir()) if p.suffix in ends or p.name == _TEMPLATES]
    if (folder / _TEMPLATES).is_dir():
        there = [p for p in there if p.name != _TEMPLATES]
        there += [p for p in sorted((folder / _TEMPLATES).iterdir()) if p.suffix == ".jinja"]
    for path in there:
        if what := irregular(path):
            raise ConfigError(
                f"{path} is {what}, where a file of the model is read: put the file there, or "
                "remove it"
            )
        if path.suffix != ".safetensors" and path.stat().st_size > _TEXT_BYTES_MAX:
            raise ConfigError(
                f"{path} has {path.stat().st_size} bytes, more than the {_TEXT_BYTES_MAX} that "
                "are read of a model's text files: put the right file there"
            )


def check_cached_files(name: str) -> None:
    """`check_model_files` of a hub id, in the local cache, but for its weights; of one that is not
    there nothing. The hub replaces a broken link, so this comes after it was asked."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "tokenizer_config.json"):
        if isinstance(cached := try_to_load_from_cache(name, file), str):
            check_model_files(Path(cached).parent, weights=False)
            return


def require_model(path: str) -> None:
    """Raises ConfigError for a folder with no file of a model: empty, or of another format."""
    if is_local(path) and not any(p.suffix in _OF_MODELS for p in Path(path).iterdir()):
        raise ConfigError(
            f"{path} holds no model: there is neither a config.json nor a tokenizer in it. Give "
            "the folder that holds them"
        )


def hub_file(path: str, name: str) -> Path | None:
    """A file of a hub repository, fetched if need be; None where there is none.

    Raises:
        OSError: the hub does not answer. Offline, what is not in the cache counts as absent.
    """
    from transformers.utils import cached_file

    cached = cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=not _hub_is_off(),
    )
    return None if cached is None else Path(cached)


def require_on_hub(name: str, kind: Literal["model", "data set"] = "model") -> None:
    """Ask the hub once, and not for long, before a library asks it again and again in silence.

    Raises:
        ConfigError: it has no model or data set of that name, or gives no answer, and the cache has
            none either.
    """
    key = kind, name
    if key in _on_hub or _hub_is_off(kind):
        return
    if not _is_cached(name, kind):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        absent = f"there is no {'folder' if kind == 'model' else 'file'} {name}"
        api = HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        try:
            _within(HUB_SECONDS, lambda: ask(name, timeout=HUB_SECONDS))
        except RepositoryNotFoundError as e:
            raise ConfigError(
                f"{absent}, and no public {kind} of that name on the hub: look at its spelling "
                "(owner/name), or log in if it is not public (hf auth login)"
            ) from e
        except Exception as e:  # whatever the network does
            raise ConfigError(
                f"{absent}, it is not in the local hub cache, and the hub does not answer "
                f"({type(e).__name__}: {str(e)[:100]}): give "
                f"{'a folder' if kind == 'model' else 'a .jsonl or .parquet file'}, or look at the "
                "network"
            ) from e
    _on_hub.add(key)


def _within(seconds: float, ask: Callable[[], object]) -> None:
    """Call `ask` in a thread, and wait no longer: a name server or a server that answers byte by
    byte keeps to no timeout of a library.

    Raises:
        TimeoutError: it did not return. Exception: what it raises.
    """
    failed: list[Exception] = []

    def call() -> None:
        try:
            ask()
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"nothing in {seconds:g} s")
    if failed:
        raise failed[0]


def _is_cached(name: str, kind: str) -> bool:
    from huggingface_hub import constants, try_to_load_from_cache

    if kind == "model":
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "snapshots"
    return folder.is_dir() and any(folder.iterdir())


def _hub_is_off(kind: str = "model") -> bool:
    names = ["HF_HUB_OFFLINE"] + ["HF_DATASETS_OFFLINE"] * (kind == "data set")
    return any(os.environ.get(x, "0").upper() in ("1", "ON", "YES", "TRUE") for x in names)


def offline_hint(path: str) -> str:
    """For an error message: how `path` was looked for, where that is not obvious."""
    if Path(path).is_dir():
        return ""
    where = "on the hub"
    if _hub_is_off():
        where = "only in the local hub cache, HF_HUB_OFFLINE is set"
    return f" (no such folder, so it was looked for as a hub id, {where})"
