"""The array libraries every property runs on, and references that share no code with the core.

A tolerance belongs to a backend, never to a test. Divergences that need logarithms are computed by
mpmath with 60 digits from the very floats the core is given, so rounding of the input cancels out.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import array_api_strict
import mpmath
import numpy as np
import pytest
import torch

DIGITS = 60


@dataclass(frozen=True)
class Backend:
    """One array library at one precision."""

    name: str
    library: Any
    dtype: Any
    rtol: float

    def __post_init__(self):
        assert self.rtol <= 1e-3, "such a tolerance could not fail"

    @property
    def finfo(self) -> np.finfo:
        return np.finfo(np.float32 if "32" in self.name else np.float64)

    def array(self, values) -> Any:
        """An array of this backend from nested floats, Fractions or a numpy array."""
        return self.library.asarray(floats(values), dtype=self.dtype)

    def logs(self, probabilities) -> Any:
        """Log-probabilities from nested Fractions."""
        with np.errstate(divide="ignore"):
            return self.array(np.log(floats(probabilities)))

    def numpy(self, x) -> np.ndarray:
        """What the core returned, as float64; asserts that it kept this library and dtype."""
        assert isinstance(x, np.generic) or type(x) is type(self.array([0.0])), type(x)
        assert x.dtype == self.dtype
        return _values(x)

    def check(self, got, want, scale: float = 0.0) -> None:
        """got == want up to rtol * max(|want|, scale), with equal shapes and infinities, no NaN."""
        if not isinstance(got, float) or isinstance(got, np.generic):
            got = self.numpy(got)
        got, want = np.asarray(got), floats(want)
        assert got.shape == want.shape
        want = np.where(want > self.finfo.max, np.inf, want)
        same = got == want
        with np.errstate(invalid="ignore"):
            error = np.abs(got - want)
        allowed = self.rtol * np.maximum(np.abs(want), scale) + float(self.finfo.tiny)
        good = same | (np.isfinite(want) & (error <= allowed))
        assert good.all(), f"got {got[~good]}, want {want[~good]}, allowed {allowed[~good]}"

    def at_most(self, low, high, scale: float = 1.0) -> None:
        """low <= high up to rounding."""
        low, high = floats(low), floats(high)
        slack = np.where(np.isfinite(high), self.rtol * np.maximum(np.abs(high), scale), 0.0)
        assert (low <= high + slack).all(), f"{low} > {high}"


NUMPY = Backend("numpy float64", np, np.float64, 1e-12)
TORCH = Backend("torch float64", torch, torch.float64, 1e-12)
TORCH32 = Backend("torch float32", torch, torch.float32, 2e-5)
STRICT = Backend("strict float64", array_api_strict, array_api_strict.float64, 1e-12)
BACKENDS = [NUMPY, TORCH, TORCH32, STRICT]

on_every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
in_float64 = pytest.mark.parametrize("backend", [NUMPY, TORCH, STRICT], ids=lambda b: b.name)


def floats(values) -> np.ndarray:
    """Nested Fractions, mpf or floats as a fresh float64 array of their shape."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.astype(np.float64)
    values = np.array(values, dtype=object)
    flat = [_float(x) for x in values.reshape(-1)]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


def _float(x) -> float:
    if isinstance(x, mpmath.mpf) and abs(x) > mpmath.mpf(10) ** 308:
        return math.inf
    return float(x)


def _values(x) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().numpy()
    return np.array(x, dtype=np.float64)


def fractions(array) -> list:
    """The exact rational values of an array's floats."""
    return np.vectorize(Fraction, otypes=[object])(_values(array)).tolist()


def random_rows(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """log p, log q of a shape (..., v), float64: Zipf proposals with log-normal ratios."""
    rng = np.random.default_rng(seed)
    log_q = -1.1 * np.log(np.arange(1.0, shape[-1] + 1)) + 0.5 * rng.standard_normal(shape)
    log_p = log_q + rng.uniform(0.1, 1.5, (*shape[:-1], 1)) * rng.standard_normal(shape)
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (log_p, log_q))
    return log_p, log_q


# References in 60 digits: one row of log-probabilities each in, one number out.


def mp_sum(term, log_p, log_q) -> mpmath.mpf:
    """Sum over tokens of term(p, q, log p, log q), in 60 digits; absent tokens are left out."""
    with mpmath.workdps(DIGITS):
        total = mpmath.mpf(0)
        for lp, lq in zip(_values(log_p), _values(log_q), strict=True):
            if lp == lq == -math.inf:
                continue
            lp, lq = mpmath.mpf(float(lp)), mpmath.mpf(float(lq))
            total += term(mpmath.exp(lp), mpmath.exp(lq), lp, lq)
        return total


def _kl_term(p, q, lp, lq):
    if p == 0:
        return q
    return mpmath.inf if q == 0 else p * (lp - lq) - p + q


def _js_term(p, q, lp, lq):
    if lp == lq:
        return mpmath.mpf(0)
    m = (p + q) / 2
    return (_kl_term(p, m, lp, mpmath.log(m)) + _kl_term(q, m, lq, mpmath.log(m))) / 2


def _chi2_term(p, q, lp, lq):
    return mpmath.inf if q == 0 else (p - q) ** 2 / q


REFERENCES = {
    "kl_p_q": _kl_term,
    "kl_q_p": lambda p, q, lp, lq: _kl_term(q, p, lq, lp),
    "tv": lambda p, q, lp, lq: abs(p - q) / 2,
    "js": _js_term,
    "hellinger2": lambda p, q, lp, lq: (mpmath.sqrt(p) - mpmath.sqrt(q)) ** 2 / 2,
    "chi2_p_q": _chi2_term,
    "chi2_q_p": lambda p, q, lp, lq: _chi2_term(q, p, lq, lp),
}


def divergence(name: str, log_p, log_q) -> mpmath.mpf:
    """A divergence between rows of logs; generalised for rows that do not sum to 1."""
    return _divergence(name, tuple(_values(log_p).tolist()), tuple(_values(log_q).tolist()))


@functools.cache  # Hypothesis draws the same rows for every backend
def _divergence(name: str, log_p: tuple[float, ...], log_q: tuple[float, ...]) -> mpmath.mpf:
    return mp_sum(REFERENCES[name], log_p, log_q)


def divergence_of(name: str, p, q) -> mpmath.mpf:
    """The same from exact Fractions."""
    with mpmath.workdps(DIGITS):
        total = mpmath.mpf(0)
        for x, y in zip(p, q, strict=True):
            x, y = mpmath.mpf(x.numerator) / x.denominator, mpmath.mpf(y.numerator) / y.denominator
            if x or y:
                logs = (mpmath.log(z) if z else mpmath.ninf for z in (x, y))
                total += REFERENCES[name](x, y, *logs)
        return total
