"""What the public functions refuse in tensors of a trainer: each says its name, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

# A positive log-probability is rounding up to here; above it, it is no log-probability.
LOG_PROB_MAX = 1e-3


def refuse(bad: torch.Tensor, name: str, what: str) -> None:
    if bool(bad.any()):
        count = int(bad.sum())
        raise ValueError(
            f"{name}: {what} at {count} of {bad.numel()} values at sampled tokens. Give the "
            "log-probability of every token that the mask marks, in nats"
        )


def require_tensor(name: str, x: Any, *, integers: bool = False) -> None:
    """Refuse what is no tensor of floating-point numbers, or with `integers` of real numbers.

    Raises:
        TypeError: it is something else.
    """
    numbers = "real" if integers else "floating-point"
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{name}: wanted a torch tensor of {numbers} numbers, found {type(x).__name__}"
        )
    if x.is_complex() or not (integers or x.is_floating_point()):
        raise TypeError(f"{name}: wanted {numbers} numbers, found {x.dtype}")


def real_mask(mask: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The mask as bool, of this shape.

    Raises:
        TypeError: it is no tensor.
        ValueError: another shape, or numbers other than 0 and 1.
    """
    if not isinstance(mask, torch.Tensor):
        raise TypeError(
            f"mask: wanted a torch tensor, True at sampled tokens, found {type(mask).__name__}"
        )
    if mask.shape != shape:
        raise ValueError(f"mask: wanted {tuple(shape)}, found {tuple(mask.shape)}")
    if mask.dtype != torch.bool and bool(((mask != 0) & (mask != 1)).any()):  # NaN is neither
        raise ValueError(
            "mask: a value that is neither 0 nor 1. It marks sampled tokens; a weight of a "
            "token belongs into its advantage"
        )
    return mask.bool()


def refuse_unusable(
    logps: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor], where: str
) -> None:
    """Refuse NaN, inf and, among `logps`, positive log-probabilities, by name.

    One transfer from the device serves all tensors.

    Args:
        where: which values these are, for the message.

    Raises:
        ValueError: the first name with such a value.
    """
    all_values = {**logps, **others}
    counts = [(~torch.isfinite(x.detach())).sum() for x in all_values.values()]
    counts += [(x.detach() > LOG_PROB_MAX).sum() for x in logps.values()]
    numbers = torch.stack(counts).tolist()
    for (name, x), n in zip(all_values.items(), numbers[: len(all_values)], strict=True):
        if n:
            first = float(x.detach()[~torch.isfinite(x.detach())][0])
            raise ValueError(
                f"{name}: NaN or inf at {n} of {x.numel()} {where}, the first {first}. Mend what "
                "computed it, or leave it out of the update"
            )
    for (name, x), n in zip(logps.items(), numbers[len(all_values) :], strict=True):
        if n:
            raise ValueError(
                f"{name}: a positive log-probability at {n} of {x.numel()} {where}, the largest "
                f"{float(x.detach().max()):.3g}. Give log-probabilities in nats, no logits and no "
                "negated ones"
            )


def ratio_of(logp_new: torch.Tensor, logp_old: torch.Tensor) -> torch.Tensor:
    """p_new / p_old, to be refused where it overflows: PPO's gradient is then 0 * inf, which is
    NaN, even where the clip holds the loss.

    1 where a log-probability is no finite number, which has a message of its own.
    """
    log_ratio = (logp_new - logp_old).detach()
    return log_ratio.masked_fill(~torch.isfinite(log_ratio), 0.0).exp()


def number(name: str, value: Any) -> float:
    """The value.

    Raises:
        TypeError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} = {value!r}; it is a number")
    return value


def check_bounds(**bounds: Any) -> None:
    """Refuse bounds by name; inf is no bound.

    Raises:
        TypeError: no number.
        ValueError: NaN, or below 0.
    """
    for name, value in bounds.items():
        if not number(name, value) >= 0:
            raise ValueError(f"{name} must be at least 0 (inf: no bound), got {value}")


def check_finite_bounds(**bounds: Any) -> None:
    """Refuse bounds by name, inf among them.

    Raises:
        TypeError: no number.
        ValueError: NaN, inf, or below 0.
    """
    for name, value in bounds.items():
        if not 0 <= number(name, value) < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
