"""A sampling model for another process: its shape as JSON, its weights as plain tensors.

Nothing is pickled. All tensors go, buffers included, so the copy computes bit by bit the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from llm.checkpoints.state_tensors import own_storage, storage_of
from llm.models.loading import Model, plain, quiet, with_lora
from llm.settings.loading import Config, ConfigError, ModelConfig
from llm.settings.schema import Adapters, QuantizedActor, TrainedModelConfig

from .base import GenerationRequest, Result, generate

POLICY = "policy:"  # before the names of the policy's tensors, where it verifies


def shape_of(model: Model, cfg: Config, *, of_policy: bool = False) -> dict[str, Any]:
    """What `build_shell` needs, as values that JSON can hold. of_policy: not of the actor."""
    inner = plain(model)
    own = isinstance(cfg.actor, ModelConfig) and not of_policy
    part: ModelConfig = cfg.actor if own else cfg.policy  # type: ignore[assignment]
    lora = any(".lora_A." in name for name, _ in model.named_parameters())
    return {
        "model": type(inner).__name__,
        "config": type(inner.config).__name__,
        "values": json.loads(inner.config.to_json_string(use_diff=False)),
        "dtype": str(inner.dtype).removeprefix("torch."),
        "attention": inner.config._attn_implementation,
        "lora": [part.lora.rank, part.lora.alpha] if lora else [],
        # torch multiplies frozen weights by another routine, whose last bits differ
        "trained": [name for name, p in model.named_parameters() if p.requires_grad],
        "tied": _tied(inner),
        "wrapped": inner is not model,
        "bits": 0 if of_policy or not isinstance(cfg.actor, QuantizedActor) else cfg.actor.bits,
    }


def build_shell(shape: dict[str, Any], device: str) -> Model:
    """A model of that shape; what its weights are is undefined until `load_weights`."""
    with quiet():
        import transformers

    config = getattr(transformers, shape["config"]).from_dict(shape["values"])
    with quiet(), torch.device("meta"):
        model = getattr(transformers, shape["model"])._from_config(
            config,
            attn_implementation=shape["attention"],
            dtype=getattr(torch, shape["dtype"]),
        )
    model = model.to_empty(device="cpu")
    _tie(model, shape["tied"])
    if shape["lora"]:
        rank, alpha = shape["lora"]
        model = with_lora(model, TrainedModelConfig(lora=Adapters(rank=rank, alpha=alpha)), seed=0)
        model = model if shape["wrapped"] else plain(model)
    if shape["bits"]:
        from llm.models.actors import quantized

        for parameter in model.parameters():
            parameter.data.zero_()
        model = quantized(model, shape["bits"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in shape["trained"])
    return model.eval().to(device)


def _tied(model: Model) -> list[list[str]]:
    """Names of parameters that are one tensor, in groups: the tensors' own word, not the config's.

    A config may say that embedding and head are tied where a file holds two that differ.
    """
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name.replace(".base_layer.", "."))
    return [names for names in groups.values() if len(names) > 1]


def _tie(model: Model, groups: list[list[str]]) -> None:
    """Make one tensor of each group of parameters."""
    for first, *others in groups:
        for name in others:
            where, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(where), leaf, model.get_parameter(first))


class Shell:
    """The copy in the process of subprocess_engine.py, which samples as the engine hf does."""

    def __init__(self, start: dict[str, Any]) -> None:
        self._model = build_shell(start["shape"], start["device"])
        shape = start.get("policy_shape")
        self._policy = None if shape is None else build_shell(shape, start["device"])

    def load_weights(self, weights: Path) -> None:
        """Fill it, and the policy that verifies, from the file of `weights_of`."""
        tensors = load_file(weights)
        own = {name: x for name, x in tensors.items() if not name.startswith(POLICY)}
        load_weights(self._model, own)
        if self._policy is not None:
            cut = len(POLICY)
            other = {name[cut:]: x for name, x in tensors.items() if name.startswith(POLICY)}
            load_weights(self._policy, other)

    def generate(self, request: GenerationRequest, version: int) -> Result:
        return generate(self._model, request, version, self._policy)


def plain_tensors(model: Model) -> dict[str, torch.Tensor]:
    """Parameters and all buffers by name, shared with the model; a quantised weight as its parts,
    `name!part`."""
    named = dict(model.named_parameters(remove_duplicate=False))
    named |= dict(model.named_buffers(remove_duplicate=False))
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in named.items():
        tensors |= _flat(name, tensor.detach() if type(tensor) is torch.nn.Parameter else tensor)
    return tensors


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    """`plain_tensors` to be saved."""
    return deduplicated(plain_tensors(model))


def drafting_weights(model: Model, policy: Model) -> dict[str, torch.Tensor]:
    """Those of the model that drafts and, under `POLICY`, of the policy that verifies.

    In one file, so that both are of one version. Modules that the two share are in it twice.
    """
    weights = weights_of(model)
    drafter = {storage_of(x) for x in weights.values()}
    for name, x in weights_of(policy).items():
        weights[POLICY + name] = x.clone() if storage_of(x) in drafter else x
    return weights


def deduplicated(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a file can hold: on the CPU, tied ones once, none sharing memory."""
    kept, seen = {}, set()
    for name, tensor in tensors.items():
        if storage_of(tensor) not in seen:
            seen.add(storage_of(tensor))
            kept[name] = own_storage(tensor.cpu())
    return kept


@torch.no_grad()
def load_weights(model: Model, weights: dict[str, torch.Tensor]) -> None:
    """Fill a model of the same shape from `weights_of` another.

    Raises:
        ConfigError: a tensor is missing, unknown, or of another shape.
    """
    own = plain_tensors(model)
    for name, tensor in weights.items():
        if name in own and own[name].dtype != tensor.dtype and own[name].shape == tensor.shape:
            _retype(model, name, tensor.dtype)
            own = plain_tensors(model)
    filled = {storage_of(own[name]) for name in weights if name in own}
    odd = [name for name in weights if name not in own or own[name].shape != weights[name].shape]
    odd += [name for name, x in own.items() if name not in weights and storage_of(x) not in filled]
    if odd:
        raise ConfigError(
            f"the copy of a {type(model).__name__} that another process builds has other weights, "
            f"{odd[0]} among {len(odd)}: use --rollout.engine.type hf"
        )
    for name, tensor in weights.items():
        own[name].copy_(tensor)


def _flat(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if not hasattr(tensor, "__tensor_flatten__") or type(tensor) is torch.Tensor:
        return {name: tensor}
    tensors: dict[str, torch.Tensor] = {}
    for part in tensor.__tensor_flatten__()[0]:
        tensors |= _flat(f"{name}!{part}", getattr(tensor, part))
    return tensors


def _retype(model: Model, name: str, dtype: torch.dtype) -> None:
    """A parameter or buffer in another type, for all its ties."""
    where, _, leaf = name.rpartition(".")
    module = model.get_submodule(where)
    kept = module._parameters if leaf in module._parameters else module._buffers
    tensor = kept[leaf]
    assert tensor is not None
    tensor.data = tensor.data.to(dtype)
