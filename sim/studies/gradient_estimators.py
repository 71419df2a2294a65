"""Estimators of the policy gradient from an actor's paths: exact mean, variance and error.

One path gives G = sum_t mask_t weight_t A grad log p(x_t | s_t), where A is the reward minus the
actor's mean reward. Its states are distinct, so their gradients live on different parameters and
E|G|^2 is a sum over tokens. The weights are `jackpot`'s own functions. The PPO term is
differentiated without its clip: it contributes A r_theta grad log p, with r_theta = p / p_ref.

Shapes: s states, v tokens, n paths, h positions. Gradients are tables (s, v).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

import jackpot
from sim.worlds.trees import Array, World, path_prob, score_gradient, state_distribution


@dataclass(frozen=True)
class Estimator:
    """One way to weight an actor's tokens.

    `mask` says what becomes of the acceptance coin: flipped (`coin`), replaced by its probability
    (`expected`), or forgotten (`all`: every token kept at weight w, Algorithm 1 as printed).
    `scope` is what a rejected token takes with it: nothing (`token`), or all that follows it in its
    path (`prefix`). `target` is the distribution in the ratio: `ref` gives F(p_ref / q) r_theta,
    the decoupled form, `new` gives F(p / q). `per` is the number of tokens a batch is divided by.
    """

    name: str
    rule: Literal["none", "importance", "tis", "icepop", "sequence", "jackpot"]
    cap: float = math.inf  # tis
    low: float = 0.0  # icepop
    high: float = math.inf  # icepop
    lam: float = 1.0  # jackpot, and all that follow
    mask: Literal["coin", "expected", "all"] = "coin"
    scope: Literal["token", "prefix"] = "token"
    z: Literal["state", "batch"] = "state"
    c1: float = math.inf
    c2: float = math.inf
    per: Literal["proposed", "accepted"] = "proposed"
    target: Literal["new", "ref"] = "new"


@dataclass(frozen=True)
class Terms:
    """What an estimator does with every token of every path; each array is (n, h).

    The gradient of a token is multiplied by `weight` with probability `keep`, else by 0. `count` is
    what the token adds to the number of accepted tokens, in expectation.
    """

    keep: Array
    weight: Array
    count: Array


@dataclass(frozen=True)
class Moments:
    """An estimator's limit and its error for N paths, up to terms of order 1/N^2.

    For an average (`per="proposed"`) mean and variance are exact and `drift` is 0. Per accepted
    token the estimator is a ratio: `variance` and `drift` (N times its bias) come from the delta
    method.
    """

    mean: Array  # (s, v), the limit N -> inf
    variance: float  # trace of the covariance of one path's contribution
    drift: Array  # (s, v)
    acceptance: float  # share of tokens accepted

    @cached_property
    def noise(self) -> float:
        """Variance of one path over the squared length of the mean; inf if the mean is 0."""
        length = float(np.sum(self.mean**2))
        return self.variance / length if length > 0 else math.inf

    def cosine(self, target: Array) -> float:
        """Cosine of the mean with a target gradient; 0 for a mean of 0, which has no direction."""
        lengths = float(np.linalg.norm(self.mean) * np.linalg.norm(target))
        return float(np.sum(self.mean * target)) / lengths if lengths > 0 else 0.0

    def bias(self, target: Array) -> float:
        """|mean - target| / |target|."""
        return float(np.linalg.norm(self.mean - target) / np.linalg.norm(target))

    def mse(self, target: Array, n_paths: float) -> float:
        """E|estimate - target|^2 / |target|^2 for N paths."""
        off = np.sum((self.mean + self.drift / n_paths - target) ** 2)
        return float((off + self.variance / n_paths) / np.sum(target**2))

    def mse_best_step(self, target: Array, n_paths: float) -> float:
        """The same after multiplication by the best constant: 1 - cos^2 / (1 + noise / N).

        A constant factor is a learning rate; `mse` alone rewards whoever shrinks the gradient.
        """
        return 1.0 - self.cosine(target) ** 2 / (1.0 + self.noise / n_paths)


def terms(world: World, est: Estimator) -> Terms:
    """Keep probability, weight and count of every token, from the public functions of `jackpot`."""
    if est.rule == "jackpot":
        return _jackpot_terms(world, est)
    ones = np.ones(world.tree.states.shape)
    log_t = _log_target(world, est)
    ratio = log_ratio(world, log_t, world.log_q)
    step = np.exp(log_ratio(world, world.log_p, log_t))
    if est.rule == "none":
        weight = np.exp(log_ratio(world, world.log_p, world.log_ref))
    elif est.rule == "importance":
        weight = jackpot.importance(ratio) * step
    elif est.rule == "tis":
        weight = jackpot.tis(ratio, est.cap) * step
    elif est.rule == "icepop":
        weight = jackpot.icepop(ratio, est.low, est.high) * step
    elif est.rule == "sequence":
        whole = log_ratio(world, world.log_p, world.log_q).sum(axis=1, keepdims=True)
        weight = jackpot.importance(whole) * ones
    else:
        raise ValueError(f"there is no rule {est.rule!r}; see Estimator")
    return Terms(ones, weight, ones)


def moments(world: World, est: Estimator) -> Moments:
    """Exact mean and variance of one path; limit, variance and drift of the ratio, if it is one."""
    tree, t = world.tree, terms(world, est)
    if est.scope == "prefix" and est.mask == "coin" and est.per == "accepted":
        raise ValueError(
            "the coins of a prefix are not independent: scope prefix takes per proposed"
        )
    coef = t.weight * advantage(world)[:, None]
    average = average_moments(world, t, coef)
    if est.per == "proposed":
        return average

    # A ratio of averages, G / (K / h), with K the accepted tokens of a path
    prob = path_prob(tree, world.log_q)[:, None]
    mean, acceptance = average.mean, average.acceptance
    square = average.variance + float(np.sum(mean**2))
    others = t.count.sum(axis=1, keepdims=True) - t.count
    own = 1.0 if est.mask == "coin" else t.count  # a flipped coin is its own square
    mean_gk = _expected(world, prob * t.keep * coef * (own + others)) / tree.horizon
    mean_kk = float(np.sum(prob * t.count * (own + others))) / tree.horizon**2
    limit = mean / acceptance
    spread = square - 2 * np.sum(limit * mean_gk) + np.sum(limit**2) * mean_kk
    drift = -(mean_gk - limit * mean_kk) / acceptance**2
    return Moments(limit, float(spread) / acceptance**2, drift, acceptance)


def average_moments(world: World, t: Terms, coef: Array) -> Moments:
    """Of an average over paths, with grad log p of each kept token times `coef`, (n, h): exact."""
    prob = path_prob(world.tree, world.log_q)[:, None]
    mean = _expected(world, prob * t.keep * coef)
    square = float(np.sum(prob * t.keep * coef**2 * score_square(world)))
    acceptance = float(np.sum(prob * t.count)) / world.tree.horizon
    return Moments(mean, square - float(np.sum(mean**2)), np.zeros_like(mean), acceptance)


def advantage(world: World) -> Array:
    """Reward minus the actor's mean reward, (n,): what a large group of samples subtracts."""
    return world.reward - path_prob(world.tree, world.log_q) @ world.reward


def sample_estimates(world: World, est: Estimator, n_paths: int, repeats: int, seed: int) -> Array:
    """Monte Carlo: `repeats` estimates from `n_paths` paths each, (repeats, s, v).

    A batch without an accepted token estimates 0 (no update).
    """
    tree, t = world.tree, terms(world, est)
    rng = np.random.default_rng([seed, n_paths, repeats])
    prob = path_prob(tree, world.log_q)
    path = rng.choice(prob.size, size=(repeats, n_paths), p=prob / prob.sum())
    keep = t.keep
    if est.scope == "prefix":  # each token's own coin, from the chance of it and all before it
        before = np.concatenate([np.ones((len(keep), 1)), keep[:, :-1]], axis=1)
        keep = np.divide(keep, before, out=np.zeros_like(keep), where=before > 0)
    kept = rng.random((repeats, n_paths, tree.horizon)) < keep[path]
    if est.scope == "prefix":
        kept = np.logical_and.accumulate(kept, axis=2)
    coef = kept * t.weight[path] * advantage(world)[path][..., None]
    size = tree.n_states * tree.vocab
    node = (tree.states * tree.vocab + tree.tokens)[path]
    node = node + size * np.arange(repeats)[:, None, None]
    total = np.bincount(node.ravel(), coef.ravel(), minlength=repeats * size)
    total = score_gradient(world, total.reshape(repeats, tree.n_states, tree.vocab))
    if est.per == "proposed":
        return total / n_paths
    accepted = kept if est.mask == "coin" else t.count[path]
    share = accepted.sum(axis=(1, 2))[:, None, None] / tree.horizon
    return np.where(share > 0, total / np.where(share > 0, share, 1.0), 0.0)


def jackpot_grid(lam: float, c1: float, c2: float) -> list[Estimator]:
    """Jackpot in every combination: mask x Z x c1 on or off x c2 on or off x denominator."""
    base = Estimator("", "jackpot", lam=lam)
    grid = [replace(base, mask=m) for m in ("coin", "expected", "all")]
    grid = [replace(e, z=z) for e in grid for z in ("state", "batch")]
    grid = [replace(e, c1=c) for e in grid for c in (math.inf, c1)]
    grid = [replace(e, c2=c) for e in grid for c in (math.inf, c2)]
    grid = [replace(e, per=d) for e in grid for d in ("proposed", "accepted")]
    return [replace(e, name=_label(e)) for e in grid]


def _label(e: Estimator) -> str:
    caps = f"c1={e.c1:g}, c2={e.c2:g}"
    return f"Jackpot {e.mask}, Z {e.z}, {caps}, per {e.per}"


def _log_target(world: World, est: Estimator) -> Array:
    return world.log_p if est.target == "new" else world.log_ref


def _jackpot_terms(world: World, est: Estimator) -> Terms:
    tree, log_t = world.tree, _log_target(world, est)
    to_q = log_ratio(world, log_t, world.log_q)
    accept = tree.at_paths(jackpot.accept_prob(log_t, world.log_q, est.lam))
    z = jackpot.acceptance_rate(log_t, world.log_q, est.lam)
    batch_z = float(state_distribution(tree, world.log_q) @ z)
    z_at = z[tree.states] if est.z == "state" else np.full(tree.states.shape, batch_z)
    back = np.exp(log_ratio(world, world.log_ref, log_t))
    ppo = np.minimum(back, est.c2) * np.exp(log_ratio(world, world.log_p, world.log_ref))
    ones = np.ones_like(accept)
    reached = ones
    if est.scope == "prefix":
        reached = np.concatenate([ones[:, :1], np.cumprod(accept, axis=1)[:, :-1]], axis=1)
        accept = accept * reached
    if est.mask == "expected":
        weight = reached * jackpot.expected_weight(to_q, est.lam, z_at, est.c1)
        return Terms(ones, weight * ppo, accept)
    weight = np.minimum(jackpot.obrs_weight(to_q, est.lam, z_at), est.c1) * ppo
    return Terms(accept, weight, accept) if est.mask == "coin" else Terms(ones, weight, ones)


def log_ratio(world: World, log_a: Array, log_b: Array) -> Array:
    """log a - log b at the tokens of every path, (n, h).

    0 where both are -inf (distributions that agree) and where b alone is, a token never sampled.
    """
    absent = np.isneginf(log_b)
    with np.errstate(invalid="ignore"):
        ratio = np.where(absent, 0.0, log_a - log_b)
    return world.tree.at_paths(ratio)


def _expected(world: World, coef: Array) -> Array:
    """sum over paths and positions of coef (n, h) times grad log p, a table (s, v)."""
    return score_gradient(world, world.tree.sum_nodes(coef))


def score_square(world: World) -> Array:
    """|grad log p(x_t | s_t)|^2 = 1 - 2 p(x_t) + sum p^2 at every token, (n, h)."""
    p = np.exp(world.log_p)
    return world.tree.at_paths(1.0 - 2.0 * p + np.sum(p**2, axis=-1, keepdims=True))
