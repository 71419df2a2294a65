"""The policy's objectives: what a token adds to the loss, beside the weight of its correction.

One factorisation serves all: loss = -sum scale weight mask term. The correction (correction.py)
gives the weight, the objective gives mask and term. A mask has no gradient. A masked token stays in
the denominator, which is in the scale.

An objective is a function of flat tensors of sampled tokens, (n,) each. Its ratio is
p_new / p_old. p_old is p_ref, the policy before the updates, or p_inf, the actor q, which
sampled. Where several tokens of a completion matter, `sequence` numbers the completions: (n,)
integers, the tokens of a completion neighbours and in order. "SG" is the stop-gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from .checks import check_bounds, check_finite_bounds
from .diagnostics import clipped_tokens

Divergence = Literal["binary_tv", "binary_kl", "top_k_tv", "top_k_kl"]
Accounting = Literal["value", "grad", "literal"]


class Objective(NamedTuple):
    """What an objective says of n tokens.

    term: with gradient, (n,). mask: 0 where the token is left out, without gradient, (n,) float.
    clipped: True where a bound holds the ratio, (n,).
    """

    term: torch.Tensor
    mask: torch.Tensor
    clipped: torch.Tensor


class ObjectiveTokens(NamedTuple):
    """What objectives are computed from: n sampled tokens, k of q's likeliest tokens, in nats.

    logp_new: with gradient; all else is without. The last three serve dppo's top_k divergences.
    """

    logp_new: torch.Tensor
    logp_ref: torch.Tensor
    logp_inf: torch.Tensor
    advantage: torch.Tensor
    sequence: torch.Tensor
    topk_logp_new: torch.Tensor | None = None
    topk_logp_inf: torch.Tensor | None = None
    in_topk: torch.Tensor | None = None


class PolicyLoss(NamedTuple):
    """A sum over tokens, a scalar; and 1 or 0 of each token, (n,): whether a bound holds its ratio,
    the objective's mask leaves it out, the mask of sequences does. A token may have both masks.
    """

    loss: torch.Tensor
    clipped: torch.Tensor
    masked: torch.Tensor
    sequence_masked: torch.Tensor


def ppo(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    advantage: torch.Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Objective:
    """term = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = p_new / p_old.

    Paper: PPO (arXiv 1707.06347), Eq. 7; in Jackpot Eq. 2. inf: no clip on that side.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    term, clipped = _pessimistic((logp_new - logp_old).exp(), advantage, clip_low, clip_high)
    return Objective(term, torch.ones_like(logp_old), clipped)


def cispo(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    advantage: torch.Tensor,
    *,
    clip_low: float = math.inf,
    clip_high: float = 4.0,
) -> Objective:
    """term = SG(clip(r, 1 - clip_low, 1 + clip_high)) A log p_new. No token loses its gradient.

    Paper: MiniMax-M1 (arXiv 2506.13585), with no lower bound; its upper one is not given. The
    default is TRL's: a ratio of at most 5.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    return _reinforce(logp_new, (logp_new - logp_old).exp(), advantage, clip_low, clip_high)


def gspo(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    advantage: torch.Tensor,
    sequence: torch.Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Objective:
    """PPO's term of the sequence's ratio s = exp(mean of log r over its tokens).

    Token form: the ratio at a token is SG(s) p_new / SG(p_new). Its value is s, and its gradient is
    s times that of log p_new, so that tokens may differ in weight and advantage.

    Paper: GSPO (arXiv 2507.18071), its token variant; the bounds are the paper's for its Eq. 5. It
    is per sequence: loss.denominator = sequence.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    log_s = sequence_mean((logp_new - logp_old).detach(), sequence)  # (n,), equal in a sequence
    ratio = log_s.exp() * (logp_new - logp_new.detach()).exp()  # the second factor is 1
    term, clipped = _pessimistic(ratio, advantage, clip_low, clip_high)
    return Objective(term, torch.ones_like(logp_old), clipped)


def dppo(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    logp_inf: torch.Tensor,
    advantage: torch.Tensor,
    divergence: torch.Tensor,
    *,
    delta: float = 0.15,
    cap: float = 20.0,
) -> Objective:
    """term = SG(min(r, cap)) A log p_new; mask = 0 where A moves p_new further from q than delta.

    Args:
        logp_old: p_inf, as in the paper; p_ref where a correction corrects for p_ref / p_inf.
        divergence: between q and p_new in each token's state, (n,): `divergence_of`.

    Paper: Divergence PPO (arXiv 2602.04879): a token is kept where A (p_new / q - 1) <= 0 or
    D <= delta. delta is that of the authors' scripts, .15 for TV and .05 for KL. Their codes differ
    about cap: 20 in TRL, 10 in Stable-RL, 3 in verl, whose p_old is p_ref unless in bypass mode.
    """
    check_bounds(delta=delta, cap=cap)
    log_ratio = (logp_new - logp_old).detach()
    log_rho = (logp_new - logp_inf).detach()  # its sign says on which side of q the policy is
    moves_away = torch.where(advantage > 0, log_rho > 0, (advantage < 0) & (log_rho < 0))
    mask = ~(moves_away & (divergence > delta))
    term = log_ratio.exp().clamp(max=cap) * advantage * logp_new
    return Objective(term, mask.to(term.dtype), log_ratio.exp() > cap)


@torch.no_grad()
def divergence_of(tokens: ObjectiveTokens, *, divergence: Divergence) -> torch.Tensor:
    """D between q and p_new in the state of each token, (n,) float64.

    binary: of the sampled token against all others together. top_k: of q's k likeliest tokens, the
    sampled one, and all others together. tv: half the sum of |p_new - q|; kl: KL(q || p_new), nats.
    With the sampled token always by itself, binary TV <= top_k TV <= TV, and so for KL.

    Paper: Divergence PPO, its binary and top-K approximations. The authors' code adds 1e-8 within
    the logarithms of the binary KL, and leaves a sampled token outside the top k with the others.
    """
    log_p, log_q = tokens.logp_new.double()[:, None], tokens.logp_inf.double()[:, None]  # (n, 1)
    if divergence in ("top_k_tv", "top_k_kl"):
        topk_p, topk_q, inside = tokens.topk_logp_new, tokens.topk_logp_inf, tokens.in_topk
        assert topk_p is not None and topk_q is not None and inside is not None
        # (n, k + 1): the sampled token has a place of its own, empty where the top k holds it
        log_p = torch.cat([topk_p.double(), log_p.masked_fill(inside[:, None], -math.inf)], 1)
        log_q = torch.cat([topk_q.double(), log_q.masked_fill(inside[:, None], -math.inf)], 1)
    p, q = log_p.exp(), log_q.exp()
    # the others together, (n, 1); rounding may leave a sum just above 1
    rest_p, rest_q = (_rest(x) for x in (p, q))
    if divergence in ("binary_tv", "top_k_tv"):
        return 0.5 * ((p - q).abs().sum(1) + (rest_p - rest_q).abs())
    known = (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(1)  # 0 log 0 = 0
    # what rounding leaves of no mass at all must not count as mass that p_new gives up
    return known + rest_q * (rest_q.clamp(min=_REST).log() - rest_p.clamp(min=_REST).log())


_REST = 1e-6  # float32 log-probabilities sum to 1 within less


def _rest(known: torch.Tensor) -> torch.Tensor:
    """The mass outside some tokens, (n, k) -> (n,)."""
    return (1 - known.sum(1)).clamp(min=0)


def minpro(
    logp_new: torch.Tensor,
    logp_inf: torch.Tensor,
    advantage: torch.Tensor,
    sequence: torch.Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Objective:
    """term = SG(clip(rho m, 1 - clip_low, 1 + clip_high)) A log p_new, rho = p_new / p_inf.

    m is the smallest rho of the tokens before this one in its sequence, and 1 at the first. It
    stands for the product of them all, which importance sampling asks for.

    Paper: MinPRO (arXiv 2601.22718). The bounds' values are ours, because the paper's are not
    known, and its authors gave no code.
    """
    check_bounds(clip_low=clip_low, clip_high=clip_high)
    log_rho = (logp_new - logp_inf).detach()
    ratio = (log_rho + prefix_minimum(log_rho, sequence)).exp()
    return _reinforce(logp_new, ratio, advantage, clip_low, clip_high)


def bapo(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    advantage: torch.Tensor,
    *,
    low: float,
    high: float,
) -> Objective:
    """PPO's term with the bounds of `bapo_bounds`: min(r A, clip(r, low, high) A).

    Paper: BAPO (arXiv 2510.18927), its objective; p_old there is the policy that sampled.
    """
    if not 0 <= low <= 1 <= high:  # NaN too; high may be inf
        raise ValueError(f"bapo needs 0 <= low <= 1 <= high, got {low} and {high}")
    return ppo(logp_new, logp_old, advantage, clip_low=1.0 - low, clip_high=high - 1.0)


@torch.no_grad()
def bapo_bounds(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    logp_inf: torch.Tensor,
    advantage: torch.Tensor,
    weight: torch.Tensor,
    *,
    share: float = 0.4,
    accounting: Accounting = "value",
    low_min: float = 0.6,
    low_max: float = 0.9,
    low_step: float = 0.02,
    high_min: float = 1.2,
    high_max: float = 3.0,
    high_step: float = 0.05,
) -> tuple[float, float]:
    """(low, high) at which positive advantages contribute the wanted share, of all tokens given.

    While the share is too small, high rises by high_step up to high_max, then low by low_step up to
    low_max: at most as many steps as fit. Where no advantage differs from 0 nothing moves. Give the
    tokens of all ranks.

    Args:
        weight: of the correction, (n,); the paper has none.
        share: wanted; 0 leaves (low_min, high_min).
        accounting: what a token contributes. value: |min(r A, clip(r) A)|, summed over tokens.
            literal: the same where the absolute value is of the sum, so that negative tokens
            subtract from the denominator, and .4 is a share of .222 (the sums' bars in the paper).
            grad: |r A| where its gradient survives. Raising low lowers the share by value.

    Paper: BAPO (arXiv 2510.18927), Alg. 1; contributions are weighted by p_inf. The
    authors' code bounds the quotient of positive and negative, without p_inf, and raises low first.
    """
    check_finite_bounds(share=share)
    bounds = (low_min, low_max, low_step, high_min, high_max, high_step)
    _check_bapo(*bounds)
    ratio = (logp_new.double() - logp_old.double()).exp()
    size = advantage.double().abs() * weight.double() * logp_inf.double().exp()  # |A| w q
    positive, negative = _bapo_contributions(ratio, size, advantage, accounting)

    def enough(low: float, high: float) -> bool:
        gain, loss = positive(high), negative(low)
        if gain == 0.0 and loss == 0.0:
            return True
        # share >= wanted, without a division: literal's denominator may be 0
        return gain >= share * (abs(gain - loss) if accounting == "literal" else gain + loss)

    # whole numbers of steps: adding .05 again and again would drift past a bound by rounding
    steps_low = _steps(low_min, low_max, low_step)
    steps_high = _steps(high_min, high_max, high_step)
    low, high = low_min, high_min
    for step in range(1, steps_high + steps_low + 1):
        if enough(low, high):
            break
        high = min(high_min + min(step, steps_high) * high_step, high_max)
        low = min(low_min + max(step - steps_high, 0) * low_step, low_max)
    return low, high


def _bapo_contributions(
    ratio: torch.Tensor, size: torch.Tensor, advantage: torch.Tensor, accounting: Accounting
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """What tokens of positive advantage contribute by the upper bound, and those of negative by
    the lower one. A > 0: min(r, high); A < 0: max(r, low). By gradient: r within the bound."""
    up, down = advantage > 0, advantage < 0
    r_up, size_up, r_down, size_down = ratio[up], size[up], ratio[down], size[down]

    def positive(high: float) -> float:
        kept = r_up * (r_up <= high) if accounting == "grad" else r_up.clamp(max=high)
        return float((kept * size_up).sum())

    def negative(low: float) -> float:
        kept = r_down * (r_down >= low) if accounting == "grad" else r_down.clamp(min=low)
        return float((kept * size_down).sum())

    return positive, negative


def m2po(
    logp_new: torch.Tensor,
    logp_inf: torch.Tensor,
    advantage: torch.Tensor,
    *,
    threshold: float,
) -> Objective:
    """term = rho A, rho = p_new / p_inf; mask = 0 where A pushes and (log rho)^2 >= threshold.

    Args:
        threshold: `m2po_threshold` of all tokens of the update; inf masks nothing.

    Paper: M2PO (arXiv 2510.01161): the second-moment trust region. The authors' code turns the
    threshold into two clip bounds of PPO, of at least .3 below and .5 above.
    """
    check_bounds(threshold=threshold)
    log_rho = logp_new - logp_inf
    pushed = _pushed_away(log_rho.detach(), advantage)
    mask = ~(pushed & (log_rho.detach().double().square() >= threshold))
    return Objective(log_rho.exp() * advantage, mask.to(advantage.dtype), torch.zeros_like(mask))


@torch.no_grad()
def m2po_threshold(
    logp_new: torch.Tensor, logp_inf: torch.Tensor, advantage: torch.Tensor, *, tau: float = 0.04
) -> float:
    """The smallest (log rho)^2 that is masked, so that the mean of those below is at most tau.

    Only tokens that the update pushes further from q count: A > 0 with rho > 1, A < 0 with rho < 1.
    The largest go first, and equal ones together. Give the tokens of all ranks.

    Returns:
        inf where nothing is masked.

    Paper: M2PO (arXiv 2510.01161), its second moment M2 and the loop that masks.
    """
    check_bounds(tau=tau)
    log_rho = (logp_new - logp_inf).double()
    square = log_rho[_pushed_away(log_rho, advantage)].square().sort().values  # (c,), rising
    if len(square) == 0:
        return math.inf
    count = torch.arange(1, len(square) + 1, device=square.device)
    kept = int((square.cumsum(0) / count <= tau).sum())  # means of rising values rise: a prefix
    return math.inf if kept == len(square) else float(square[kept])


@torch.no_grad()
def opsm_mask(
    logp_new: torch.Tensor,
    logp_old: torch.Tensor,
    advantage: torch.Tensor,
    sequence: torch.Tensor,
    *,
    delta: float = math.inf,
) -> torch.Tensor:
    """0 for a sequence of A < 0 whose mean of log p_old - log p_new is above delta, (n,) float.

    Paper: off-policy sequence masking, of DeepSeek-V3.2 (arXiv 2512.02556). slime's p_old is
    p_ref, its delta 1e-4; TRL's is p_inf.
    """
    check_bounds(delta=delta)
    drift = sequence_mean(logp_old - logp_new, sequence)
    return (~((advantage < 0) & (drift > delta))).to(advantage.dtype)


# What an objective takes of all ranks' tokens before the first loss, and who needs p_new for that.
NEEDS_ALL_TOKENS = ("bapo", "m2po")


@torch.no_grad()
def bounds_of(
    tokens: ObjectiveTokens, weight: torch.Tensor, *, type: str, ratio: str = "ref", **keywords: Any
) -> dict[str, float]:
    """The bounds that adapt, from all tokens of an update: keywords of `policy_loss_sum`.

    bapo: low, high. m2po: threshold. Others: none. Tokens of weight 0 have no say.
    """
    if type not in NEEDS_ALL_TOKENS:
        return {}
    selected = _selected(tokens, weight, type, ratio)
    kept, kept_weight = _at(tokens, selected), weight[selected]
    if type == "m2po":
        args = (kept.logp_new, kept.logp_inf, kept.advantage)
        return {"threshold": m2po_threshold(*args, tau=keywords["tau"])}
    contributing = (
        kept.logp_new,
        _logp_old(kept, ratio),
        kept.logp_inf,
        kept.advantage,
        kept_weight,
    )
    own = {name: value for name, value in keywords.items() if name != "opsm_delta"}
    low, high = bapo_bounds(*contributing, **own)
    return {"low": low, "high": high}


def policy_loss_sum(
    tokens: ObjectiveTokens,
    weight: torch.Tensor,
    scale: torch.Tensor,
    *,
    type: str = "ppo",
    ratio: str = "ref",
    opsm_delta: float = math.inf,
    **keywords: Any,
) -> PolicyLoss:
    """-sum scale weight mask term, Eq. 5 with any objective in the place of PPO's.

    Tokens of weight 0 are left out before anything is computed, so a rejected token adds exactly 0,
    and no sequence's ratio or mask counts it. So are tokens with p_ref = 0, and except by ppo those
    with p_new = 0, whose logarithm has no gradient.

    Args:
        weight: of the correction, (n,). scale: from `losses.token_scale`, (n,).
        type: ppo, cispo, gspo, dppo, minpro, bapo, m2po; whole_completion: the term is log p_new,
            and the weight is the coefficient of sequence_objectives.py, with scale 1.
        ratio: whose probability p_old is, ref or inf.
        opsm_delta: `opsm_mask` with the same p_old; inf: none.
        keywords: of the objective; of bapo and m2po those of `bounds_of`.

    Raises:
        ValueError: an unknown type; a bound that is NaN or negative.
    """
    selected = _selected(tokens, weight, type, ratio)
    kept, kept_weight = _at(tokens, selected), weight[selected]
    objective = _objective(kept, type, ratio, keywords)
    mask, whole = objective.mask, torch.ones_like(objective.mask)
    if opsm_delta != math.inf:  # NaN is refused there
        args = (kept.logp_new, _logp_old(kept, ratio), kept.advantage, kept.sequence)
        whole = opsm_mask(*args, delta=opsm_delta)
        mask = mask * whole
    # no gradient passes through weight and mask (SG of Eq. 5), only through the term
    loss = -(kept_weight * mask * objective.term * scale[selected]).sum()
    clipped, masked, sequence_masked = (torch.zeros_like(weight) for _ in range(3))  # (n,)
    clipped[selected] = objective.clipped.to(weight.dtype)
    masked[selected] = (1 - objective.mask).to(weight.dtype)
    sequence_masked[selected] = (1 - whole).to(weight.dtype)
    if type == "ppo":  # rejected tokens count here too, as in every run's clip_fraction
        low, high = keywords["clip_low"], keywords["clip_high"]
        logp_old = _logp_old(tokens, ratio)
        clipped = clipped_tokens(tokens.logp_new, logp_old, tokens.advantage, low, high)
    return PolicyLoss(loss, clipped, masked, sequence_masked)


def _objective(
    tokens: ObjectiveTokens, type: str, ratio: str, keywords: dict[str, Any]
) -> Objective:
    """Term and mask of tokens that all count, by the objective's name."""
    new, inf, advantage, sequence = (
        tokens.logp_new, tokens.logp_inf, tokens.advantage, tokens.sequence
    )  # fmt: skip
    logp_old = _logp_old(tokens, ratio)
    if type == "ppo":
        return ppo(new, logp_old, advantage, **keywords)
    if type == "cispo":
        return cispo(new, logp_old, advantage, **keywords)
    if type == "gspo":
        return gspo(new, logp_old, advantage, sequence, **keywords)
    if type == "dppo":
        own = {name: value for name, value in keywords.items() if name != "divergence"}
        distance = divergence_of(tokens, divergence=keywords["divergence"])
        return dppo(new, logp_old, inf, advantage, distance, **own)
    if type == "minpro":
        return minpro(new, inf, advantage, sequence, **keywords)
    if type == "bapo":
        return bapo(new, logp_old, advantage, **keywords)
    if type == "m2po":
        return m2po(new, inf, advantage, **keywords)
    if type == "whole_completion":
        return Objective(new, torch.ones_like(new.detach()), torch.zeros_like(new).bool())
    raise ValueError(
        f"an objective of type {type!r} is not known; choose ppo, cispo, gspo, dppo, minpro, bapo, "
        "m2po or whole_completion"
    )


def sequence_mean(values: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens of each token's sequence, (n,) -> (n,)."""
    _, row, lengths = torch.unique_consecutive(sequence, return_inverse=True, return_counts=True)
    total = torch.zeros(len(lengths), dtype=torch.float64, device=values.device)
    return (total.index_add(0, row, values.double()) / lengths)[row].to(values.dtype)


def prefix_minimum(values: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """The smallest value before each token in its sequence, and 0 at its first token, (n,)."""
    _, row, lengths = torch.unique_consecutive(sequence, return_inverse=True, return_counts=True)
    # place of each token in its sequence, (n,): its number less that of the sequence's first
    column = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    width = int(lengths.max()) if len(lengths) else 0
    grid = values.new_full((len(lengths), width + 1), math.inf)  # (sequences, longest + 1)
    grid[row, column + 1] = values  # shifted by one: a token's own value is not before it
    before = grid.cummin(dim=1).values[row, column]
    return before.masked_fill(column == 0, 0.0)  # log 1


def _pessimistic(
    ratio: torch.Tensor, advantage: torch.Tensor, clip_low: float, clip_high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """min(r A, clip(r) A), with gradient, and where the minimum has none, (n,) each."""
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    outside = ((ratio > 1 + clip_high) & (advantage > 0)) | (
        (ratio < 1 - clip_low) & (advantage < 0)
    )
    return torch.minimum(ratio * advantage, clipped * advantage), outside


def _reinforce(
    logp_new: torch.Tensor,
    ratio: torch.Tensor,
    advantage: torch.Tensor,
    clip_low: float,
    clip_high: float,
) -> Objective:
    """SG(clip(ratio)) A log p_new at every token."""
    ratio = ratio.detach()
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    term = bounded * advantage * logp_new
    return Objective(term, torch.ones_like(ratio), bounded != ratio)


def _pushed_away(log_rho: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """Where the update pushes p_new further from q than it is, (n,)."""
    return ((advantage > 0) & (log_rho > 0)) | ((advantage < 0) & (log_rho < 0))


def _logp_old(tokens: ObjectiveTokens, ratio: str) -> torch.Tensor:
    if ratio not in ("ref", "inf"):
        raise ValueError(f"a ratio to {ratio!r} is not known; choose ref or inf")
    return tokens.logp_ref if ratio == "ref" else tokens.logp_inf


def _selected(tokens: ObjectiveTokens, weight: torch.Tensor, type: str, ratio: str) -> torch.Tensor:
    """The tokens that count, (n,) bool."""
    # exp of a rejected token's ratio may be inf, and 0 * inf is NaN; so is 0 / 0 of p_ref = 0
    selected = (weight != 0) & (_logp_old(tokens, ratio) > -math.inf)
    if type != "ppo":
        selected &= tokens.logp_new.detach() > -math.inf
    return selected


def _at(tokens: ObjectiveTokens, selected: torch.Tensor) -> ObjectiveTokens:
    """Some of the tokens, (n,) bool."""
    return ObjectiveTokens(*(None if x is None else x[selected] for x in tokens))  # type: ignore[arg-type]


def _steps(first: float, last: float, step: float) -> int:
    return math.floor((last - first) / step + 1e-9)


def _check_bapo(
    low_min: float, low_max: float, low_step: float,
    high_min: float, high_max: float, high_step: float,
) -> None:  # fmt: skip
    if not (0 <= low_min <= low_max <= 1 <= high_min <= high_max < math.inf):
        raise ValueError(
            "bapo needs 0 <= low_min <= low_max <= 1 <= high_min <= high_max, all finite, got "
            f"{low_min}, {low_max}, {high_min}, {high_max}"
        )
    if not (0 < low_step < math.inf and 0 < high_step < math.inf):
        raise ValueError(f"bapo's steps must be finite and above 0, got {low_step}, {high_step}")
