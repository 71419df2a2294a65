"""States for `python -m sim topk`: seeded families, stored model pairs, and what k tokens reveal.

A source yields chunks of (p, q), probabilities, float64, each of shape (states, v). `reveal` turns
a chunk into small arrays, so that no more than one chunk of the vocabulary is ever in memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

Chunk = tuple[np.ndarray, np.ndarray]
_CHUNK_ELEMENTS = 2**22  # 32 MiB of float64


class Known(NamedTuple):
    """What is known of each state with k tokens of q, (n,) each."""

    z_k: np.ndarray  # Z_K, q's top k alone
    lumped: np.ndarray  # U = min(q_T, p_T / lam)
    bound: np.ndarray  # U'
    p_tail: np.ndarray
    q_tail: np.ndarray
    overlap: np.ndarray  # Z_K / min(q_K, p_K / lam)
    spread: np.ndarray  # standard deviation of log r on q's top k, weighted by q
    union: np.ndarray  # Z_approx on topk(q) and topk(p), with q granted on all of it
    union_capped: np.ndarray  # the same where topk(p) \ topk(q) counts as much as it can


class Revealed(NamedTuple):
    """n states: their true Z, what each k reveals, and r draws of a token from q at each."""

    z: np.ndarray  # (n,)
    known: dict[int, Known]
    accept: np.ndarray  # a of the drawn tokens, (r, n)
    rank: np.ndarray  # their place in q's order from 0, at most the largest k, (r, n)


# Families. Each takes (rng, q) with q sorted downwards, (n, v), and returns log p - log q before
# normalisation, of the same shape.


def _noise(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    return 0.5 * rng.standard_normal(q.shape)


def _temperature(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    return 0.25 * np.log(q)


def _student(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    """t3 as a normal over the root of a mean of three squares."""
    scale = np.sqrt(rng.chisquare(3, q.shape) / 3)
    return 0.25 * rng.standard_normal(q.shape) / scale


def _spikes(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    """60 tokens among ranks 21 to 5,000, which p makes e^4 times likelier; a little noise."""
    x = 0.2 * rng.standard_normal(q.shape)
    chosen = rng.integers(min(20, q.shape[1] - 1), min(5000, q.shape[1]), (len(q), 60))
    np.put_along_axis(x, chosen, 4.0, axis=1)
    return x


class Family(NamedTuple):
    log_ratio: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    exponents: tuple[float, float]  # q ~ rank^-s, s uniform over the states
    lam: float


FAMILIES = {
    "iid noise": Family(_noise, (1.2, 3.0), 1.0),
    "temperature": Family(_temperature, (1.2, 3.0), 1.0),
    "Student-t noise": Family(_student, (1.2, 3.0), 1.0),
    "spiked tokens": Family(_spikes, (1.2, 3.0), 1.0),
    "heavy tail": Family(_noise, (1.05, 1.25), 1.0),
    "iid noise, lam .5": Family(_noise, (1.2, 3.0), 0.5),
}


def family_chunks(name: str, n: int, v: int, seed: int) -> Iterator[Chunk]:
    """The n states of a family, a chunk at a time."""
    family = FAMILIES[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    log_rank = np.log(np.arange(1.0, v + 1))
    step = max(1, _CHUNK_ELEMENTS // v)
    for start in range(0, n, step):
        exponents = rng.uniform(*family.exponents, (min(step, n - start), 1))
        q = _shares(np.exp(-exponents * log_rank))
        yield _shares(q * np.exp(family.log_ratio(rng, q))), q


def pair_names(path: Path) -> list[str]:
    """The actors in an npz of benchmarks/smollm2_pairs.py.

    Raises:
        ValueError: not such a file; the message says what is missing.
    """
    try:
        with np.load(path) as file:
            keys = list(file.files)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not an npz file that can be read: {error}") from None
    names = [k.removeprefix("log_q/") for k in keys if k.startswith("log_q/")]
    if not names or any(f"log_p/{name}" not in keys for name in names):
        raise ValueError(
            f"{path} must hold log_p/NAME and log_q/NAME for each actor, it holds "
            f"{', '.join(sorted(keys)) or 'nothing'}; benchmarks/smollm2_pairs.py makes one"
        )
    return names


def pair_vocabulary(path: Path, name: str) -> int:
    with np.load(path) as file:
        return file[f"log_q/{name}"].shape[-1]


def pair_chunks(path: Path, name: str, n: int | None = None) -> Iterator[Chunk]:
    """The first n stored states of one actor (all of them if None), a chunk at a time.

    Raises:
        ValueError: shapes that differ or are not (states, v), or NaN.
    """
    with np.load(path) as file:
        log_p, log_q = file[f"log_p/{name}"], file[f"log_q/{name}"]
    if log_p.shape != log_q.shape or log_p.ndim != 2 or not log_p.size:
        raise ValueError(
            f"{name}: log_p has shape {log_p.shape} and log_q {log_q.shape}; both must be "
            "(states, vocabulary)"
        )
    step = max(1, _CHUNK_ELEMENTS // log_p.shape[1])
    count = min(len(log_p), n or len(log_p))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        p, q = (np.exp(x[rows].astype(np.float64)) for x in (log_p, log_q))
        if np.isnan(p).any() or np.isnan(q).any():
            raise ValueError(f"{name}: NaN among the log-probabilities")
        yield _shares(p), _shares(q)


def reveal(
    chunks: Iterator[Chunk], lam: float, ks: list[int], replicates: int, rng: np.random.Generator
) -> Revealed:
    """Everything the estimators may use of these states, and the truth.

    Raises:
        ValueError: a k that is not below the vocabulary.
    """
    parts = [_reveal(p, q, lam, ks, replicates, rng) for p, q in chunks]
    return Revealed(
        np.concatenate([x.z for x in parts]),
        {
            k: Known(*map(np.concatenate, zip(*(x.known[k] for x in parts), strict=True)))
            for k in ks
        },
        np.concatenate([x.accept for x in parts], axis=1),
        np.concatenate([x.rank for x in parts], axis=1),
    )


def _reveal(p, q, lam, ks, replicates, rng) -> Revealed:
    n, v = q.shape
    if max(ks) >= v:
        raise ValueError(f"k = {max(ks)} leaves no tail in a vocabulary of {v}; lower --k")
    top_q, top_p = (_top(x, max(ks)) for x in (q, p))
    z = np.minimum(q, p / lam).sum(axis=1)
    known = [_known(p[i], q[i], lam, ks, top_q[i], top_p[i]) for i in range(n)]
    x = np.empty((replicates, n), dtype=np.intp)
    for i in range(n):
        steps = np.cumsum(q[i])
        x[:, i] = np.searchsorted(steps, rng.random(replicates) * steps[-1], side="right")
    rows = np.arange(n)
    with np.errstate(divide="ignore"):
        accept = np.minimum(1.0, p[rows, x] / (lam * q[rows, x]))
    hit = x[..., None] == top_q
    rank = np.where(hit.any(axis=-1), hit.argmax(axis=-1), max(ks))
    by_k = {k: Known(*np.array([row[j] for row in known]).T) for j, k in enumerate(ks)}
    return Revealed(z, by_k, accept, rank)


def _known(p, q, lam, ks, top_q, top_p) -> list[Known]:
    """One state. Only tokens that are large in p or q can exceed a cap; the rest is one sum."""
    h = p / lam
    large = h > q[top_q[-1]]
    large[top_q] = True
    rest = h[~large].sum()
    (large,) = large.nonzero()
    out = []
    for k in ks:
        ids, cap = top_q[:k], q[top_q[k - 1]]
        p_k, q_k = p[ids], q[ids]
        outside = np.setdiff1d(large, ids, assume_unique=True)
        p_tail = lam * (rest + h[outside].sum())
        q_tail = max(0.0, 1.0 - q_k.sum())
        lumped = min(q_tail, p_tail / lam)
        bound = min(lumped, rest + np.minimum(cap, h[outside]).sum())
        z_k = np.minimum(q_k, p_k / lam).sum()
        new = np.setdiff1d(top_p[:k], ids, assume_unique=True)
        union = z_k + np.minimum(q[new], h[new]).sum()
        capped = z_k + min(q_tail, np.minimum(cap, h[new]).sum())
        overlap = z_k / max(min(q_k.sum(), p_k.sum() / lam), 1e-300)
        with np.errstate(divide="ignore"):
            log_r = np.maximum(np.log(p_k) - np.log(q_k), -50.0)
        spread = np.sqrt(np.average((log_r - np.average(log_r, weights=q_k)) ** 2, weights=q_k))
        out.append(Known(z_k, lumped, bound, p_tail, q_tail, overlap, spread, union, capped))
    return out


def _top(x: np.ndarray, k: int) -> np.ndarray:
    """Ids of the k largest of each row, largest first, (n, k)."""
    ids = np.argpartition(x, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(x, ids, axis=1), axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1)


def _shares(x: np.ndarray) -> np.ndarray:
    return x / x.sum(axis=1, keepdims=True)
