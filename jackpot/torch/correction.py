"""The weight of each sampled token: OBRS (Eq. 5), the truncated ratios of Sec. 2.2, and lam.

Everything here works on flat tensors of sampled tokens, shape (n,) or (n, k), and takes plain
keywords. Statistics over tokens (lam, Z, kappa) are over exactly the tokens given and gathered, so
give those of a whole update. Statistics of earlier steps are a `CorrectionState`. It changes once a
step, after all tokens of that step were accepted or rejected (`next_state`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

import jackpot
from jackpot import TailStatistic

from .control import Decision
from .lam import batch_lam, clamp_log_lam, clamp_log_ratio, state_lam
from .logprobs import log_tail
from .z_tail import lumped_tail, tail_floor, tail_terms

# F of Sec. 2.2 by name, and the keywords of each; `truncated_ratio` computes them
TRUNCATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "importance": (),
    "tis": ("cap",),
    "icepop": ("low", "high"),
}
Gather = Callable[[torch.Tensor], torch.Tensor]  # (n,) of one process -> (N,) of all

_TAIL_DECAY = 0.9  # the tail ratio remembers about ten steps (docs/theory_topk.md, D4)


@dataclass(frozen=True)
class CorrectionState:
    """Statistics of earlier steps. The fields are numbers, so dataclasses.asdict is its JSON.

    log_lam: the tracked lam (lam_from = tracked), None before the first step. tail_accepted,
    tail_bound: the smoothed `TailStatistic`; the default is the prior, ratio 1.
    """

    log_lam: float | None = None
    tail_accepted: float = 1.0
    tail_bound: float = 1.0

    @property
    def tail(self) -> TailStatistic:
        return TailStatistic(self.tail_accepted, self.tail_bound)


class CorrectionInputs(NamedTuple):
    """What weights are computed from. n sampled tokens of an update, k of q's likeliest tokens.

    All log-probabilities are in nats, float32, at the sampling temperature. q is the distribution
    that was sampled from (p_inf in the paper).

    logp_inf, logp_ref, logp_new: of the sampled tokens, (n,), under q, under the policy before this
        rollout's updates, and under the policy now.
    topk_logp_inf, topk_logp_target: log q and log p of q's k likeliest tokens, (n, k); p is the
        target, logp_ref or logp_new.
    in_topk: True where the sampled token is one of those k, (n,).
    uniform: in [0, 1), (n,): a token is accepted where it is below a(x). The token's coin.
    sequence: a number for each token's completion, (n,) integer; the tokens of a completion are
        neighbours and in order.
    tail_bound: `forward_tail` of p, (n,); None: the tail counts as one token in its bound.
    """

    logp_inf: torch.Tensor
    logp_ref: torch.Tensor
    logp_new: torch.Tensor
    topk_logp_inf: torch.Tensor
    topk_logp_target: torch.Tensor
    in_topk: torch.Tensor
    uniform: torch.Tensor
    sequence: torch.Tensor
    tail_bound: torch.Tensor | None = None


@dataclass(frozen=True)
class TokenWeights:
    """What multiplies the PPO term of each proposed token, and how it came about. All (n,) float32.

    weight: the applied weight, 0 for a rejected token. log_ratio: log p - log q, before any cap.
    accept_prob: a(x). accepted: the coin (0 or 1), or a(x) where the mask is `expected`.
    z: acceptance rate used. capped: 1 where c1, the TIS cap or the IcePop band changed the weight.
    lam: the threshold used. infeasible: 1 where no lam spends the budget, because p = 0 on too
    much of q, and the largest lam that accepts all else was used. kappa: the batch calibration used
    (1 where there is none). tail: the update's part of the tail ratio (z_tail = ratio), else None.
    """

    weight: torch.Tensor
    log_ratio: torch.Tensor
    accept_prob: torch.Tensor
    accepted: torch.Tensor
    z: torch.Tensor
    capped: torch.Tensor
    lam: torch.Tensor
    infeasible: torch.Tensor
    kappa: float = 1.0
    tail: TailStatistic | None = None


def ungathered(x: torch.Tensor) -> torch.Tensor:
    """The `Gather` of a process that has all tokens of its update: the tensor as it is."""
    return x


@torch.no_grad()
def token_weights(
    inputs: CorrectionInputs,
    state: CorrectionState,
    *,
    type: str = "jackpot",
    target: str = "ref",
    c2: float = 3.0,
    cap: float = 2.0,
    low: float = 0.5,
    high: float = 2.0,
    gather: Gather = ungathered,
    **obrs: float | str | bool,
) -> TokenWeights:
    """SG(F(p / q) p_ref / p) of every proposed token, with OBRS's mask (Alg. 1, l. 18-24).

    Args:
        inputs: the tokens of a whole update.
        state: as it was before this step.
        type: jackpot (OBRS); or F of Sec. 2.2, one of `TRUNCATIONS`: none, importance, tis, icepop.
        target: p is logp_ref (ref) or logp_new (new), Sec. 4.3.
        c2: cap on p_ref / p_new, with target = new; inf: none.
        cap: largest weight of tis. low, high: the ratios that icepop keeps.
        gather: where other processes have tokens of this update too: the (n,) values of this one ->
            those of all, (N,). Statistics are then of all tokens, weights of this process's.
        obrs: what `obrs_weights` takes; other types do not read it.

    Returns:
        TokenWeights; of types other than jackpot every token is accepted.

    Raises:
        ValueError: NaN, q = 0 at a sampled token, or an unknown type.
        TypeError: a keyword that no type takes.

    Paper: Eq. 5 and Sec. 2.2.
    """
    unknown = obrs.keys() - _OBRS_KEYWORDS
    if unknown:
        raise TypeError(f"token_weights takes no {', '.join(sorted(unknown))}: see obrs_weights")
    # Sec. 4.3: p_ref is the trust region's centre; p_new where rollouts are stale (Alg. 1).
    logp_target = inputs.logp_new if target == "new" else inputs.logp_ref
    log_ratio = logp_target - inputs.logp_inf  # (n,) log p / q
    if type == "jackpot":
        weights = obrs_weights(inputs, logp_target, state, gather=gather, **obrs)  # type: ignore[arg-type]
    else:
        weight = truncated_ratio(log_ratio, type=type, cap=cap, low=low, high=high)
        one, zero = torch.ones_like(log_ratio), torch.zeros_like(log_ratio)
        capped = zero if type == "none" else (weight != jackpot.importance(log_ratio)).float()
        weights = TokenWeights(weight, log_ratio, one, one, one, capped, one, zero)  # all kept
    if target == "new":  # min(p_ref / p_new, c2), Eq. 5, l. 24
        # p_new may be 0 at rejected tokens: 0 * inf would be NaN.
        log_drift = (inputs.logp_ref - inputs.logp_new).masked_fill(weights.weight == 0, 0.0)
        weights = replace(weights, weight=weights.weight * jackpot.tis(log_drift, c2))
    return weights


@torch.no_grad()
def truncated_ratio(
    log_ratio: torch.Tensor,
    *,
    type: str,
    cap: float = 2.0,
    low: float = 0.5,
    high: float = 2.0,
) -> torch.Tensor:
    """F(r) of Sec. 2.2, (n,): 1 for none, else the ratio itself, capped, or zero outside a band.

    In Eq. 6 (the actor's loss) r is p_actor_ref / q. With type = none F is 1, and the PPO ratio is
    then taken to q itself, because the actor's rollouts are its own (DEVIATIONS.md, 8).
    """
    if type == "importance":
        return jackpot.importance(log_ratio)
    if type == "tis":
        return jackpot.tis(log_ratio, cap)
    if type == "icepop":
        return jackpot.icepop(log_ratio, low, high)
    if type == "none":
        return torch.ones_like(log_ratio)
    raise ValueError(
        f"a weight of type {type!r} is not known; choose one of {', '.join(TRUNCATIONS)}"
    )


@torch.no_grad()
def obrs_weights(
    inputs: CorrectionInputs,
    logp_target: torch.Tensor,
    state: CorrectionState,
    *,
    lam: float = 1.0,
    lam_from: str = "fixed",
    budget: float = 0.9,
    lam_min: float = 0.1,
    lam_max: float = 10.0,
    mask: str = "bernoulli",
    scope: str = "token",
    z: str = "state",
    z_tail: str = "ratio",
    kappa: bool = False,
    c1: float = 3.0,
    gather: Gather = ungathered,
) -> TokenWeights:
    """Mask(x) min(Z max(lam, p / q), c1) of each token (Eq. 5).

    Args:
        inputs, state, gather: as for `token_weights`.
        logp_target: log p of the sampled tokens, (n,).
        lam, lam_from, budget, lam_min, lam_max: as for `threshold`.
        mask: bernoulli tosses the coin, expected uses the acceptance probability in its place.
        scope: token (the paper), or prefix: a token counts only where all tokens before it in its
            completion were accepted (DEVIATIONS.md, 21).
        z: state (the paper), batch (the acceptance rate of the update), none (1).
        z_tail, kappa: how Z of a state treats the tokens outside the top k, as for `state_z`.
        c1: cap on the weight; inf: none.

    Raises:
        ValueError: NaN, or q = 0 at a sampled token.
    """
    log_ratio = logp_target - inputs.logp_inf  # (n,) log p / q
    lam_used, infeasible = threshold(
        inputs, log_ratio, state,
        lam=lam, lam_from=lam_from, budget=budget, lam_min=lam_min, lam_max=lam_max, gather=gather,
    )  # fmt: skip
    accept, coin, prefix_kept = acceptance(inputs, logp_target, lam_used, mask=mask, scope=scope)
    accepted = coin * prefix_kept  # (n,) in [0, 1]
    rate, calibration, tail = z_in_weights(  # (n,), l. 21-22
        inputs, state, accept, coin, accepted, lam_used,
        z=z, z_tail=z_tail, kappa=kappa, gather=gather,
    )  # fmt: skip

    # p / q~ = Z max(lam, p / q), capped at c1, l. 23
    uncapped = jackpot.obrs_weight(log_ratio, lam_used, rate)
    if mask == "bernoulli":
        weight = accepted * uncapped.clamp(max=c1)  # c1 bounds the gradient of a single token
    else:  # E[Mask] min(w, c1), docs/theory_estimators.md, C2
        weight = prefix_kept * jackpot.expected_weight(log_ratio, lam_used, rate, c1)
    return TokenWeights(
        weight, log_ratio, accept, accepted, z=rate, capped=(uncapped > c1).float(),
        lam=(torch.zeros_like(accept) + lam_used).float(),
        infeasible=infeasible, kappa=calibration, tail=tail,
    )  # fmt: skip


_OBRS_KEYWORDS = frozenset(
    name
    for name, parameter in inspect.signature(obrs_weights).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "gather"
)


def acceptance(
    inputs: CorrectionInputs,
    logp_target: torch.Tensor,
    lam: float | torch.Tensor,
    *,
    mask: str,
    scope: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a(x), the coin, and 1 where no token before it was rejected, (n,) each, as `obrs_weights`."""
    # a(x) = min(1, p / (lam q)), l. 19. The core's vocabulary axis holds the sampled token alone.
    accept = jackpot.accept_prob(logp_target[:, None], inputs.logp_inf[:, None], lam)[:, 0]
    coin = (inputs.uniform < accept).float() if mask == "bernoulli" else accept  # l. 20
    if scope == "prefix":  # (n,): a completion is kept up to its first rejected token
        return accept, coin, kept_before(coin, inputs.sequence)
    return accept, coin, torch.ones_like(accept)


def kept_before(kept: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """The product of `kept` over the tokens before each one in its completion, (n,).

    Args:
        kept: the coin of each token, or its chance to be kept, (n,).
        sequence: the completion of each token, (n,); its tokens are neighbours and in order.

    Returns:
        (n,); 1 at the first token of a completion.
    """
    _, row, lengths = torch.unique_consecutive(sequence, return_inverse=True, return_counts=True)
    # place of each token in its completion, (n,): its number less that of the completion's first
    column = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    width = int(lengths.max()) if len(lengths) else 0
    grid = kept.new_ones((len(lengths), width + 1))  # (completions, longest + 1)
    grid[row, column + 1] = kept  # shifted by one: the product up to a token leaves out its own
    return grid.cumprod(dim=1)[row, column]


def threshold(
    inputs: CorrectionInputs,
    log_ratio: torch.Tensor,
    state: CorrectionState,
    *,
    lam: float,
    lam_from: str,
    budget: float,
    lam_min: float,
    lam_max: float,
    gather: Gather = ungathered,
) -> tuple[float | torch.Tensor, torch.Tensor]:
    """lam, a number or (n,) float64, and 1 for each token where it misses the budget, (n,).

    Args:
        lam_from: fixed (`lam`); or the lam that accepts `budget`: in every state (state: q's top k,
            the rest as one token), over these tokens (batch), or over those of earlier steps
            (tracked, within lam_min and lam_max).
    """
    within_reach = torch.zeros_like(log_ratio)
    if lam_from == "state":
        lams, reached = state_lam(inputs.topk_logp_target, inputs.topk_logp_inf, budget)
        return lams, (~reached).float()
    # A lam from earlier steps does not depend on the tokens it judges: weights stay unbiased.
    known = lam_before(state, lam=lam, lam_from=lam_from)
    if known is not None:
        return known, within_reach
    solved, reached_all = batch_lam(gather(log_ratio), budget)
    if lam_from == "tracked":  # its first step
        solved = math.exp(clamp_log_lam(math.log(solved), lam_min, lam_max))
    return solved, within_reach + float(not reached_all)


def lam_before(
    state: CorrectionState, *, lam: float = 1.0, lam_from: str = "fixed"
) -> float | None:
    """The threshold where it is known before p is computed, else None."""
    if lam_from == "fixed":
        return lam
    if lam_from == "tracked" and state.log_lam is not None:
        return math.exp(state.log_lam)
    return None


def z_in_weights(
    inputs: CorrectionInputs,
    state: CorrectionState,
    accept: torch.Tensor,
    coin: torch.Tensor,
    accepted: torch.Tensor,
    lam: float | torch.Tensor,
    *,
    z: str,
    z_tail: str,
    kappa: bool,
    gather: Gather = ungathered,
) -> tuple[torch.Tensor, float, TailStatistic | None]:
    """The Z of each token's weight, which need not be its state's: `obrs_weights` describes z.

    Args:
        accept, coin, accepted: a(x), the coin, and the coin with the prefix's, (n,).

    Returns:
        That Z, (n,), kappa (1 where it is not used), and the update's part of the
        tail ratio.
    """
    if z == "none":
        return torch.ones_like(accept), 1.0, None
    if z == "batch":  # float64: the mean of many float32 zeros and ones
        return torch.full_like(accept, float(gather(accepted).double().mean())), 1.0, None
    rate, tail = state_z(inputs, state, accept, lam, z_tail=z_tail, gather=gather)  # l. 21
    if not kappa:
        return rate, 1.0, tail
    all_coins, all_rates = gather(coin), gather(rate)  # (N,)
    if not bool(all_rates.any()):  # kappa divides by the mean of Z
        return rate, 1.0, tail
    # kappa Z_approx, l. 22 (Sec. 4.4.3): the batch's acceptance over its mean Z
    calibration = jackpot.kappa(all_coins, all_rates)
    return calibration * rate, calibration, tail


def state_z(
    inputs: CorrectionInputs,
    state: CorrectionState,
    accept: torch.Tensor,
    lam: float | torch.Tensor,
    *,
    z_tail: str,
    gather: Gather = ungathered,
) -> tuple[torch.Tensor, TailStatistic | None]:
    """Z of each token's state, (n,), and this update's part of the tail ratio.

    The known set is q's own top k, because the paper's union needs q where no engine gives it
    (DEVIATIONS.md, 3 and 4). With a tail, Z is divided by q's mass as it was summed, so that p = q
    gives exactly 1.

    Args:
        accept: a(x) of the sampled tokens, (n,).
        z_tail: ratio, the tail's bound U' times one ratio learnt over steps; lumped, the tail as
            one token; dropped, as in the paper.
    """
    topk_p, topk_q = inputs.topk_logp_target, inputs.topk_logp_inf  # (n, k)
    tail_p, tail_q = log_tail(topk_p), log_tail(topk_q)  # (n,)
    # Z_K = sum over the top k of min(q, p / lam), l. 21, and Z_K with the tail as one token, (n,)
    known, upper = jackpot.z_topk(topk_p, topk_q, lam, tail_p, tail_q)
    if z_tail == "dropped":
        return known, None
    mass = jackpot.z_topk(topk_q, topk_q, 1.0, tail_q, tail_q)[1]  # 1 but for rounding
    if z_tail == "lumped":
        return upper / mass, None
    bound = inputs.tail_bound
    if bound is None:
        bound = lumped_tail(tail_p, tail_q, lam)
    # the ratio is of earlier steps (state); this step's part enters it afterwards, in `next_state`.
    # From a(x), not from the coin: the same mean, and less noise.
    part = jackpot.tail_statistic(
        gather(accept), gather(~inputs.in_topk), gather(bound), gather(tail_q)
    )
    return jackpot.z_tail_ratio(known, bound, jackpot.tail_ratio(state.tail)) / mass, part


Counter = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def needs_tail(type: str = "jackpot", z: str = "state", z_tail: str = "ratio", **_: object) -> bool:
    """Whether these settings of a correction compute Z from the tail's bound U'."""
    return type == "jackpot" and z == "state" and z_tail == "ratio"


@torch.no_grad()
def forward_tail(
    state: CorrectionState,
    topk_logp: torch.Tensor,
    topk_logp_inf: torch.Tensor,
    count_above: Counter,
    *,
    lam: float = 1.0,
    lam_from: str = "fixed",
    budget: float = 0.9,
) -> torch.Tensor | None:
    """U' of each state while p's hidden states are in memory, (n,); None where lam is not known.

    lam_from = batch, and the first step of a tracked lam, wait for all tokens of the update. The
    tail then counts as one token in its bound, which needs no states (DEVIATIONS.md, 4). Whether
    that is so never depends on the size of a microbatch.

    Args:
        topk_logp, topk_logp_inf: log p and log q of q's k likeliest tokens, (n, k).
        count_above: of a floor, (n,) nats: how many tokens of each state have a log p above it, and
            their mass, (n,) each. Asked at `tail_floor`.
    """
    known: float | torch.Tensor | None = lam_before(state, lam=lam, lam_from=lam_from)
    if lam_from == "state":
        known, _ = state_lam(topk_logp, topk_logp_inf, budget)
    if known is None:
        return None
    count, mass = count_above(tail_floor(topk_logp_inf, known))
    return tail_terms(topk_logp, topk_logp_inf, count, mass, known)


def next_state(
    state: CorrectionState,
    parts: Sequence[TokenWeights],
    *,
    tracked: bool = False,
    budget: float = 0.9,
    lam_decay: float = 0.9,
    lam_min: float = 0.1,
    lam_max: float = 10.0,
) -> tuple[CorrectionState, list[Decision]]:
    """The state after a step, from the weights of all its updates.

    The tail statistic is discounted and added to. A tracked log lam follows `jackpot.track_lam`
    within [lam_min, lam_max]; a step whose budget is out of reach leaves it as it is.

    Args:
        parts: the weights of each update of the step.
        tracked: lam_from = tracked.

    Returns:
        The state for the next step, and a Decision if lam is tracked.
    """
    tail = state.tail
    # the ratio of two sums, accepted over bounds, both discounted: steps count by their tail tokens
    tails = [w.tail for w in parts if w.tail is not None]
    if tails:
        tail = jackpot.smooth_tail(tail, jackpot.merge_tail(tails), _TAIL_DECAY)
    if not tracked:
        return CorrectionState(state.log_lam, *tail), []

    log_ratio = torch.cat([w.log_ratio for w in parts])  # (n of the step,)
    before = float(torch.cat([w.lam for w in parts]).double().mean())
    accepted = float(torch.cat([w.accept_prob for w in parts]).double().mean())
    reach = float((log_ratio > -torch.inf).double().mean())  # p = 0 is rejected by every lam > 0
    reason = f"acceptance {accepted:.4g}, budget {budget:.4g}"
    log_lam, cut = state.log_lam, True
    if budget <= reach:  # else the step says only that lam is too large, not by how much
        moved = jackpot.track_lam(log_lam, clamp_log_ratio(log_ratio), budget, lam_decay)
        log_lam = clamp_log_lam(moved, lam_min, lam_max)
        cut = log_lam != moved
    else:
        reason += f", out of reach (p > 0 on {reach:.4g} of the tokens): left alone"
    after = before if log_lam is None else math.exp(log_lam)
    decision = Decision(
        setting="correction.lam", before=before, after=after, reason=reason, limited=cut
    )
    return CorrectionState(log_lam, *tail), [decision]
