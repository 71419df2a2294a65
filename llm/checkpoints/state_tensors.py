"""A run's parts as named tensors, and back in place: what the files of a checkpoint hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from llm.distributed.dtensors import full, like


class Stateful(Protocol):
    """Says itself which tensors are to be kept of it."""

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None: ...


StatefulPart = torch.nn.Module | torch.optim.Optimizer | Stateful
StatefulParts = Mapping[str, StatefulPart]
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, of the shape of their parameter


def state_dict_of(part: StatefulPart) -> dict[str, torch.Tensor]:
    """What must be kept of a part; tensors are shared with it, not copied, where that is safe.

    Of a module of which only some parameters are trained (adapters), those alone. Tied weights
    appear once. What is spread over ranks is put together, so all ranks must ask.
    """
    kept = {name: own_storage(full(tensor.detach())) for name, tensor in _tensors(part).items()}
    return kept | _before_first_step(part, kept)


def _tensors(part: StatefulPart) -> dict[str, torch.Tensor]:
    if isinstance(part, torch.nn.Module):
        kept = _kept(part)
        tensors, seen = {}, set()
        for name, tensor in part.state_dict().items():
            if name in kept and storage_of(tensor) not in seen:
                seen.add(storage_of(tensor))
                tensors[name] = tensor
    elif not isinstance(part, torch.optim.Optimizer):
        tensors = part.state_dict()
    else:
        tensors = {
            f"{index}.{name}": torch.as_tensor(value)
            for index, values in part.state_dict()["state"].items()
            for name, value in values.items()
        }
    return tensors


def _before_first_step(
    part: StatefulPart, kept: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """AdamW's state of parameters that never had a gradient, which it has not made yet.

    It then starts from exactly these zeros. So a checkpoint holds a state for every parameter, and
    one that is lost is noticed.
    """
    if not isinstance(part, torch.optim.AdamW):
        return {}
    zero_states: dict[str, torch.Tensor] = {}
    for i, parameter in enumerate(p for group in part.param_groups for p in group["params"]):
        if f"{i}.step" not in kept:
            zeros = {name: torch.zeros(parameter.shape, dtype=parameter.dtype) for name in _MOMENTS}
            zero_states |= {f"{i}.step": torch.tensor(0.0)}
            zero_states |= {f"{i}.{name}": value for name, value in zeros.items()}
    return zero_states


def load_state_dict(part: StatefulPart, tensors: dict[str, torch.Tensor]) -> None:
    """Restore a part in place.

    Raises:
        ValueError, KeyError, RuntimeError: a tensor missing, too many, or of another shape or type.
    """
    if isinstance(part, torch.nn.Module):
        _load_module(part, tensors)
    elif not isinstance(part, torch.optim.Optimizer):
        part.load_state_dict(tensors)
    else:
        _load_optimizer(part, tensors)


def bytes_of(part: StatefulPart) -> int:
    """Size of what `tensors_of` holds; of an optimiser without a step yet, what it will hold."""
    held = sum(x.numel() * x.element_size() for x in _tensors(part).values())
    if isinstance(part, torch.optim.Optimizer) and not part.state:
        held += sum(
            2 * p.numel() * p.element_size() for group in part.param_groups for p in group["params"]
        )
    return held


def frozen_digest(part: StatefulPart) -> str:
    """Fingerprint of the weights that are not kept because they never change; "" if none.

    From at most 256 values of each tensor: enough to tell one base model from another.
    """
    if not isinstance(part, torch.nn.Module):
        return ""
    kept, digest, any_frozen = _kept(part), hashlib.sha256(), False
    for name, parameter in part.named_parameters():
        if name not in kept:
            any_frozen = True
            flat = parameter.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // 256)][:256].float().cpu().contiguous()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest() if any_frozen else ""


def _kept(module: torch.nn.Module) -> set[str]:
    """Names in the state dict that a checkpoint holds: all, or the trained ones of a partly frozen
    module. A module that is frozen altogether is kept whole."""
    names = set(module.state_dict())
    trained = {n for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    some_frozen = any(not p.requires_grad for p in module.parameters())
    return names & trained if trained and some_frozen else names


def storage_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where a tensor's memory is: equal for tied weights. Empty tensors, all at 0, differ."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous and alone in its memory, as the file format demands; a copy only if it is not."""
    tensor = tensor.contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _load_module(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    own, kept = module.state_dict(), _kept(module)
    unknown = [name for name in tensors if name not in kept]
    present = {storage_of(own[name]) for name in tensors if name in own}
    missing = [name for name in own if name in kept and name not in tensors]
    missing = [
        name for name in missing if storage_of(own[name]) not in present
    ]  # tied to one present
    if missing or unknown:
        what = [f"it lacks {_few(missing)}"] * bool(missing)
        what += [f"it holds {_few(unknown)}, which the model lacks"] * bool(unknown)
        raise ValueError(" and ".join(what))
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype} there, "
                f"{tuple(own[name].shape)} {own[name].dtype} in the model"
            )
        _check_finite(name, tensor, own[name])
    module.load_state_dict(tensors, strict=False)


def _load_optimizer(part: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [p for group in part.param_groups for p in group["params"]]
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
        _check_finite(f"optimiser state {key}", value)
        if name in ("step", "exp_avg_sq") and bool((value < 0).any()):
            raise ValueError(f"optimiser state {key} is negative")
    if isinstance(part, torch.optim.AdamW):
        lacking = [
            f"{number}.{name}"
            for number in range(len(parameters))
            for name in ("step", *_MOMENTS)
            if name not in state.get(number, {})
        ]
        if lacking:
            raise ValueError(f"it lacks the optimiser state {_few(lacking)}")
    for number, values in state.items():
        fits = number < len(parameters) and all(
            v.ndim == 0 or v.shape == parameters[number].shape for v in values.values()
        )
        if not fits:
            raise ValueError(f"optimiser state {number} has another shape than its parameter")
        for name, v in values.items():
            values[name] = v if v.ndim == 0 else like(v, parameters[number])
    part.load_state_dict({**part.state_dict(), "state": state})


def _check_finite(name: str, tensor: torch.Tensor, own: torch.Tensor | None = None) -> None:
    """own: the model's. What is infinite there, of the same sign, was judged when it was loaded: a
    bias of -inf is a probability of 0."""
    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor)
    if own is not None and bool(bad.any()):
        bad &= own.to(tensor.device) != tensor  # NaN differs from NaN
    if bool(bad.any()):
        raise ValueError(f"{name} holds NaN or inf")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
