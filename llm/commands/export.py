"""`python -m llm export RUN --to FOLDER`: a trained model of a run as a model folder.

The folder is complete or absent. It holds weights (safetensors), config, tokenizer, generation
config and a model card, and is opened by transformers, by vLLM and by --policy.path.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm import settings
from llm.errors import ConfigError
from llm.phases import during
from llm.settings.loading import Config, ModelConfig
from llm.settings.paths import path_of
from llm.settings.schema import SeparateActor

from . import model_card
from .model_card import Exported

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "bfloat16", "float16")
_SLACK = 50_000_000  # bytes for a tokenizer and small files


def main(argv: list[str]) -> int:
    """Write the folder and say what is in it; returns 0."""
    args = _parser().parse_args(argv)
    if not (args.run / "config.toml").is_file():
        raise ConfigError(f"{args.run} is not a run folder: it holds no config.toml")
    done = export(args.run, args.to, args.model, args.checkpoint, args.adapters, args.dtype)
    sys.stdout.write(_said(done, args.to))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm export",
        allow_abbrev=False,
        description="Write a trained model of a run as a folder that transformers, vLLM and "
        "--policy.path open: weights, config, tokenizer, generation config and a model card.",
    )
    parser.add_argument("run", type=path_of, help="run folder, finished or not")
    parser.add_argument("--to", type=path_of, required=True, help="folder to write, new or empty")
    parser.add_argument("--model", choices=("policy", "actor"), default="policy")
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="last|best|STEP",
        help="which checkpoint (default last)",
    )
    parser.add_argument(
        "--adapters",
        choices=("merge", "keep"),
        default="merge",
        help="what becomes of adapters: merged into the weights, in float32 (default), or kept as "
        "adapters, which need the base model beside them",
    )
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="type of the weights (default: the run's own; float32 where adapters are merged)",
    )
    return parser


@during("while the model was opened, merged or written")
def export(
    run: Path,
    to: Path,
    role: str = "policy",
    which: str = "last",
    adapters: str = "merge",
    dtype: str | None = None,
) -> Exported:
    """Write the model of `role` in a checkpoint of the run to the folder `to`.

    Args:
        which: last, best, or the number of a step.
        adapters: merge or keep; without effect on a model that has none.
        dtype: of the weights, or None for the default.

    Raises:
        ConfigError: no such run, model or checkpoint; `to` holds something.
        CheckpointError: a damaged checkpoint.
        OSError: no room, or a folder that cannot be written; nothing was changed.
    """
    from llm.checkpoints.atomic_files import write_folder
    from llm.checkpoints.checkpoint import load_state
    from llm.models import roles
    from llm.models.loading import merged, plain

    from . import export_parts

    cfg = settings.load([run / "config.toml"], [])
    _check_target(to)
    part = _part(cfg, role, run)
    checkpoint = find_checkpoint(run, which)
    model = roles.open_shell(cfg, role, run)
    state = load_state(checkpoint, {role: model})
    rounded = None
    keep = bool(part.lora.rank) and adapters == "keep"
    if part.lora.rank and not keep:
        model = merged(model)
        dtype = dtype or "float32"
        if dtype != "float32":
            rounded = _rounding(model, roles.open_base(cfg, role, run), dtype)
    dtype = dtype or part.dtype
    if keep and dtype != part.dtype:
        raise ConfigError("--dtype needs --adapters merge: kept adapters stay in float32")
    kind = ("kept" if keep else "merged") if part.lora.rank else "none"
    copied = export_parts.copied_files(part.path) if part.path else {}
    has_tokenizer = export_parts.has_own_tokenizer(copied)
    notes = export_parts.notes(cfg, part, plain(model), roles.open_tokenizer(cfg, run))
    step = int(state["step"])
    done = Exported(run, role, checkpoint.name, step, dtype, kind, has_tokenizer, rounded, notes)

    def fill(draft: Path) -> None:
        _save_model(model, draft, cfg, part, dtype)
        for name, source in copied.items():
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, draft / name)
        (draft / "README.md").write_text(model_card.model_card(cfg, done), encoding="utf-8")

    write_folder(to, fill, 0 if keep else _bytes(model, dtype), alone=False)
    return done


def _rounding(model: Any, base: Any, dtype: str) -> float:
    """What of the adapters' change is lost where merged weights are rounded to dtype."""
    from llm.models.loading import logits_width, restrict_ids, rounding_loss

    if logits_width(base) > logits_width(model):  # rows of ids that no tokenizer has
        restrict_ids(base, logits_width(model))
    return rounding_loss(model, base, dtype)


def _bytes(model: Any, dtype: str) -> int:
    """What the folder will take at most."""
    return sum(p.numel() for p in model.parameters()) * (2 if dtype != "float32" else 4) + _SLACK


def _check_target(to: Path) -> None:
    if to.is_symlink() or (to.exists() and not (to.is_dir() and not any(to.iterdir()))):
        raise ConfigError(f"--to {to} exists and is not an empty folder: choose another")


def _part(cfg: Config, role: str, run: Path) -> ModelConfig:
    """The settings of a model that the run trains."""
    from llm.models.pretraining import is_kept

    if role == "actor" and not isinstance(cfg.actor, SeparateActor):
        raise ConfigError(
            f"--model actor: the actor of {run} is {cfg.actor.type} and not trained, so no "
            "checkpoint holds it. Use --model policy"
        )
    part: ModelConfig = getattr(cfg, role)
    if part.lora.rank and not part.path and not is_kept(cfg, role, run):
        raise ConfigError(
            f"the {role} of {run} consists of adapters, and the model under them, which the run "
            f"pretrained, is gone from {cfg.pretrain.folder or run / 'pretrained'}: put it back"
        )
    return part


def find_checkpoint(run: Path, which: str) -> Path:
    """The last, the best, or the one after so many steps.

    Raises:
        ConfigError: there is no such checkpoint; says which there are.
    """
    from llm.checkpoints import checkpoint

    folder = run / "checkpoints"
    find: dict[str, Callable[[Path], Path | None]] = {
        "last": checkpoint.latest,
        "best": checkpoint.best,
    }
    if which not in find and not (which.isascii() and which.isdigit()):
        raise ConfigError(f"--checkpoint must be last, best or the number of a step, got {which!r}")
    path = find[which](folder) if which in find else checkpoint.at_step(folder, int(which))
    if path is None:
        there = ", ".join(checkpoint.names(folder)) or "none"
        raise ConfigError(f"{run} holds no checkpoint {which}; there are: {there}")
    return path


def _save_model(model: Any, draft: Path, cfg: Config, part: ModelConfig, dtype: str) -> None:
    """Weights, config.json and generation_config.json (of kept adapters: theirs)."""
    import torch
    from transformers import GenerationConfig

    from llm.models.loading import plain, quiet
    from llm.tokenizers.pretrained import tokenizer_for

    from .export_parts import restore_config

    tokenizer = tokenizer_for(part.path, cfg.task)
    sampling = GenerationConfig(
        do_sample=True,
        temperature=cfg.rollout.temperature,
        top_k=0,  # the whole vocabulary: the distribution that was trained on
        top_p=1.0,
        max_new_tokens=cfg.rollout.max_new_tokens,
        eos_token_id=sorted(tokenizer.eos),
        pad_token_id=tokenizer.pad,
        bos_token_id=getattr(tokenizer, "bos", None),
    )
    with quiet():
        if model is plain(model):
            model = cast(model, getattr(torch, dtype))
            restore_config(model, part)
            model.generation_config = sampling
        else:
            base = Path(part.path) if part.path else Path(plain(model).name_or_path)
            for adapter in model.peft_config.values():
                adapter.base_model_name_or_path = str(base.absolute() if base.is_dir() else base)
            sampling.save_pretrained(draft)
            # the embedding is not trained; peft would ask the hub whether it has other rows there
            model.save_pretrained(draft, save_embedding_layers=False)
            return
        model.save_pretrained(draft)


def cast(model: Any, dtype: torch.dtype) -> Any:
    """The model in another dtype, but for what its architecture keeps in float32 then."""
    import torch

    kept = set(model._keep_in_fp32_modules_strict or ())
    kept |= set(model._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()
    exact = {
        name: tensor.data.float()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.is_floating_point() and not kept.isdisjoint(name.split("."))
    }
    model = model.to(dtype)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in exact:
            tensor.data = exact[name]
    return model


def _said(done: Exported, to: Path) -> str:
    lines = [f"{to}: the {done.role} after {done.step} steps ({done.checkpoint}), {done.dtype}"]
    if done.adapters == "kept":
        lines.append("adapters alone: transformers opens them with the base model they name")
    if done.rounded:
        lines.append(
            f"warning: rounding to {done.dtype} takes away {done.rounded:.0%} of what the merged "
            "adapters change; --dtype float32 keeps all"
        )
    if not done.has_tokenizer:
        lines.append("no tokenizer: the model reads the character alphabet of built models")
        lines.append(f"note: {model_card.NO_TOKENIZER}")
    lines += [f"note: {note}" for note in done.notes]
    return "\n".join(lines) + "\n"
