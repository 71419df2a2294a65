"""The policy and the actor: built small, or loaded from a folder; and their supervised warm-up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers import logging as transformers_logging

from . import data
from .checkpoint import Guard, latest, load_state, save_state, write_json
from .config import Config, ConfigError, ModelConfig, flatten
from .progress import Progress

Model = Any  # a transformers causal language model; its classes share no typed base

transformers_logging.disable_progress_bar()


def build(cfg: ModelConfig, seed: int) -> Model:
    """A random Qwen3 model over the character alphabet; the same seed gives the same weights."""
    heads = max(4, cfg.width // 16)  # with two heads of 16 the task is hardly learnt
    config = Qwen3Config(
        vocab_size=data.VOCAB_SIZE,
        hidden_size=cfg.width,
        intermediate_size=2 * cfg.width,
        num_hidden_layers=cfg.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.1,  # the library's 0.02 is for wide models: these would learn late
        pad_token_id=data.PAD,
        eos_token_id=data.EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def load(folder: str | Path) -> Model:
    """A causal language model from safetensors, in float32. Nothing in the folder is executed.

    Raises:
        ConfigError: no model there, or a vocabulary other than the task's.
    """
    if not Path(folder).is_dir():
        raise ConfigError(f"cannot load a model from {folder}: there is no such folder")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as e:
        raise ConfigError(f"cannot load a safetensors model from {folder}: {e}") from e
    found = model.config.vocab_size
    if found != data.VOCAB_SIZE:
        raise ConfigError(
            f"the model in {folder} has a vocabulary of {found} ids, the task's alphabet has "
            f"{data.VOCAB_SIZE}; policy and actor must share it"
        )
    return model


def policy_and_actor(cfg: Config, run_folder: Path) -> tuple[Model, Model | None]:
    """Both models, loaded or warmed up; no actor where the policy samples for itself.

    Warm-ups are kept, and reused by runs with the same settings of them.
    """
    torch.set_num_threads(cfg.run.threads)
    policy = _model(cfg, "policy", run_folder)
    return policy, _model(cfg, "actor", run_folder) if cfg.rollout.source == "actor" else None


def shells(cfg: Config) -> dict[str, Model]:
    """Models of the right shape for a checkpoint to be loaded into; nothing is trained."""
    torch.set_num_threads(cfg.run.threads)
    roles = ("policy", "actor") if cfg.rollout.source == "actor" else ("policy",)
    parts = {role: getattr(cfg, role) for role in roles}
    return {role: load(p.path) if p.path else build(p, seed=0) for role, p in parts.items()}


def _model(cfg: Config, role: str, run_folder: Path) -> Model:
    part: ModelConfig = getattr(cfg, role)
    if part.path:
        return load(part.path)
    home = Path(cfg.warmup.folder) if cfg.warmup.folder else run_folder / "warmup"
    folder = home / role
    recipe = _recipe(cfg, role)
    if (folder / "recipe.json").exists():
        found = json.loads((folder / "recipe.json").read_text())
        if found != recipe:
            differs = [k for k in recipe if found.get(k) != recipe[k]]
            raise ConfigError(
                f"{folder} holds a model warmed up with other settings ({', '.join(differs)}); "
                "choose another --warmup.folder or remove it"
            )
        return load(folder / "model")
    model = _warm_up(cfg, role, folder)
    model.save_pretrained(folder / "model")
    write_json(folder / "recipe.json", recipe)  # written last: its presence says "complete"
    return load(folder / "model")


def _recipe(cfg: Config, role: str) -> dict:
    """The settings a warmed-up model depends on, and no others."""
    flat = flatten(cfg)
    keys = [k for k in flat if k.startswith(("task.", f"{role}."))]
    keys += [f"warmup.{role}_steps", f"warmup.{role}_error", "warmup.batch_size", "warmup.lr"]
    return {k: flat[k] for k in [*keys, "run.seed"]}


def _warm_up(cfg: Config, role: str, folder: Path) -> Model:
    """Supervised training on noisy demonstrations: pass rates start above zero, and differ."""
    w = cfg.warmup
    steps = w.policy_steps if role == "policy" else w.actor_steps
    error = w.policy_error if role == "policy" else w.actor_error
    model = build(getattr(cfg, role), seed=cfg.run.seed * 2 + (role == "actor"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=w.lr, weight_decay=0.0)
    parts = {"model": model, "optimizer": optimizer}
    start, kept = 0, latest(folder / "checkpoints")
    if kept is not None:
        start = load_state(kept, parts)["step"]
    progress = Progress(f"warm-up {role}", steps, start)
    guard = Guard(folder / "checkpoints")
    for step in range(start, steps):
        rng = data.stream(cfg.run.seed, f"warm-up {role}", step)
        prompts = [p for p, _ in data.problems(cfg.task, rng, w.batch_size)]
        ids, is_answer = demonstrations(prompts, rng, error)
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
        if (step + 1) % 100 == 0 and step + 1 < steps:
            save_state(folder / "checkpoints", step + 1, parts, {"step": step + 1})
    progress.close()
    return model


def demonstrations(
    prompts: list[str], rng: np.random.Generator, error: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt, answer and end-of-sequence, right-padded; and which ids are answer. (b, t) each."""
    rows = [(data.encode(p), data.encode(data.demonstration(p, rng, error))) for p in prompts]
    width = max(len(p) + len(a) + 1 for p, a in rows)
    ids = torch.full((len(rows), width), data.PAD)
    is_answer = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, (p, a) in enumerate(rows):
        ids[i, : len(p) + len(a) + 1] = torch.tensor([*p, *a, data.EOS])
        is_answer[i, len(p) : len(p) + len(a) + 1] = True
    return ids, is_answer
