"""mean@k and pass@k with their intervals."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

RESAMPLES = 2000


def pass_at_k(correct: np.ndarray, n: int, k: int) -> np.ndarray:
    """1 - C(n - c, k) / C(n, k): probability that some of k samples drawn from n are right.

    Unbiased for 1 - (1 - p)^k. As a product of factors in [0, 1], so nothing overflows.

    Args:
        correct: c, right samples of each prompt, integers in [0, n].
        n: samples of each prompt.
        k: 1 to n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs k between 1 and the {n} samples of each prompt")
    c = np.asarray(correct)[..., None]
    i = np.arange(k)
    return 1.0 - np.prod(np.maximum(n - c - i, 0) / (n - i), axis=-1)


def ks(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def bootstrap(values: np.ndarray, seed: int) -> list[tuple[float, float, float]]:
    """(mean, low, high) of each column of values (prompts, m) in [0, 1], resampling prompts.

    95 % intervals, bias-corrected and accelerated (BCa: plain percentiles cover too little where
    few prompts are solved), from 2,000 seeded resamples, the same ones for every column. Where all
    prompts give one value no resample differs, and the interval would be a point: there it is
    Wilson's, for that share of the prompts.
    """
    prompts = len(values)
    rng = np.random.default_rng(seed)
    chunks = []
    for _ in range(RESAMPLES // 100):
        counts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=100)
        chunks.append(counts @ values / prompts)
    intervals = []
    for column, means in zip(values.T, np.concatenate(chunks).T, strict=True):
        mean = float(column.mean())
        same = column.min() == column.max()
        intervals.append((mean, *(wilson(mean, prompts) if same else _bca(column, means))))
    return intervals


def _bca(column: np.ndarray, means: np.ndarray) -> tuple[float, float]:
    """Efron's BCa interval of the mean of a column that is not constant."""
    normal, off = NormalDist(), column - column.mean()
    below = np.mean(means < column.mean()) + np.mean(means == column.mean()) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1e-3, 1 - 1e-3)))
    skew = float((off**3).sum() / (6 * (off**2).sum() ** 1.5))
    shares = [
        normal.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in (-1.959964, 1.959964)
    ]
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share of n independent trials, 95 % by default."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def summary(correct: np.ndarray, seed: int) -> dict[str, Any]:
    """mean@1, mean@k and pass@k of a correctness matrix (prompts, samples), 95 % intervals.

    mean@1 looks at the first sample of each prompt only, so its trials are independent and the
    interval is Wilson's. The others resample prompts: the samples of one prompt belong together.
    """
    prompts, n = correct.shape
    count = correct.sum(axis=1)
    columns = [count / n, *(pass_at_k(count, n, k) for k in ks(n))]
    mean, *passes = bootstrap(np.stack(columns, axis=1), seed)
    first = float(correct[:, 0].mean())
    return {
        "prompts": prompts,
        "samples": n,
        "mean_at_1": _entry(first, *wilson(first, prompts)),
        "mean_at_k": {"k": n, **_entry(*mean)},
        "pass_at_k": [{"k": k, **_entry(*p)} for k, p in zip(ks(n), passes, strict=True)],
    }


def _entry(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}
