"""Which settings a `Corrector` takes, their bounds, and which have an effect beside the others."""

from __future__ import annotations

import difflib
import inspect
import math
import sys
from collections.abc import Mapping
from typing import Any

from .correction import TRUNCATIONS, obrs_weights, token_weights

DENOMINATORS = ("proposed", "accepted", "sequence")
_CHOICES = {
    "type": ("jackpot", *TRUNCATIONS),
    "target": ("ref", "new"),
    "lam_from": ("fixed", "batch", "tracked", "state"),
    "mask": ("bernoulli", "expected"),
    "scope": ("token", "prefix"),
    "z": ("batch", "state", "none"),
    "z_tail": ("ratio", "lumped", "dropped"),
    "denominator": DENOMINATORS,
}
_POSITIVE = ("lam", "lam_min", "lam_max", "c1", "c2", "cap", "high")


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings of a `Corrector` that do not exist, are out of bounds or have no effect.

    Raises:
        TypeError, ValueError: as `Corrector`.
    """
    known = _keywords().keys() | {"lam_decay", "denominator"}
    for name, value in settings.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; perhaps {near[0]}" if near else ""
            raise TypeError(f"a corrector has no setting {name!r}{hint}")
        _check_value(name, value)
    applies = _applying(settings)
    idle = sorted(set(settings) - applies)
    if idle:
        raise ValueError(
            f"{', '.join(idle)} has no effect beside "
            f"{ {name: settings[name] for name in _CHOICES if name in settings} }: leave it out"
        )
    for low, high in (("low", "high"), ("lam_min", "lam_max")):
        shown, values = [], []
        for name in (low, high):  # one that was not given has its default
            values.append(settings.get(name, _keywords()[name].default))
            shown.append(f"{name} = {values[-1]}" + ", its default," * (name not in settings))
        if not values[0] < values[1]:
            raise ValueError(f"{shown[0]} is not below {shown[1]}".removesuffix(","))


def _keywords() -> dict[str, inspect.Parameter]:
    """Of the functions that compute weights, with their defaults."""
    return {
        name: parameter
        for function in (token_weights, obrs_weights)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "gather"
    }


def _check_value(name: str, value: Any) -> None:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} = {value!r}; choose one of {', '.join(_CHOICES[name])}")
        return
    if name == "kappa":
        if not isinstance(value, bool):
            raise ValueError(f"kappa = {value!r}; it is True or False")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value:  # NaN
        raise ValueError(f"{name} = {value!r}; it is a number")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError(f"{name} = {str(value)[:9]}...; it is finite, at most 1.8e308")
    if name in _POSITIVE and value <= 0:
        raise ValueError(f"{name} = {value}; it is above 0")
    if name in ("lam", "lam_min", "lam_max", "low", "high") and math.isinf(value):
        raise ValueError(f"{name} = {value}; it is finite")
    if name == "low" and value < 0:
        raise ValueError(f"low = {value}; it is at least 0")
    if name == "budget" and not 0 < value <= 1:
        raise ValueError(f"budget = {value}; it is an acceptance rate, above 0 and at most 1")
    if name == "lam_decay" and not 0 <= value < 1:
        raise ValueError(f"lam_decay = {value}; it is at least 0 and below 1")


def _applying(settings: Mapping[str, Any]) -> set[str]:
    """The settings that have an effect beside these."""
    kind = settings.get("type", "jackpot")
    names = {"type", "denominator", "target"}
    names |= {"c2"} if settings.get("target") == "new" else set()
    if kind != "jackpot":
        return names | set(TRUNCATIONS[kind])
    names |= {"lam_from", "mask", "scope", "z", "c1"}
    lam_from = settings.get("lam_from", "fixed")
    names |= {"lam"} if lam_from == "fixed" else {"budget"}
    names |= {"lam_min", "lam_max", "lam_decay"} if lam_from == "tracked" else set()
    if settings.get("z", "state") == "state":
        names |= {"z_tail"}
        names |= {"kappa"} if settings.get("z_tail", "ratio") != "ratio" else set()
    return names
