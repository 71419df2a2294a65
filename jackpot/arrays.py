"""The one file that knows array libraries: namespaces, and the checks of public arguments.

Every public function takes numpy or torch arrays (or any array-API library) and returns the same
kind. Shapes, dtypes and values are checked once, here; the formulas then trust their input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

Array = Any  # a numpy, torch or other array-API array; the standard offers no common base class

quiet = np.errstate(all="ignore")  # log 0 = -inf and exp(-2000) = 0 are values here, not accidents

_ABOVE_ZERO = 1e-3  # what rounding may lift a log-probability above 0 before we call it a mistake


def checked(**arrays: Array) -> tuple:
    """Check float arrays against each other: one library, one dtype, one shape.

    Returns:
        The array namespace, then the arrays in the order given.

    Raises:
        TypeError: not an array, libraries or dtypes mixed, or a dtype other than float32/float64.
        ValueError: shapes differ.
    """
    for name, x in arrays.items():
        if not is_array_api_obj(x):
            raise TypeError(
                f"{name} must be a numpy or torch array, got {type(x).__name__}; "
                "wrap it with numpy.asarray or torch.as_tensor"
            )
    xp = _one_library(arrays)
    first, x0 = next(iter(arrays.items()))
    for name, x in arrays.items():
        _check_dtype(xp, name, x)
        if x.dtype != x0.dtype:
            raise TypeError(f"{first} is {x0.dtype} but {name} is {x.dtype}; cast one of them")
        if x.shape != x0.shape:
            raise ValueError(
                f"{first} has shape {tuple(x0.shape)} but {name} has shape {tuple(x.shape)}; "
                "they must be equal"
            )
    return xp, *arrays.values()


def checked_log_probs(**arrays: Array) -> tuple:
    """`checked`, and each array holds log-probabilities over a non-empty last axis."""
    xp, *values = checked(**arrays)
    for name, x in arrays.items():
        if x.ndim == 0 or x.shape[-1] == 0:
            raise ValueError(
                f"{name} needs a last axis of at least one token (the vocabulary), "
                f"got shape {tuple(x.shape)}"
            )
        check_log_prob_values(xp, name, x)
    return xp, *values


def check_log_prob_values(xp: Any, name: str, x: Array) -> None:
    """Refuse NaN and anything above 0 (beyond rounding): those are not log-probabilities."""
    top = _max(xp, x)
    if math.isnan(top):
        raise ValueError(_nan_message(xp, name, x))
    if top > _ABOVE_ZERO:
        raise ValueError(
            f"{name} holds {top:g}, but a log-probability is at most 0; "
            "if these are logits, apply log_softmax first"
        )


def check_log_ratio_values(xp: Any, name: str, x: Array) -> None:
    """Refuse NaN and +inf: a sampled token has q > 0, so its ratio p/q is finite."""
    top = _max(xp, x)
    if math.isnan(top):
        raise ValueError(_nan_message(xp, name, x))
    if top == math.inf:
        raise ValueError(
            f"{name} holds inf, i.e. q = 0 at a sampled token, which cannot be; "
            "check the proposal's log-probabilities, and fill masked positions with 0"
        )


def check_per_state(xp: Any, like: Array, arrays: dict[str, Array]) -> None:
    """Log-probabilities, one per state of `like` (..., tokens), of its dtype."""
    shape = tuple(like.shape[:-1])
    for name, x in arrays.items():
        if not is_array_api_obj(x) or tuple(x.shape) != shape:
            given = tuple(x.shape) if is_array_api_obj(x) else type(x).__name__
            checked(**{name: x})
            raise ValueError(f"{name} must have shape {shape} (one value per state), got {given}")
        first = xp.min(like, axis=-1)  # of the shape, library and dtype that x must have
        checked(log_probabilities=first, **{name: x})
        check_log_prob_values(xp, name, x)


def check_mask(xp: Any, name: str, mask: Array, like: Array) -> None:
    """A bool array of the shape of `like`."""
    if not is_array_api_obj(mask) or mask.dtype != xp.bool:
        given = mask.dtype if is_array_api_obj(mask) else type(mask).__name__
        raise TypeError(f"{name} must be a bool array, got {given}")
    if tuple(mask.shape) != tuple(like.shape):
        raise ValueError(
            f"{name} has shape {tuple(mask.shape)}; it must have the shape of the "
            f"log-probabilities it selects from, {tuple(like.shape)}"
        )


def parameter(
    xp: Any,
    name: str,
    x: Any,
    shape: tuple[int, ...],
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = True,
    high_open: bool = False,
) -> Any:
    """Check a number, or an array of numbers of shape `()` or `shape`, against a range.

    Returns:
        A Python float for a Python or numpy scalar; the array itself for an array.

    Raises:
        TypeError: neither a real number nor a float array of the same library.
        ValueError: NaN, out of range, or another shape.
    """
    interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    if isinstance(x, (int, float, np.floating, np.integer)) and not isinstance(x, bool):
        x = float(x)
        lowest = highest = x
    elif is_array_api_obj(x):
        _one_library({"the log-probabilities": xp, name: x})
        _check_dtype(xp, name, x)
        if tuple(x.shape) not in ((), tuple(shape)):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; it must be a number or have shape {shape}"
            )
        highest = _max(xp, x)
        lowest = -_max(xp, -x)
    else:
        raise TypeError(f"{name} must be a real number or a float array, got {type(x).__name__}")
    if math.isnan(highest):
        raise ValueError(f"{name} holds NaN; it must lie in {interval}")
    if highest == -math.inf and lowest == math.inf:  # an empty array
        return x
    if lowest < low or (low_open and lowest == low):
        raise ValueError(f"{name} must lie in {interval}, got {lowest!r}")
    if highest > high or (high_open and highest == high):
        raise ValueError(f"{name} must lie in {interval}, got {highest!r}")
    return x


def numbers(name: str, x: Any, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """Finite real numbers within [low, high] as a float64 numpy array of any shape.

    Raises:
        TypeError: something else than real numbers.
        ValueError: NaN, an infinity, or out of range; the message names the first.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {x.dtype}")
    x = x.astype(np.float64)
    bad = ~(np.isfinite(x) & (x >= low) & (x <= high))
    if np.any(bad):
        i = first_row(np, bad)
        where = f" at index {i[0] if len(i) == 1 else i}" if i else ""
        raise ValueError(f"{name} holds {x[i]:g}{where}; it must be finite, in [{low:g}, {high:g}]")
    return x


def vector(name: str, x: Any, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    """`numbers` of shape (n,) with n >= 1."""
    x = numbers(name, x, low, high)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {x.shape}")
    return x


def whole(name: str, x: Any, least: int) -> int:
    """A whole number of at least `least` as a Python int; TypeError, ValueError if it is not."""
    if not isinstance(x, (int, np.integer)) or isinstance(x, bool):
        raise TypeError(f"{name} must be a whole number, got {x!r}")
    if x < least:
        raise ValueError(f"{name} must be at least {least}, got {x}")
    return int(x)


def log(xp: Any, x: Any, like: Array) -> Any:
    """log x as a Python float, or as an array of `like`'s dtype (log taken before the cast)."""
    if isinstance(x, float):
        return math.log(x) if x > 0 else -math.inf
    return xp.astype(xp.log(x), like.dtype)


def per_row(xp: Any, x: Any) -> Any:
    """Append the vocabulary axis to a parameter over the leading axes."""
    return x if isinstance(x, float) else xp.expand_dims(x, axis=-1)


def constant(x: Array) -> Array:
    """The array cut off from automatic differentiation, where its library has that."""
    return x.detach() if hasattr(x, "detach") else x


def on_host(xp: Any, x: Array) -> tuple:
    """numpy and the array as float64 there if it lies in CPU memory, else its own library.

    numpy compares and masks several times faster than torch on a CPU (benchmarks/lam_solver.py).
    """
    x = constant(x)
    if str(x.device).startswith("cpu") and hasattr(x, "numpy"):
        x = x.numpy()
        xp = array_namespace(x)
    return xp, xp.astype(x, xp.float64, copy=False)


def zero(xp: Any, like: Array) -> Array:
    """A 0-d zero with the dtype and on the device of `like`."""
    return xp.zeros((), dtype=like.dtype, device=like.device)


def first_row(xp: Any, bad: Array) -> tuple[int, ...]:
    """Index, over the axes of `bad`, of its first True."""
    flat = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int32)))
    return tuple(int(i) for i in np.unravel_index(flat, tuple(bad.shape)))


def _max(xp: Any, x: Array) -> float:
    """max, or -inf for an empty array; NaN anywhere gives NaN (as the standard demands)."""
    return float(xp.max(constant(x))) if math.prod(x.shape) else -math.inf


def _nan_message(xp: Any, name: str, x: Array) -> str:
    nan = xp.isnan(x)
    count = int(xp.sum(xp.astype(nan, xp.int64)))
    return f"{name} holds {count} NaN, the first at index {first_row(xp, nan)}; NaN is never legal"


def _one_library(arrays: dict[str, Any]) -> Any:
    """The namespace of all the arrays (a namespace stands for itself)."""
    spaces = {n: array_namespace(x) if is_array_api_obj(x) else x for n, x in arrays.items()}
    if len({id(s) for s in spaces.values()}) > 1:
        given = ", ".join(f"{n}: {_library(s)}" for n, s in spaces.items())
        raise TypeError(f"arrays of different libraries cannot be mixed ({given}); convert one")
    return next(iter(spaces.values()))


def _library(xp: Any) -> str:
    return xp.__name__.removeprefix("array_api_compat.")


def _check_dtype(xp: Any, name: str, x: Array) -> None:
    if x.dtype == xp.float64 or x.dtype == xp.float32:
        return
    why = "this is not a real floating-point array"
    if "float" in str(x.dtype):
        why = "so few bits move the acceptance rate by 1e-3 and more; cast to float32 first"
    raise TypeError(f"{name} has dtype {x.dtype}, expected float32 or float64: {why}")
