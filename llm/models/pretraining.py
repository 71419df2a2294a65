"""Supervised pretraining of built models on noisy demonstrations, kept and found again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from llm import randomness
from llm.checkpoints.checkpoint import latest, load_state, save_state, write_json
from llm.phases import during
from llm.regular_files import open_here, read_json
from llm.runs.nonfinite_guard import Guard
from llm.runs.progress import Progress
from llm.runs.signals import Signals, Stopped
from llm.settings import schema
from llm.settings.loading import Config, ConfigError, flatten
from llm.settings.validation import CHARACTER_TASKS
from llm.tasks.digits import DigitProblems
from llm.tokenizers.character import CharTokenizer

from .loading import Model, build, seed_of

_DEPENDS_ON = (
    "task.type task.digits_min task.digits_max task.pad_prompt_to task.digit_synonyms {role}.path "
    "{role}.layers {role}.width pretrain.{role}_steps pretrain.{role}_error pretrain.batch_size "
    "pretrain.lr run.seed"
)


def pretrained(cfg: Config, role: str, run_folder: Path) -> str:
    """Folder of the pretrained model of a role; trained now unless one of its recipe is kept.

    Pretrained models are shared by runs with the same settings of them; an interrupted one goes on.

    Raises:
        ConfigError: a damaged or edited folder: it does not hold what its name says.
    """
    folder = kept_in(cfg, role, run_folder)
    if is_kept(cfg, role, run_folder):  # perhaps in a folder of somebody else's
        return _pretrained(cfg, role, folder)
    with _alone_in(folder):
        return _pretrained(cfg, role, folder)


def kept_in(cfg: Config, role: str, run_folder: Path) -> Path:
    """Where the pretrained model of a role is kept: one folder for each recipe, named by its hash,
    so that recipes share `pretrain.folder` and never meet."""
    home = Path(cfg.pretrain.folder) if cfg.pretrain.folder else run_folder / "pretrained"
    recipe = json.dumps(_recipe(cfg, role), sort_keys=True)
    return home / f"{role}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"


def is_kept(cfg: Config, role: str, run_folder: Path) -> bool:
    """True where `pretrained` would find the model rather than train it."""
    return (kept_in(cfg, role, run_folder) / "recipe.json").exists()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits while another run pretrains here; a lock of the kernel's, gone when its holder is."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_here(folder / ".lock", "a+") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(20).strip() or "?"
                sys.stderr.write(f"{folder}: process {holder} pretrains there, waiting for it\n")
                fcntl.lockf(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _pretrained(cfg: Config, role: str, folder: Path) -> str:
    recipe, kept = _recipe(cfg, role), folder / "recipe.json"
    if kept.exists():
        try:
            kept_recipe = read_json(kept)
        except (OSError, ValueError) as e:
            raise ConfigError(f"cannot read {kept}: {e}; remove {folder}") from e
        if kept_recipe != recipe:
            kept_recipe = kept_recipe if isinstance(kept_recipe, dict) else {}
            differs = [
                f"{k} ({kept_recipe.get(k)!r} there, {recipe.get(k)!r} wanted)"
                for k in sorted(recipe.keys() | kept_recipe.keys())
                if kept_recipe.get(k) != recipe.get(k)
            ]
            raise ConfigError(
                f"{folder} is damaged or was edited: its name is of another recipe than the one in "
                f"recipe.json: {', '.join(differs)}. Remove it or choose another --pretrain.folder"
            )
    else:
        with during(f"in the pretraining of the {role}"):
            _train(cfg, role, folder).save_pretrained(folder / "model")
        write_json(kept, recipe)  # written last: its presence says "complete"
    return str(folder / "model")


def _recipe(cfg: Config, role: str) -> dict:
    """The settings a pretrained model depends on, and no others."""
    flat = flatten(cfg)
    return {k: flat.get(k) for k in _DEPENDS_ON.format(role=role).split()}


def _train(cfg: Config, role: str, folder: Path) -> Model:
    """Supervised training on noisy demonstrations: pass rates start above zero, and differ."""
    w = cfg.pretrain
    steps = w.policy_steps if role == "policy" else w.actor_steps
    error = w.policy_error if role == "policy" else w.actor_error
    model = build(getattr(cfg, role), seed_of(cfg, role), cfg.task.digit_synonyms)
    optimizer = torch.optim.AdamW(model.parameters(), lr=w.lr, weight_decay=0.0)
    parts = {"model": model, "optimizer": optimizer}
    start, kept = 0, latest(folder / "checkpoints")
    if kept is not None:
        start = load_state(kept, parts)["step"]
    progress = Progress(f"pretraining {role}", steps, start)
    guard = Guard(folder / "checkpoints")
    with Signals(cfg.run.stop_seconds) as interrupts:
        for step in range(start, steps):
            # "warm-up" is part of the seed: another word would give other pretrained weights.
            rng = randomness.stream(cfg.run.seed, f"warm-up {role}", step)
            ids, is_answer = demonstrations(cfg, rng, error)
            logits = model(input_ids=ids).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(
                logits[is_answer[:, 1:]], ids[:, 1:][is_answer[:, 1:]]
            )
            for group in optimizer.param_groups:
                group["lr"] = w.lr * min(1.0, (step + 1) / 20) * (1.0 - 0.9 * step / steps)
            optimizer.zero_grad()
            loss.backward()
            guard.finite(step, loss=loss)
            guard.gradients(step, **{role: model})
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.show(step + 1, f"loss {float(loss.detach()):.3f}")
            stopping = interrupts.requested
            if ((step + 1) % 100 == 0 and step + 1 < steps) or stopping:
                with interrupts.saving():
                    save_state(folder / "checkpoints", step + 1, parts, {"step": step + 1})
                if stopping:
                    raise Stopped(interrupts.exit_code)
    progress.close()
    return model


def demonstrations(
    cfg: Config, rng: np.random.Generator, error: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt, answer and end-of-sequence, right-padded; and which ids are answer. (b, t) each."""
    tokenizer = CharTokenizer(cfg.task.digit_synonyms)
    (eos,) = tokenizer.eos
    if not isinstance(cfg.task, schema.DigitTask | schema.AddTask):
        raise ConfigError(
            f"--task.type {cfg.task.type} has no demonstrations to pretrain a model on: give a "
            f"path to every model, or choose one of {', '.join(CHARACTER_TASKS)}"
        )
    task = DigitProblems(cfg.task)
    prompts = [p.prompt for p in task.problems(rng, cfg.pretrain.batch_size)]
    rows = [
        (tokenizer.encode(p), tokenizer.encode(task.demonstration(p, rng, error))) for p in prompts
    ]
    width = max(len(p) + len(a) + 1 for p, a in rows)
    ids = torch.full((len(rows), width), tokenizer.pad)
    is_answer = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, (p, a) in enumerate(rows):
        ids[i, : len(p) + len(a) + 1] = torch.tensor([*p, *a, eos])
        is_answer[i, len(p) : len(p) + len(a) + 1] = True
    return ids, is_answer
