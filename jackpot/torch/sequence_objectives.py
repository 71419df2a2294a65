"""Objectives of whole completions: A*-PO, DMPO and alpha-DPO, in place of PPO's term.

Each is a loss of the completions' log-probabilities log p_new(y). Its gradient is that of
-sum_i coefficient_i log p_new(y_i), with coefficients that have no gradient. They depend on the
completions of all ranks, so they are computed once per update, from p_new without gradient. Each
is then the weight of its tokens in `objectives.policy_loss_sum` with type whole_completion.

p_pre: the frozen policy from before the run. p_inf: the actor q, which sampled. b completions;
`group` numbers each one's prompt, (b,) integers in any order. Log-probabilities in nats.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

from .checks import check_finite_bounds

Baseline = Literal["none", "mean", "neg", "self"]


class SequenceCoefficients(NamedTuple):
    """coefficient: minus the loss's derivative by log p_new(y_i), (b,), in the dtype of the
    rewards or log-probabilities given. loss: the loss itself, a scalar. metrics: by name."""

    coefficient: torch.Tensor
    loss: torch.Tensor
    metrics: dict[str, float]


class GapStatistics(NamedTuple):
    """alpha-DPO's moving mean and standard deviation of the pairs' gaps, and how many updates they
    have seen. Kept between updates and in checkpoints."""

    mean: float = 0.0
    std: float = 0.0
    updates: int = 0


def per_sequence(values: torch.Tensor, sequence: torch.Tensor, n_sequences: int) -> torch.Tensor:
    """The sum over each completion's tokens, (n,) -> (b,) float64."""
    total = torch.zeros(n_sequences, dtype=torch.float64, device=values.device)
    return total.index_add(0, sequence, values.double())


@torch.no_grad()
def optimal_value(reward: torch.Tensor, *, beta: float) -> float:
    """V*(x) = beta log mean_i exp(r_i / beta), from rewards of p_pre's completions of x, (g,).

    beta 0 gives their mean, inf too; as beta falls towards 0, V* rises to the largest reward.

    Raises:
        ValueError: no reward, one that is not finite, a negative beta.

    Paper: A*-PO (arXiv 2505.20686), its estimate of V* with beta_1. The authors' code takes 0 as
    the mean.
    """
    _check_finite(reward=reward)
    if len(reward) == 0:
        raise ValueError("the optimal value needs at least one reward, got none")
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0, got {beta}")
    if beta == 0 or math.isinf(beta):
        return float(reward.double().mean())
    scaled = reward.double() / beta
    return beta * (float(scaled.logsumexp(0)) - math.log(len(reward)))


@torch.no_grad()
def a_star_po(
    logp_new: torch.Tensor,
    logp_pre: torch.Tensor,
    reward: torch.Tensor,
    value: torch.Tensor,
    *,
    beta: float = 1e-3,
) -> SequenceCoefficients:
    """The mean over completions of (beta log(p_new(y) / p_pre(y)) + V* - r)^2.

    A regression: it holds for completions of any model, so no correction multiplies it. With beta
    equal to that of V*, and V* exact, it is 0 at p_pre(y) exp((r - V*) / beta).

    Args:
        logp_new, logp_pre: of whole completions, (b,).
        reward: as scored, not relative to the group, (b,).
        value: `optimal_value` of each completion's prompt, (b,).

    Paper: A*-PO (arXiv 2505.20686), its second stage with beta_2.
    """
    _check_finite(logp_new=logp_new, logp_pre=logp_pre, reward=reward, value=value)
    _check_positive(beta=beta)
    residual = beta * (logp_new.double() - logp_pre.double()) + value.double() - reward.double()
    n = max(1, len(residual))
    metrics = {"a_star_residual": float(residual.sum()) / n}
    # d/d log p_new of residual^2 / n is 2 residual beta / n
    return SequenceCoefficients(-2 * beta * residual / n, residual.square().sum() / n, metrics)


@torch.no_grad()
def dmpo(
    logp_new: torch.Tensor,
    logp_pre: torch.Tensor,
    logp_inf: torch.Tensor,
    reward: torch.Tensor,
    group: torch.Tensor,
    *,
    alpha: float = 0.04,
    baseline: Baseline = "neg",
    baseline_coef: float = 1.0,
    ess_min: float = 0.0,
) -> SequenceCoefficients:
    """The mean over prompts of sum_i (W_i - s b_i) (-log p_new(y_i)).

    W is the softmax in a prompt's group of c (log p_pre - log p_inf + r / alpha): the weights of
    the completions under p* = p_pre exp(r / alpha) / normaliser. c is 1, or with ess_min the
    largest number up to 1 at which 1 / sum W^2 is at least ess_min of the group's size.

    Args:
        logp_new, logp_pre, logp_inf: of whole completions, (b,). reward: as scored, (b,).
        group: the prompt of each, (b,).
        baseline: b. none: 0. mean: 1 / size. neg: the softmax with -r in the place of r (the
            paper's; p* is no stationary point then). self: the softmax of log p_new - log p_inf.
        baseline_coef: s.
        ess_min: share of the group's size in (0, 1]; 0 leaves c at 1.

    Paper: DMPO (arXiv 2510.08233), in its autoregressive form: log p_new is that of the
    completion, where a diffusion model has a masked cross-entropy. The authors' code has c as
    `ada_coeff`.
    """
    _check_finite(logp_new=logp_new, logp_pre=logp_pre, logp_inf=logp_inf, reward=reward)
    _check_positive(alpha=alpha)
    check_finite_bounds(baseline_coef=baseline_coef)
    if not 0 <= ess_min <= 1:
        raise ValueError(f"ess_min is a share of the group's size, 0 to 1, got {ess_min}")
    new, pre, inf, r = (x.double() for x in (logp_new, logp_pre, logp_inf, reward))
    coefficient, shares, tempers = torch.zeros_like(new), [], []
    prompts = torch.unique(group)
    for prompt in prompts:
        own = (group == prompt).nonzero()[:, 0]
        # Equal rewards tilt nothing, and shift both softmaxes alike: 0, so that no rounding is left
        # of W - b, which the paper's baseline makes 0 there.
        tilt = r[own] / alpha if bool((r[own] != r[own[0]]).any()) else torch.zeros_like(r[own])
        ratio = pre[own] - inf[own]
        temper = _temper(ratio + tilt, ess_min)
        weight = (temper * (ratio + tilt)).softmax(0)
        base = {
            "none": torch.zeros_like(weight),
            "mean": torch.full_like(weight, 1 / len(own)),
            "neg": (temper * (ratio - tilt)).softmax(0),
            "self": (new[own] - inf[own]).softmax(0),
        }[baseline]
        coefficient[own] = (weight - baseline_coef * base) / len(prompts)
        shares.append(_effective_share(weight))
        tempers.append(temper)
    metrics = {
        "dmpo_ess_share": sum(shares) / max(1, len(shares)),
        "dmpo_temper": sum(tempers) / max(1, len(tempers)),
    }
    return SequenceCoefficients(coefficient, -(coefficient * new).sum(), metrics)


def _effective_share(weight: torch.Tensor) -> float:
    """1 / sum W^2 over the number of weights, which sum to 1."""
    return 1.0 / (float(weight.square().sum()) * len(weight))


def _temper(logits: torch.Tensor, ess_min: float) -> float:
    """The largest c in [0, 1] with an effective share of softmax(c logits) of at least ess_min."""
    if ess_min == 0 or _effective_share(logits.softmax(0)) >= ess_min:
        return 1.0
    low, high = 0.0, 1.0  # the share falls as c grows, from 1 at c = 0
    for _ in range(60):  # halves until doubles end
        middle = (low + high) / 2
        if _effective_share((middle * logits).softmax(0)) >= ess_min:
            low = middle
        else:
            high = middle
    return low


@torch.no_grad()
def alpha_dpo(
    logp_new: torch.Tensor,
    logp_pre: torch.Tensor,
    length: torch.Tensor,
    right: torch.Tensor,
    group: torch.Tensor,
    statistics: GapStatistics,
    *,
    beta: float = 2.5,
    gamma_beta_ratio: float = 0.6,
    alpha: float = 0.2,
    decay: float = 0.9,
    bias_correction: bool = False,
) -> tuple[SequenceCoefficients, GapStatistics]:
    """The mean over pairs of -log sigmoid(beta (l_w - l_l - alpha z - gamma / beta)).

    A pair is a right completion w and a wrong one l of the same prompt; every such pair counts. l
    is the mean log p_new of a completion's tokens. z is the pair's gap to p_pre, (l_w - l_l) less
    the same under p_pre, less its moving mean and over its moving standard deviation. Neither z nor
    the statistics have a gradient.

    Args:
        logp_new, logp_pre: of whole completions, (b,). length: their tokens, (b,).
        right: which completions are right, (b,) bool. group: the prompt of each, (b,).
        statistics: of the updates before; they are moved by this one before they are used.
        bias_correction: divide both by 1 - decay^updates. The authors' code starts at 0 and does
            not, so the first z are too large by up to 1 / (1 - decay).

    Returns:
        The coefficients, and the statistics after this update. With fewer than 2 pairs no
        standard deviation exists: all coefficients are 0, the loss is 0, and the statistics stay.

    Paper: alpha-DPO (arXiv 2410.10148); alpha 0 is SimPO. Pairs of the run's own completions are
    ours: there they are a fixed data set.
    """
    _check_finite(logp_new=logp_new, logp_pre=logp_pre)
    _check_positive(beta=beta)
    check_finite_bounds(alpha=alpha, gamma_beta_ratio=gamma_beta_ratio)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    if len(length) and int(length.min()) < 1:
        raise ValueError("a completion without a token has no mean log-probability")
    wins, losses = _pairs(right, group)  # (pairs,) each, rows of (b,)
    coefficient = torch.zeros(len(logp_new), dtype=torch.float64, device=logp_new.device)
    if len(wins) < 2:
        empty = SequenceCoefficients(coefficient, coefficient.sum(), {"dpo_pairs": len(wins)})
        return empty, statistics
    mean_new, mean_pre = logp_new.double() / length, logp_pre.double() / length  # (b,)
    gap = mean_new[wins] - mean_new[losses]  # (pairs,)
    apart = gap - (mean_pre[wins] - mean_pre[losses])
    z, moved = _standardised(apart, statistics, decay, bias_correction)
    margin = beta * (gap - (alpha * z + gamma_beta_ratio))
    loss = torch.nn.functional.softplus(-margin).mean()  # -log sigmoid(margin)
    # d/d gap of -log sigmoid(margin) is -beta sigmoid(-margin)
    pull = beta * torch.sigmoid(-margin) / len(wins)
    coefficient.index_add_(0, wins, pull / length[wins])
    coefficient.index_add_(0, losses, -pull / length[losses])
    metrics = {"dpo_pairs": len(wins), "dpo_accuracy": float((gap > 0).double().mean())}
    metrics |= {"dpo_gap_mean": moved.mean, "dpo_gap_std": moved.std}
    return SequenceCoefficients(coefficient, loss, metrics), moved


def _standardised(
    apart: torch.Tensor, statistics: GapStatistics, decay: float, bias_correction: bool
) -> tuple[torch.Tensor, GapStatistics]:
    """The pairs' gaps to p_pre, (pairs,), less their moving mean and over their moving standard
    deviation; and both, moved by these pairs first."""
    moved = GapStatistics(
        decay * statistics.mean + (1 - decay) * float(apart.mean()),
        decay * statistics.std + (1 - decay) * float(apart.std()),
        statistics.updates + 1,
    )
    # without correction the first updates' statistics are shrunk towards their start at 0
    seen = 1 - decay**moved.updates if bias_correction else 1.0
    spread = moved.std / seen
    if spread == 0:  # all gaps alike so far: none is far from the mean
        return torch.zeros_like(apart), moved
    return (apart - moved.mean / seen) / spread, moved


def _pairs(right: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the right and of the wrong completion of every pair of a prompt, (pairs,) each."""
    wins, losses = [], []
    for prompt in torch.unique(group):
        own = group == prompt
        good = (own & right).nonzero()[:, 0]
        bad = (own & ~right).nonzero()[:, 0]
        wins.append(good.repeat_interleave(len(bad)))
        losses.append(bad.repeat(len(good)))
    if not wins:
        return group.new_zeros(0), group.new_zeros(0)
    return torch.cat(wins), torch.cat(losses)


def _check_finite(**values: torch.Tensor) -> None:
    for name, value in values.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, got {value[~value.isfinite()][0].item()}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {value}")
