"""Objectives as factors: what multiplies A grad log p at each token of each path, in numpy float64.

Written from the papers, and without a line of `llm`, whose functions are tested against these. A is
the advantage. A ratio's bounds are themselves given here, `low` and `high`, not their distances
from 1. What a batch decides (BAPO's bounds, M2PO's threshold, DMPO's and alpha-DPO's weights) is
computed from the distribution of the paths, as for infinitely many of them.

Objectives of whole completions have no factor. They give the coefficient of grad log p(y) of each
path: minus the derivative of their loss by log p(y), per path.

Shapes: n paths, h positions, s states, v tokens. Log-ratios and log-probabilities in nats.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import expit, logsumexp

from sim.worlds.trees import Array

Divergence = Literal["binary_tv", "binary_kl", "top_k_tv", "top_k_kl"]
Accounting = Literal["value", "grad", "literal"]
Baseline = Literal["none", "mean", "neg", "self"]


def ppo(log_ratio: Array, advantage: Array, low: float, high: float) -> Array:
    """r, and 0 where min(r A, clip(r, low, high) A) does not move with r, (n, h).

    Paper: PPO (arXiv 1707.06347), Eq. 7. BAPO (arXiv 2510.18927) has the same with its own bounds.
    """
    r = np.exp(log_ratio)
    constant = ((advantage > 0) & (r > high)) | ((advantage < 0) & (r < low))
    return np.where(constant, 0.0, r)


def cispo(log_ratio: Array, low: float, high: float) -> Array:
    """clip(r, low, high), (n, h). Paper: MiniMax-M1 (arXiv 2506.13585), Eq. 4 and 5."""
    r = np.exp(log_ratio)
    return np.where(r > high, high, np.where(r < low, low, r))


def gspo(log_ratio: Array, advantage: Array, low: float, high: float) -> Array:
    """PPO's factor of s, the geometric mean of r over the path, at each of its tokens, (n, h).

    Paper: GSPO (arXiv 2507.18071), Eq. 5 to 7.
    """
    log_s = log_ratio.sum(axis=1, keepdims=True) / log_ratio.shape[1]
    return ppo(log_s + np.zeros_like(log_ratio), advantage, low, high)


def dppo(
    log_ratio: Array, log_rho: Array, advantage: Array, distance: Array, delta: float, cap: float
) -> Array:
    """min(r, cap), and 0 where A moves p further from q than delta, (n, h).

    Args:
        log_ratio: log p / p_old, whose exponential is capped. log_rho: log p / q. distance: D of
            each token's state, `divergence`.

    Paper: Divergence PPO (arXiv 2602.04879): kept where A (p / q - 1) <= 0 or D <= delta.
    """
    kept = (advantage * log_rho <= 0) | (distance <= delta)
    return np.where(kept, np.minimum(np.exp(log_ratio), cap), 0.0)


def divergence(log_p: Array, log_q: Array, kind: Divergence, k: int = 1) -> Array:
    """D between q and p in each state, as seen when token x was sampled, (s, v).

    Told apart are x, with top_k also q's k likeliest tokens, and all others as one. tv: half the
    sum of |p - q|. kl: KL(q || p), nats.
    """
    p, q = np.exp(log_p), np.exp(log_q)
    v = p.shape[1]
    top = np.argsort(-q, axis=1, kind="stable")[:, :k] if kind.startswith("top_k") else None
    distance = np.empty_like(p)
    for x in range(v):
        apart = np.zeros(p.shape, dtype=bool)
        apart[:, x] = True
        if top is not None:
            np.put_along_axis(apart, top, True, axis=1)
        blocks_p = np.column_stack([np.where(apart, p, 0), np.where(apart, 0, p).sum(1)])
        blocks_q = np.column_stack([np.where(apart, q, 0), np.where(apart, 0, q).sum(1)])
        if kind.endswith("tv"):
            distance[:, x] = np.abs(blocks_p - blocks_q).sum(1) / 2
        else:
            distance[:, x] = _kl(blocks_q, blocks_p)
    return distance


def _kl(q: Array, p: Array) -> Array:
    """KL(q || p) of the rows, 0 log 0 = 0, (s,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(q > 0, q * (np.log(q) - np.log(p)), 0.0).sum(1)


def minpro(log_rho: Array, low: float, high: float) -> Array:
    """clip(rho_t min_{i < t} rho_i, low, high), the minimum of nothing being 1, (n, h).

    Paper: MinPRO (arXiv 2601.22718).
    """
    rho = np.exp(log_rho)
    smallest, factor = np.ones(len(rho)), np.empty_like(rho)
    for t in range(rho.shape[1]):
        factor[:, t] = np.clip(smallest * rho[:, t], low, high)
        smallest = rho[:, t] if t == 0 else np.minimum(smallest, rho[:, t])
    return factor


def m2po(log_rho: Array, advantage: Array, threshold: float) -> Array:
    """rho, and 0 where A pushes p away from q and (log rho)^2 >= threshold, (n, h).

    Paper: M2PO (arXiv 2510.01161).
    """
    masked = (advantage * log_rho > 0) & (log_rho**2 >= threshold)
    return np.where(masked, 0.0, np.exp(log_rho))


def m2po_threshold(log_rho: Array, advantage: Array, mass: Array, tau: float) -> float:
    """The least (log rho)^2 that is masked, so that the mean of those below is at most tau.

    Counted are the tokens that A pushes away from q, each with its `mass`; equal values go
    together. inf where none is masked. All arrays broadcast to (n, h).
    """
    log_rho, advantage, mass = np.broadcast_arrays(log_rho, advantage, mass)
    pushed = (advantage * log_rho > 0) & (mass > 0)
    value, place = np.unique(log_rho[pushed] ** 2, return_inverse=True)
    each = np.bincount(place, mass[pushed], minlength=len(value))
    # the kept mean rises with the largest value kept, so what fits is a prefix
    fits = np.cumsum(each * value) <= tau * np.cumsum(each)
    return math.inf if fits.all() else float(value[np.argmin(fits)])


def bapo_share(
    ratio: Array, advantage: Array, mass: Array, low: float, high: float, accounting: Accounting
) -> float:
    """The share that positive advantages contribute under these bounds; 1 where nothing does.

    value: of sum mass |min(r A, clip(r) A)|. literal: of |sum mass min(r A, clip(r) A)|, and inf
    where that is 0. grad: of sum mass |r A| over tokens within their bound.
    """
    if accounting == "grad":
        size = ratio * np.abs(advantage) * np.where(advantage > 0, ratio <= high, ratio >= low)
        term = np.sign(advantage) * size
    else:
        term = np.minimum(ratio * advantage, np.clip(ratio, low, high) * advantage)
    gain = float((mass * np.maximum(term, 0)).sum())
    loss = float((mass * np.maximum(-term, 0)).sum())
    total = abs(gain - loss) if accounting == "literal" else gain + loss
    if gain + loss == 0:
        return 1.0
    return gain / total if total else math.inf


def bapo_bounds(
    ratio: Array,
    advantage: Array,
    mass: Array,
    share: float = 0.4,
    accounting: Accounting = "value",
    lows: tuple[float, float, float] = (0.6, 0.9, 0.02),
    highs: tuple[float, float, float] = (1.2, 3.0, 0.05),
) -> tuple[float, float]:
    """The first (low, high) of Algorithm 1's walk whose share is at least the wanted one, else the
    last: high rises first, then low. lows, highs: first, last, step.

    Args:
        mass: how much each token counts, (n, h): here the path's probability times q(x | s).

    Paper: BAPO (arXiv 2510.18927), Eq. 7 and Alg. 1.
    """
    low_values, high_values = _grid(*lows), _grid(*highs)
    walk = [(low_values[0], high) for high in high_values]
    walk += [(low, high_values[-1]) for low in low_values[1:]]
    for low, high in walk:
        if bapo_share(ratio, advantage, mass, low, high, accounting) >= share:
            return low, high
    return walk[-1]


def _grid(first: float, last: float, step: float) -> list[float]:
    """first, first + step, ... up to last, without a sum of roundings."""
    return [first + i * step for i in range(math.floor((last - first) / step + 1e-9) + 1)]


def opsm(log_drift: Array, advantage: Array, delta: float) -> Array:
    """0 for a path of A < 0 whose mean of log p_old / p is above delta, else 1, (n, h).

    Source: off-policy sequence masking, DeepSeek-V3.2 (arXiv 2512.02556).
    """
    drifted = log_drift.mean(axis=1, keepdims=True) > delta
    return np.where((advantage < 0) & drifted, 0.0, 1.0) + np.zeros_like(log_drift)


# Objectives of whole completions: coefficients of grad log p(y), (n,).


def optimal_value(log_pre: Array, reward: Array, beta: float) -> float:
    """V* = beta log E_pre exp(r / beta), from the distribution of the paths, (n,) each.

    Paper: A*-PO (arXiv 2505.20686).
    """
    return float(beta * logsumexp(log_pre + reward / beta))


def a_star_po(
    log_p: Array, log_pre: Array, reward: Array, value: float, beta: float = 1e-3
) -> Array:
    """-2 beta (beta log(p(y) / p_pre(y)) + V* - r), (n,). Paper: A*-PO, its second stage."""
    return -2 * beta * (beta * (log_p - log_pre) + value - reward)


def dmpo(
    log_p: Array,
    log_pre: Array,
    log_q: Array,
    reward: Array,
    alpha: float = 0.04,
    baseline: Baseline = "neg",
    scale: float = 1.0,
) -> Array:
    """(p*(y) - scale b(y)) / q(y), p* = p_pre exp(r / alpha) / normaliser, (n,).

    This is n W_i of DMPO's softmax weights W for a group of n -> inf completions of q. b: none, 0;
    mean, q; neg, p* with -r in the place of r; self, p.

    Paper: DMPO (arXiv 2510.08233), autoregressive form.
    """
    base = {
        "none": np.zeros_like(reward),
        "mean": np.exp(log_q),
        "neg": np.exp(_tilted(log_pre, -reward / alpha)),
        "self": np.exp(log_p),
    }[baseline]
    return (np.exp(_tilted(log_pre, reward / alpha)) - scale * base) / np.exp(log_q)


def _tilted(log_pre: Array, exponent: Array) -> Array:
    """log of p_pre exp(exponent) / normaliser, (n,)."""
    return log_pre + exponent - logsumexp(log_pre + exponent)


def alpha_dpo(
    log_p: Array,
    log_pre: Array,
    prob: Array,
    right: Array,
    horizon: int,
    beta: float = 2.5,
    gamma_beta_ratio: float = 0.6,
    alpha: float = 0.2,
) -> Array:
    """Coefficients of the mean over pairs of a right and a wrong path, both drawn from q, (n,).

    A pair's loss is -log sigmoid(beta (l_w - l_l - alpha z - gamma / beta)), l the mean log p of a
    token. z standardises the pair's gap to p_pre by the mean and the standard deviation over all
    pairs, where the moving averages end; it is 0 where all gaps are alike.

    Args:
        prob: of each path under q, (n,). right: which are right, (n,) bool.

    Paper: alpha-DPO (arXiv 2410.10148).
    """
    good, bad = np.flatnonzero(right), np.flatnonzero(~right)
    share_w, share_l = prob[good] / prob[good].sum(), prob[bad] / prob[bad].sum()
    mean_p, mean_pre = log_p / horizon, log_pre / horizon
    gap = mean_p[good][:, None] - mean_p[bad]  # (w, l)
    apart = gap - (mean_pre[good][:, None] - mean_pre[bad])
    centre = share_w @ apart @ share_l
    spread = math.sqrt(max(0.0, share_w @ (apart - centre) ** 2 @ share_l))
    z = (apart - centre) / spread if spread > 1e-9 else np.zeros_like(apart)
    pull = beta * expit(-beta * (gap - alpha * z - gamma_beta_ratio))  # minus the slope in the gap
    coefficient = np.zeros_like(log_p)
    # E over pairs is E over each side alone: a path's own share is divided out again
    coefficient[good] = pull @ share_l / horizon / prob[good].sum()
    coefficient[bad] = -(share_w @ pull) / horizon / prob[bad].sum()
    return coefficient
