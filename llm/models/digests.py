"""The files that a model consists of, wherever it lies, and their digests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llm.hub import is_local
from llm.runs.progress import Progress
from llm.settings.loading import Config, ConfigError, ModelConfig
from llm.tokenizers.pretrained import TOKENIZER_EXTRAS, TOKENIZER_FILES

from .file_checks import find
from .pretraining import kept_in

_NAMES = ("config.json", "generation_config.json", "model.safetensors.index.json")
_BLOCK = 1 << 24  # bytes read at once
_THREADS = 4  # files that are read at once; SHA-256 takes about 1.4 s per GB and thread
_SHOWN_FROM = 2_000_000_000  # bytes from which the progress is shown


def folder_of(cfg: Config, role: str, run_folder: Path) -> Path | None:
    """Where the model that a role starts from lies; of a hub id the folder in the hub's cache.
    None where the role has no model of its own."""
    part = getattr(cfg, role)
    if not isinstance(part, ModelConfig):
        return None
    if not part.path:
        return kept_in(cfg, role, run_folder) / "model"
    if is_local(part.path):
        return Path(part.path)
    config = find(part.path, "config.json", local=False)
    return config.parent if config else None


def model_files(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer, by name."""
    known = {*_NAMES, *TOKENIZER_FILES, *TOKENIZER_EXTRAS}
    wanted = (p for p in folder.iterdir() if p.name in known or p.suffix == ".safetensors")
    return sorted(p for p in wanted if p.is_file())


def digests(files: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of every byte of these files, by the same names.

    Nothing shorter is a proof: size and time can be set, and samples miss what lies between them.

    Raises:
        ConfigError: a file that cannot be read.
    """
    total = sum(path.stat().st_size for path in files.values())
    progress = Progress("digests of the models' files, MB", total >> 20, silent=total < _SHOWN_FROM)
    lock, done = threading.Lock(), 0

    def count(n: int) -> None:
        nonlocal done
        with lock:
            done += n
            progress.show(done >> 20, "")

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            sums = list(pool.map(lambda path: _digest(path, count), files.values()))
    except OSError as e:
        raise ConfigError(f"cannot read {e.filename}: {e.strerror or e}") from e
    progress.close()
    return dict(zip(files, sums, strict=True))


def _digest(path: Path, count: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            count(len(block))
    return digest.hexdigest()
