"""Small trees of tokens in which every expectation is a finite sum.

A completion is a path of `horizon` tokens from a vocabulary of `vocab`. Every prefix is a state
with its own softmax parameters, so there are (v^h - 1) / (v - 1) states and v^h paths, and a path
visits each of its states once. The reward, 0 or 1, comes at the end. Three distributions of the
next token live on the same tree: p (the policy now), p_ref (the policy before the update) and q
(the actor that samples).

Shapes: s states, v tokens, n = v^h paths, h positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

import jackpot

Array = np.ndarray
MAX_PATHS = 20_000
GOOD_SHARE = 0.25  # share of the paths that earn reward 1


@dataclass(frozen=True)
class Tree:
    """The shape of a tree: which state and which token every path has at every position."""

    vocab: int
    horizon: int
    states: Array  # (n, h) int
    tokens: Array  # (n, h) int

    @property
    def n_states(self) -> int:
        """Number of states, (v^h - 1) / (v - 1)."""
        return (self.vocab**self.horizon - 1) // (self.vocab - 1)

    def at_paths(self, table: Array) -> Array:
        """Values of a table (s, v) at the tokens of every path, (n, h)."""
        return table[self.states, self.tokens]

    def sum_nodes(self, values: Array) -> Array:
        """Sum values (n, h) of path tokens into a table (s, v)."""
        node = self.states * self.vocab + self.tokens
        flat = np.bincount(node.ravel(), values.ravel(), minlength=self.n_states * self.vocab)
        return flat.reshape(self.n_states, self.vocab)


@dataclass(frozen=True)
class World:
    """A tree with a policy, its previous version, an actor and a reward."""

    tree: Tree
    log_p: Array  # (s, v), nats: the policy whose gradient is wanted
    log_ref: Array  # (s, v): the policy at the start of the update phase
    log_q: Array  # (s, v): the actor
    reward: Array  # (n,)


def make_tree(vocab: int, horizon: int) -> Tree:
    """Enumerate the paths, refusing trees too large to enumerate.

    Raises:
        ValueError: vocab < 2, horizon < 1, or more than MAX_PATHS paths.
    """
    if vocab < 2 or horizon < 1:
        raise ValueError(
            f"a tree needs at least 2 tokens and 1 position, got vocab {vocab}, horizon {horizon}"
        )
    log10_paths = horizon * math.log10(vocab)
    if log10_paths > math.log10(MAX_PATHS):
        count = f"{vocab**horizon:,}" if log10_paths < 15 else f"about 1e{log10_paths:.0f}"
        raise ValueError(
            f"vocab {vocab} and horizon {horizon} make {count} trajectories, more than the "
            f"{MAX_PATHS:,} that are enumerated; lower one of them (the default is 5 and 3)"
        )
    path = np.arange(vocab**horizon)
    states, tokens = [], []
    for t in range(horizon):
        first = (vocab**t - 1) // (vocab - 1)
        states.append(first + path // vocab ** (horizon - t))
        tokens.append(path // vocab ** (horizon - t - 1) % vocab)
    return Tree(vocab, horizon, np.stack(states, axis=1), np.stack(tokens, axis=1))


def random_world(
    tree: Tree,
    seed: int,
    *,
    kl: float,
    spread: float = 0.0,
    staleness: float = 0.0,
    dead: float = 0.0,
) -> World:
    """A seeded world whose actor lies at a prescribed distance from the previous policy.

    Policy logits are normal (sd 1). The actor's are p_ref's plus normal noise, scaled so that the
    mean KL(p_ref || q) over the states the actor visits equals `kl`. Each token of each state has
    a normal effect, and the quarter of the paths with the largest total effect earns 1.

    Args:
        seed: same seed, same tree: the same policy, reward and directions of noise at every `kl`.
        kl: mean mismatch per token, nats, >= 0.
        spread: sd of the log of each state's noise scale; 0 mismatches all states alike.
        staleness: sd of the noise between the logits of p and p_ref.
        dead: mass, in [0, 1), that the actor puts on a first token the policies never play, so that
            it reaches states they do not.

    Raises:
        ValueError: a value out of range, or `kl` below what `dead` alone costs.
    """
    _check(kl=kl, spread=spread, staleness=staleness, dead=dead)
    rng = np.random.default_rng([seed, tree.vocab, tree.horizon])
    shape = (tree.n_states, tree.vocab)
    logits, noise, drift, effect = (rng.standard_normal(shape) for _ in range(4))
    scale = np.exp(spread * rng.standard_normal(tree.n_states))[:, None]
    if dead > 0:
        logits[0, 0] = -math.inf
    ref_logits = logits + staleness * drift
    log_ref = log_softmax(ref_logits, axis=-1)

    def actor(alpha: float) -> Array:
        log_q = log_softmax(ref_logits + alpha * scale * noise, axis=-1)
        if dead > 0:
            log_q[0] += math.log1p(-dead)
            log_q[0, 0] = math.log(dead)
        return log_q

    def excess(alpha: float) -> float:
        return mean_kl(tree, log_ref, actor(alpha)) - kl

    log_q = actor(_scale_to(excess, kl, dead))
    reward = _reward(tree, effect, GOOD_SHARE)
    return World(tree, log_softmax(logits, axis=-1), log_ref, log_q, reward)


def other_reward(world: World, seed: Sequence[int], share: float) -> World:
    """The same policies with another seeded reward, which the best `share` of the paths earn."""
    effect = np.random.default_rng(seed).standard_normal(world.log_p.shape)
    return replace(world, reward=_reward(world.tree, effect, share))


def _reward(tree: Tree, effect: Array, share: float) -> Array:
    """1 for the paths whose tokens' effects (s, v) have the largest sums, (n,)."""
    score = tree.at_paths(effect).sum(axis=1)
    return (score >= np.quantile(score, 1 - share)).astype(float)


def mean_kl(tree: Tree, log_p: Array, log_q: Array) -> float:
    """KL(p || q), nats per token, averaged over the states q visits."""
    return float(state_distribution(tree, log_q) @ jackpot.kl_p_q(log_p, log_q))


def path_prob(tree: Tree, log_pi: Array) -> Array:
    """Probability of every path under pi, (n,)."""
    return np.exp(tree.at_paths(log_pi).sum(axis=1))


def state_distribution(tree: Tree, log_pi: Array) -> Array:
    """Frequency of every state among the tokens pi samples, (s,), summing to 1."""
    prob = path_prob(tree, log_pi)[:, None] / tree.horizon
    return tree.sum_nodes(np.broadcast_to(prob, tree.states.shape)).sum(axis=1)


def values(world: World, log_pi: Array) -> Array:
    """Expected reward Q^pi(s, x) after token x in state s when pi continues, (s, v)."""
    tree, pi = world.tree, np.exp(log_pi)
    table = np.empty(pi.shape)
    after = world.reward
    for t in reversed(range(tree.horizon)):
        first = (tree.vocab**t - 1) // (tree.vocab - 1)
        rows = slice(first, first + tree.vocab**t)
        table[rows] = after.reshape(-1, tree.vocab)
        after = (pi[rows] * table[rows]).sum(axis=1)
    return table


def score_gradient(world: World, coef: Array) -> Array:
    """Sum of coef (s, v) times grad log p(x | s) = e_x - p(. | s), a gradient (s, v)."""
    return coef - np.exp(world.log_p) * coef.sum(axis=-1, keepdims=True)


def gradient(world: World, log_distribution: Array, log_future: Array) -> Array:
    """sum_s d(s) sum_x p(x|s) Q(s,x) grad log p(x|s), states drawn from `log_distribution` and the
    future from `log_future`.

    With both equal to log p it is the policy gradient of the expected reward. With both equal to
    log q it is the token-level target: the most that a weight on single tokens can correct, since
    the states are the actor's and the rest of the path, hence the reward, is the actor's too.
    """
    d = world.tree.horizon * state_distribution(world.tree, log_distribution)[:, None]
    return score_gradient(world, d * np.exp(world.log_p) * values(world, log_future))


def _check(**numbers: float) -> None:
    for name, x in numbers.items():
        if not 0 <= x < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, got {x}")
    if numbers["dead"] >= 1:
        raise ValueError(f"dead is a probability below 1, got {numbers['dead']}")


def _scale_to(excess, kl: float, dead: float) -> float:
    """The noise scale at which `excess` (mean KL minus `kl`) is 0."""
    low = excess(0.0)
    if low > 1e-12:
        raise ValueError(
            f"dead {dead:g} alone costs a mean KL of {low + kl:.3g} nats, more than the kl {kl:g} "
            "asked for; lower dead or raise kl"
        )
    if low > -1e-12:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
        if high > 1e4:
            raise ValueError(f"no actor on this tree has a mean KL of {kl:g} nats; lower kl")
    return float(brentq(excess, 0.0, high, xtol=1e-14, rtol=1e-14))
