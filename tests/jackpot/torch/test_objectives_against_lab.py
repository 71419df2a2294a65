"""The trainer's objectives against the lab's: torch autograd against numpy formulas of the papers.

The two share no code. The gradient of `policy_loss_sum` by log p_new is
-scale weight A factor at every token, with the factor of `sim.studies.objectives`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from jackpot.torch import objectives, sequence_objectives
from jackpot.torch.objectives import ObjectiveTokens
from sim.studies import objectives as lab

INF = math.inf
V, K = 6, 2
SEEDS = range(6)


class RaggedTokens:
    """Ragged sequences over a vocabulary of 6, float64; some tokens rejected, some without mass.

    The last sequence has every token rejected. Advantages may be 0.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        lengths = [*rng.integers(1, 9, 12), 3]
        self.sequence = np.repeat(np.arange(len(lengths)), lengths)
        n = self.n = len(self.sequence)
        q, ref, new = (rng.normal(size=(n, V)) * [[1.0]] for _ in range(3))
        ref, new = q + 0.5 * ref, q + 0.7 * new
        self.q, self.ref, self.new = (
            x - np.logaddexp.reduce(x, 1, keepdims=True) for x in (q, ref, new)
        )
        self.x = rng.integers(0, V, n)
        self.weight = np.where(rng.random(n) < 0.3, 0.0, rng.uniform(0.3, 3, n))
        self.weight[self.sequence == len(lengths) - 1] = 0.0
        self.scale = rng.uniform(0.1, 2, n)
        choices = rng.choice([-1.5, -0.3, 0.0, 0.7, 2.0], len(lengths))
        self.advantage = np.repeat(choices, lengths)
        at = np.arange(n), self.x
        self.lq, self.lr, self.ln = self.q[at], self.ref[at].copy(), self.new[at].copy()
        gone = rng.permutation(n)[:4]
        self.ln[gone[:2]], self.lr[gone[2:]] = -INF, -INF

    def tokens(self) -> ObjectiveTokens:
        top = np.argsort(-self.q, axis=1)[:, :K]
        rows = np.arange(self.n)[:, None]
        values = (
            *(self.ln, self.lr, self.lq, self.advantage, self.sequence),
            *(self.new[rows, top], self.q[rows, top], (top == self.x[:, None]).any(1)),
        )
        return ObjectiveTokens(*(torch.from_numpy(np.ascontiguousarray(v)) for v in values))

    def counted(self, type: str, ratio: str) -> np.ndarray:
        """Tokens of weight that have a logarithm; PPO alone keeps p_new = 0, whose factor is 0."""
        some = (self.weight != 0) & ((self.lq if ratio == "inf" else self.lr) > -INF)
        return some if type == "ppo" else some & (self.ln > -INF)

    def factors(self, keywords: dict) -> np.ndarray:
        """The lab's factor at every token, 0 where it does not count."""
        old = self.lq if keywords.get("ratio", "ref") == "inf" else self.lr
        counted = self.counted(keywords["type"], keywords.get("ratio", "ref"))
        found = np.zeros(self.n)
        for s in np.unique(self.sequence):
            own = np.flatnonzero((self.sequence == s) & counted)
            if len(own):
                distance = self.distance(own, keywords) if keywords["type"] == "dppo" else None
                ln, la, lq, a = (x[own][None] for x in (self.ln, old, self.lq, self.advantage))
                found[own] = factor(ln, la, lq, a, distance, keywords)[0]
        return found

    def distance(self, own: np.ndarray, keywords: dict) -> np.ndarray:
        table = lab.divergence(self.new[own], self.q[own], keywords["divergence"], K)
        return table[np.arange(len(own)), self.x[own]][None]


def factor(new, old, inf, advantage, distance, keywords) -> np.ndarray:
    """The lab's factor of one sequence, (1, length), at the trainer's settings."""
    log_r, log_rho = new - old, new - inf
    bounds = 1 - keywords.get("clip_low", 0.0), 1 + keywords.get("clip_high", 0.0)
    match keywords["type"]:
        case "ppo":
            found = lab.ppo(log_r, advantage, *bounds)
        case "cispo":
            found = lab.cispo(log_r, *bounds)
        case "gspo":
            found = lab.gspo(log_r, advantage, *bounds)
        case "dppo":
            limits = keywords["delta"], keywords["cap"]
            found = lab.dppo(log_r, log_rho, advantage, distance, *limits)
        case "minpro":
            found = lab.minpro(log_rho, *bounds)
        case "bapo":
            found = lab.ppo(log_r, advantage, keywords["low"], keywords["high"])
        case "m2po":
            found = lab.m2po(log_rho, advantage, keywords["threshold"])
    return found * lab.opsm(-log_r, advantage, keywords.get("opsm_delta", INF))


def gradient(batch: RaggedTokens, keywords: dict):
    """What torch finds: the gradient by log p_new, and clipped and masked of each token."""
    leaf = torch.from_numpy(batch.ln.copy()).requires_grad_()
    found = objectives.policy_loss_sum(
        batch.tokens()._replace(logp_new=leaf),
        *(torch.from_numpy(x) for x in (batch.weight, batch.scale)),
        **keywords,
    )
    (grad,) = torch.autograd.grad(found.loss, leaf)
    return grad.numpy(), found.clipped.numpy(), found.masked.numpy()


CASES: list[dict[str, Any]] = [
    {"type": "ppo", "clip_low": 0.2, "clip_high": 0.3},
    {"type": "cispo", "clip_low": INF, "clip_high": 0.4},
    {"type": "cispo", "clip_low": 0.2, "clip_high": 0.28},
    {"type": "gspo", "clip_low": 0.1, "clip_high": 0.15},
    {"type": "gspo", "clip_low": INF, "clip_high": INF},
    *(
        {"type": "dppo", "divergence": kind, "delta": delta, "cap": 1.3}
        for kind in ("binary_tv", "binary_kl", "top_k_tv", "top_k_kl")
        for delta in (0.0, 0.08)
    ),
    {"type": "minpro", "ratio": "inf", "clip_low": 0.2, "clip_high": 0.28},
    {"type": "minpro", "ratio": "inf", "clip_low": INF, "clip_high": INF},
    {"type": "bapo", "low": 0.7, "high": 1.4},
    {"type": "m2po", "ratio": "inf", "threshold": 0.1},
    {"type": "ppo", "clip_low": 0.2, "clip_high": 0.3, "opsm_delta": 0.05},
    {"type": "gspo", "clip_low": 0.2, "clip_high": 0.3, "opsm_delta": 0.0},
]
BOTH = [
    {**case, "ratio": ratio}
    for case in CASES
    for ratio in ("ref", "inf")
    if case.get("ratio", ratio) == ratio
]


def name_of(case: dict) -> str:
    return "-".join(str(value) for value in case.values())


@pytest.mark.parametrize("case", BOTH, ids=name_of)
def test_the_gradient_is_scale_weight_advantage_factor(case):
    """Both denominators, ragged sequences, weights of 0, tokens without mass, advantages of 0."""
    hit: Any = 0
    for seed in SEEDS:
        batch = RaggedTokens(seed)
        factors = batch.factors(case)
        grad, _, masked = gradient(batch, case)
        wanted = -batch.scale * batch.weight * batch.advantage * factors
        np.testing.assert_allclose(grad, wanted, rtol=1e-9, atol=1e-13)
        counted = batch.counted(case["type"], case["ratio"])
        if case["type"] in ("dppo", "m2po"):
            np.testing.assert_array_equal(masked[counted], factors[counted] == 0)
        assert not masked[~counted].any()
        hit += np.count_nonzero(factors)
    assert hit > 100


@pytest.mark.parametrize("ratio", ["ref", "inf"])
def test_masked_sequences_are_those_of_the_lab_and_no_masked_tokens(ratio):
    """opsm on ppo, which masks nothing of its own."""
    case = {"type": "ppo", "ratio": ratio, "clip_low": 0.2, "clip_high": 0.3, "opsm_delta": 0.05}
    dropped = 0
    for seed in SEEDS:
        batch = RaggedTokens(seed)
        batch.ln, batch.lr = np.maximum(batch.ln, -9.0), np.maximum(batch.lr, -9.0)
        tokens = (torch.from_numpy(x) for x in (batch.weight, batch.scale))
        found = objectives.policy_loss_sum(batch.tokens(), *tokens, **case)
        drift = (batch.lq if ratio == "inf" else batch.lr) - batch.ln
        for s in np.unique(batch.sequence):
            own = (batch.sequence == s) & (batch.weight != 0)
            kept = (
                lab.opsm(drift[own][None], batch.advantage[own][None], 0.05)[0] if any(own) else 1
            )
            assert (found.sequence_masked.numpy()[own] == 1 - kept).all()
        assert not found.masked.any()
        dropped += int(found.sequence_masked.sum())
    assert dropped > 10


@pytest.mark.parametrize("type", ["ppo", "gspo", "bapo"])
def test_a_ratio_exactly_at_its_bound_keeps_its_whole_gradient(type):
    """r = 1 = both bounds: the bound does not hold it, whatever the advantage's sign."""
    bounds = {"clip_low": 0.0, "clip_high": 0.0} if type != "bapo" else {"low": 1.0, "high": 1.0}
    batch = RaggedTokens(0)
    batch.ln = batch.lr.copy()
    case = {"type": type, "ratio": "ref", **bounds}
    grad, clipped, _ = gradient(batch, case)
    counted = batch.counted(type, "ref")
    wanted = -batch.scale * batch.weight * batch.advantage * counted
    np.testing.assert_allclose(grad, wanted, rtol=1e-12)
    assert not clipped.any()


def test_thresholds_met_exactly():
    """D = delta, r = cap and drift = delta are kept; (log rho)^2 = threshold is masked."""
    one = torch.ones(2, dtype=torch.float64)
    half, zero = 0.5 * one, 0.0 * one
    kept = objectives.dppo(half, zero, zero, one, 0.25 * one, delta=0.25, cap=math.exp(0.5))
    assert kept.mask.tolist() == [1, 1] and not kept.clipped.any()
    sequence = torch.tensor([0, 0])
    assert objectives.opsm_mask(zero, half, -one, sequence, delta=0.5).tolist() == [1, 1]
    assert objectives.m2po(half, zero, one, threshold=0.25).mask.tolist() == [0, 0]
    for log_rho, advantage, distance in ((0.5, 1.0, 0.25), (-0.5, -1.0, 0.25)):
        rho, a, d = (np.full((1, 1), x) for x in (log_rho, advantage, distance))
        assert lab.dppo(rho, rho, a, d, 0.25, 20.0) == np.exp(log_rho)
    assert lab.m2po(np.full((1, 1), 0.5), np.ones((1, 1)), 0.25) == 0
    assert lab.opsm(np.full((1, 2), 0.5), -np.ones((1, 1)), 0.5).all()


@pytest.mark.parametrize("accounting", ["value", "grad", "literal"])
@pytest.mark.parametrize("ratio", ["ref", "inf"])
def test_bapos_bounds_are_the_first_of_the_walk_that_suffice(ratio, accounting):
    """Every pair of the walk is tried by a loop over tokens; and the lab's bounds are the same."""
    low_max, moved = 0.9, set()
    for seed, share in itertools.product(SEEDS, (0.3, 0.4, 0.5, 0.6, 0.75, 0.95)):
        batch = RaggedTokens(seed)
        found = objectives.bounds_of(
            batch.tokens(), torch.from_numpy(batch.weight), type="bapo", ratio=ratio, share=share,
            accounting=accounting, low_step=0.05, high_step=0.3,
        )  # fmt: skip
        own = batch.counted("bapo", ratio)
        log_r = (batch.ln - (batch.lq if ratio == "inf" else batch.lr))[own]
        a, mass = batch.advantage[own], (np.exp(batch.lq) * batch.weight)[own]
        walk = [(0.6, 1.2 + 0.3 * i) for i in range(7)]
        walk += [(0.6 + 0.05 * i, 3.0) for i in range(1, 7)]
        wanted = walk[-1]
        for low, high in walk:
            if brute_share(np.exp(log_r), a, mass, low, high, accounting) >= share:
                wanted = low, high
                break
        assert (found["low"], found["high"]) == pytest.approx(wanted), (seed, share)
        grids = (0.6, low_max, 0.05), (1.2, 3.0, 0.3)
        mine = lab.bapo_bounds(np.exp(log_r), a, mass, share, accounting, *grids)
        assert mine == pytest.approx(wanted)
        moved.add(wanted)
    assert moved - {walk[0], walk[-1]}  # some walk ends inside


def brute_share(ratio, advantage, mass, low, high, accounting) -> float:
    """The share of positive advantages, token by token."""
    terms = []
    for r, a, m in zip(ratio, advantage, mass, strict=True):
        bounded = min(max(r, low), high)
        value = min(r * a, bounded * a)
        if accounting == "grad":
            value = r * a if (r <= high if a > 0 else r >= low) else 0.0
        terms.append(m * value)
    positive = sum(t for t in terms if t > 0)
    everything = sum(abs(t) for t in terms) if accounting != "literal" else abs(sum(terms))
    return positive / everything


def test_a_ratio_exactly_at_bapos_bound_contributes_by_gradient():
    """r = 1 = high: the share is 1 / 2 at once. r = 1 = low: it is no more, so high moves."""
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    advantage = torch.tensor([1.0, -1.0], dtype=torch.float64)
    bounds: dict[str, Any] = {
        "accounting": "grad",
        "high_min": 1.0,
        "high_max": 1.5,
        "high_step": 0.5,
    }
    args = (zero, zero, zero, advantage, one)
    upper: dict[str, Any] = {"low_min": 0.5, "low_max": 0.9, "low_step": 0.4, "share": 0.5}
    assert objectives.bapo_bounds(*args, **bounds | upper) == (0.5, 1.0)
    lower: dict[str, Any] = {"low_min": 1.0, "low_max": 1.0, "low_step": 0.1, "share": 0.6}
    assert objectives.bapo_bounds(*args, **bounds | lower) == (1.0, 1.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_m2pos_threshold_masks_as_few_as_it_can(seed):
    """Among all cuts between distinct values, the largest whose mean is at most tau; with ties."""
    rng = np.random.default_rng(seed)
    log_rho = rng.integers(-4, 5, 40) / 8  # many equal values
    advantage = rng.choice([-1.0, 0.0, 2.0], 40)
    for tau in (0.0, 0.015625, 0.04, 0.0625, 0.2, INF):
        pushed = [x * x for x, a in zip(log_rho, advantage, strict=True) if x * a > 0]
        cuts = []
        for cut in [*sorted(set(pushed)), INF]:
            kept = [v for v in pushed if v < cut]
            if not kept or sum(kept) <= tau * len(kept):
                cuts.append(cut)
        args = (torch.from_numpy(log_rho), torch.zeros(40).double(), torch.from_numpy(advantage))
        assert objectives.m2po_threshold(*args, tau=tau) == max(cuts)
        assert lab.m2po_threshold(log_rho, advantage, np.ones(40), tau) == max(cuts)


# Whole completions: coefficients of grad log p(y) of n equally likely paths, n times the trainer's


def completions(seed: int, n: int = 7) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    new, pre = -rng.uniform(1, 6, (2, n))
    return new, pre, np.full(n, -math.log(n)), np.array([1.0, 0, 0, 1, 0, 1, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_star_po_has_the_labs_coefficients(seed):
    new, pre, _, reward = completions(seed)
    value = lab.optimal_value(np.full(7, -math.log(7)), reward, 0.5)
    assert sequence_objectives.optimal_value(torch.from_numpy(reward), beta=0.5) == pytest.approx(
        value
    )
    args = (torch.from_numpy(x) for x in (new, pre, reward, np.full(7, value)))
    found = sequence_objectives.a_star_po(*args, beta=0.3)
    wanted = lab.a_star_po(new, pre, reward, value, beta=0.3) / 7
    np.testing.assert_allclose(found.coefficient, wanted, rtol=1e-12)


@pytest.mark.parametrize("baseline", ["none", "mean", "neg", "self"])
@pytest.mark.parametrize("seed", SEEDS)
def test_dmpo_has_the_labs_coefficients(seed, baseline):
    """A group in which each path occurs once, q uniform on it and p normalised there."""
    new, pre, inf, reward = completions(seed)
    new, pre = (x - np.logaddexp.reduce(x) for x in (new, pre))
    n, q, i, r = (torch.from_numpy(x) for x in (new, pre, inf, reward))
    group = torch.zeros(7, dtype=torch.int64)
    settings: dict[str, Any] = {"alpha": 0.5, "baseline": baseline}
    found = sequence_objectives.dmpo(n, q, i, r, group, **settings, baseline_coef=0.8)
    wanted = lab.dmpo(new, pre, inf, reward, **settings, scale=0.8) / 7
    np.testing.assert_allclose(found.coefficient, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("seed", SEEDS)
def test_alpha_dpo_has_the_labs_coefficients(seed, alpha):
    """decay 0: statistics of this batch alone. Its deviation divides by one pair less."""
    new, pre, _, reward = completions(seed)
    right, pairs = reward > 0, 3 * 4
    found, _ = sequence_objectives.alpha_dpo(
        torch.from_numpy(new),
        torch.from_numpy(pre),
        torch.full((7,), 4),
        torch.from_numpy(right),
        torch.zeros(7, dtype=torch.int64),
        sequence_objectives.GapStatistics(),
        alpha=alpha,
        decay=0.0,
    )
    share = np.full(7, 1 / 7)
    same = alpha * math.sqrt((pairs - 1) / pairs)
    wanted = lab.alpha_dpo(new, pre, share, right, horizon=4, alpha=same) / 7
    np.testing.assert_allclose(found.coefficient, wanted, rtol=1e-10)
