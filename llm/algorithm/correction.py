"""The weight of each sampled token: OBRS (Eq. 5), the truncations of Sec. 2.2, and lam's choice.

Everything here works on flat lists of real tokens, shape (n,) or (n, k), and statistics (lam, Z,
kappa) are over exactly the tokens given: give a whole update. What is learnt from earlier updates
is a `CorrectionState`; it moves once a step, after the step's coins were judged (`next_state`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

import jackpot
from jackpot import TailStatistic
from llm.settings.schema import CorrectionConfig, JackpotCorrection, Weight

from .control import Decision
from .lam import batch_lam, limited, moderate, state_lam
from .logprobs import log_tail
from .z_tail import lumped_tail, tail_floor, tail_terms

_TAIL_DECAY = 0.9  # the tail's ratio remembers about ten steps (docs/theory_topk.md, D4)


@dataclass(frozen=True)
class CorrectionState:
    """What earlier steps taught. Numbers only, so dataclasses.asdict is its JSON.

    log_lam: the tracked lam (lam_from = tracked), None before the first step. tail_accepted,
    tail_bound: the smoothed `TailStatistic`; its default is the prior, ratio 1.
    """

    log_lam: float | None = None
    tail_accepted: float = 1.0
    tail_bound: float = 1.0


@dataclass(frozen=True)
class TokenWeights:
    """What multiplies the PPO term of each proposed token, and how it came about. All (n,) float32.

    weight: the applied weight, 0 for a rejected token. log_ratio: log p - log q, before any cap.
    accept_prob: a(x). accepted: the coin (0 or 1), or a(x) where the mask is `expected`.
    z: acceptance rate used. capped: 1 where c1, the TIS cap or the IcePop band changed the weight.
    lam: the threshold used. out_of_reach: 1 where no lam spends the budget, because p = 0 on too
    much of q, and the largest lam that accepts all else was used. kappa: the batch calibration used
    (1 where none is). tail: the update's part of the tail ratio (z_tail = ratio), else None.
    """

    weight: torch.Tensor
    log_ratio: torch.Tensor
    accept_prob: torch.Tensor
    accepted: torch.Tensor
    z: torch.Tensor
    capped: torch.Tensor
    lam: torch.Tensor
    out_of_reach: torch.Tensor
    kappa: float = 1.0
    tail: TailStatistic | None = None


@torch.no_grad()
def token_weights(
    cfg: CorrectionConfig,
    *,
    state: CorrectionState,
    logp_inf: torch.Tensor,
    logp_ref: torch.Tensor,
    logp_new: torch.Tensor,
    topk_logp_inf: torch.Tensor,
    topk_logp_target: torch.Tensor,
    uniform: torch.Tensor,
    in_topk: torch.Tensor,
    sequence: torch.Tensor | None = None,
    tail_bound: torch.Tensor | None = None,
) -> TokenWeights:
    """Mask(x) SG(F(p / q~) p_ref / p) for every proposed token of an update (Alg. 1, l. 18-24).

    Args:
        cfg: which correction, and its settings.
        state: as it was before this step.
        logp_inf, logp_ref, logp_new: log-probabilities of the sampled tokens, (n,): q, the policy
            before the updates, the policy now. p is logp_ref or logp_new, as `cfg.target` says.
        topk_logp_inf, topk_logp_target: log q and log p of q's k likeliest tokens, (n, k).
        uniform: the acceptance coin of each token, in [0, 1), (n,).
        in_topk: True where the sampled token is one of those k, (n,).
        sequence: a number for each token's completion, (n,) integer; its tokens stand together and
            in order. Needed where `cfg.scope` is prefix.
        tail_bound: `forward_tail` of p, (n,); None: the tail counts as one token in its bound.

    Returns:
        TokenWeights.

    Raises:
        ValueError: NaN, q = 0 at a sampled token, or no `sequence` where it is needed.
    """
    logp_target = logp_new if cfg.target == "new" else logp_ref
    log_ratio = logp_target - logp_inf
    if isinstance(cfg, JackpotCorrection):
        tokens = _Tokens(logp_target, logp_inf, topk_logp_target, topk_logp_inf, log_ratio)
        before = None
        if cfg.scope == "prefix":
            if sequence is None:
                raise ValueError("scope = prefix needs the sequence of each token, and got None")
            before = _kept_before(sequence)
        found = _obrs(cfg, state, tokens, uniform, in_topk, before, tail_bound)
    else:
        one, none = torch.ones_like(log_ratio), torch.zeros_like(log_ratio)
        weight = truncated_ratio(cfg, log_ratio)
        capped = none if cfg.type == "none" else (weight != jackpot.importance(log_ratio)).float()
        found = TokenWeights(weight, log_ratio, one, one, one, capped, one, none)
    if cfg.type != "none" and cfg.target == "new":
        # min(p_ref / p_new, c2); at rejected tokens p_new may be 0
        gap = (logp_ref - logp_new).masked_fill(found.weight == 0, 0.0)
        found = replace(found, weight=found.weight * jackpot.tis(gap, cfg.c2))
    return found


def truncated_ratio(cfg: Weight, log_ratio: torch.Tensor) -> torch.Tensor:
    """F(r) of Sec. 2.2, (n,): 1 for none, else the ratio itself, capped, or zero outside a band."""
    if cfg.type == "importance":
        return jackpot.importance(log_ratio)
    if cfg.type == "tis":
        return jackpot.tis(log_ratio, cfg.cap)
    if cfg.type == "icepop":
        return jackpot.icepop(log_ratio, cfg.low, cfg.high)
    return torch.ones_like(log_ratio)


@torch.no_grad()
def actor_weights(
    cfg: Weight,
    logp_actor_ref: torch.Tensor,
    logp_inf: torch.Tensor,
) -> torch.Tensor:
    """F(p_actor_ref / q) of Eq. 6 for each sampled token, (n,).

    With `actor.correction.type = none` it is 1, and the PPO ratio is then taken to q itself: the
    actor's rollouts are its own (DEVIATIONS.md, 8). Otherwise the ratio is to p_actor_ref, the
    actor before this rollout's updates, and this weight stands for what q differs from it.
    """
    return truncated_ratio(cfg, logp_actor_ref - logp_inf)


Counted = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # `tail.above` of p's rows


@torch.no_grad()
def forward_tail(
    cfg: CorrectionConfig,
    state: CorrectionState,
    topk_logp: torch.Tensor,
    topk_logp_inf: torch.Tensor,
    counted: Counted,
) -> torch.Tensor | None:
    """`tail_terms` where Z needs them and lam is known while p's states are in memory, else None.

    lam = batch, and the first step of a tracked lam, wait for all tokens of the update; the tail
    then counts as one token in its bound, which needs no states (DEVIATIONS.md, 4). Whether that
    is so never depends on the size of a microbatch. `counted` is asked at `tail_floor`.
    """
    if not isinstance(cfg, JackpotCorrection) or not needs_tail(cfg):
        return None
    lam: float | torch.Tensor | None = lam_before(cfg, state)
    if cfg.lam_from == "state":
        lam, _ = state_lam(topk_logp, topk_logp_inf, cfg.budget)
    if lam is None:
        return None
    return tail_terms(topk_logp, topk_logp_inf, *counted(tail_floor(topk_logp_inf, lam)), lam)


def needs_tail(cfg: CorrectionConfig) -> bool:
    """Whether Z is computed from U'."""
    return cfg.type == "jackpot" and cfg.z == "state" and cfg.z_tail == "ratio"


def lam_before(cfg: CorrectionConfig, state: CorrectionState) -> float | None:
    """The threshold, where it is known before p is computed; else None."""
    if not isinstance(cfg, JackpotCorrection):
        return None
    if cfg.lam_from == "value":
        return cfg.lam
    tracked = cfg.lam_from == "tracked" and state.log_lam is not None
    return math.exp(state.log_lam) if tracked else None  # type: ignore[arg-type]


def next_state(
    cfg: CorrectionConfig,
    state: CorrectionState,
    seen: Sequence[TokenWeights],
) -> tuple[CorrectionState, list[Decision]]:
    """The state after a step, from the weights of all its updates.

    log lam follows `jackpot.track_lam` within [lam_min, lam_max]; a step whose budget is out of
    reach leaves it. The tail statistic is discounted and added to.

    Returns:
        The state for the next step, and a Decision if lam is tracked.
    """
    tail = TailStatistic(state.tail_accepted, state.tail_bound)
    parts = [w.tail for w in seen if w.tail is not None]
    if parts:
        tail = jackpot.smooth_tail(tail, jackpot.merge_tail(parts), _TAIL_DECAY)
    if cfg.type != "jackpot" or cfg.lam_from != "tracked":
        return CorrectionState(state.log_lam, *tail), []

    log_ratio = torch.cat([w.log_ratio for w in seen])
    before = float(torch.cat([w.lam for w in seen]).double().mean())
    accepted = float(torch.cat([w.accept_prob for w in seen]).double().mean())
    reach = float((log_ratio > -torch.inf).double().mean())
    because = f"acceptance {accepted:.4g}, budget {cfg.budget:.4g}"
    log_lam, cut = state.log_lam, True
    if cfg.budget <= reach:
        moved = jackpot.track_lam(log_lam, moderate(log_ratio), cfg.budget, cfg.lam_decay)
        log_lam = limited(moved, cfg)
        cut = log_lam != moved
    else:
        because += f", out of reach (p > 0 on {reach:.4g} of the tokens): left alone"
    after = before if log_lam is None else math.exp(log_lam)
    decision = Decision(
        setting="correction.lam", before=before, after=after, because=because, limited=cut
    )
    return CorrectionState(log_lam, *tail), [decision]


class _Tokens(NamedTuple):
    """p and q of the sampled tokens, (n,), and of q's k likeliest, (n, k); log p - log q, (n,)."""

    p: torch.Tensor
    q: torch.Tensor
    topk_p: torch.Tensor
    topk_q: torch.Tensor
    log_ratio: torch.Tensor


def _obrs(
    cfg: JackpotCorrection,
    state: CorrectionState,
    tokens: _Tokens,
    uniform: torch.Tensor,
    in_topk: torch.Tensor,
    before: Callable[[torch.Tensor], torch.Tensor] | None,
    tail_bound: torch.Tensor | None,
) -> TokenWeights:
    """Mask and min(Z max(lam, r), c1) of each token (Eq. 5); `before` as `_kept_before` gives."""
    log_ratio = tokens.log_ratio
    lam, out_of_reach = _lam(cfg, state, tokens)
    # the vocabulary axis of the core, with the sampled token as its only entry
    accept = jackpot.accept_prob(tokens.p[:, None], tokens.q[:, None], lam)[:, 0]
    bernoulli = cfg.mask == "bernoulli"
    coin = (uniform < accept).float() if bernoulli else accept
    reached = torch.ones_like(accept) if before is None else before(coin)
    accepted = coin * reached
    z, kappa, tail = torch.ones_like(accept), 1.0, None
    if cfg.z == "batch":
        z = torch.full_like(accept, float(accepted.double().mean()))
    elif cfg.z == "state":
        z, tail = _state_z(cfg, state, tokens, lam, accept, in_topk, tail_bound)
        if cfg.kappa and bool(z.any()):
            kappa = jackpot.kappa(coin, z)
            z = kappa * z
    uncapped = jackpot.obrs_weight(log_ratio, lam, z)
    if bernoulli:
        weight = accepted * uncapped.clamp(max=cfg.c1)
    else:
        weight = reached * jackpot.expected_weight(log_ratio, lam, z, cfg.c1)
    used = torch.zeros_like(accept) + lam
    capped = (uncapped > cfg.c1).float()
    return TokenWeights(
        weight, log_ratio, accept, accepted, z, capped, used.float(), out_of_reach, kappa, tail
    )


def _kept_before(sequence: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of each token's chance to be kept (or coin), (n,): the product of those before it
    in its completion, 1 at the first, (n,). DEVIATIONS.md, 21.
    """
    _, row, lengths = torch.unique_consecutive(sequence, return_inverse=True, return_counts=True)
    column = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]

    def product(kept: torch.Tensor) -> torch.Tensor:
        width = int(lengths.max()) if len(lengths) else 0
        grid = kept.new_ones((len(lengths), width + 1))
        grid[row, column + 1] = kept  # moved by one: the product up to here leaves out its own
        return grid.cumprod(dim=1)[row, column]

    return product


def _lam(
    cfg: JackpotCorrection,
    state: CorrectionState,
    tokens: _Tokens,
) -> tuple[float | torch.Tensor, torch.Tensor]:
    """The threshold, a number or (n,), and 1 for each token where it misses the budget, (n,)."""
    nowhere = torch.zeros_like(tokens.p)
    if cfg.lam_from == "value":
        return cfg.lam, nowhere
    if cfg.lam_from == "state":
        lams, reached = state_lam(tokens.topk_p, tokens.topk_q, cfg.budget)
        return lams, (~reached).float()
    if cfg.lam_from == "tracked" and state.log_lam is not None:
        return math.exp(state.log_lam), nowhere
    lam, within = batch_lam(tokens.log_ratio, cfg.budget)
    if cfg.lam_from == "tracked":  # its first step
        lam = math.exp(limited(math.log(lam), cfg))
    return lam, nowhere + float(not within)


def _state_z(
    cfg: JackpotCorrection,
    state: CorrectionState,
    tokens: _Tokens,
    lam: float | torch.Tensor,
    accept: torch.Tensor,
    in_topk: torch.Tensor,
    bound: torch.Tensor | None,
) -> tuple[torch.Tensor, TailStatistic | None]:
    """Z of each token's state, (n,), and this update's part of the tail ratio.

    DEVIATIONS.md, 3 and 4: the known set is q's own top k (the paper's union needs q where no
    engine gives it). With a tail, over q's mass as summed, so that p = q gives exactly 1.
    """
    topk_p, topk_q = tokens.topk_p, tokens.topk_q
    tail_p, tail_q = log_tail(topk_p), log_tail(topk_q)
    known, upper = jackpot.z_topk(topk_p, topk_q, lam, tail_p, tail_q)
    if cfg.z_tail == "dropped":
        return known, None
    mass = jackpot.z_topk(topk_q, topk_q, 1.0, tail_q, tail_q)[1]
    if cfg.z_tail == "lumped":
        return upper / mass, None
    if bound is None:
        bound = lumped_tail(tail_p, tail_q, lam)
    beta = jackpot.tail_ratio(TailStatistic(state.tail_accepted, state.tail_bound))
    part = jackpot.tail_statistic(accept, ~in_topk, bound, tail_q)
    return jackpot.z_tail_ratio(known, bound, beta) / mass, part
