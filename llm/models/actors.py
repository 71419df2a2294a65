"""The model that samples: another model, or one derived from the policy in one of five ways.

A derived actor follows the policy: `refresh` is called after every step's updates, and again after
a resume. What it gives depends on (policy, seed, step) alone, so a resumed run repeats exactly.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from llm import randomness
from llm.checkpoints.state_tensors import state_dict_of
from llm.settings.loading import Config, ConfigError

from .configs import text_of
from .loading import Model, frozen_copy, logits_width, plain, quiet
from .roles import open_model

_GROUP = 32  # int4: weights that share a scale


class Actor:
    """kind: as in the settings. model: samples; may be another object after `refresh`. trained:
    whether it has losses of its own (Eq. 6 and 7)."""

    def __init__(self, kind: str, model: Model) -> None:
        self.kind, self.model, self.trained = kind, model, kind == "separate"

    def refresh(self, policy: Model, step: int) -> None:
        """Follow the policy, whose updates of `step` are done (-1: none yet).

        Calling it twice is calling it once.
        """

    def parts(self) -> dict[str, torch.nn.Module]:
        """What a checkpoint must hold: all that policy and configuration do not give."""
        return {"actor": self.model} if self.trained else {}


def open_actor(cfg: Config, policy: Model, run_folder: Path) -> Actor:
    """The actor of a run, on the policy's device.

    Raises:
        ConfigError: a model that cannot be loaded, or that has another vocabulary; an early exit
            that is none; a missing package.
    """
    a, seed = cfg.actor, cfg.run.seed
    if a.type == "self":
        return Actor("self", policy)
    if a.type == "stale":
        return Stale(policy, a.lag)
    if a.type == "quantized":
        return Quantized(policy, a.bits)
    if a.type == "early_exit":
        return Actor("early_exit", early_exit(policy, a.exit_layers))
    if a.type == "noisy":
        return Noisy(policy, a.noise, seed)
    model = open_model(cfg, "actor", run_folder)
    width, wanted = logits_width(model), logits_width(policy)
    if width != wanted:
        raise ConfigError(
            f"the actor has probabilities of {width} token ids, the policy of {wanted}; they are "
            "compared id by id, so both models must be of one family. If they are, they differ "
            "only in the padding of the vocabulary: resize one (resize_token_embeddings) and save "
            "it"
        )
    if not a.trained:
        model.requires_grad_(False)
    return Actor(a.type, model.to(plain(policy).device))


class Stale(Actor):
    """The policy of `lag` steps ago; in the first steps the initial policy.

    Keeps lag + 1 versions on the CPU, the current one included: version n (after n steps) lies in
    slot n modulo lag + 1. With a LoRA policy a version is its adapters.
    """

    def __init__(self, policy: Model, lag: int) -> None:
        super().__init__("stale", copy.deepcopy(policy).requires_grad_(False))
        self.slots = [Snapshot(policy) for _ in range(lag + 1)]
        self._slot_names = list(state_dict_of(policy))

    def refresh(self, policy: Model, step: int) -> None:
        version, lag = step + 1, len(self.slots) - 1
        self.slots[version % (lag + 1)].copy_from(policy)
        old = self.slots[max(0, version - lag) % (lag + 1)]
        kept = dict(zip(self._slot_names, old.buffers(), strict=True))
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in kept.items():
                own[name].copy_(tensor)

    def parts(self) -> dict[str, torch.nn.Module]:
        return {f"actor_version_{i}": slot for i, slot in enumerate(self.slots)}


class Snapshot(torch.nn.Module):
    """What a checkpoint keeps of a model, as buffers on the CPU that share nothing with it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        for i, tensor in enumerate(state_dict_of(model).values()):
            self.register_buffer(f"tensor_{i}", tensor.to("cpu", copy=True))

    @torch.no_grad()
    def copy_from(self, model: Model) -> None:
        for kept, tensor in zip(self.buffers(), state_dict_of(model).values(), strict=True):
            kept.copy_(tensor)


class Quantized(Actor):
    """A copy of the policy whose linear layers, the head among them, have int8 or int4 weights.

    Layers of another kind stay as they are (convolutions, experts kept as one tensor), and a model
    that consists mostly of those is refused.
    torchao, weight only. int8: one scale per output row. int4: one per 32 weights of a row (of the
    whole row where 32 does not divide it). Embeddings and norms stay as they are.
    """

    def __init__(self, policy: Model, bits: int) -> None:
        super().__init__("quantized", quantized(policy, bits))
        self.bits = bits

    def refresh(self, policy: Model, step: int) -> None:
        self.model = quantized(policy, self.bits)


def quantized(policy: Model, bits: int) -> Model:
    """A quantised copy that shares no memory with the policy. See `Quantized`.

    Raises:
        ConfigError: torchao is missing, leaves most of the model as it is, or makes of it a model
            that does not run.
    """
    try:
        with quiet():
            from torchao.quantization import (
                Int8WeightOnlyConfig,
                IntxWeightOnlyConfig,
                PerAxis,
                PerGroup,
                quantize_,
            )
    except ImportError as e:
        raise ConfigError(
            "--actor.type quantized needs torchao: pip install -e '.[torchao]' in the checkout"
        ) from e
    model = frozen_copy(policy)
    left, inside = _count_unquantised(model)
    if 2 * left > inside:
        raise ConfigError(
            f"--actor.type quantized: {type(model).__name__} has no torch.nn.Linear layers for "
            f"{left / inside:.0%} of its parameters (embeddings and head apart), which would stay "
            "as they are; use --actor.type noisy or stale"
        )
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    if bits == 8:
        quantize_(model, Int8WeightOnlyConfig(set_inductor_config=False))
        return _check_runs(model)
    for width in {m.in_features for m in linear}:
        share = PerGroup(_GROUP) if width % _GROUP == 0 else PerAxis(0)
        quantize_(
            model,
            IntxWeightOnlyConfig(
                weight_dtype=torch.int4,  # type: ignore[attr-defined]
                granularity=share,
            ),
            filter_fn=lambda m, name, width=width: (
                isinstance(m, torch.nn.Linear) and m.in_features == width
            ),
        )
    return _check_runs(model)


def _count_unquantised(model: Model) -> tuple[int, int]:
    """Parameters that are no linear layer's, and all; both without embeddings and head."""
    ends = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    excluded = {id(m.weight) for m in (*ends, model.get_output_embeddings())}
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    inside = {id(p): p.numel() for p in model.parameters() if id(p) not in excluded}
    return sum(n for i, n in inside.items() if i not in linear), sum(inside.values())


@torch.no_grad()
def _check_runs(model: Model) -> Model:
    """The model, after two tokens: layers that treat their weight as a plain tensor fail."""
    try:
        model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device))
    except Exception as e:
        raise ConfigError(
            f"--actor.type quantized: {type(model).__name__} does not run with torchao's weights "
            f"({type(e).__name__}: {str(e)[:200]}); use --actor.type noisy or stale"
        ) from e
    return model


def early_exit(policy: Model, layers: int) -> Model:
    """The policy's first layers, its last norm and its head: the very modules, nothing copied.

    Raises:
        ConfigError: not fewer layers than the policy has, or a model that is not built as
            embedding, `layers`, norm and head.
    """
    whole = plain(policy)
    decoder = whole.get_decoder()
    stack = getattr(decoder, "layers", None)
    path = next((name for name, m in whole.named_modules() if m is decoder), "")
    if not isinstance(stack, torch.nn.ModuleList) or not path:
        raise ConfigError(
            f"--actor.type early_exit: {type(whole).__name__} has no list of decoder layers to "
            "leave early; use another kind"
        )
    if layers >= len(stack):
        raise ConfigError(
            f"--actor.exit_layers {layers} must be below the policy's {len(stack)} layers"
        )
    config = copy.deepcopy(whole.config)
    text = text_of(config)  # the cache of `sample` has as many layers as it says
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    short_decoder = _shell(decoder, text)
    short_decoder.layers = torch.nn.ModuleList(list(stack)[:layers])
    return _with_decoder(whole, path.split("."), short_decoder, config)


def _with_decoder(module: Model, path: list[str], decoder: Model, config: object) -> Model:
    """The module with another decoder at the path, which may be deeper than one step."""
    if not path:
        return decoder
    shell = _shell(module, config)
    setattr(shell, path[0], _with_decoder(getattr(module, path[0]), path[1:], decoder, config))
    return shell


def _shell(module: Model, config: object) -> Model:
    """A module of the same class with the same children, which can be exchanged."""
    shell = copy.copy(module)
    shell.__dict__["_modules"] = dict(module._modules)
    shell.config = config
    return shell


class Noisy(Actor):
    """A copy of the policy with fresh Gaussian noise on its weight matrices at every step.

    The noise of a matrix has `noise` times its root mean square; a tensor of more dimensions is a
    stack of matrices (one for each expert); vectors, so norms and most biases, have none. A
    knob for studies of mismatch: continuous, and the same for every architecture.
    """

    def __init__(self, policy: Model, noise: float, seed: int) -> None:
        super().__init__("noisy", frozen_copy(policy))
        self.noise, self.seed = noise, seed
        self.refresh(policy, -1)

    def refresh(self, policy: Model, step: int) -> None:
        rng = randomness.stream(self.seed, "noise", step + 1)  # the step that it will sample
        self.model = frozen_copy(policy)
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.ndim >= 2:
                    exact = weight.float()
                    scale = self.noise * exact.square().mean(dim=(-2, -1), keepdim=True).sqrt()
                    normal = torch.from_numpy(rng.standard_normal(weight.shape, dtype=np.float32))
                    weight.copy_(exact + scale * normal.to(weight.device))
